"""Boost weak members: each learns from rows weighted by the mistakes of those before it.

Shape legend: N rows, C classes.
"""

import math
from collections.abc import Callable

import numpy as np

from fmray.ensemble.candidates import Candidates
from fmray.ensemble.voting import refuse_numbers
from fmray.errors import TrainError
from fmray.records import Ensemble
from fmray.spec.components import ensembles as declared

ALPHA = "ensemble.adaboost.alpha"
"""Parameter of a member: the weight of its vote."""


def adaboost(candidates: Candidates, params: declared.Adaboost = declared.Adaboost()) -> Ensemble:
    """Let boosted members vote, each with the weight that boosting gave it.

    Raises:
        SpecError: If numbers are predicted.
        TrainError: If no member was boosted.

    Source: Zhu et al., "Multi-class AdaBoost", Statistics and Its Interface 2, 2009 (SAMME).
    """
    refuse_numbers("adaboost", {}, candidates.metric.kind)
    voters = [member for member in candidates.members if member.params.get(ALPHA)]
    if not voters:
        raise TrainError("no member was boosted. Members come from rounds of boosting.", "ensemble.adaboost")
    alphas = np.array([member.params[ALPHA] for member in voters])
    return Ensemble(
        "adaboost",
        tuple(member.index for member in voters),
        tuple((alphas / alphas.sum()).tolist()),
        reason=f"weighted vote of {len(voters)} members, boosted in up to {params.rounds} rounds "
        f"at rate {params.learning_rate:g}",
        combine="vote",
    )


def samme(
    train_round: Callable[[np.ndarray], np.ndarray],
    target: np.ndarray,
    num_classes: int,
    params: declared.Adaboost,
    weight: np.ndarray | None = None,
) -> list[float]:
    """Boost round after round; give the weight of each vote.

    It ends early with a member that makes no mistake, which votes with weight 1, or before one that is no better than
    chance, which gets no vote.

    Args:
        train_round: Trains a member on weighted rows; gives what it says on them.
        target: Class indices of the training rows.
        params: Rounds at most, and the factor of every vote's weight; less asks for more rounds.
        weight: Of each row to begin with, or None where all count the same.

    Shapes:
        train_round: weights (N,), which sum to 1, to outputs (N, C).
        target, weight: (N,).

    Raises:
        TrainError: If the very first member is no better than chance.

    Source: Zhu et al., "Multi-class AdaBoost", Statistics and Its Interface 2, 2009, algorithm 2.
    """
    weights = np.ones(len(target)) if weight is None else np.array(weight, np.float64)
    alphas: list[float] = []
    for _ in range(params.rounds):
        weights /= weights.sum()
        wrong = train_round(weights).argmax(1) != target
        error = float(weights @ wrong)
        if error <= 0:
            return [*alphas, 1.0]
        if error >= 1 - 1 / num_classes:
            break
        alphas.append(params.learning_rate * (math.log((1 - error) / error) + math.log(num_classes - 1)))
        weights *= np.exp(alphas[-1] * wrong)
    if not alphas:
        text = f"the first member is wrong on {error:.3f} of the weighted rows, chance on {1 - 1 / num_classes:.3f}"
        raise TrainError(f"{text}. Train longer, or take a model that learns this.", "ensemble.adaboost")
    return alphas
