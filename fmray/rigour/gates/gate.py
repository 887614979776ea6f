"""Say what a gate is: when it runs, what it needs, what it answers.

A gate says `pass`, `fail`, `warn`, `inconclusive` (too little data, with the number that would do) or `not_run` (why);
a waiver turns `fail` into `waived`, a draft turns it into `warn`. A gate never passes for want of something to look at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fmray.evaluate.facts import Facts
from fmray.evaluate.table import Table
from fmray.records import Ensemble, Json, Member, Prepared, Scores, Split
from fmray.spec.sections import Rigour

Status = Literal["pass", "fail", "warn", "waived", "inconclusive", "not_run"]
Stage = Literal["data", "training", "result", "artefact"]


@dataclass(frozen=True)
class Finding:
    """Say what a gate found.

    Args:
        status: As the gate alone decides; see the module.
        text: Why, in words.
        value: The number that was compared, if there is one.
        limit: What it was compared with.
        rows: Rows that a finding which is inconclusive would take.
    """

    status: Status
    text: str
    value: float | None = None
    limit: float | None = None
    rows: int | None = None

    def to_json(self) -> Json:
        """Give the finding as plain values; numbers that it does not have are left out."""
        numbers = {"value": self.value, "limit": self.limit, "rows": self.rows}
        given = {name: number for name, number in numbers.items() if number is not None}
        return {"status": self.status, "text": self.text, **given}


@dataclass(frozen=True)
class Gate:
    """Look for one way of fooling oneself.

    Args:
        name: In words, as the report shows it.
        stage: "data" gates run before training, "training" gates before the test set is looked at, and both stop the
            run; "result" gates look at scores and predictions; "artefact" gates at the model once it was opened again.
        needs: Attributes of the evidence that may be None -> why the gate is not run then.
        run: Gives the finding.
    """

    name: str
    stage: Stage
    needs: Mapping[str, str]
    run: Callable[[Any, Rigour], Finding]

    def __call__(self, evidence: Any, rigour: Rigour) -> Finding:
        """Give the finding, or the reason why there is none."""
        for need, reason in self.needs.items():
            if getattr(evidence, need) is None:
                return Finding("not_run", reason)
        return self.run(evidence, rigour)


@dataclass(frozen=True)
class DataEvidence:
    """Hold what gates of the data look at.

    Args:
        overlap: As `Prepared.overlap`; None in a record of an earlier version.
        num_files: That the rows were read from.
        key: Columns that name a row: preparation refuses rows that repeat them.
    """

    overlap: Json | None
    num_files: int = 1
    key: Sequence[str] = ()

    @classmethod
    def of(cls, prepared: Prepared, key: Sequence[str]) -> "DataEvidence":
        """Take what a record says of its rows."""
        return cls(prepared.overlap or None, len(prepared.manifest), tuple(key))


@dataclass(frozen=True)
class Evidence:
    """Hold what gates of the result look at.

    Args:
        scores: Of the run.
        facts: Split -> what is true of the predictions of the chosen model.
        shown: Its predictions on test rows; on all of them where they are few enough to compute the headline again.
        num_classes: 0 for regression.
        members: All that were trained.
        chosen: Indices of those in the ensemble.
        model: Name of their model.
        health: Numeric events of training.
        positive: Index of the positive class, -1 if there is none.
    """

    scores: Scores
    facts: Mapping[Split, Facts]
    shown: Table
    num_classes: int
    members: Sequence[Member]
    chosen: Sequence[int]
    model: str
    health: Sequence[Json]
    positive: int = -1


@dataclass(frozen=True)
class TrainingEvidence:
    """Hold what gates of the training look at, before the test set is.

    Args:
        members: All that were trained, with their histories and scores on validation.
        ensemble: Which of them were chosen, with their weights, by what they say on validation.
        health: Numeric events of training.
    """

    members: Sequence[Member]
    ensemble: Ensemble
    health: Sequence[Json]


@dataclass(frozen=True)
class Golden:
    """Hold predictions on a few rows of validation, of tokens for each.

    Args:
        rows: How many rows there are.
        faulty: How many of them the opened model cannot read.
        device: Where the run computed its own predictions.

    Shapes:
        here: (N, C or T), by the run's members on its prepared rows, computed on the CPU as the fresh process does.
        fresh: The same shape, by a process that opened the model's folder, from rows as read.
        said: The same shape, as the run wrote it down and scored it.
    """

    rows: int
    here: np.ndarray
    fresh: np.ndarray
    said: np.ndarray
    faulty: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class ArtefactEvidence:
    """Hold what gates of the model's folder look at.

    Args:
        golden: Predictions on a few rows; None where there are none to compare.
        error: Why the folder could not be opened, or gives no predictions; empty if it does.
        pickles: Files in the folder that may run code by being read.
        reason: Why it was not opened.
    """

    golden: Golden | None = None
    error: str = ""
    pickles: Sequence[str] = ()
    reason: str = ""
