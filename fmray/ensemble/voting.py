"""Let members vote: each names a class, or says how likely each class is."""

from collections.abc import Mapping
from typing import Any

from fmray.ensemble.averaging import average
from fmray.ensemble.candidates import Candidates
from fmray.errors import SpecError
from fmray.records import Ensemble
from fmray.spec.components import ensembles as declared
from fmray.targets.codec import codec_named

CLASSES_ONLY = {"adaboost": None, "bagging": "hard", "stacking": "logistic", "vote": None}
"""Methods that need classes: of any kind, or of one."""
ONE_PER_ROW = ("adaboost",)
"""Methods that weigh rows by whether their class was found, so that a row must have one."""


def vote(candidates: Candidates, params: declared.Vote = declared.Vote()) -> Ensemble:
    """Give each class the share of members that name it (hard), or the mean of their probabilities (soft).

    Raises:
        SpecError: If numbers are predicted: they name no class.
    """
    refuse_numbers("vote", {"kind": params.kind}, candidates.metric.kind)
    num = len(candidates.members)
    if params.kind == "soft":
        return Ensemble("vote", candidates.indices, (1.0 / num,) * num, reason=f"soft vote of {num} members")
    return Ensemble(
        "vote", candidates.indices, (1.0 / num,) * num, reason=f"hard vote of {num} members", combine="vote"
    )


def bagging(candidates: Candidates, params: declared.Bagging = declared.Bagging()) -> Ensemble:
    """Combine members that each learned from a bootstrap sample of the training rows: by their mean, or a hard vote.

    Source: Breiman, "Bagging Predictors", Machine Learning 24, 1996.
    """
    found = vote(candidates) if params.kind == "hard" else average(candidates)
    reason = f"{found.reason}, {params.members} bootstrap samples of the training rows"
    return Ensemble("bagging", found.members, found.weights, reason=reason, combine=found.combine)


def refuse_numbers(name: str, params: Mapping[str, Any], kind: str) -> None:
    """Refuse to combine numbers as if they were probabilities; asked before anything is trained.

    Args:
        name, params: Of the method.
        kind: What is predicted.

    Raises:
        SpecError: If the method needs classes and numbers are predicted, or a class per row and rows have several.
    """
    if name in ONE_PER_ROW and codec_named(kind).by_entry:
        text = f"{name} needs a class per row, and rows have several {codec_named(kind).noun}s."
        raise SpecError(f"{text} Take average or greedy.", "ensemble")
    if name not in CLASSES_ONLY or codec_named(kind).names_classes:
        return
    needed = CLASSES_ONLY[name]
    if needed is None or params.get("kind") == needed:
        said = name if needed is None else f"{name} of kind {needed}"
        raise SpecError(
            f"{said} needs classes, and {codec_named(kind).noun}s are predicted. Take average or greedy.", "ensemble"
        )
