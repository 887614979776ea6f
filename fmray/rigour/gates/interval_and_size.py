"""Gate G20: make sure that the headline has an interval, and that the test set could show a gain that matters."""

import math
from collections.abc import Mapping

from fmray.rigour.gates.gate import Evidence, Finding, Gate
from fmray.spec.sections import Rigour

FEWEST_ROWS, FEWEST_OF_CLASS = 30, 5


def interval_and_size(evidence: Evidence, rigour: Rigour) -> Finding:
    """G20: the headline has an interval, and the test set could show a gain that matters."""
    scores = evidence.scores
    found = scores.test[scores.primary]
    if few := too_few(evidence):
        return Finding("inconclusive", few)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return Finding("fail", f"{scores.primary} has no interval on {found.n} test rows ({found.method}).")
    sizes: Mapping[str, float] = scores.extra["detectable"]
    shown = ", ".join(f"{size:.4f} over {name}" for name, size in sizes.items())
    least = scores.extra["min_effect"]
    if least and any(not size <= least for size in sizes.values()):
        return Finding("warn", f"a gain of {least:g} matters, but {found.n} rows show no less than {shown}.")
    return Finding("pass", f"{found.n:,} rows would show a gain of {shown or 'any size'} four times out of five.")


def too_few(evidence: Evidence) -> str:
    """Say why so few test rows claim nothing, if they are so few."""
    facts = evidence.facts["test"]
    if facts.num_rows < FEWEST_ROWS:
        return f"{facts.num_rows} test rows claim nothing; {FEWEST_ROWS} or more would."
    if evidence.num_classes:
        least = int(facts.actual.min())
        if least < FEWEST_OF_CLASS:
            return (
                f"the rarest class has {least} of {facts.num_rows} test rows; {FEWEST_OF_CLASS} or more would "
                f"need about {math.ceil(FEWEST_OF_CLASS * facts.num_rows / max(least, 1)):,} rows."
            )
    return ""


GATE = Gate("interval and size", "result", {}, interval_and_size)
