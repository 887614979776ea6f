"""Compute a metric a second way, by scikit-learn, so that our own arithmetic is not its only witness."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from sklearn import metrics as oracle

from fmray.evaluate.table import Table
from fmray.metrics.language import SMALLEST
from fmray.targets.labels import split_output
from fmray.targets.spans import Code


def recompute(name: str, table: Table, positive: int) -> float | None:
    """Give the metric by another library, or None if it has no such metric."""
    target = table.target
    output = table.output
    weight = table.weight
    numbers = {
        "mse": oracle.mean_squared_error,
        "rmse": oracle.root_mean_squared_error,
        "mae": oracle.mean_absolute_error,
        "r2": oracle.r2_score,
    }
    if name in numbers:
        return float(numbers[name](target, output, sample_weight=weight))
    if name in _OF_TOKENS:
        return float(_OF_TOKENS[name](table))
    if name in _OF_SPANS:
        return _OF_SPANS[name](*_counts_of_spans(table))
    if table.target.ndim == 2:
        return _of_labels(name, table)
    said = output.argmax(1)
    classes: dict[str, Callable[[], float]] = {
        "accuracy": lambda: oracle.accuracy_score(target, said, sample_weight=weight),
        "balanced_accuracy": lambda: oracle.balanced_accuracy_score(target, said, sample_weight=weight),
        "f1_micro": lambda: oracle.f1_score(target, said, average="micro", sample_weight=weight),
        "f1_macro": lambda: oracle.f1_score(target, said, average="macro", zero_division=0, sample_weight=weight),
        "precision_macro": lambda: oracle.precision_score(
            target, said, average="macro", zero_division=0, sample_weight=weight
        ),
        "recall_macro": lambda: oracle.recall_score(
            target, said, average="macro", zero_division=0, sample_weight=weight
        ),
        "log_loss": lambda: oracle.log_loss(target, output, sample_weight=weight, labels=range(output.shape[1])),
        "brier": lambda: _brier(table),
        "roc_auc": lambda: _over_classes(oracle.roc_auc_score, table, positive),
        "average_precision": lambda: _over_classes(oracle.average_precision_score, table, positive),
    }
    compute: Callable[[], float] | None = classes.get(name)
    return None if compute is None else float(compute())


_OF_TOKENS: Mapping[str, Callable[[Table], float]] = {
    "token_accuracy": lambda table: oracle.accuracy_score(
        table.target[:, 0], table.output.argmax(1), sample_weight=table.weight
    ),
    "token_log_loss": lambda table: oracle.log_loss(
        table.target[:, 0], table.output, sample_weight=table.weight, labels=range(table.output.shape[1])
    ),
    "nats_per_token": lambda table: _nats_per_token(table),
}

_OF_SPANS: Mapping[str, Callable[[float, float, float], float]] = {
    "span_f1": lambda right, said, true: 2 * right / (said + true) if said + true else math.nan,
    "span_precision": lambda right, said, true: right / said if said else math.nan,
    "span_recall": lambda right, said, true: right / true if true else math.nan,
}
"""Name -> the metric of the numbers of spans that are right, predicted and true."""


def _counts_of_spans(table: Table) -> tuple[float, float, float]:
    """Count spans that are right, predicted and true, by a set of them for each row."""
    weight = np.ones(len(table)) if table.weight is None else table.weight
    codes = table.target[:, 0]
    places = table.target[:, -1].tolist()
    said = _walked(table.output.argmax(1).tolist(), places)
    true = _walked((codes & 0xFFFF).tolist(), places)
    inexact = set(np.flatnonzero(Code.read(codes, Code.INEXACT)).tolist())
    true = {(word, -1, -1) if word in inexact else (word, end, kind) for word, end, kind in true}
    fields = [Code.read(codes, field).tolist() for field in (Code.TYPE, Code.LENGTH, Code.LOST)]
    for word, (kind, length, lost) in enumerate(zip(*fields, strict=True)):
        if kind:
            true.add((word, word + length, kind - 1))
        true.update((word, -2 - number, -1) for number in range(lost))
    right, num_said, num_true = (float(sum(weight[span[0]] for span in spans)) for spans in (said & true, said, true))
    return right, num_said, num_true


def _walked(tags: list[int], places: list[int]) -> set[tuple[int, int, int]]:
    """Walk over words one by one and give the spans that their tags mark: first word, the word behind, and type."""
    found: set[tuple[int, int, int]] = set()
    begun: tuple[int, int] | None = None
    for word, (tag, place) in enumerate([*zip(tags, places, strict=True), (0, 0)]):
        kind = (tag - 1) // 2
        goes_on = begun is not None and tag > 0 and tag % 2 == 0 and kind == begun[1] and place > 0
        if begun is not None and not goes_on:
            found.add((begun[0], word, begun[1]))
            begun = None
        if tag and not goes_on:
            begun = (word, kind)
    return found


def _nats_per_token(table: Table) -> float:
    """Give the log loss of the event that the token is there, which it always is."""
    p = np.maximum(table.output.reshape(len(table), -1)[:, :1], SMALLEST)
    found: float = oracle.log_loss(np.ones(len(p)), np.c_[1 - p, p], sample_weight=table.weight, labels=[0, 1])
    return found


def _of_labels(name: str, table: Table) -> float | None:
    """Give a metric of labels, or None where the targets are several numbers, which have none of these."""
    computed: dict[str, Callable[..., float]] = {
        "f1_micro": partial(oracle.f1_score, average="micro", zero_division=0),
        "f1_macro": _f1_of_occurring,
        "subset_accuracy": oracle.accuracy_score,
        "hamming_loss": oracle.hamming_loss,
    }
    if name not in computed:
        return None
    return float(computed[name](table.target, split_output(table.output, table.target), sample_weight=table.weight))


def _f1_of_occurring(target: np.ndarray, said: np.ndarray, sample_weight: np.ndarray | None) -> float:
    """Give the mean F1 of the labels that occur or are predicted."""
    occurring = np.flatnonzero((said | target).any(0))
    weighed = {"sample_weight": sample_weight, "zero_division": 0}
    return float(oracle.f1_score(target, said, average="macro", labels=occurring, **weighed))


def _over_classes(curve: Callable[..., float], table: Table, positive: int) -> float:
    classes = [max(positive, 0)] if table.output.shape[1] == 2 else range(table.output.shape[1])
    defined = [c for c in classes if 0 < (table.target == c).sum() < len(table)]
    if not defined:
        return float("nan")
    return float(np.mean([curve(table.target == c, table.output[:, c], sample_weight=table.weight) for c in defined]))


def _brier(table: Table) -> float:
    """Give squared distances to the truth: of one class of two, summed over classes if there are more."""
    if table.output.shape[1] == 2:
        return float(oracle.brier_score_loss(table.target, table.output[:, 1], sample_weight=table.weight))
    truth = np.eye(table.output.shape[1])[table.target]
    return float(np.average(((table.output - truth) ** 2).sum(1), weights=table.weight))
