"""Make the small tables behind the figures of a report: confusion, calibration, ROC curve, residuals.

Each is a few hundred numbers at most, whatever the number of rows.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np

from fmray.evaluate.intervals import interval, wilson
from fmray.evaluate.table import Table
from fmray.metrics.classification import confusion
from fmray.metrics.labels import f1_of
from fmray.metrics.spans import f1_of as span_f1_of
from fmray.metrics.tags import entity_f1
from fmray.records import Json, Target
from fmray.targets.classes import predicted
from fmray.targets.codec import codec_of

MOST_CLASSES = 30
NUM_BINS = 15
NUM_POINTS = 200


def figures(table: Table, target: Target, level: float) -> Json:
    """Give the tables of the figures that the target's codec names."""
    return {name: FIGURES[name](table, target, level) for name in codec_of(target).figures}


def _confusion(table: Table, target: Target, level: float) -> Json:
    matrix = confusion(table.output, codec_of(target).true_class(table.target)).astype(int)
    names = list(target.classes)
    if len(names) > MOST_CLASSES:
        shown = np.sort(np.argsort(-matrix.sum(1), kind="stable")[:MOST_CLASSES])
        note = f"the {MOST_CLASSES} most frequent of {len(names)} classes"
        return {"classes": [names[i] for i in shown], "counts": matrix[np.ix_(shown, shown)].tolist(), "note": note}
    return {"classes": names, "counts": matrix.tolist(), "note": ""}


def _calibration(table: Table, target: Target, level: float) -> Json:
    """Compare predicted with observed shares, of the positive class or of the class predicted, in equal bins."""
    if codec_of(target).num_outputs == 2:
        place = max(target.positive, 0)
        p = table.output[:, place]
        hit = table.target == place
        of = f"class '{target.classes[place]}'"
    else:
        predictions = predicted(table.output)
        p = table.output[np.arange(len(table)), predictions]
        hit = predictions == table.target
        of = "the predicted class"
    order = np.argsort(p, kind="stable")
    bins = []
    for rows in np.array_split(order, min(NUM_BINS, len(order))):
        hits = int(hit[rows].sum())
        low, high = wilson(hits, len(rows), level)
        bins.append(
            {"predicted": float(p[rows].mean()), "observed": hits / len(rows), "low": low, "high": high, "n": len(rows)}
        )
    return {"of": of, "bins": bins}


def _roc(table: Table, target: Target, level: float) -> Json:
    positive = max(target.positive, 0)
    score = table.output[:, positive]
    hit = table.target == positive
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.r_[score[order][1:] != score[order][:-1], True])
    true = np.cumsum(hit[order])[last]
    false = np.cumsum(~hit[order])[last]
    kept = np.unique(np.linspace(0, len(last) - 1, min(NUM_POINTS, len(last))).astype(int))
    return {
        "false_positive_rate": [0.0, *(false[kept] / max(false[-1], 1)).tolist()],
        "true_positive_rate": [0.0, *(true[kept] / max(true[-1], 1)).tolist()],
    }


def _labels(table: Table, target: Target, level: float) -> Json:
    """Give the F1 of the most frequent labels, with intervals."""
    order = np.argsort(-table.target.sum(0, dtype=np.int64), kind="stable")[:MOST_CLASSES]
    rows = table.output, table.target, table.weight
    found = {
        target.classes[place]: asdict(interval(f1_of(target.classes[place], place), rows, table.group, level))
        for place in order.tolist()
    }
    few = len(found) < len(target.classes)
    note = f"the {len(found)} most frequent of {len(target.classes)} labels" if few else ""
    return {"f1": found, "note": note}


def _entities(table: Table, target: Target, level: float) -> Json:
    """Give the F1 of entities of each type, with intervals, the most frequent types first."""
    rows = table.output, table.target, table.weight
    begun = np.bincount(table.target[:, 0], minlength=len(target.classes))
    frequent: Counter[str] = Counter()
    for name, number in zip(target.classes, begun.tolist(), strict=True):
        if name.startswith("B-"):
            frequent[name[2:]] += number
    shown = [kind for kind, _ in frequent.most_common(MOST_CLASSES)]
    found = {kind: asdict(interval(entity_f1(target.classes, kind), rows, table.group, level)) for kind in shown}
    few = len(found) < len(frequent)
    return {"f1": found, "note": f"the {len(found)} most frequent of {len(frequent)} types" if few else ""}


def _spans(table: Table, target: Target, level: float) -> Json:
    """Give the F1 of spans of each type, with intervals, the most frequent types first."""
    rows = table.output, table.target, table.weight
    codec = codec_of(target)
    names = codec.class_names
    order = np.argsort(-codec.counts(table.target)[1:], kind="stable")[:MOST_CLASSES].tolist()
    found = {
        names[place]: asdict(interval(span_f1_of(names[place], place), rows, table.group, level)) for place in order
    }
    few = len(found) < len(names)
    return {"f1": found, "note": f"the {len(found)} most frequent of {len(names)} types" if few else ""}


def _residuals(table: Table, target: Target, level: float) -> list[Json]:
    return [_residuals_of(table, place, name) for place, name in enumerate(target.columns)]


def _residuals_of(table: Table, place: int, name: str) -> Json:
    """Give a histogram of true - predicted, and the true values in bins of equal size by prediction."""
    output = table.output.reshape(len(table), -1)[:, place]
    target = table.target.reshape(len(table), -1)[:, place]
    residual = target - output
    low, high = np.quantile(residual, [0.005, 0.995])
    counts, edges = np.histogram(np.clip(residual, low, high), bins=30)
    bins = []
    for rows in np.array_split(np.argsort(output, kind="stable"), min(NUM_BINS, len(table))):
        q25, q50, q75 = np.quantile(target[rows], [0.25, 0.5, 0.75]).tolist()
        bins.append({"predicted": float(output[rows].mean()), "q25": q25, "median": q50, "q75": q75, "n": len(rows)})
    return {"target": name, "edges": edges.tolist(), "counts": counts.tolist(), "bins": bins}


FIGURES: Mapping[str, Callable[[Table, Target, float], Json | list[Json]]] = {
    "calibration": _calibration,
    "confusion": _confusion,
    "entities": _entities,
    "labels": _labels,
    "residuals": _residuals,
    "roc": _roc,
    "spans": _spans,
}
"""Name of a figure, as codecs give it -> what makes its table of predictions, target and level."""
