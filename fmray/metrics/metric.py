"""Define what a metric is: a number about outputs and targets, and which way is better.

Metrics are made of sums over rows wherever they can be, so that they add up over workers and carry intervals. A metric
that is undefined (one class only, constant target) is NaN, never an exception: it is a fact about the data.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from fmray.records import Member

Value = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]
Pull = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Slope:
    """Say how far each row pulls a metric, given the sums over all rows; needs no other row than those it is shown.

    Args:
        value: The metric.
        pull: (output, target, weights (N,)) -> how far each row pulls it (N,), weights included; None where the metric
            is undefined, and nothing pulls.
    """

    value: float
    pull: Pull | None

    def of(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Give the influence of some rows (N,): the variance of the metric is the sum of squares over all rows."""
        if self.pull is None:
            return np.zeros(len(target))
        return self.pull(output, target, weights_of(len(target), weight))


class Accumulator(Protocol):
    """Sum up the rows of a split as they come, batch by batch."""

    def add(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> None:
        """Take some rows."""
        ...

    def total(self) -> Any:
        """Give what `Sums.partial` gives of all rows that were taken."""
        ...


class MergedParts:
    """Merge the part of each batch into that of the rows before it, so that no row is held.

    Args:
        sums: Of the metric. Its parts must not grow with the number of rows.
    """

    def __init__(self, sums: "Sums") -> None:
        self._sums = sums
        self._total: Any = None

    def add(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> None:
        """Take some rows."""
        part = self._sums.partial(output, target, weight)
        self._total = part if self._total is None else self._sums.merge([self._total, part])

    def total(self) -> Any:
        """Give the part of all rows that were taken, one batch at least."""
        return self._total


def accumulator_of(sums: "Sums") -> Accumulator:
    """Give what sums up rows batch by batch: the metric's own `accumulator` where it has one, else merged parts."""
    own = getattr(sums, "accumulator", None)
    return MergedParts(sums) if own is None else own()


class Sums(Protocol):
    """Make a metric of parts of the rows: the value does not depend on how rows were cut, to the last bit."""

    @property
    def counts(self) -> object:
        """Tell what is counted: where equal, `partial` and `merge` give the same, whatever is made of it."""
        ...

    def partial(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> Any:
        """Sum up some rows, possibly none."""
        ...

    def merge(self, parts: Sequence[Any]) -> Any:
        """Give the part of all rows of one part or more."""
        ...

    def value(self, totals: Any) -> float:
        """Give the number, NaN where it is undefined."""
        ...

    def slope(self, totals: Any) -> Slope:
        """Give what tells how far any row pulls the number."""
        ...


@dataclass(frozen=True)
class Metric:
    """Judge outputs against targets.

    Args:
        name: As in the job file.
        higher_is_better: Its direction.
        kind: Of target, see `fmray.catalogue.TARGETS`: "class" takes probabilities (N, C) and class indices (N,);
            "number" takes numbers (N,) or (N, T).
        value: (output, target, weight) -> the number, NaN where undefined; weight is (N,) or None.
        rate: (output, target) -> which rows count as hits (N,), for metrics that are a share of rows.
        sums: The same number from parts of the rows, up to the rounding of `value`.
        is_bounded: Whether the number lies in [0, 1], as its interval then does.
    """

    name: str
    higher_is_better: bool
    kind: str
    value: Value
    rate: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    sums: Sums = field(kw_only=True)
    is_bounded: bool = field(default=False, kw_only=True)

    def influence(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Give how far each row pulls the number (N,), weights included.

        The number's variance is their sum of squares; a group counts by the sum of its rows.
        """
        return self.sums.slope(self.sums.partial(output, target, weight)).of(output, target, weight)


def ranked(members: Sequence[Member], higher_is_better: bool) -> list[Member]:
    """Give the members that have a finite validation score, best first; the earlier one where two are equal."""
    sign = -1.0 if higher_is_better else 1.0
    scored = [(m.val_score, m) for m in members if m.val_score is not None and math.isfinite(m.val_score)]
    return [member for _, member in sorted(scored, key=lambda pair: (sign * pair[0], pair[1].index))]


def reasons_of(members: Sequence[Member], most: int = 5) -> str:
    """Say why members have no score: each reason once, with the member it is of and what sets that one apart."""
    first: dict[str, Member] = {}
    count = Counter[str]()
    for member in members:
        reason = (member.reason or f"{member.status}, without a score").rstrip(".")
        first.setdefault(reason, member)
        count[reason] += 1
    parts = []
    for reason, member in list(first.items())[:most]:
        params = ", ".join(f"{name}: {value}" for name, value in member.params.items())
        others = f" and {count[reason] - 1} more" if count[reason] > 1 else ""
        parts.append(f"member {member.index}{f' ({params})' if params else ''}{others}: {reason}")
    return "; ".join(parts) + (f"; and {len(first) - most} other reasons" if len(first) > most else "")


def weights_of(num_rows: int, weight: np.ndarray | None) -> np.ndarray:
    """Give each row's weight, 1 where none is given.

    Shapes:
        returns: (num_rows,), float64.
    """
    return np.ones(num_rows) if weight is None else np.asarray(weight, np.float64)


def mean_pull(values: np.ndarray, w: np.ndarray, above: Fraction, below: Fraction) -> np.ndarray:
    """Give how far each row pulls a weighted mean, above / below: w (v - mean) / sum of w.

    Source: Cochran, "Sampling Techniques", 1977, chapter 6 (ratio estimators by linearisation).
    """
    pulled: np.ndarray = w * (values - float(above / below)) / float(below)
    return pulled
