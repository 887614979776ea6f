"""Define what a metric is: a number about outputs and targets, and which way is better.

Metrics are made of sums over rows wherever they can be, so that they add up over workers and carry intervals. A metric
that is undefined (one class only, constant target) is NaN, never an exception: it is a fact about the data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Value = Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]
Influence = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


class Sums(Protocol):
    """Make a metric of parts of the rows: the value does not depend on how rows were cut, to the last bit."""

    def partial(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> Any:
        """Sum up some rows, possibly none."""
        ...

    def merge(self, parts: Sequence[Any]) -> Any:
        """Give the part of all rows of one part or more."""
        ...

    def value(self, totals: Any) -> float:
        """Give the number, NaN where it is undefined."""
        ...


@dataclass(frozen=True)
class Metric:
    """Judge outputs against targets.

    Args:
        name: As in the job file.
        higher_is_better: Its direction.
        kind: "class" takes probabilities (N, C) and class indices (N,); "number" takes numbers (N,) or (N, T).
        value: (output, target, weight) -> the number, NaN where undefined; weight is (N,) or None.
        influence: (output, target, weight) -> how far each row pulls the number (N,), weights included: the number's
            variance is their sum of squares, a group counts by the sum of its rows.
        rate: (output, target) -> which rows count as hits (N,), for metrics that are a share of rows.
        sums: The same number from parts of the rows, up to the rounding of `value`.
    """

    name: str
    higher_is_better: bool
    kind: Literal["class", "number"]
    value: Value
    influence: Influence
    rate: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    sums: Sums = field(kw_only=True)


def weights_of(num_rows: int, weight: np.ndarray | None) -> np.ndarray:
    """Give each row's weight, 1 where none is given.

    Shapes:
        returns: (num_rows,), float64.
    """
    return np.ones(num_rows) if weight is None else np.asarray(weight, np.float64)


def mean_influence(values: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Give how far each row pulls a weighted mean: w (v - mean) / sum of w.

    Source: Cochran, "Sampling Techniques", 1977, chapter 6 (ratio estimators by linearisation).
    """
    w = weights_of(len(values), weight)
    total = w.sum()
    pulled: np.ndarray = w * (values - (w @ values) / total) / total
    return pulled
