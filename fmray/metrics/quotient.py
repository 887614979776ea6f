"""Make metrics that are a quotient of two sums over rows, or over entries of rows."""

from collections.abc import Callable

import numpy as np

from fmray.metrics.exact import Exact, RowSums, Terms, ratio
from fmray.metrics.metric import Metric

Counts = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(output, target) -> what each row adds above and below the line (N,), float64 each."""


def quotient(name: str, kind: str, counts: Counts, *, higher_is_better: bool = True, is_bounded: bool = True) -> Metric:
    """Make the metric: the weighted sum of the one over the weighted sum of the other, and its linearisation.

    Source: Cochran, "Sampling Techniques", 1977, chapter 6 (ratio estimators).
    """

    def terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
        above, below = counts(output, target)
        return {"above": (w * above, None, 1), "below": (w * below, None, 1)}

    def of(sums: Exact) -> float:
        return ratio(sums["above"][0], sums["below"][0])

    def pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        above, below = counts(output, target)
        return np.asarray(w * (above - of(sums) * below) / float(sums["below"][0]))

    sums = RowSums(terms, of, pull)

    def value(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
        return sums.value(sums.partial(output, target, weight))

    return Metric(name, higher_is_better, kind, value, sums=sums, is_bounded=is_bounded)
