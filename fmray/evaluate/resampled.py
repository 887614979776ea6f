"""Score many members under many weightings of the same rows at once.

What rows add is worked out once; each weighting then costs a matrix product (sums over rows) or a pass over rows that
are sorted already (rankings). Anything else is scored one by one.
Shape legend: M members, m some of them, N rows, P positives, Q negatives, R weightings, T targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fmray.metrics.language import NATS_PER_TOKEN, nats
from fmray.metrics.metric import Metric
from fmray.metrics.probability import BRIER, LOG_LOSS, brier_scores, log_losses
from fmray.metrics.ranking import Ranking, auc_and_pulls
from fmray.metrics.regression import MAE, MSE, R2, RMSE
from fmray.metrics.tags import TOKEN_LOG_LOSS, token_log_losses

Array = np.ndarray
NUMBERS_QUICKLY = {"sums": 10_000_000_000, "ranks": 600_000_000, "value": 100_000_000}
"""Rows times weightings that take seconds, by way of scoring."""
CACHE_NUMBERS = 200_000
"""Weights gone over at once by rankings, which jump about in them: half the time of going over all."""


class Scorer(Protocol):
    """Score members of one metric on one set of rows.

    `quick` is how many weightings of one member take seconds.
    """

    quick: int

    def __call__(self, members: Sequence[int], weights: Array) -> Array:
        """Give the scores (m, R) of some members under weights (R, N); NaN where undefined."""
        ...


def scorer_of(metric: Metric, outputs: Sequence[Array], target: Array) -> Scorer:
    """Give the quickest way to score these members on these rows.

    Shapes:
        outputs: M of (N, C), (N,) or (N, T); target: (N,) or (N, T).
    """
    if isinstance(metric.sums, Ranking):
        return Ranks(metric.sums, outputs, target)
    if metric.rate is not None or metric.value in _ROWS:
        return Sums(metric, outputs, target)
    return OneByOne(metric, outputs, target)


class OneByOne:
    """Score by the metric itself, any metric."""

    def __init__(self, metric: Metric, outputs: Sequence[Array], target: Array) -> None:
        self.metric = metric
        self.outputs = outputs
        self.target = target
        self.quick = NUMBERS_QUICKLY["value"] // max(len(target), 1)

    def __call__(self, members: Sequence[int], weights: Array) -> Array:
        """Give the scores (m, R)."""
        return np.array([[self._score(self.outputs[m], w) for w in weights] for m in members])

    def _score(self, output: Array, w: Array) -> float:
        there = w > 0  # a row that was not drawn is not there: metrics may count rows or classes
        return self.metric.value(output[there], self.target[there], w[there]) if there.any() else float("nan")


class Sums:
    """Score by means over rows, which are one matrix product for all members and weightings."""

    def __init__(self, metric: Metric, outputs: Sequence[Array], target: Array) -> None:
        rows: Rows
        rows, self.finish = (metric.rate, _mean) if metric.rate is not None else _ROWS[metric.value]
        self.terms_TMN = np.stack([_by_target(rows(output, target)) for output in outputs], 1)
        self.target_TN = _by_target(target)
        self.quick = NUMBERS_QUICKLY["sums"] // max(self.terms_TMN[:, 0].size, 1)

    def __call__(self, members: Sequence[int], weights: Array) -> Array:
        """Give the scores (m, R)."""
        every = len(members) == self.terms_TMN.shape[1]
        terms = self.terms_TMN if every else self.terms_TMN[:, list(members)]
        with np.errstate(divide="ignore", invalid="ignore"):  # no row has weight: undefined
            return self.finish(terms @ weights.T / weights.sum(1), self.target_TN, weights)


def _by_target(values: Array) -> Array:
    numbers = np.asarray(values, np.float64)
    return numbers[None] if numbers.ndim == 1 else np.ascontiguousarray(numbers.T)


def _mean(means_TmR: Array, target: Array, weights: Array) -> Array:
    return np.asarray(means_TmR.mean(0))


def _root(means_TmR: Array, target: Array, weights: Array) -> Array:
    return np.asarray(np.sqrt(means_TmR).mean(0))


def _explained(means_TmR: Array, target_TN: Array, weights: Array) -> Array:
    centred = target_TN - target_TN.mean(1, keepdims=True)  # the variance would drown in a far mean
    total = weights.sum(1)
    variance_TR = centred**2 @ weights.T / total - (centred @ weights.T / total) ** 2
    enough = variance_TR > 1e-12 * (centred**2).mean(1, keepdims=True)
    inverse = np.divide(1.0, variance_TR, out=np.full_like(variance_TR, np.nan), where=enough)
    return np.asarray((1 - means_TmR * inverse[:, None]).mean(0))


def _squares(output: Array, target: Array) -> Array:
    return np.asarray((np.asarray(output, np.float64) - target) ** 2)


def _distances(output: Array, target: Array) -> Array:
    return np.asarray(np.abs(np.asarray(output, np.float64) - target))


Rows = Callable[[Array, Array], Array]
"""(output, target) -> what each row adds (N,) or (N, T)."""
_ROWS: dict[object, tuple[Rows, Callable[[Array, Array, Array], Array]]] = {
    LOG_LOSS.value: (log_losses, _mean),
    BRIER.value: (brier_scores, _mean),
    MSE.value: (_squares, _mean),
    MAE.value: (_distances, _mean),
    RMSE.value: (_squares, _root),
    R2.value: (_squares, _explained),
    TOKEN_LOG_LOSS.value: (token_log_losses, _mean),
    NATS_PER_TOKEN.value: (nats, _mean),
}


@dataclass(frozen=True)
class Order:
    """Hold the rows of one score in its order.

    Shapes:
        positives: (P,), negatives: (Q,), rows by ascending score.
        below, up_to: (P,), how many negatives lie below each positive, and below it or level with it.
        firsts: (P,), the first positive level with each.
    """

    positives: Array
    negatives: Array
    below: Array
    up_to: Array
    firsts: Array

    @classmethod
    def of(cls, score: Array, hit: Array) -> "Order":
        """Sort once."""
        order = np.argsort(score, kind="stable")
        positives = order[hit[order]]
        negatives = order[~hit[order]]
        high = score[positives]
        low = score[negatives]
        below = np.searchsorted(low, high)
        up_to = np.searchsorted(low, high, "right")
        return cls(positives, negatives, below, up_to, firsts=np.searchsorted(high, high))

    def roc_auc(self, weights: Array) -> Array:
        """Give the area under the ROC curve (R,) under weights (R, N), ties counting half."""
        w = weights.take(self.positives, 1)
        upto = _running(weights.take(self.negatives, 1))
        below, up_to = (np.einsum("rp,rp->r", w, upto.take(some, 1)) for some in (self.below, self.up_to))
        return _ratio((below + up_to) / 2, w.sum(1) * upto[:, -1])

    def average_precision(self, weights: Array) -> Array:
        """Give the mean precision over positives (R,) under weights (R, N)."""
        w = weights.take(self.positives, 1)
        false = _running(weights.take(self.negatives, 1))
        true = _running(w)
        true_above = true[:, -1:] - true.take(self.firsts, 1)
        all_above = true_above + false[:, -1:] - false.take(self.below, 1)
        precision = np.divide(true_above, all_above, out=np.zeros_like(w), where=all_above > 0)
        return _ratio(np.einsum("rp,rp->r", w, precision), true[:, -1])


class Ranks:
    """Score by order: ROC-AUC and average precision, averaged over classes where there are more than two."""

    def __init__(self, sums: Ranking, outputs: Sequence[Array], target: Array) -> None:
        classes = [sums.positive] if outputs[0].shape[1] == 2 else range(outputs[0].shape[1])
        self.curve = "roc_auc" if sums.curve is auc_and_pulls else "average_precision"
        self.orders = [[Order.of(output[:, c], target == c) for c in classes] for output in outputs]
        self.quick = NUMBERS_QUICKLY["ranks"] // max(len(target) * len(classes), 1)

    def __call__(self, members: Sequence[int], weights: Array) -> Array:
        """Give the scores (m, R)."""
        width = max(1, CACHE_NUMBERS // weights.shape[1])
        pieces = [weights[start : start + width] for start in range(0, len(weights), width)]
        return np.stack([np.concatenate([self._score(self.orders[m], w) for w in pieces]) for m in members])

    def _score(self, orders: Sequence[Order], weights: Array) -> Array:
        scores = np.stack([getattr(order, self.curve)(weights) for order in orders])
        defined = ~np.isnan(scores)
        return _ratio(np.where(defined, scores, 0.0).sum(0), defined.sum(0))


def _running(values: Array) -> Array:
    """Give the sums of the first 0, 1, 2 ... rows (R, N + 1)."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _ratio(above: Array, below: Array) -> Array:
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
