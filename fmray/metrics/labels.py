"""Count right and wrong labels, any number of which a row may have.

What is predicted of a row stands behind its probabilities where thresholds were chosen. Where they were not yet, as
while members train, F1 is that of the thresholds that will be: a number, or those of the highest F1 on the rows at
hand. For these, rows are counted by label and bin of probability. See `fmray.targets.labels`. All follow from such
counts: exact at any size, and no row is held.
Shape legend: N rows, C labels, B bins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from fmray.metrics.exact import UNIT_BITS, Exact, RowSums, Terms, Totals, mean, ratio
from fmray.metrics.metric import Metric, Slope, Sums, mean_pull
from fmray.targets.labels import HALF, PER_LABEL, Rule, fixed, split_output

KIND = "labels"
MOST_CELLS = 1 << 16
"""Labels times bins that are counted."""
FEWEST_BINS, MOST_BINS = 32, 256
FARTHEST = 14.0
"""Log odds beyond which probabilities fall into the outermost bins, which are about as wide as a millionth."""


@dataclass(frozen=True)
class _Counts:
    """Sum the weights of rows per label: predicted and true, predicted, true.

    Args:
        rule: As the task has it. Where it names no number and nothing is decided, the first two are summed per label
            and bin: of the rows whose probability lies there and which have the label, and of all of these.
    """

    rule: Rule

    def __call__(self, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
        """Give what to sum."""
        num_labels = target.shape[1]
        found: dict[str, tuple[np.ndarray, np.ndarray | None, int]] = {}
        own = target > 0
        row, label = np.nonzero(own)
        found["actual"] = (w[row], label, num_labels)
        if self.is_open(output, target):
            bins = _num_bins(num_labels)
            cell = np.arange(num_labels) * bins + _bin_of(output, bins)
            found["tp"] = _by_cell(w[row], cell[own], num_labels * bins)
            found["said"] = _by_cell(np.repeat(w, num_labels), cell.ravel(), num_labels * bins)
            return found
        said = self.said(output, target)
        for name, cells in (("tp", said & target), ("said", said)):
            row, label = np.nonzero(cells)
            found[name] = (w[row], label, num_labels)
        return found

    def is_open(self, output: np.ndarray, target: np.ndarray) -> bool:
        """Tell whether thresholds are still to be chosen."""
        return isinstance(self.rule, str) and output.shape[1] == target.shape[1]

    def said(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Give what is predicted (N, C), uint8, where nothing is to be chosen."""
        return split_output(output, target, fixed(self.rule))


