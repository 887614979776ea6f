"""Say how sure one may be of a metric, and of the difference of two on the same rows.

Rates get Wilson's interval. Everything else is linearised: the influences of rows, summed within groups where rows come
in groups, give the variance (for ROC-AUC this is DeLong's). All is made of sums over rows, which `fmray.evaluate.parts`
adds up over parts of a table. Summing within groups is what a bootstrap over groups converges to, at a thousandth of
its cost.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.stats

from fmray.metrics.metric import Metric
from fmray.records import Interval
from fmray.targets.codec import codec_named

UNIT = ("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro", "roc_auc",
        "average_precision")  # fmt: skip
NOTHING = float("nan")
Array = np.ndarray
Rows = tuple[Array, Array, Array | None]
"""Outputs, targets, weights."""
Squares = tuple[float, int]
"""Sum of squared influences, and how many independent pieces they are of: rows, or groups."""


@dataclass(frozen=True)
class Tally:
    """Hold what an interval needs of rows beside a metric's own sums.

    Args:
        num_rows: How many.
        rarest: Rows of the rarest class among them, 0 for numbers.
        hits: Rows that count as hits, where the metric is a share of rows that weigh alike and stand alone; else None.
    """

    num_rows: int
    rarest: int
    hits: int | None


def interval(metric: Metric, rows: Rows, group: Array | None, level: float) -> Interval:
    """Give a metric with its confidence interval.

    Args:
        group: Which rows belong together (N,), or None where each stands alone.
        level: Confidence level, e.g. 0.95.
    """
    output, target, weight = rows
    slope = metric.sums.slope(metric.sums.partial(*rows))
    hits = int(metric.rate(output, target).sum()) if metric.rate and weight is None and group is None else None
    tally = Tally(len(target), rarest(codec_named(metric.kind).rows_per_class(target)), hits)
    return bounds(
        metric,
        slope.value,
        tally=tally,
        squared=squares(slope.of(*rows), group),
        grouped=group is not None,
        level=level,
    )


def bounds(metric: Metric, value: float, tally: Tally, squared: Squares, grouped: bool, level: float) -> Interval:
    """Give the interval around a metric from sums over all rows.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927; DeLong et al., 1988;
    Liang & Zeger, "Longitudinal data analysis using generalized linear models", 1986 (sums within groups).
    """
    if math.isnan(value):
        return Interval(value, NOTHING, high=NOTHING, n=tally.num_rows, method="undefined")
    if tally.hits is not None:
        low, high = wilson(tally.hits, tally.num_rows, level)
        return Interval(value, low, high=high, n=tally.num_rows, method="wilson")
    error, num = standard_error(squared)
    method = ("grouped " if grouped else "") + ("delong" if metric.name == "roc_auc" else "delta")
    if num < 2:
        return Interval(value, NOTHING, high=NOTHING, n=num, method=method)
    if metric.is_bounded or metric.name in UNIT or metric.name.startswith("f1["):
        low, high = _unit_interval(value, error, num=num, level=level, rarest=tally.rarest)
    else:
        reach = _quantile(level, num) * error
        low = value - reach
        high = value + reach
        low = low if metric.higher_is_better else max(low, 0.0)  # losses are never below zero
    return Interval(value, low, high=high, n=num, method=method)


def paired(metric: Metric, ours: Rows, theirs: Rows, group: Array | None, level: float) -> tuple[Interval, float]:
    """Give how much better `ours` is on the same rows, and the one-sided p-value of "not better at all".

    Positive is better whichever way the metric runs. Shares of rows are tested exactly.
    """
    one, other = (metric.sums.slope(metric.sums.partial(*rows)) for rows in (ours, theirs))
    squared = squares(one.of(*ours) - other.of(*theirs), group)
    apart = wins(metric, ours, theirs) if metric.rate and ours[2] is None and group is None else None
    return gain(
        metric,
        (one.value, other.value),
        num_rows=len(ours[1]),
        squared=squared,
        apart=apart,
        grouped=group is not None,
        level=level,
    )


def gain(
    metric: Metric,
    values: tuple[float, float],
    num_rows: int,
    squared: Squares,
    apart: tuple[int, int] | None,
    grouped: bool,
    level: float,
) -> tuple[Interval, float]:
    """Give the interval of a gain, and its p-value, from sums over all rows.

    Args:
        values: Ours and theirs.
        squared: Of the differences of influences.
        apart: Rows where ours alone is right, and where theirs alone is, for a share of rows; else None.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947 (exact form);
    DeLong et al., 1988 (paired areas).
    """
    value = (1.0 if metric.higher_is_better else -1.0) * (values[0] - values[1])
    if math.isnan(value):
        return Interval(value, NOTHING, high=NOTHING, n=num_rows, method="undefined"), 1.0
    error, num = standard_error(squared)
    method = ("grouped " if grouped else "") + "paired delta"
    if num < 2:
        return Interval(value, NOTHING, high=NOTHING, n=num, method=method), 1.0
    reach = _quantile(level, num) * error
    found = Interval(value, value - reach, high=value + reach, n=num, method=method)
    if apart is not None:
        return found, mcnemar(*apart)
    if error == 0:
        return found, 0.0 if value > 0 else 1.0
    return found, float(scipy.stats.t.sf(value / error, num - 1))


def wins(metric: Metric, ours: Rows, theirs: Rows) -> tuple[int, int]:
    """Count the rows where ours alone is a hit, and where theirs alone is; none where hits are no notion."""
    if metric.rate is None:
        return 0, 0
    hit = metric.rate(*ours[:2])
    other = metric.rate(*theirs[:2])
    return int((hit & ~other).sum()), int((other & ~hit).sum())


def rarest(classes: Array) -> int:
    """Give the rows of the rarest class that occurs, from the rows of each; 0 if there is none."""
    return int(classes[classes > 0].min()) if classes.any() else 0


def squares(influence: Array, group: Array | None) -> Squares:
    """Sum the squares of influences, added up within groups, and count the independent pieces."""
    if group is not None:
        _, place = np.unique(group, return_inverse=True)
        influence = np.bincount(place, influence)
    return float(influence @ influence), len(influence)


def standard_error(squared: Squares) -> tuple[float, int]:
    """Give the standard error behind influences, and the number of independent pieces."""
    total, num = squared
    return (math.sqrt(total * num / (num - 1)), num) if num > 1 else (NOTHING, num)


def wilson(hits: float, num: int, level: float) -> tuple[float, float]:
    """Give Wilson's interval of a rate."""
    if num == 0:
        return NOTHING, NOTHING
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    share = hits / num
    spread = z * z / num
    middle = (share + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(share * (1 - share) / num + spread / (4 * num))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def mean_of_shares(total: float, squared: float, num: int, level: float) -> Interval:
    """Give the mean of shares that are independent of each other, each of several things that are not.

    Args:
        total, squared: Sum of the shares, and of their squares.
        num: How many there are.
        level: Confidence level.

    Source: Liang & Zeger, "Longitudinal data analysis using generalized linear models", 1986: what belongs together
    counts as one piece.
    """
    if num == 0:
        return Interval(NOTHING, NOTHING, high=NOTHING, n=0, method="undefined")
    value = min(1.0, total / num)
    spread = squared - total * total / num
    if num < 2 or spread <= 1e-12 * squared:  # those that agree show no spread: as many hits in as many pieces
        low, high = wilson(value * num, num, level)
        return Interval(value, low, high=high, n=num, method="wilson")
    error, _ = standard_error((spread / num**2, num))
    low, high = _unit_interval(value, error, num=num, level=level, rarest=num)
    return Interval(value, low, high=high, n=num, method="grouped delta")


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """Give the exact one-sided p-value that ours is not right more often, from the rows where just one is right."""
    return float(scipy.stats.binom.sf(only_ours - 1, only_ours + only_theirs, 0.5))


def detectable(error: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Give the smallest true gain that a one-sided test with this standard error finds with the given power."""
    return float((scipy.stats.norm.ppf(1 - alpha) + scipy.stats.norm.ppf(power)) * error)


@lru_cache(1024)  # metrics and slices ask for the same ones, and scipy takes longer than all else of an interval
def _quantile(level: float, num: int) -> float:
    return float(scipy.stats.t.ppf((1 + level) / 2, num - 1))


def _unit_interval(value: float, error: float, num: int, level: float, rarest: int) -> tuple[float, float]:
    """Go through the log odds, which keeps the ends inside [0, 1] and the coverage near them."""
    if not 0 < value < 1:
        # No row pulls: all are right (or wrong). As many as the rarest class has speak for it.
        return wilson(round(value) * rarest, rarest, level)
    if error == 0:
        # Whatever the rows are, the number is this one, as the ROC-AUC of a constant is one half.
        return value, value
    reach = _quantile(level, num) * error / (value * (1 - value))
    odds = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-min(max(o, -700), 700))) for o in (odds - reach, odds + reach))
    return low, high
