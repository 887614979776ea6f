"""Make one output of what several members say, as an ensemble asks for.

Shape legend: M members, N rows, C classes, T targets, F features of a logistic regression (M or groups, times C).
"""

from collections.abc import Sequence

import numpy as np

from fmray.errors import DataError
from fmray.records import Ensemble, Member

LEAST_PROBABILITY = 1e-7
"""Probabilities are held above this before their logarithm is taken; float32 outputs know no better."""


def combine_outputs(ensemble: Ensemble, outputs: np.ndarray) -> np.ndarray:
    """Give what an ensemble says where its members say `outputs`.

    A soup is one model, so it is given the outputs of that one.

    Shapes:
        outputs: (M, N, C) probabilities or (M, N, T) numbers, in the ensemble's order; (1, N, ...) of a soup.
        returns: (N, C) or (N, T), float64.

    Raises:
        DataError: If the number of outputs is not that of the members.
    """
    expected = 1 if ensemble.combine == "soup" else len(ensemble.members)
    if len(outputs) != expected:
        raise DataError(f"{len(outputs)} outputs for '{ensemble.name}', which has {expected} voices.", "ensemble")
    weights = np.asarray(ensemble.weights)
    match ensemble.combine:
        case "soup":
            return np.asarray(outputs[0], np.float64)
        case "vote":
            return vote_shares(outputs, weights)
        case "logistic":
            groups = ensemble.params.get("groups", range(len(outputs)))
            coefficients = np.asarray(ensemble.params["coefficients"], np.float64)
            intercepts = np.asarray(ensemble.params["intercepts"], np.float64)
            return softmax(log_features(group_means(outputs, groups)) @ coefficients + intercepts)
    return weighted_mean(outputs, weights)


def weighted_mean(outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average outputs (M, N, ...) with weights (M,), one member after another: no copy of all is made."""
    total = np.zeros(outputs.shape[1:])
    for output, weight in zip(outputs, weights, strict=True):
        if weight:
            total += weight * output
    return total


def vote_shares(outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give each class the weight of the members that name it; of equal probabilities the first class is named.

    Shapes:
        outputs: (M, N, C).
        returns: (N, C), rows sum to the sum of the weights.
    """
    shares = np.zeros(outputs.shape[1:])
    rows = np.arange(outputs.shape[1])
    for output, weight in zip(outputs, weights, strict=True):
        shares[rows, output.argmax(1)] += weight
    return shares


def group_means(outputs: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """Average the outputs (M, N, C) of members that share a number in `groups` (M,), numbered from 0 on."""
    number = np.asarray(groups)
    if len(number) == len(set(groups)):
        return outputs
    return np.stack([outputs[number == group].mean(0) for group in range(number.max() + 1)])


def log_features(outputs: np.ndarray) -> np.ndarray:
    """Lay the log probabilities (M, N, C) of all members side by side (N, F), member by member."""
    return np.log(np.maximum(np.concatenate(list(outputs), axis=1, dtype=np.float64), LEAST_PROBABILITY))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits (N, C) into probabilities."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    shares: np.ndarray = odds / odds.sum(1, keepdims=True)
    return shares


def alone(member: Member, reason: str = "") -> Ensemble:
    """Make an ensemble of one member."""
    return Ensemble("single", (member.index,), weights=(1.0,), val_score=member.val_score, reason=reason)
