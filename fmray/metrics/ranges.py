"""Judge the order of scores beyond one machine, exactly: count per distinct score, then sum over ranges of scores.

A part is as large as its number of distinct pairs of score and weight: up to its number of rows where scores are fine.
Where that is too much for one place, parts are cut at common `edges`, each range of scores is merged where it is
needed, and a range has to know of the ranges above it nothing but their weight. All sums are exact, so the value is the
same however rows were cut into parts and scores into ranges.
Shape legend: N rows, C classes, D distinct pairs of score and weight, S distinct scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np

from fmray.metrics.exact import UNIT_BITS, exact_sums, mean, ratio, units_of
from fmray.metrics.metric import weights_of

SMALL = 1 << 31
"""Up to this weight twice a product of two fits into 64 bits, and a quotient of two is rounded once."""
SAMPLED_SCORES = 1024


@dataclass(frozen=True)
class ScoreTable:
    """Count positives and negatives per distinct pair of score and weight, ascending.

    Shapes:
        score, weight: (D,), float64; positive, negative: (D,), int64.
    """

    score: np.ndarray
    weight: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    @classmethod
    def count(cls, score: np.ndarray, weight: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> "ScoreTable":
        """Group rows, or entries of tables, that have score and weight in common.

        Shapes:
            each (n,).
        """
        order = np.lexsort((weight, score))
        score, weight = score[order], weight[order]
        if not len(order):
            return cls(score, weight, positive, negative)
        starts = np.flatnonzero(np.r_[True, (score[1:] != score[:-1]) | (weight[1:] != weight[:-1])])
        sums = (np.add.reduceat(numbers[order], starts) for numbers in (positive, negative))
        return cls(score[starts], weight[starts], *sums)

    @classmethod
    def merge(cls, tables: Sequence["ScoreTable"]) -> "ScoreTable":
        """Give the table of all rows of one table or more."""
        columns = ([getattr(t, name) for t in tables] for name in ("score", "weight", "positive", "negative"))
        return cls.count(*(np.concatenate(column) for column in columns))

    def weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give distinct scores, ascending, with the weight of positives and of negatives at each.

        Shapes:
            returns: (S,), float64, each.
        """
        if not len(self.score):
            return self.score, self.score, self.score
        starts = np.flatnonzero(np.r_[True, self.score[1:] != self.score[:-1]])
        sums = (np.add.reduceat(self.weight * counts, starts) for counts in (self.positive, self.negative))
        return self.score[starts], *sums

    def cut(self, edges: np.ndarray) -> list["ScoreTable"]:
        """Cut into ranges of scores, ascending; a score on an edge goes to the upper range."""
        places = [0, *np.searchsorted(self.score, edges, side="left").tolist(), len(self.score)]
        parts = [slice(a, b) for a, b in pairwise(places)]
        return [ScoreTable(self.score[p], self.weight[p], self.positive[p], self.negative[p]) for p in parts]

    def totals(self) -> tuple[int, int]:
        """Give the weight of positives and of negatives, in units."""
        weights, kind = np.unique(self.weight, return_inverse=True)
        mantissa, place = units_of(weights)
        whole = [m << p for m, p in zip(mantissa.tolist(), place.tolist(), strict=True)]
        sums = np.zeros((2, len(weights)), np.int64)
        for row, counts in zip(sums, (self.positive, self.negative), strict=True):
            np.add.at(row, kind, counts)
        positive, negative = (sum(map(int.__mul__, whole, row)) for row in sums.tolist())
        return positive, negative


