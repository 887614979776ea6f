"""Say how sure one may be of a metric, and of the difference of two on the same rows.

Rates get Wilson's interval. Everything else is linearised: the influences of rows, summed within groups where rows come
in groups, give the variance (for ROC-AUC this is DeLong's). All is one pass with additive sums, so at 1e9 rows it costs
what the metric costs; rankings take score histograms then. Summing within groups is what a bootstrap over groups
converges to, at a thousandth of its cost.
"""

import math

import numpy as np
import scipy.stats

from fmray.metrics.metric import Metric
from fmray.records import Interval

UNIT = ("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro", "roc_auc",
        "average_precision")  # fmt: skip
NOTHING = float("nan")
Array = np.ndarray
Rows = tuple[Array, Array, Array | None]
"""Outputs, targets, weights."""


def interval(metric: Metric, rows: Rows, group: Array | None, level: float) -> Interval:
    """Give a metric with its confidence interval.

    Args:
        group: Which rows belong together (N,), or None where each stands alone.
        level: Confidence level, e.g. 0.95.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927; DeLong et al., 1988;
    Liang & Zeger, "Longitudinal data analysis using generalized linear models", 1986 (sums within groups).
    """
    output, target, weight = rows
    value = metric.value(output, target, weight)
    if math.isnan(value):
        return Interval(value, NOTHING, NOTHING, len(target), "undefined")
    if metric.rate is not None and weight is None and group is None:
        low, high = wilson(float(metric.rate(output, target).sum()), len(target), level)
        return Interval(value, low, high, len(target), "wilson")
    error, num = standard_error(metric.influence(output, target, weight), group)
    method = ("grouped " if group is not None else "") + ("delong" if metric.name == "roc_auc" else "delta")
    if num < 2:
        return Interval(value, NOTHING, NOTHING, num, method)
    if metric.name in UNIT or metric.name.startswith("f1["):
        low, high = _unit_interval(value, error, num, level, target)
    else:
        reach = _quantile(level, num) * error
        low, high = value - reach, value + reach
        low = low if metric.higher_is_better else max(low, 0.0)  # losses are never below zero
    return Interval(value, low, high, num, method)


def paired(metric: Metric, ours: Rows, theirs: Rows, group: Array | None, level: float) -> tuple[Interval, float]:
    """Give how much better `ours` is on the same rows, and the one-sided p-value of "not better at all".

    Positive is better whichever way the metric runs. Shares of rows are tested exactly.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947 (exact form);
    DeLong et al., 1988 (paired areas).
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    gain = sign * (metric.value(*ours) - metric.value(*theirs))
    if math.isnan(gain):
        return Interval(gain, NOTHING, NOTHING, len(ours[1]), "undefined"), 1.0
    error, num = standard_error(metric.influence(*ours) - metric.influence(*theirs), group)
    method = ("grouped " if group is not None else "") + "paired delta"
    if num < 2:
        return Interval(gain, NOTHING, NOTHING, num, method), 1.0
    reach = _quantile(level, num) * error
    found = Interval(gain, gain - reach, gain + reach, num, method)
    if metric.rate is not None and ours[2] is None and group is None:
        hit, other = metric.rate(*ours[:2]), metric.rate(*theirs[:2])
        return found, mcnemar(int((hit & ~other).sum()), int((other & ~hit).sum()))
    if error == 0:
        return found, 0.0 if gain > 0 else 1.0
    return found, float(scipy.stats.t.sf(gain / error, num - 1))


def standard_error(influence: Array, group: Array | None) -> tuple[float, int]:
    """Give the standard error behind influences, and the number of independent pieces."""
    if group is not None:
        _, place = np.unique(group, return_inverse=True)
        influence = np.bincount(place, influence)
    num = len(influence)
    if num < 2:
        return NOTHING, num
    return math.sqrt(float(influence @ influence) * num / (num - 1)), num


def wilson(hits: float, num: int, level: float) -> tuple[float, float]:
    """Give Wilson's interval of a rate."""
    if num == 0:
        return NOTHING, NOTHING
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    share, spread = hits / num, z * z / num
    middle = (share + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(share * (1 - share) / num + spread / (4 * num))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """Give the exact one-sided p-value that ours is not right more often, from the rows where just one is right."""
    return float(scipy.stats.binom.sf(only_ours - 1, only_ours + only_theirs, 0.5))


def detectable(error: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Give the smallest true gain that a one-sided test with this standard error finds with the given power."""
    return float((scipy.stats.norm.ppf(1 - alpha) + scipy.stats.norm.ppf(power)) * error)


def _quantile(level: float, num: int) -> float:
    return float(scipy.stats.t.ppf((1 + level) / 2, num - 1))


def _unit_interval(value: float, error: float, num: int, level: float, target: Array) -> tuple[float, float]:
    """Go through the log odds, which keeps the ends inside [0, 1] and the coverage near them."""
    if error == 0 or not 0 < value < 1:
        # No row pulls: all are right (or wrong). As many as the rarest class has speak for it.
        rarest = int(np.unique(target, return_counts=True)[1].min())
        return wilson(round(value) * rarest, rarest, level)
    reach = _quantile(level, num) * error / (value * (1 - value))
    odds = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-min(max(o, -700), 700))) for o in (odds - reach, odds + reach))
    return low, high
