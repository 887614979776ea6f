"""Let one member speak, or the mean of several; validation decides."""

from collections.abc import Callable, Sequence

from fmray.errors import TrainError
from fmray.records import Ensemble, Member

Score = Callable[[tuple[int, ...]], float]
"""Members -> primary metric of their mean prediction on validation."""


def single(members: Sequence[Member], higher_is_better: bool, score: Score) -> Ensemble:
    """Take the member that is best on validation; the earlier one where two are equal."""
    able = _able(members)
    best = max(able, key=lambda member: (_signed(member.val_score, higher_is_better), -member.index))
    return Ensemble("single", (best.index,), (1.0,), best.val_score, f"best of {len(able)} on validation")


def average(members: Sequence[Member], higher_is_better: bool, score: Score) -> Ensemble:
    """Take the mean prediction of every member that finished.

    Source: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2017.
    """
    indices = tuple(member.index for member in _able(members))
    weights = (1.0 / len(indices),) * len(indices)
    return Ensemble("average", indices, weights, score(indices), f"mean of {len(indices)} members")


def choose(members: Sequence[Member], higher_is_better: bool, score: Score) -> Ensemble:
    """Take the average of all members or the best one, whichever validation prefers."""
    alone = single(members, higher_is_better, score)
    if len(_able(members)) == 1:
        return alone
    together = average(members, higher_is_better, score)
    if _signed(together.val_score, higher_is_better) >= _signed(alone.val_score, higher_is_better):
        return together
    return alone


def _able(members: Sequence[Member]) -> list[Member]:
    able = [member for member in members if member.val_score is not None]
    if not able:
        raise TrainError(f"ensemble: none of {len(members)} members has a validation score. See their reasons.")
    return able


def _signed(score: float | None, higher_is_better: bool) -> float:
    if score is None:
        return float("-inf")
    return score if higher_is_better else -score
