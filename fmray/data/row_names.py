"""Tell columns that only name rows, such as counters and hashes, from those that describe them.

That all values differ is no evidence: so do those of any fine measurement. A column names rows if its values look like
names, and if rows next to each other in its order have no more alike targets than rows drawn at random.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

SAMPLED = 1024
"""Rows by which the relation to the target is judged: those with the smallest hashes of their values."""
LEAST_SAMPLED = 50
UNRELATED = 4.0
"""Standard errors below which a relation counts as chance; one of 16,000 unrelated columns exceeds it."""
DENSE = 0.2
"""Share of its range that a counter fills; of numbers drawn at random, so few repeat only below a tenth."""
FLOAT_EXACT = 2.0**53
FEW_CLASSES = 20
LONG = 7
"""Digits from which numbers that all have equally many look like codes, e.g. of telephones."""
EPOCHS = tuple((946_684_800 * unit, 2_051_222_400 * unit) for unit in (1, 10**3, 10**6, 10**9))
"""Range of the years 2000 to 2034 in seconds since 1970, and in finer units."""

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Hashes of values (n,), the values (n,), and the targets of their rows (n, T), each float64 but the hashes."""


@dataclass(frozen=True)
class Marks:
    """Summarise what integers look like that hardly repeat.

    Args:
        rising, falling: Whether each is above, or below, the one of the row before; per part, whose order is unknown.
        first: One of the values, and `stride`, the greatest common divisor of their distances from it.
        low, high: Their range.
        sample: Of values and targets.
    """

    rising: bool
    falling: bool
    first: int
    stride: int
    low: int
    high: int
    sample: Sample


def marks_of(values: pl.Series, targets: np.ndarray) -> Marks | None:
    """Summarise integers; None if there are none.

    Shapes:
        targets: (num_rows, T), float64.
    """
    known = values.is_not_null()
    there = values.filter(known)
    targets = targets[known.to_numpy()]
    if not len(there):
        return None
    found = there.to_numpy().astype(object if there.dtype == pl.UInt64 else np.int64)
    above = found[1:] > found[:-1]
    first = int(found[0])
    low = int(found.min())
    high = int(found.max())
    wide = high - low >= 1 << 62  # differences of such values leave the type
    stride = 1 if wide else int(np.gcd.reduce(np.abs((found - low).astype(np.int64)))) or 1
    below = found[1:] < found[:-1]
    return Marks(
        bool(above.all()),
        bool(below.all()),
        first=first,
        stride=stride,
        low=low,
        high=high,
        sample=_sample(there, targets),
    )


def merge_marks(one: Marks | None, other: Marks | None) -> Marks | None:
    """Give the summary of both sets of rows."""
    if one is None or other is None:
        return one or other
    joined = [np.concatenate(pair) for pair in zip(one.sample, other.sample, strict=True)]
    return Marks(
        rising=one.rising and other.rising,
        falling=one.falling and other.falling,
        first=min(one.first, other.first),
        stride=math.gcd(one.stride, other.stride, abs(one.first - other.first)),
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        sample=_smallest(joined[0], joined[1], joined[2]),
    )


def _sample(values: pl.Series, targets: np.ndarray) -> Sample:
    return _smallest(values.hash(seed=0).to_numpy(), values.cast(pl.Float64).to_numpy(), targets)


def _smallest(hashes: np.ndarray, values: np.ndarray, targets: np.ndarray) -> Sample:
    if len(hashes) > SAMPLED:
        chosen = np.argpartition(hashes, SAMPLED)[:SAMPLED]
        hashes = hashes[chosen]
        values = values[chosen]
        targets = targets[chosen]
    order = np.argsort(hashes, kind="stable")
    return hashes[order], values[order], targets[order]