def edges_of(tables: Sequence[ScoreTable], num_ranges: int) -> np.ndarray:
    """Choose where to cut scores so that ranges are of about equal size; any edges give the same value.

    Shapes:
        returns: (num_ranges - 1,), float64, ascending.
    """
    steps = [max(1, len(table.score) // SAMPLED_SCORES) for table in tables]
    shown = np.concatenate([table.score[::step] for table, step in zip(tables, steps, strict=True)])
    heavy = np.concatenate([np.full(len(table.score[::step]), step) for table, step in zip(tables, steps, strict=True)])
    if not len(shown):
        return np.zeros(num_ranges - 1)
    order = np.argsort(shown, kind="stable")
    ends = np.cumsum(heavy[order])
    wanted = np.searchsorted(ends, np.arange(1, num_ranges) * ends[-1] / num_ranges)
    return np.asarray(shown[order][wanted])


@dataclass(frozen=True)
class RangeSums:
    """Hold what a range of scores adds to the area under the curve and to the average precision.

    Args:
        positive, negative: Weight of the range, in units.
        outranked: Twice the positives times the negatives above them, ties counting half, in squared units.
        precision: Positives times the precision at their score, in units.
    """

    positive: int
    negative: int
    outranked: int
    precision: int


def range_sums(table: ScoreTable, above: tuple[int, int] = (0, 0)) -> RangeSums:
    """Sum over a range of scores.

    Args:
        above: Weight of positives and of negatives with higher scores, in units.
    """
    own = table.totals()
    if not any(own):
        return RangeSums(0, 0, 0, 0)
    positive_S, negative_S, shift = _by_score(table, own, above)
    pos, neg = positive_S[::-1], negative_S[::-1]
    true_above, false_above = np.cumsum(pos) + (above[0] >> shift), np.cumsum(neg) + (above[1] >> shift)
    outranked = int((pos * (2 * false_above - neg)).sum())
    hit = np.flatnonzero(pos > 0)
    precision = (true_above[hit] / (true_above[hit] + false_above[hit])).astype(np.float64)
    terms = _weights(pos[hit], shift) * precision
    return RangeSums(*own, outranked << 2 * shift, exact_sums(terms)[0])


def _by_score(table: ScoreTable, own: tuple[int, int], above: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Give the weight of positives and negatives at each distinct score, in the largest unit that divides all.

    Shapes:
        returns: (S,) each, int64 where all that is made of them fits, else Python integers; and the power of two that
            their unit is, in units.
    """
    mantissa, place = units_of(table.weight)
    used = mantissa != 0
    zeros = np.frexp((mantissa & -mantissa)[used].astype(np.float64))[1] - 1
    shift = min([int((place[used] + zeros).min()), *(_trailing_zeros(total) for total in above if total)])
    if (sum(own) + sum(above)) >> shift < SMALL:
        whole = mantissa >> np.clip(shift - place, 0, 62) << np.clip(place - shift, 0, 62)
    else:
        pairs = zip(mantissa.tolist(), place.tolist(), strict=True)
        whole = np.array([m << p - shift if p >= shift else m >> shift - p for m, p in pairs], object)
    starts = np.flatnonzero(np.r_[True, table.score[1:] != table.score[:-1]])
    pos, neg = (np.add.reduceat(whole * counts, starts) for counts in (table.positive, table.negative))
    return pos, neg, shift


def _weights(whole: np.ndarray, shift: int) -> np.ndarray:
    """Turn integers back into weights, each rounded once."""
    if whole.dtype != object:
        return np.ldexp(whole.astype(np.float64), shift - UNIT_BITS)
    up, down = max(0, shift - UNIT_BITS), 1 << max(0, UNIT_BITS - shift)
    return np.array([(number << up) / down for number in whole.tolist()])


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1


def value_of(curve: Literal["roc_auc", "average_precision"], ranges: Sequence[ScoreTable]) -> float:
    """Give the value from tables of ascending ranges of scores; NaN where it is undefined.

    Two rounds: what lies above a range needs the totals of the others; the rest needs the range alone.
    """
    totals = [table.totals() for table in ranges]
    above = [(sum(p for p, _ in totals[i + 1 :]), sum(n for _, n in totals[i + 1 :])) for i in range(len(ranges))]
    sums = [range_sums(table, higher) for table, higher in zip(ranges, above, strict=True)]
    positive, negative = (sum(getattr(s, name) for s in sums) for name in ("positive", "negative"))
    if any(np.isnan(table.score[-1:]).any() for table in ranges):
        return float("nan")
    if curve == "average_precision":
        return ratio(Fraction(sum(s.precision for s in sums)), Fraction(positive))
    pairs = 2 * positive * negative
    return ratio(Fraction(pairs - sum(s.outranked for s in sums)), Fraction(pairs))


@dataclass(frozen=True)
class ScoreCounts:
    """Count rows per score: of the positive class of two, else of each class against the rest.

    Args:
        positive: Index of the positive class.
    """

    positive: int

    def partial(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> list[ScoreTable]:
        """Count over some rows, possibly none: one table, or one per class."""
        w = weights_of(len(target), weight)
        classes = [self.positive] if output.shape[1] == 2 else range(output.shape[1])
        hits = ((c, np.asarray(target == c, np.int64)) for c in classes)
        return [ScoreTable.count(output[:, c].astype(np.float64), w, hit, 1 - hit) for c, hit in hits]

    def merge(self, parts: Sequence[list[ScoreTable]]) -> list[ScoreTable]:
        """Give the tables over all rows of one part or more."""
        return [ScoreTable.merge(tables) for tables in zip(*parts, strict=True)]
