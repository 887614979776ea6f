"""Judge the order that outputs give to rows: area under the ROC curve and average precision.

Exact by one sort: O(N log N) time, O(N) memory. Beyond one machine the same numbers come, exactly too, from counts per
distinct score: see `fmray.metrics.ranges`.
Shape legend: N rows, C classes, D distinct scores.
"""

from collections.abc import Callable

import numpy as np

from fmray.metrics.metric import Metric, weights_of
from fmray.metrics.ranges import ScoreCounts

Curve = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]


def auc_and_influence(score: np.ndarray, hit: np.ndarray, w: np.ndarray) -> tuple[float, np.ndarray]:
    """Give the chance that a positive outranks a negative, ties counting half, and how far each row pulls it.

    The influences are DeLong's structural components, centred and divided by the weight of their class, so their sum of
    squares is DeLong's variance.

    Shapes:
        score, w: (N,); hit: (N,), bool.
        returns: number, (N,).

    Source: DeLong et al., Biometrics 44, 1988; Sun & Xu, IEEE Signal Processing Letters 21, 2014.
    """
    positive, negative = w @ hit, w @ ~hit
    if positive <= 0 or negative <= 0:
        return float("nan"), np.zeros(len(score))
    group, below_of, at_of = _ranks(score, w * hit, w * ~hit)
    below_pos, at_pos = below_of[0][group], at_of[0][group]
    below_neg, at_neg = below_of[1][group], at_of[1][group]
    outranked = np.where(hit, below_neg + 0.5 * at_neg, positive - below_pos - 0.5 * at_pos)
    component = outranked / np.where(hit, negative, positive)
    auc = float((w * hit) @ component / positive)
    return auc, w * (component - auc) / np.where(hit, positive, negative)


def average_precision_and_influence(score: np.ndarray, hit: np.ndarray, w: np.ndarray) -> tuple[float, np.ndarray]:
    """Give the mean precision over positives, at the threshold of each, and how far each row pulls it.

    Shapes:
        as in `auc_and_influence`.

    Source: the infinitesimal jackknife (Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982) applied
    to the weighted form of scikit-learn's definition.
    """
    positive = w @ hit
    if positive <= 0:
        return float("nan"), np.zeros(len(score))
    group, (below_pos, below_neg), (at_pos, _) = _ranks(score, w * hit, w * ~hit)
    true_above = positive - below_pos
    all_above = true_above + (w @ ~hit) - below_neg
    precision = np.divide(true_above, all_above, out=np.zeros_like(all_above), where=all_above > 0)
    value = float(at_pos @ precision / positive)
    # A row counts among "all above" of every threshold at or below its own score.
    share = np.divide(at_pos, positive * all_above, out=np.zeros_like(all_above), where=all_above > 0)
    gain, loss = np.cumsum(share), np.cumsum(share * precision)
    direct = hit * (precision[group] - value) / positive
    return value, w * (direct + hit * gain[group] - loss[group])


def _ranks(score: np.ndarray, *weights: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Group rows by score, ascending, and give for each kind of weight its sum below and at each distinct score.

    Shapes:
        returns: (N,) group of each row; lists of (D,).
    """
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    group = np.empty(len(score), np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(score)]))
    at = [np.add.reduceat(w[order], starts) for w in weights]
    return group, [np.cumsum(a) - a for a in at], at


class _OverClasses:
    """Average a curve's number over classes, one against the rest; of two classes the positive one alone."""

    def __init__(self, curve: Curve, positive: int) -> None:
        self.curve, self.positive = curve, positive

    def value(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
        return self._both(output, target, weight)[0]

    def influence(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        return self._both(output, target, weight)[1]

    def _both(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> tuple[float, np.ndarray]:
        w = weights_of(len(target), weight)
        classes = [self.positive] if output.shape[1] == 2 else range(output.shape[1])
        found = [self.curve(output[:, c], target == c, w) for c in classes]
        found = [(value, pulled) for value, pulled in found if value == value]
        if not found:
            return float("nan"), np.zeros(len(target))
        values, pulls = zip(*found, strict=True)
        return float(np.mean(values)), np.mean(pulls, axis=0)


def roc_auc(positive: int) -> Metric:
    """Give the ROC-AUC of the positive class, or the macro average over classes, one against the rest."""
    curve = _OverClasses(auc_and_influence, positive)
    sums = ScoreCounts("roc_auc", positive)
    return Metric("roc_auc", True, "class", curve.value, curve.influence, sums=sums)


def average_precision(positive: int) -> Metric:
    """Give the average precision of the positive class, or the macro average over classes."""
    curve = _OverClasses(average_precision_and_influence, positive)
    sums = ScoreCounts("average_precision", positive)
    return Metric("average_precision", True, "class", curve.value, curve.influence, sums=sums)


ROC_AUC = roc_auc(1)
AVERAGE_PRECISION = average_precision(1)
