"""Count right and wrong labels, any number of which a row may have.

What is predicted of a row stands behind its probabilities where thresholds were chosen, else a label is predicted above
one half; see `fmray.targets.labels`. All follow from counts per label: exact at any size, 3 C numbers a worker.
Shape legend: N rows, C labels.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from fmray.metrics.exact import Exact, RowSums, Terms, mean, ratio
from fmray.metrics.metric import Metric, mean_pull
from fmray.targets.labels import split_output

KIND = "labels"


def _terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
    """Sum the weights of rows per label: predicted and true, predicted, true."""
    said = split_output(output, target)
    num_labels = target.shape[1]
    found = {}
    for name, cells in (("tp", said & target), ("said", said), ("actual", target)):
        row, label = np.nonzero(cells)
        found[name] = (w[row], label, num_labels)
    return found


class _F1:
    """Give F1 = 2 tp / (said + actual): of all labels together, or the mean of that of each.

    As in scikit-learn, but that labels which neither occur nor are predicted are left out of the mean.
    """

    def __init__(self, *, is_micro: bool, only: int | None = None) -> None:
        self.is_micro = is_micro
        self.only = only

    def value(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
        """Give the number of some rows."""
        return _number(RowSums(_terms, self.of, self.pull), output, target, weight)

    def of(self, sums: Exact) -> float:
        """Give the number from sums over rows."""
        groups = [(sums["tp"][c], sums["said"][c] + sums["actual"][c]) for c in self._labels(len(sums["tp"]))]
        if self.is_micro:
            above, below = (sum(counts, Fraction(0)) for counts in zip(*groups, strict=True))
            return ratio(2 * above, below)
        return mean([ratio(2 * tp, below) for tp, below in groups if below > 0])

    def pull(self, sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Give how far each row pulls the number (N,): w (2 tp_row - F1 (said_row + actual_row)) / (said + actual)."""
        said = split_output(output, target).astype(np.float64)
        tp = said * target
        tp_C, below_C = (np.array([float(v) for v in values]) for values in (
            sums["tp"], [a + b for a, b in zip(sums["said"], sums["actual"], strict=True)],
        ))  # fmt: skip
        if self.is_micro:
            f1 = 2 * tp_C.sum() / below_C.sum()
            return np.asarray(w * (2 * tp.sum(1) - f1 * (said.sum(1) + target.sum(1))) / below_C.sum())
        counted = below_C > 0
        if self.only is not None:
            counted = np.arange(len(below_C)) == self.only
        f1_C = np.divide(2 * tp_C, below_C, out=np.zeros_like(tp_C), where=below_C > 0)
        share_C = np.divide(1.0, below_C, out=np.zeros_like(tp_C), where=(below_C > 0) & counted) / counted.sum()
        return np.asarray(w * ((2 * tp - f1_C * (said + target)) @ share_C))

    def _labels(self, number: int) -> Sequence[int]:
        return range(number) if self.only is None else (self.only,)


def _number(sums: RowSums, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    return sums.value(sums.partial(output, target, weight))


def _right(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Tell which rows have exactly the labels that are predicted (N,)."""
    return np.asarray((split_output(output, target) == target).all(1))


def _wrong_share(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give the share of labels that are wrong in each row (N,)."""
    return np.asarray((split_output(output, target) != target).mean(1))


def _subset_terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
    return {"score": (w[_right(output, target)], None, 1), "weight": (w, None, 1)}


def _subset_pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
    return mean_pull(_right(output, target).astype(np.float64), w, sums["score"][0], sums["weight"][0])


def _hamming_terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
    return {"score": (w * _wrong_share(output, target), None, 1), "weight": (w, None, 1)}


def _hamming_pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
    return mean_pull(_wrong_share(output, target), w, sums["score"][0], sums["weight"][0])


def _quotient(sums: Exact) -> float:
    return ratio(sums["score"][0], sums["weight"][0])


def _of_f1(name: str, f1: _F1) -> Metric:
    return Metric(name, True, KIND, f1.value, sums=RowSums(_terms, f1.of, f1.pull), is_bounded=True)


def f1_of(label: str, index: int) -> Metric:
    """Give the F1 of one label, `f1[label]`."""
    return _of_f1(f"f1[{label}]", _F1(is_micro=False, only=index))


_SUBSET = RowSums(_subset_terms, _quotient, _subset_pull)
_HAMMING = RowSums(_hamming_terms, _quotient, _hamming_pull)
F1_MICRO = _of_f1("f1_micro", _F1(is_micro=True))
F1_MACRO = _of_f1("f1_macro", _F1(is_micro=False))
SUBSET_ACCURACY = Metric(
    "subset_accuracy", True, KIND, lambda *rows: _number(_SUBSET, *rows), rate=_right, sums=_SUBSET, is_bounded=True
)
HAMMING_LOSS = Metric("hamming_loss", False, KIND, lambda *rows: _number(_HAMMING, *rows), sums=_HAMMING)
