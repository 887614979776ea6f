"""Rows may come batch by batch: the number is that of all rows at once, to the last bit, and few of them are held."""

import itertools
import tracemalloc

import numpy as np
import pytest

from fmray.catalogue import METRICS
from fmray.metrics.find import find_metric
from fmray.metrics.metric import Metric, accumulator_of
from fmray.records import Target

NUM_ROWS = 3000
METRIC_NAMES = sorted(name for name in METRICS if getattr(METRICS.find(name), "kind", "") in ("class", "number"))

NUMBERS = Target(("y", "z"), "number", mean=(0.0, 0.0), scale=(1.0, 1.0))


def metric_of(name: str) -> Metric:
    """Give a metric, for two targets where it is of numbers."""
    metric = METRICS.find(name)
    return find_metric(name, NUMBERS) if metric.kind == "number" else metric


def rows_for(kind, num_classes=3, num_rows=NUM_ROWS):
    rng = np.random.default_rng(7)
    weight = rng.exponential(size=num_rows)
    if kind == "number":
        target = rng.normal(1e6, 1, (num_rows, 2))
        return target + rng.normal(size=target.shape), target, weight
    output = rng.dirichlet(np.ones(num_classes), num_rows).round(3)  # ties, as scores have
    return output / output.sum(1, keepdims=True), rng.integers(0, num_classes, num_rows), weight


@pytest.mark.parametrize("name", METRIC_NAMES)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_metric_folded_batch_by_batch_is_that_of_all_rows(name, weighted, num_classes):
    metric = metric_of(name)
    output, target, weight = rows_for(metric.kind, num_classes)
    weight = weight if weighted else None
    accumulator = accumulator_of(metric.sums)
    cuts = [0, 1, 700, 700, 2900, NUM_ROWS]
    for start, stop in itertools.pairwise(cuts):
        accumulator.add(output[start:stop], target[start:stop], None if weight is None else weight[start:stop])
    assert metric.sums.value(accumulator.total()) == metric.sums.value(metric.sums.partial(output, target, weight))


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_no_row_at_all_is_undefined_and_no_error(name):
    metric = metric_of(name)
    output, target, _ = rows_for(metric.kind, num_rows=0)
    accumulator = accumulator_of(metric.sums)
    accumulator.add(output, target, None)
    assert np.isnan(metric.sums.value(accumulator.total()))


def held_by(metric, num_batches, batch_rows=8192):
    """Give the bytes that a fold holds once all rows were taken; batches are made anew, as those of the loop are."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, batch_rows)
    accumulator = accumulator_of(metric.sums)
    tracemalloc.start()
    for _ in range(num_batches):
        p = rng.random(batch_rows)
        accumulator.add(np.stack([1 - p, p], 1), target, None)
    del p
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def test_a_sum_holds_no_rows_and_a_ranking_eight_bytes_a_row():
    assert held_by(METRICS.find("accuracy"), 16) < 20_000
    assert held_by(METRICS.find("roc_auc"), 16) < 16 * 8192 * 8 + 20_000
