"""Summarise columns so that summaries of parts add up to the summary of the whole, and stay small.

Moments are exact, merged by Chan's update. Quantiles come from at most POINTS ranks per part: exact up to that many
rows, else wrong by at most 1 / (2 POINTS) of the rows; of parts with more than SAMPLED rows a stratified sample is
looked at, which adds about 0.5 / sqrt(SAMPLED), 0.2 %. Beyond MOST_POINTS the ranks of all parts are thinned, which
adds 1 / (2 MOST_POINTS) each time. Distinct values are estimated from the K smallest hashes, with a standard error of
1 / sqrt(K). Counts of levels are exact up to the limit given; beyond it the rarest are forgotten.
"""

import decimal
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from fmray.seeding import stream

Moments = dict[str, list[float]]
"""Column -> [number of values, mean, sum of squared deviations, smallest, largest]."""
Points = tuple[np.ndarray, np.ndarray]
"""Values at equally spaced ranks of each part, and the number of rows that each of them stands for."""

POINTS = 1024
MOST_POINTS = 1 << 15
SAMPLED = 1 << 16
SMALLEST_HASHES = 4096


def numbers(frame: pl.DataFrame, columns: Sequence[str]) -> Moments:
    """Give count, mean, squared deviations and range of number columns, in one pass.

    Source: Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """
    if not frame.height:
        return {name: _moment([0.0] * 5) for name in columns}
    if not columns:
        return {}
    wide = frame.select(pl.col(list(columns)).cast(pl.Float64))  # an expression per column takes longer than the work
    measured = (wide.count(), wide.mean(), wide.var(ddof=0), wide.min(), wide.max())
    found = zip(*(row.row(0) for row in measured), strict=True)
    return {name: _moment(values) for name, values in zip(columns, found, strict=True)}


def _moment(found: Sequence[float | None]) -> list[float]:
    count, mean, variance, low, high = (0.0 if value is None else float(value) for value in found)
    return [count, mean, variance * count, low, high] if count else [0.0, 0.0, 0.0, math.inf, -math.inf]


def merge(one: Moments, other: Moments) -> Moments:
    """Give the moments of both parts."""
    return {name: _merged(one[name], other[name]) for name in one}


def _merged(one: Sequence[float], other: Sequence[float]) -> list[float]:
    count = one[0] + other[0]
    if not count:
        return list(one)
    apart = other[1] - one[1]
    mean = one[1] + apart * other[0] / count
    return [
        count,
        mean,
        one[2] + other[2] + apart**2 * one[0] * other[0] / count,
        min(one[3], other[3]),
        max(one[4], other[4]),
    ]


def scale(moment: Sequence[float]) -> float:
    """Give the standard deviation (divided by n), 0 if all values are equal up to rounding."""
    count, mean, squares = moment[:3]
    deviation = math.sqrt(squares / count) if count else 0.0
    return deviation if deviation > 1e-12 * max(abs(mean), 1e-300) and moment[3] < moment[4] else 0.0


def vectors(values: np.ndarray) -> list[list[float]]:
    """Give moments per element of vectors: [counts, means, squared deviations].

    Shapes:
        values: (num_rows, width).
        returns: 3 x (width,).
    """
    if not len(values):
        return [[0.0] * values.shape[1]] * 3
    mean = values.mean(0, dtype=np.float64)
    squares = np.zeros(values.shape[1])
    for start in range(0, len(values), 4096):
        squares += ((values[start : start + 4096] - mean) ** 2).sum(0)
    return [[float(len(values))] * values.shape[1], mean.tolist(), squares.tolist()]


def merge_vectors(one: list[list[float]], other: list[list[float]]) -> list[list[float]]:
    """Give the moments of both parts, element by element."""
    (n, mean, squares), (m, others, more) = (np.asarray(part) for part in (one, other))
    count = np.maximum(n + m, 1)
    apart = others - mean
    return [(n + m).tolist(), (mean + apart * m / count).tolist(), (squares + more + apart**2 * n * m / count).tolist()]


