"""Count right and wrong: metrics of the predicted class, which is the most probable one.

All of them follow from the confusion matrix, a C x C sum over rows: exact at any size, one pass, C^2 numbers a worker.
Shape legend: N rows, C classes.
"""

from fractions import Fraction

import numpy as np

from fmray.metrics.exact import Exact, RowSums, Terms, mean, ratio
from fmray.metrics.metric import Metric, mean_pull
from fmray.targets.classes import predicted


def confusion(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Count rows by true class (row) and predicted class (column).

    Shapes:
        output: (N, C); target: (N,).
        returns: (C, C), float64.
    """
    num_classes = output.shape[1]
    cells = np.asarray(target, np.int64) * num_classes + predicted(output)
    return np.bincount(cells, weight, num_classes**2).reshape(num_classes, num_classes).astype(np.float64)


def _hits(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.asarray(predicted(output) == target)


def _accuracy(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    hits = _hits(output, target)
    return float(np.average(hits, weights=weight)) if len(hits) else float("nan")


def _accuracy_terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
    return {"hits": (w[_hits(output, target)], None, 1), "weight": (w, None, 1)}


def _accuracy_of(sums: Exact) -> float:
    return ratio(sums["hits"][0], sums["weight"][0])


def _accuracy_pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
    return mean_pull(_hits(output, target).astype(np.float64), w, sums["hits"][0], sums["weight"][0])


def _class_terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
    said = predicted(output)
    num_classes = output.shape[1]
    hit = said == target
    return {
        "tp": (w[hit], target[hit], num_classes),
        "said": (w, said, num_classes),
        "actual": (w, target, num_classes),
    }


class _FromCounts:
    """Turn per-class ratios of counts into one number, and linearise it.

    A class counts where its ratio is defined as scikit-learn defines it: averages run over classes that occur among
    targets or predictions; a ratio without cases is 0, or left out where `skip_absent`.
    """

    def __init__(self, numerator: tuple[float, float, float], denominator: tuple[float, float, float],
                 classes: int | None = None, skip_absent: bool = False) -> None:  # fmt: skip
        # Coefficients of (true positives, predicted, actual) per class.
        self.numerator = numerator
        self.denominator = denominator
        self.only = classes
        self.skip_absent = skip_absent

    def value(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
        matrix = confusion(output, target, weight)
        above, below, counted = self._ratios(np.diag(matrix), matrix.sum(0), matrix.sum(1))
        if not counted.any():
            return float("nan")
        return float(np.divide(above, below, out=np.zeros_like(above), where=below > 0)[counted].mean())

    def of(self, sums: Exact) -> float:
        values = []
        for index, (tp, said, actual) in enumerate(zip(sums["tp"], sums["said"], sums["actual"], strict=True)):
            counts = actual > 0 if self.skip_absent else said > 0 or actual > 0
            if counts if self.only is None else index == self.only:
                above, below = (
                    sum((Fraction(a) * b for a, b in zip(times, (tp, said, actual), strict=True)), Fraction(0))
                    for times in (self.numerator, self.denominator)
                )
                values.append(ratio(above, below) if below else 0.0)
        return mean(values)

    def pull(self, sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        above, below, counted = self._ratios(*(np.array(sums[n], np.float64) for n in ("tp", "said", "actual")))
        ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        share = np.divide(1.0, below, out=np.zeros_like(above), where=(below > 0) & counted) / max(counted.sum(), 1)
        said = predicted(output)
        hit = said == target
        # Each row adds to the counts of its true and of its predicted class only.
        tp, pred, act = (n - ratio * d for n, d in zip(self.numerator, self.denominator, strict=True))
        pulled = hit * (tp * share)[target] + (pred * share)[said] + (act * share)[target]
        return np.asarray(w * pulled)

    def _ratios(
        self, tp: np.ndarray, said: np.ndarray, actual: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        above = self.numerator[0] * tp + self.numerator[1] * said + self.numerator[2] * actual
        below = self.denominator[0] * tp + self.denominator[1] * said + self.denominator[2] * actual
        counted = actual > 0 if self.skip_absent else (said > 0) | (actual > 0)
        if self.only is not None:
            counted = np.arange(len(tp)) == self.only
        return above, below, counted


def _metric(name: str, counts: _FromCounts) -> Metric:
    return Metric(name, True, "class", counts.value, sums=RowSums(_class_terms, counts.of, counts.pull))


TP = (1.0, 0.0, 0.0)
F1 = (2.0, 0.0, 0.0)
SAID = (0.0, 1.0, 0.0)
ACTUAL = (0.0, 0.0, 1.0)
BOTH = (0.0, 1.0, 1.0)

_HIT_SUMS = RowSums(_accuracy_terms, _accuracy_of, _accuracy_pull)
ACCURACY = Metric("accuracy", True, kind="class", value=_accuracy, rate=_hits, sums=_HIT_SUMS)
F1_MICRO = Metric(
    "f1_micro", True, kind="class", value=_accuracy, rate=_hits, sums=_HIT_SUMS
)  # equal to accuracy: one label a row
BALANCED_ACCURACY = _metric("balanced_accuracy", _FromCounts(TP, ACTUAL, skip_absent=True))
PRECISION_MACRO = _metric("precision_macro", _FromCounts(TP, SAID))
RECALL_MACRO = _metric("recall_macro", _FromCounts(TP, ACTUAL))
F1_MACRO = _metric("f1_macro", _FromCounts(F1, BOTH))


def f1_of(label: str, index: int) -> Metric:
    """Give the F1 of one class, `f1[label]`."""
    return _metric(f"f1[{label}]", _FromCounts(F1, BOTH, classes=index))
