"""Choose the next token from scores, as transformers' logits processors and warpers do, in float64.

A draw goes through the ids in their order, not by probability: then nearly equal scores, whose order is a matter of
rounding, cannot exchange the tokens that a draw leads to.
Shape legend: n texts, V ids.
"""

from collections.abc import Sequence

import numpy as np


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Give ln of the distribution that scores (n, V) stand for."""
    shifted = scores - scores.max(-1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs


def penalised(scores: np.ndarray, seen: Sequence[np.ndarray], penalty: float) -> np.ndarray:
    """Make tokens that a text holds already less likely: scores above 0 are divided, others multiplied.

    Args:
        seen: Ids of each text, its prompt included.

    Source: Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable Generation", 2019.
    """
    if penalty == 1:
        return scores
    made = scores.copy()
    for own, ids in zip(made, seen, strict=True):
        held = np.unique(ids)
        own[held] = np.where(own[held] < 0, own[held] * penalty, own[held] / penalty)
    return made


def without(scores: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Rule out these ids."""
    made = scores.copy()
    made[:, list(ids)] = -np.inf
    return made


def only(scores: np.ndarray, allowed: Sequence[Sequence[int]]) -> np.ndarray:
    """Rule out all but the ids that each text may go on with."""
    made = np.full_like(scores, -np.inf)
    for place, ids in enumerate(allowed):
        made[place, ids] = scores[place, ids]
    return made


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Rule out all but the k largest scores, and those equal to the last of them; 0 rules out none."""
    if k == 0 or k >= scores.shape[1]:
        return scores
    least = np.partition(scores, -k, axis=-1)[:, -k, None]
    return np.where(scores < least, -np.inf, scores)


def top_p(scores: np.ndarray, p: float) -> np.ndarray:
    """Rule out all but the fewest most likely ids that have probability p together.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020.
    """
    if p >= 1:
        return scores
    order = np.argsort(scores, axis=-1, kind="stable")
    logs = log_softmax(np.take_along_axis(scores, order, -1))
    gone = np.exp(logs).cumsum(-1) <= 1 - p
    gone[:, -1] = False
    made = scores.copy()
    np.put_along_axis(made, order, np.where(gone, -np.inf, np.take_along_axis(scores, order, -1)), -1)
    return made


def drawn(scores: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draw an id for each text by the inverse of its cumulative distribution, over ids in their order.

    Shapes:
        uniform: (n,), in [0, 1).
        returns: (n,), int64.
    """
    cumulative = np.exp(log_softmax(scores)).cumsum(-1)
    at = uniform * cumulative[:, -1]
    return np.asarray((cumulative <= at[:, None]).sum(-1).clip(max=_last(scores)))


def _last(scores: np.ndarray) -> np.ndarray:
    """Give the last id of each text that is not ruled out."""
    return np.asarray(scores.shape[1] - 1 - np.argmax(np.isfinite(scores[:, ::-1]), -1))