def _num_bins(num_labels: int) -> int:
    """Say by how many bins labels are counted where thresholds are still to be chosen."""
    return int(np.clip(MOST_CELLS // max(num_labels, 1), FEWEST_BINS, MOST_BINS))


def _bin_of(p: np.ndarray, bins: int) -> np.ndarray:
    """Give the bin of each probability; bins are equally wide in log odds."""
    with np.errstate(divide="ignore"):
        odds = np.log(p) - np.log1p(-np.asarray(p, np.float64))
    place = (np.clip(np.nan_to_num(odds, nan=-FARTHEST), -FARTHEST, FARTHEST) / FARTHEST + 1) / 2 * bins
    return np.asarray(np.minimum(place.astype(np.int64), bins - 1))


def _by_cell(w: np.ndarray, cell: np.ndarray, num_cells: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Give weights to sum by cell; rows that count once each are counted, which is exact as well and much quicker."""
    if not (w == 1).all():
        return w, cell, num_cells
    counts = np.bincount(cell, minlength=num_cells)
    filled = np.flatnonzero(counts)
    return counts[filled].astype(np.float64), filled, num_cells


def _first_bins(tp_CB: np.ndarray, said_CB: np.ndarray, actual_C: np.ndarray) -> np.ndarray:
    """Give the first bin that is predicted where F1 is to be highest (C,); the last such one where several are."""
    tp, said = (np.cumsum(cells[:, ::-1], axis=1) for cells in (tp_CB, said_CB))  # of this bin and all above
    f1 = 2 * tp / np.maximum(said + actual_C[:, None], np.finfo(np.float64).tiny)
    bins = said_CB.shape[1]
    above_half = bins // 2 + 1  # one half itself lies in the bin before
    return np.asarray(np.where(actual_C > 0, bins - 1 - f1.argmax(1), above_half))


class _F1:
    """Give F1 = 2 tp / (said + actual): of all labels together, or the mean of that of each.

    As in scikit-learn, but that labels which neither occur nor are predicted are left out of the mean.
    """

    def __init__(self, rule: Rule, *, is_micro: bool, only: int | None = None) -> None:
        self.counts = _Counts(rule)
        self.is_micro = is_micro
        self.only = only
        self.rows = RowSums(self.counts, self.of, self.pull)

    def partial(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> Totals:
        """Sum over some rows, possibly none."""
        return self.rows.partial(output, target, weight)

    def merge(self, parts: Sequence[Totals]) -> Totals:
        """Give the sums over all rows of one part or more."""
        return self.rows.merge(parts)

    def value(self, totals: Totals) -> float:
        """Give the number; NaN where no label occurs or is predicted."""
        return self.rows.value(self._decided(totals)[0])

    def slope(self, totals: Totals) -> Slope:
        """Give what tells how far any row pulls the number, as it is at the thresholds chosen."""
        decided, first_C = self._decided(totals)
        found = self.rows.slope(decided)
        if found.pull is None or first_C is None:
            return found
        pull = found.pull
        bins = len(totals["said"]) // len(first_C)

        def at_thresholds(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
            if self.counts.is_open(output, target):
                output = np.concatenate([output, _bin_of(output, bins) >= first_C], 1)
            return pull(output, target, w)

        return Slope(found.value, at_thresholds)

    def of(self, sums: Exact) -> float:
        """Give the number from sums per label."""
        groups = [(sums["tp"][c], sums["said"][c] + sums["actual"][c]) for c in self._labels(len(sums["tp"]))]
        if self.is_micro:
            above, below = (sum(counts, Fraction(0)) for counts in zip(*groups, strict=True))
            return ratio(2 * above, below)
        return mean([ratio(2 * tp, below) for tp, below in groups if below > 0])

    def pull(self, sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Give how far each row pulls the number (N,): w (2 tp_row - F1 (said_row + actual_row)) / (said + actual)."""
        said = self.counts.said(output, target).astype(np.float64)
        tp = said * target
        tp_C = np.array([float(v) for v in sums["tp"]])
        below_C = np.array([float(a + b) for a, b in zip(sums["said"], sums["actual"], strict=True)])
        if self.is_micro:
            f1 = 2 * tp_C.sum() / below_C.sum()
            return np.asarray(w * (2 * tp.sum(1) - f1 * (said.sum(1) + target.sum(1))) / below_C.sum())
        counted = below_C > 0
        if self.only is not None:
            counted = np.arange(len(below_C)) == self.only
        f1_C = np.divide(2 * tp_C, below_C, out=np.zeros_like(tp_C), where=below_C > 0)
        share_C = np.divide(1.0, below_C, out=np.zeros_like(tp_C), where=(below_C > 0) & counted) / counted.sum()
        return np.asarray(w * ((2 * tp - f1_C * (said + target)) @ share_C))

    def _decided(self, totals: Totals) -> tuple[Totals, np.ndarray | None]:
        """Choose thresholds where they are open: give sums per label, and each label's first bin that is predicted."""
        num_labels = len(totals["actual"])
        bins = len(totals["said"]) // max(num_labels, 1)
        if bins <= 1:
            return totals, None
        unit = 1 << UNIT_BITS
        actual_C = np.array([total / unit for total in totals["actual"]])
        tp_CB, said_CB = (
            np.array([total / unit for total in totals[name]]).reshape(num_labels, bins) for name in ("tp", "said")
        )
        if self.counts.rule == PER_LABEL:
            first_C = _first_bins(tp_CB, said_CB, actual_C)
        else:
            first_C = np.repeat(_first_bins(tp_CB.sum(0)[None], said_CB.sum(0)[None], actual_C.sum()[None]), num_labels)
        summed = {
            name: tuple(
                sum(totals[name][c * bins + first : (c + 1) * bins]) for c, first in enumerate(first_C.tolist())
            )
            for name in ("tp", "said")
        }
        return {**totals, **summed}, first_C

    def _labels(self, number: int) -> Sequence[int]:
        return range(number) if self.only is None else (self.only,)


def _number(sums: Sums, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    return sums.value(sums.partial(output, target, weight))


@dataclass(frozen=True)
class _Share:
    """Average a number of each row over rows.

    Args:
        of_rows: (what is predicted, target) -> the number (N,).
        threshold: Probability above which a label is predicted where nothing is decided.
    """

    of_rows: Callable[[np.ndarray, np.ndarray], np.ndarray]
    threshold: float

    def values(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Give the number of each row (N,)."""
        return self.of_rows(split_output(output, target, self.threshold), target)

    def terms(self, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
        """Give what to sum."""
        return {"score": (w * self.values(output, target), None, 1), "weight": (w, None, 1)}

    def pull(self, sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Give how far each row pulls the mean (N,)."""
        values = self.values(output, target).astype(np.float64)
        return mean_pull(values, w, sums["score"][0], sums["weight"][0])


def _right(said: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Tell which rows have exactly the labels that are predicted (N,)."""
    return np.asarray((said == target).all(1))


def _wrong_share(said: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give the share of labels that are wrong in each row (N,)."""
    return np.asarray((said != target).mean(1))


def _quotient(sums: Exact) -> float:
    return ratio(sums["score"][0], sums["weight"][0])


def _of_f1(name: str, f1: _F1) -> Metric:
    return Metric(name, True, KIND, partial(_number, f1), sums=f1, is_bounded=True)


def f1_of(label: str, index: int, rule: Rule = HALF) -> Metric:
    """Give the F1 of one label, `f1[label]`."""
    return _of_f1(f"f1[{label}]", _F1(rule, is_micro=False, only=index))


def f1_micro(rule: Rule) -> Metric:
    """Give the F1 of all labels together.

    Args:
        rule: As the task has it under `thresholds`: what is predicted where nothing is decided yet.
    """
    return _of_f1("f1_micro", _F1(rule, is_micro=True))


def f1_macro(rule: Rule) -> Metric:
    """Give the mean F1 of labels; see `f1_micro`."""
    return _of_f1("f1_macro", _F1(rule, is_micro=False))


def subset_accuracy(rule: Rule) -> Metric:
    """Give the share of rows whose labels are all right; above one half where thresholds are chosen later."""
    rows = _Share(_right, fixed(rule))
    sums = RowSums(rows.terms, _quotient, rows.pull)
    value = partial(_number, sums)
    return Metric("subset_accuracy", True, KIND, value, rate=rows.values, sums=sums, is_bounded=True)


def hamming_loss(rule: Rule) -> Metric:
    """Give the share of labels that are wrong; above one half where thresholds are chosen later."""
    rows = _Share(_wrong_share, fixed(rule))
    sums = RowSums(rows.terms, _quotient, rows.pull)
    return Metric("hamming_loss", False, KIND, partial(_number, sums), sums=sums)


BY_RULE: Mapping[str, Callable[[Rule], Metric]] = {
    "f1_micro": f1_micro,
    "f1_macro": f1_macro,
    "subset_accuracy": subset_accuracy,
    "hamming_loss": hamming_loss,
}
"""Name -> the metric for a task's rule."""
SUBSET_ACCURACY = subset_accuracy(HALF)
HAMMING_LOSS = hamming_loss(HALF)
"""Stand in the catalogue; `fmray.metrics.find` binds them to the rule of a task."""
