"""Decide whether a result may be believed: each gate looks for one way of fooling oneself, in a file of its own.

`gate` says what a gate is and what it is given, `run` runs those of a stage; the table of them is in the catalogue.
"""

from fmray.rigour.gates.gate import (
    ArtefactEvidence,
    DataEvidence,
    Evidence,
    Finding,
    Gate,
    Golden,
    TrainingEvidence,
)
from fmray.rigour.gates.run import failed, judge, refuse_failed, run_gates

__all__ = [
    "ArtefactEvidence",
    "DataEvidence",
    "Evidence",
    "Finding",
    "Gate",
    "Golden",
    "TrainingEvidence",
    "failed",
    "judge",
    "refuse_failed",
    "run_gates",
]
