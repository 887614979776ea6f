"""Summarise columns so that summaries of parts add up to the summary of the whole.

Moments are exact, merged by Chan's update. Quantiles come from at most POINTS ranks per part: exact below that many
rows, else wrong by at most 1 / (2 POINTS) of the rows; of parts with more than SAMPLED rows every k-th row is looked
at, which adds about 0.5 / sqrt(SAMPLED), 0.2 %. Distinct values are estimated from the K smallest hashes, with a
standard error of 1 / sqrt(K).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

Moments = dict[str, list[float]]
"""Column -> [number of values, mean, sum of squared deviations, smallest, largest]."""
Points = list[tuple[list[float], float]]
"""Values at equally spaced ranks of each part, with the number of rows each stands for."""

POINTS = 1024
SAMPLED = 1 << 16
SMALLEST_HASHES = 1024


def numbers(frame: pl.DataFrame, columns: Sequence[str]) -> Moments:
    """Give count, mean, squared deviations and range of number columns, in one pass.

    Source: Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """
    if not columns:
        return {}
    wide = [pl.col(name).cast(pl.Float64) for name in columns]
    asked = [
        column.pipe(measure).alias(f"{place}{mark}")
        for place, column in enumerate(wide)
        for mark, measure in (
            ("n", pl.Expr.count), ("m", pl.Expr.mean), ("v", lambda c: c.var(ddof=0)),
            ("l", pl.Expr.min), ("h", pl.Expr.max),
        )
    ]  # fmt: skip
    row = frame.select(asked).row(0, named=True)
    return {name: _moment([row[f"{place}{mark}"] for mark in "nmvlh"]) for place, name in enumerate(columns)}


def _moment(found: list[float | None]) -> list[float]:
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
    sample = values.gather_every(-(-len(values) // SAMPLED)) if len(values) > SAMPLED else values
    ordered = np.sort(sample.drop_nulls().to_numpy().astype(np.float64))
    if not len(ordered):
        return []
    if len(values) <= POINTS:
        return [(ordered.tolist(), 1.0)]
    places = ((np.arange(POINTS) + 0.5) * len(ordered) / POINTS).astype(np.int64)
    return [(ordered[places].tolist(), (len(values) - values.null_count()) / POINTS)]


def quantiles(points: Points, shares: Sequence[float]) -> list[float]:
    """Give the values at shares of all rows, by linear interpolation between ranks.

    Source: Hyndman & Fan, "Sample Quantiles in Statistical Packages", 1996, type 7, as numpy does.
    """
    values = np.concatenate([np.asarray(part) for part, _ in points])
    weights = np.concatenate([np.full(len(part), weight) for part, weight in points])
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    middle = np.cumsum(weights) - weights / 2
    reach = middle[-1] - middle[0]
    return [float(q) for q in np.interp(middle[0] + np.asarray(shares) * reach, middle, values)]


def smallest_hashes(values: pl.Series) -> list[int]:
    """Give the K smallest hashes of the distinct values.

    Source: Bar-Yossef et al., "Counting Distinct Elements in a Data Stream", 2002 (k minimum values).
    """
    return values.drop_nulls().unique().hash(seed=0).bottom_k(SMALLEST_HASHES).sort().to_list()


def merge_hashes(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Give the K smallest hashes of both parts."""
    return sorted({*one, *other})[:SMALLEST_HASHES]


def distinct(hashes: Sequence[int]) -> float:
    """Estimate the number of distinct values; exact where there are fewer than K."""
    if len(hashes) < SMALLEST_HASHES:
        return float(len(hashes))
    return (SMALLEST_HASHES - 1) * 2.0**64 / hashes[-1]


def levels(values: pl.Series, most: int) -> tuple[dict[str, int], bool]:
    """Count the values of a text column; of more than `most`, only the most frequent, and say so."""
    counts = values.drop_nulls().alias("level").value_counts(sort=True, name="rows")
    kept = counts.head(most)
    return dict(zip(kept[:, 0].to_list(), kept[:, 1].to_list(), strict=True)), len(counts) > most


def merge_levels(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Give the counts of both parts."""
    merged = dict(one)
    for level, count in other.items():
        merged[level] = merged.get(level, 0) + count
    return merged
