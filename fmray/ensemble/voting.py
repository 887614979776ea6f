"""Let members vote: each names a class, or says how likely each class is."""

from typing import Literal

from fmray.ensemble.averaging import average
from fmray.ensemble.candidates import Candidates
from fmray.errors import SpecError
from fmray.records import Ensemble

BAGGED_MEMBERS = 10


def vote(candidates: Candidates, kind: Literal["hard", "soft"] = "hard") -> Ensemble:
    """Give each class the share of members that name it (hard), or the mean of their probabilities (soft).

    Raises:
        SpecError: If numbers are predicted: they name no class.
    """
    refuse_numbers(candidates, "vote")
    num = len(candidates.members)
    if kind == "soft":
        return Ensemble("vote", candidates.indices, (1.0 / num,) * num, reason=f"soft vote of {num} members")
    return Ensemble(
        "vote", candidates.indices, (1.0 / num,) * num, reason=f"hard vote of {num} members", combine="vote"
    )


def bagging(candidates: Candidates, members: int = BAGGED_MEMBERS, kind: Literal["soft", "hard"] = "soft") -> Ensemble:
    """Combine members that each learned from a bootstrap sample of the training rows: by their mean, or a hard vote.

    Args:
        members: How many were asked for, of each configuration.

    Source: Breiman, "Bagging Predictors", Machine Learning 24, 1996.
    """
    found = vote(candidates, kind) if kind == "hard" else average(candidates)
    reason = f"{found.reason}, {members} bootstrap samples of the training rows"
    return Ensemble("bagging", found.members, found.weights, reason=reason, combine=found.combine)


def refuse_numbers(candidates: Candidates, where: str) -> None:
    """Refuse to combine numbers as if they were probabilities.

    Raises:
        SpecError: If the metric judges numbers.
    """
    if candidates.metric.kind != "class":
        raise SpecError(f"{where} needs classes, and numbers are predicted. Take average or greedy.", "ensemble")
