"""Add numbers without rounding, so that sums over rows are the same however the rows were cut among workers.

A float64 is a whole number of units of 2^-1126, and so is any sum of them: sums are kept as Python integers, which add
exactly and in any order. Rounding happens once, when a quotient of sums becomes a number again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from fmray.metrics.metric import Slope, weights_of

UNIT_BITS = 1126
"""The smallest float64 is 2^-1074; 52 bits more keep the mantissas of subnormal numbers whole."""
CHUNK_ROWS = 1 << 22  # halves of mantissas have 27 bits: float64 sums of up to 2^26 of them are exact
MOST_BUCKETS = 1 << 20
SPLITTER = 134217729.0  # 2^27 + 1
NOT_FINITE = "not finite"

Totals = dict[str, tuple[int, ...]]
"""Name -> sums in units, one per group; and how many terms were no finite number."""
Terms = Mapping[str, tuple[np.ndarray, np.ndarray | None, int]]
"""Name -> numbers to sum (n,), the group of each (n,) or None for one group, and the number of groups."""
Exact = Mapping[str, list[Fraction]]


def units_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write finite numbers as m 2^p units, m of 53 bits at most and p >= 0.

    Shapes:
        values, returns: (n,), float64; (n,) int64 each.
    """
    mantissa, exponent = np.frexp(values)
    return np.ldexp(mantissa, 53).astype(np.int64), exponent.astype(np.int64) + (UNIT_BITS - 53)


def exact_sums(values: np.ndarray, group: np.ndarray | None = None, num_groups: int = 1) -> tuple[int, ...]:
    """Sum finite numbers per group, in units.

    Shapes:
        values: (n,); group: (n,), in [0, num_groups).
        returns: one integer per group.
    """
    sums = [0] * num_groups
    for start in range(0, len(values), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        if group is None and _add_exactly(values[rows]):
            sums[0] += int(values[rows].sum()) << UNIT_BITS
            continue
        mantissa, place = units_of(np.asarray(values[rows], np.float64))
        first = int(place.min())
        span = int(place.max() - place.min()) + 1
        bucket = place - first if group is None else group[rows] * span + (place - first)
        buckets = None
        if span * num_groups > MOST_BUCKETS:
            buckets, bucket = np.unique(bucket, return_inverse=True)
        low = np.bincount(bucket, (mantissa & ((1 << 26) - 1)).astype(np.float64))
        high = np.bincount(bucket, (mantissa >> 26).astype(np.float64))
        for filled in np.flatnonzero((low != 0) | (high != 0)).tolist():
            where, shift = divmod(filled if buckets is None else int(buckets[filled]), span)
            sums[where] += ((int(high[filled]) << 26) + int(low[filled])) << (first + shift)
    return tuple(sums)


def _add_exactly(values: np.ndarray) -> bool:
    """Tell whether float64 adds these numbers without rounding, in any order: whole ones, as counts of hits are."""
    return bool((np.trunc(values) == values).all() and np.abs(values).max() < (1 << 53) / len(values))


def products(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the rounded products and what rounding took: their sum is the product, unless that under- or overflows.

    Source: Dekker, "A floating-point technique for extending the available precision", 1971.
    """
    high = one * other
    (a, b), (c, d) = _halves(one), _halves(other)
    return high, ((a * c - high) + a * d + b * c) + b * d


def _halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = SPLITTER * values
    high = scaled - (scaled - values)
    return high, values - high


def ratio(above: Fraction, below: Fraction) -> float:
    """Give a quotient, correctly rounded: infinite beyond all numbers, NaN where it is undefined."""
    if not below:
        return float("nan")
    try:
        return float(above / below)
    except OverflowError:
        return math.inf if above / below > 0 else -math.inf


def mean(values: Sequence[float]) -> float:
    """Average numbers, whose sum is rounded once; NaN if there are none."""
    return math.fsum(values) / len(values) if values else float("nan")


@dataclass(frozen=True)
class RowSums:
    """Make a number of sums over rows.

    What a row adds is rounded where it is worked out, once for the row; the sums are not, so they do not depend on how
    rows are cut or in which order parts are merged.

    Args:
        terms: (output, target, weights (N,)) -> what to sum.
        of: Exact sums -> the number.
        pull: (exact sums, output, target, weights (N,)) -> how far each row pulls the number (N,).
    """

    terms: Callable[[np.ndarray, np.ndarray, np.ndarray], Terms]
    of: Callable[[Exact], float]
    pull: Callable[[Exact, np.ndarray, np.ndarray, np.ndarray], np.ndarray]

    @property
    def counts(self) -> object:
        """Tell what is counted."""
        return self.terms

    def partial(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> Totals:
        """Sum over some rows, possibly none."""
        contiguous = np.ascontiguousarray(output)  # strides decide in which order numpy adds along a row
        with np.errstate(over="ignore", invalid="ignore"):
            terms = self.terms(contiguous, np.asarray(target), weights_of(len(target), weight))
        totals: Totals = {}
        lost = 0
        for name, (values, group, num_groups) in terms.items():
            finite = np.isfinite(values)
            if not finite.all():
                lost += int((~finite).sum())
                values = values[finite]
                group = None if group is None else group[finite]
            totals[name] = exact_sums(values, group, num_groups)
        return totals | {NOT_FINITE: (lost,)}

    def merge(self, parts: Sequence[Totals]) -> Totals:
        """Give the sums over all rows of one part or more."""
        return {name: tuple(map(sum, zip(*(part[name] for part in parts), strict=True))) for name in parts[0]}

    def value(self, totals: Totals) -> float:
        """Give the number; NaN where it is undefined, or a term was no finite number."""
        if totals[NOT_FINITE] != (0,):
            return float("nan")
        return self.of(_exact(totals))

    def slope(self, totals: Totals) -> Slope:
        """Give what tells how far any row pulls the number."""
        value = self.value(totals)
        return Slope(value, partial(self.pull, _exact(totals)) if math.isfinite(value) else None)


def _exact(totals: Totals) -> Exact:
    return {name: [Fraction(total, 1 << UNIT_BITS) for total in sums] for name, sums in totals.items()}
