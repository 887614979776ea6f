"""Gate G13: make sure that every row was scored once, and that the headline is what another library computes."""

import math

from fmray.rigour.gates.gate import Evidence, Finding, Gate
from fmray.rigour.recompute import recompute
from fmray.spec.sections import Rigour

TOLERANCE = 1e-9
SAMPLE_ROWS = 100_000


def evaluation_complete(evidence: Evidence, rigour: Rigour) -> Finding:
    """G13: every row of validation and test was scored once, and the headline equals an independent computation."""
    for split, facts in evidence.facts.items():
        if facts.num_rows != facts.num_expected:
            return Finding("fail", f"{split}: {facts.num_rows} rows were scored, {facts.num_expected} were prepared.")
        if facts.repeated:
            return Finding("fail", f"{split}: some rows were scored more than once.")
        if facts.num_other:
            return Finding("fail", f"{split}: other rows were scored than were prepared.")
    return _recomputed(evidence)


def _recomputed(evidence: Evidence) -> Finding:
    table = evidence.shown
    num_rows = evidence.facts["test"].num_rows
    scores = evidence.scores
    if num_rows > len(table) or num_rows > SAMPLE_ROWS:
        return Finding(
            "pass", f"{num_rows:,} test rows scored once; too many to recompute {scores.primary} a second way."
        )
    again = recompute(scores.primary, table, evidence.positive)
    value = scores.test[scores.primary].value
    if again is None:
        return Finding(
            "pass", f"{num_rows:,} test rows scored once; there is no second way to compute {scores.primary}."
        )
    if not math.isclose(again, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE) and not (
        math.isnan(again) and math.isnan(value)
    ):
        return Finding("fail", f"{scores.primary} is {value!r}, computed a second way {again!r}.")
    return Finding("pass", f"{num_rows:,} test rows scored once; {scores.primary} agrees with a second computation.")


GATE = Gate("evaluation complete", "result", {}, evaluation_complete)
