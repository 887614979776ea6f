"""Judge the order that outputs give to rows: area under the ROC curve and average precision.

All of it follows from the counts per distinct score (`fmray.metrics.counts`): how far a row pulls the number depends on
its score, its class and its weight alone.
Shape legend: N rows, C classes, S distinct scores.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fmray.metrics.counts import ScoreCounts, ScoreTable
from fmray.metrics.metric import Metric, Slope

Curve = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray, np.ndarray]]
"""Weight of positives and negatives at each score, ascending (S,) -> number, pull of a positive, of a negative (S,)."""


def auc_and_pulls(positive_S: np.ndarray, negative_S: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Give the chance that a positive outranks a negative, ties counting half, and how far each score pulls it.

    The pulls are DeLong's structural components, centred and divided by the weight of their class, so their sum of
    squares over rows is DeLong's variance.

    Shapes:
        positive_S, negative_S: (S,), weights by ascending score.
        returns: number, (S,) of a positive of weight 1, (S,) of a negative.

    Source: DeLong et al., Biometrics 44, 1988; Sun & Xu, IEEE Signal Processing Letters 21, 2014.
    """
    positive = positive_S.sum()
    negative = negative_S.sum()
    if positive <= 0 or negative <= 0:
        return float("nan"), np.zeros_like(positive_S), np.zeros_like(positive_S)
    beaten_S = (np.cumsum(negative_S) - 0.5 * negative_S) / negative
    beating_S = (positive - np.cumsum(positive_S) + 0.5 * positive_S) / positive
    auc = float((positive_S * beaten_S).sum() / positive)
    return auc, (beaten_S - auc) / positive, (beating_S - auc) / negative


def average_precision_and_pulls(positive_S: np.ndarray, negative_S: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Give the mean precision over positives, at the threshold of each, and how far each score pulls it.

    Shapes:
        as in `auc_and_pulls`.

    Source: the infinitesimal jackknife (Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982) applied
    to the weighted form of scikit-learn's definition.
    """
    positive = positive_S.sum()
    if positive <= 0:
        return float("nan"), np.zeros_like(positive_S), np.zeros_like(positive_S)
    true_S, all_S = (np.cumsum(w[::-1])[::-1] for w in (positive_S, positive_S + negative_S))
    precision_S = np.divide(true_S, all_S, out=np.zeros_like(all_S), where=all_S > 0)
    value = float((positive_S * precision_S).sum() / positive)
    # A row counts among "all above" of every threshold at or below its own score.
    share_S = np.divide(positive_S, positive * all_S, out=np.zeros_like(all_S), where=all_S > 0)
    gain_S = np.cumsum(share_S)
    loss_S = np.cumsum(share_S * precision_S)
    return value, (precision_S - value) / positive + gain_S - loss_S, -loss_S


@dataclass(frozen=True)
class Ranking(ScoreCounts):
    """Make a ranking metric of counts per score, averaged over the classes for which it is defined.

    Args:
        curve: Which metric.
    """

    curve: Curve

    def value(self, tables: list[ScoreTable]) -> float:
        """Give the number; NaN if it is defined for no class."""
        return self.slope(tables).value

    def slope(self, tables: list[ScoreTable]) -> Slope:
        """Give what tells how far any row pulls the number; takes 24 bytes per class and distinct score.

        The value is one of the merged tables, whose rows are sorted: it does not depend on how rows were cut.
        """
        classes = [self.positive] if len(tables) == 1 else range(len(tables))
        values = []
        found = []
        for which, table in zip(classes, tables, strict=True):
            score_S, positive_S, negative_S = table.weights()
            value, hit_S, other_S = self.curve(positive_S, negative_S)
            if value == value and not np.isnan(score_S[-1:]).any():
                values.append(value)
                found.append((which, score_S, hit_S, other_S))
        return Slope(float(np.mean(values)), _Lookup(tuple(found))) if found else Slope(float("nan"), None)


@dataclass(frozen=True)
class _Lookup:
    """Look up how far a row pulls by its score: per class its index, the scores, the pulls of hits and of others."""

    classes: tuple[tuple[int, np.ndarray, np.ndarray, np.ndarray], ...]

    def __call__(self, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        total = np.zeros(len(target))
        for which, score_S, hit_S, other_S in self.classes:
            place = np.searchsorted(score_S, output[:, which].astype(np.float64))
            total += np.where(target == which, hit_S[place], other_S[place])
        return np.asarray(w * total / len(self.classes))


def _metric(name: str, curve: Curve, positive: int) -> Metric:
    sums = Ranking(positive, curve)
    return Metric(name, True, "class", lambda *rows: sums.value(sums.partial(*rows)), sums=sums)


def roc_auc(positive: int) -> Metric:
    """Give the ROC-AUC of the positive class, or the macro average over classes, one against the rest."""
    return _metric("roc_auc", auc_and_pulls, positive)


def average_precision(positive: int) -> Metric:
    """Give the average precision of the positive class, or the macro average over classes."""
    return _metric("average_precision", average_precision_and_pulls, positive)


ROC_AUC = roc_auc(1)
AVERAGE_PRECISION = average_precision(1)
