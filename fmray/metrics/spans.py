"""Score spans of texts: one is right where its type, its start and its end are, all types counted together.

Each is a quotient of two sums over words; a span counts at its first word, and one that no words can mark at a word of
its text. Words of a text belong together, so intervals go by groups of words, see `fmray.ragged.entries_of`.
Shape legend: W words of all rows, C tags as `fmray.targets.spans.tags_of` numbers them.
"""

import numpy as np

from fmray.metrics.metric import Metric
from fmray.metrics.quotient import Counts, quotient
from fmray.targets.classes import predicted
from fmray.targets.spans import Code, Spans, spans_in, tag_of

KIND = Spans.kind


def _counted(output: np.ndarray, target: np.ndarray, only: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, at each word, spans that are right, that are predicted, and that are true (W,), float64 each.

    Args:
        only: Type that is counted alone; of several spans at a word without marks, the type of one is known.
    """
    opens = Spans.opens_row(target)
    codes = target[:, 0]
    said, said_ends = spans_in(predicted(output), opens)
    true, ends = spans_in(tag_of(codes), opens)
    right = (true >= 0) & (said == true) & (said_ends == ends) & (Code.read(codes, Code.INEXACT) == 0)
    second = Code.read(codes, Code.TYPE) - 1
    second_ends = np.arange(len(codes)) + Code.read(codes, Code.LENGTH)
    right_second = (second >= 0) & (said == second) & (said_ends == second_ends)
    if only is None:
        lost = Code.read(codes, Code.LOST)
        return 1.0 * right + right_second, 1.0 * (said >= 0), 1.0 * (true >= 0) + (second >= 0) + lost
    mine = 1.0 * (right & (true == only)) + (right_second & (second == only))
    return mine, 1.0 * (said == only), 1.0 * (true == only) + (second == only)


def _f1(only: int | None) -> Counts:
    def counts(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right, said, true = _counted(output, target, only)
        return 2.0 * right, said + true

    return counts


def _precision(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    right, said, _ = _counted(output, target, None)
    return right, said


def _recall(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    right, _, true = _counted(output, target, None)
    return right, true


SPAN_F1 = quotient("span_f1", KIND, _f1(None))
SPAN_PRECISION = quotient("span_precision", KIND, _precision)
SPAN_RECALL = quotient("span_recall", KIND, _recall)


def f1_of(name: str, index: int) -> Metric:
    """Give the F1 of spans of one type, `f1[type]`."""
    return quotient(f"f1[{name}]", KIND, _f1(index))