def why_a_name(marks: Marks, distinct: float) -> tuple[str, bool]:
    """Say why integers that hardly repeat look like names of rows, and whether they also go along with the target.

    Args:
        distinct: Number of distinct values.

    Returns:
        The reason, empty if there is no evidence; and whether targets are related to the values. A counter in the order
        of the file is a name even then: any trend over time would be related to it, and does not go on.
    """
    share = distinct / ((marks.high - marks.low) // marks.stride + 1)
    in_order = marks.rising or marks.falling
    related = is_related(marks.sample)
    if share >= DENSE:
        steps = f"in steps of {marks.stride}"
        if in_order:
            return f"they count the rows in the order of the file, {steps}", False
        return f"they fill their range {steps}, as a counter does", related
    is_time = any(low <= marks.low and marks.high <= high for low, high in EPOCHS)
    if is_time:
        return "", related
    if max(abs(marks.low), abs(marks.high)) > FLOAT_EXACT:
        return "they are too large to be quantities, as hashes are", related
    if in_order:
        return "they only rise or fall in the order of the file", related
    digits = len(str(marks.low))
    if marks.low > 0 and digits >= LONG and digits == len(str(marks.high)):
        return f"all of them have {digits} digits, as codes have", related
    return "", related


def is_related(sample: Sample) -> bool:
    """Tell whether targets depend on values, in whatever shape.

    Each target is tested twice on the sample: whether rows next to each other in the order of values have alike
    targets, and whether ranks of values and targets correlate.

    Source: Chatterjee, "A New Coefficient of Correlation", 2021; Mood, "The Distribution Theory of Runs", 1940.
    """
    _, values, targets = sample
    for target in targets.T:
        there = ~np.isnan(target)
        if there.sum() >= LEAST_SAMPLED and _deviation(values[there], target[there]) > UNRELATED:
            return True
    return False


def _deviation(values: np.ndarray, target: np.ndarray) -> float:
    """Give by how many standard errors targets deviate from being independent of values."""
    order = np.argsort(values, kind="stable")
    ranks = _ranks(values)[0]
    sorted_target = target[order]
    levels = np.unique(target)
    if len(levels) < 2:
        return 0.0
    if len(levels) <= FEW_CLASSES:
        near = _runs(sorted_target)
        along = [(target == level).astype(float) for level in levels]
    else:
        near = _chatterjee(sorted_target)
        along = [_ranks(target)[0]]
    size = math.sqrt(len(target) - 1)
    return max(near, *(abs(_correlation(ranks, column)) * size for column in along))


def _ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the middle and the greatest rank of each value, from 1; equal values share theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    greatest = np.cumsum(counts)
    return (greatest - (counts - 1) / 2)[place], greatest[place]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    spread = one.std() * other.std()
    return float(((one - one.mean()) * (other - other.mean())).mean() / spread) if spread else 0.0


def _runs(classes: np.ndarray) -> float:
    """Give by how many standard errors there are fewer runs of equal classes than by chance."""
    n = float(len(classes))
    counts = np.unique(classes, return_counts=True)[1].astype(float)
    squares = (counts**2).sum()
    cubes = (counts**3).sum()
    expected = (n * (n + 1) - squares) / n
    variance = (squares * (squares + n * (n + 1)) - 2 * n * cubes - n**3) / (n * n * (n - 1))
    runs = 1 + (classes[1:] != classes[:-1]).sum()
    return float((expected - runs) / math.sqrt(variance)) if variance > 0 else 0.0


def _chatterjee(target: np.ndarray) -> float:
    """Give Chatterjee's coefficient in units of its standard error under independence."""
    n = len(target)
    ranks = _ranks(target)[1]
    above = _ranks(-target)[1]
    spread = 2 * (above * (n - above)).sum()
    coefficient = 1 - n * np.abs(np.diff(ranks)).sum() / spread if spread else 0.0
    return float(coefficient * math.sqrt(n / 0.4))


def encode_targets(targets: Sequence[pl.Series]) -> np.ndarray:
    """Give targets as numbers by which rows are compared: those of text and of true and false as hashes.

    Shapes:
        returns: (num_rows, T), float64; NaN where a target is missing.
    """
    columns = []
    for series in targets:
        if series.dtype.is_numeric():
            columns.append(series.cast(pl.Float64).fill_null(math.nan).to_numpy())
        else:
            codes = (series.hash(seed=0).to_numpy() >> np.uint64(11)).astype(np.float64)  # a float holds 53 bits
            columns.append(np.where(series.is_null().to_numpy(), math.nan, codes))
    return np.stack(columns, axis=1)


_NAMES = {
    "UUIDs": r"^\{?[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\}?$",
    "hashes": r"^(?:0x)?(?:[0-9a-f]{8,}|[0-9A-F]{8,})$",
    "numbered names": r"^[\p{L}_.:/#-]*[ _.:/#-]?\d+[\p{L}]?$",
    "codes": r"^[^\s]*\d[^\s]*$",
    "single words": r"^[^\s]+$",
}
"""What names of rows look like -> pattern of all of them."""


def looks_of(values: pl.Series) -> frozenset[str]:
    """Name the kinds of names that all values look like."""
    return frozenset(kind for kind, pattern in _NAMES.items() if values.str.contains(pattern).all())


def first_look(looks: frozenset[str]) -> str:
    """Give the most special of several looks; empty if there is none."""
    return next((kind for kind in _NAMES if kind in looks), "")
