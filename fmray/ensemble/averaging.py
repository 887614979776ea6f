"""Take all members with equal weight, or the best one alone where validation prefers that."""

from fmray.ensemble.candidates import Candidates
from fmray.ensemble.single import single
from fmray.records import Ensemble


def average(candidates: Candidates) -> Ensemble:
    """Take the mean prediction of every member.

    Source: Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2017.
    """
    num = len(candidates.members)
    return Ensemble("average", candidates.indices, (1.0 / num,) * num, reason=f"mean of {num} members")


def auto(candidates: Candidates) -> Ensemble:
    """Take the average of all members or the best one, whichever validation prefers."""
    alone = single(candidates)
    together = average(candidates)
    better = candidates.signed(candidates.combined(together)) >= candidates.signed(candidates.combined(alone))
    return together if better else alone
