"""Gate G02: make sure that no row, named by its file and place in it or by its declared key, is in two splits.

A row is read once and goes one way, so that can only happen where a file lies there twice, and folders name the splits.
"""

from fmray.rigour.gates.gate import DataEvidence, Finding, Gate
from fmray.spec.sections import Rigour


def provenance(evidence: DataEvidence, rigour: Rigour) -> Finding:
    """G02: no row of a file, and no declared key, is in two splits."""
    overlap = evidence.overlap or {}
    rows = int(overlap["copied_rows"])
    if rows:
        shown = "; ".join(f"{one} and {other}" for one, other in overlap["copied_files"])
        text = f"{rows:,} rows are in two splits, since files are copies of each other: {shown}. Remove one of each."
        return Finding("fail", text, value=rows, limit=0)
    named = f", and preparation found no {', '.join(evidence.key)} twice" if evidence.key else ""
    return Finding("pass", f"every row of {evidence.num_files:,} files is in one split{named}.", value=0, limit=0)


GATE = Gate("provenance", "data", {"overlap": "the rows were prepared by an earlier version."}, provenance)
