"""Let the one member speak that is best on validation."""

from fmray.ensemble.candidates import Candidates
from fmray.records import Ensemble
from fmray.train.combine import alone


def single(candidates: Candidates) -> Ensemble:
    """Take the member that is best on validation; the earlier one where two are equal."""
    scores = [candidates.signed(output) for output in candidates.outputs]
    best = candidates.members[scores.index(max(scores))]
    return alone(best, f"best of {len(scores)} on validation")