def ranks(values: pl.Series) -> Points:
    """Give values at equally spaced ranks, all of them where there are few."""
    sample = values.gather(_sampled(len(values))) if len(values) > SAMPLED else values
    sample = sample.drop_nulls() if sample.null_count() else sample  # a pass per column, of thousands
    ordered = np.sort(sample.to_numpy()).astype(np.float64)
    if len(values) <= POINTS or not len(ordered):
        return ordered, np.ones(len(ordered))
    places = ((np.arange(POINTS) + 0.5) * len(ordered) / POINTS).astype(np.int64)
    return ordered[places], np.full(POINTS, (len(values) - values.null_count()) / POINTS)


@functools.lru_cache(maxsize=4)
def _sampled(num_rows: int) -> np.ndarray:
    """Draw one row of each of SAMPLED equal stretches; a fixed stride would meet the same hour of every day."""
    places = np.arange(SAMPLED) + stream(0, "ranks", num_rows).random(SAMPLED)
    return (places * (num_rows / SAMPLED)).astype(np.int64)


def merge_ranks(one: Points, other: Points) -> Points:
    """Give the ranks of both parts, thinned where there are too many."""
    values, weights = (np.concatenate(pair) for pair in zip(one, other, strict=True))
    if len(values) <= 2 * MOST_POINTS:
        return values, weights
    order = np.argsort(values, kind="stable")
    values = values[order]
    ends = np.cumsum(weights[order])
    middles = (np.arange(MOST_POINTS) + 0.5) * (ends[-1] / MOST_POINTS)
    return values[np.searchsorted(ends, middles)], np.full(MOST_POINTS, ends[-1] / MOST_POINTS)


def quantiles(points: Points, shares: Sequence[float]) -> list[float]:
    """Give the values at shares of all rows, by linear interpolation between ranks.

    Source: Hyndman & Fan, "Sample Quantiles in Statistical Packages", 1996, type 7, as numpy does.
    """
    order = np.argsort(points[0], kind="stable")
    values = points[0][order]
    weights = points[1][order]
    middle = np.cumsum(weights) - weights / 2
    reach = middle[-1] - middle[0]
    return [float(q) for q in np.interp(middle[0] + np.asarray(shares) * reach, middle, values)]


def smallest_hashes(values: pl.Series) -> np.ndarray:
    """Give the K smallest hashes of values that differ, ascending.

    The hash is the library's: it is compared within one preparation and never kept.

    Source: Bar-Yossef et al., "Counting Distinct Elements in a Data Stream", 2002 (k minimum values).
    """
    return values.hash(seed=0).bottom_k(SMALLEST_HASHES).sort().to_numpy()


def merge_hashes(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Give the K smallest hashes of both parts."""
    return np.union1d(one, other)[:SMALLEST_HASHES]


def distinct(hashes: np.ndarray) -> float:
    """Estimate the number of distinct values; exact where there are fewer than K."""
    if len(hashes) < SMALLEST_HASHES:
        return float(len(hashes))
    return (SMALLEST_HASHES - 1) * 2.0**64 / float(hashes[-1])


def distinct_at_most(hashes: np.ndarray) -> float:
    """Give what the number of distinct values hardly exceeds: two standard errors more than the estimate."""
    return distinct(hashes) * (1 if len(hashes) < SMALLEST_HASHES else 1 + 2 / math.sqrt(SMALLEST_HASHES))


def levels(values: pl.Series, most: int) -> tuple[dict[Any, int], bool]:
    """Count the values of a column; of more than `most`, only the most frequent, and say so."""
    counts = values.drop_nulls().alias("level").value_counts(name="rows")
    kept = counts.sort("rows", "level", descending=[True, False]).head(most) if len(counts) > most else counts
    return dict(zip(kept["level"].to_list(), kept["rows"].to_list(), strict=True)), len(counts) > most


def merge_levels(one: Mapping[Any, int], other: Mapping[Any, int], most: int) -> tuple[dict[Any, int], bool]:
    """Give the counts of both parts; of more than `most` levels, only the most frequent, and say so."""
    counts = dict(Counter(one) + Counter(other))
    if len(counts) <= most:
        return counts, False
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:most]), True


def spell(level: object) -> str:
    """Name a level; a whole number alike in every type that holds it."""
    if isinstance(level, decimal.Decimal):
        whole = level == level.to_integral_value()
        return str(int(level)) if whole else format(level, "f").rstrip("0")
    return str(int(level)) if isinstance(level, float) and level.is_integer() else str(level)
