"""Metrics of labels equal scikit-learn's, and their influences are their derivatives."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from fmray.metrics.find import find_metric
from fmray.metrics.metric import accumulator_of
from fmray.records import Target

NAMES = ("f1_micro", "f1_macro", "subset_accuracy", "hamming_loss")
TARGET = Target(("y",), "labels", tuple("abcde"), counts=(1,) * 5, rows=9)


def rows(seed=0, num_rows=400):
    """Give outputs and targets of five labels, of which the last never occurs and is never predicted."""
    rng = np.random.default_rng(seed)
    target = (rng.random((num_rows, 5)) < [0.5, 0.3, 0.1, 0.02, 0]).astype(np.uint8)
    p = np.clip(0.6 * target + 0.6 * rng.random((num_rows, 5)), 0, 1)
    p[:, 4] = 0.1
    return p, target, rng.exponential(size=num_rows)


def expected(name, said, target, weight):
    occurring = np.flatnonzero((said | target).any(0))
    given = {"sample_weight": weight}
    return {
        "f1_micro": lambda: oracle.f1_score(target, said, average="micro", **given),
        "f1_macro": lambda: oracle.f1_score(target, said, average="macro", labels=occurring, zero_division=0, **given),
        "subset_accuracy": lambda: oracle.accuracy_score(target, said, **given),
        "hamming_loss": lambda: oracle.hamming_loss(target, said, **given),
        "f1[b]": lambda: oracle.f1_score(target[:, 1], said[:, 1], **given),
    }[name]()


@pytest.mark.parametrize("name", [*NAMES, "f1[b]"])
@pytest.mark.parametrize("weighted", [True, False])
def test_metrics_of_labels_equal_those_of_scikit_learn(name, weighted):
    p, target, weight = rows()
    weight = weight if weighted else None
    metric = find_metric(name, TARGET)
    said = (p > 0.5).astype(np.uint8)
    wanted = expected(name, said, target, weight)
    assert metric.value(p, target, weight) == pytest.approx(wanted, rel=1e-12)
    assert metric.sums.value(metric.sums.partial(p, target, weight)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_behind_the_probabilities_decides(name):
    p, target, _ = rows()
    said = (p > [0.9, 0.2, 0.4, 0.6, 0.05]).astype(np.uint8)
    metric = find_metric(name, TARGET)
    found = metric.value(np.concatenate([p, said], 1), target, None)
    assert found == pytest.approx(expected(name, said, target, None), rel=1e-12)
    assert found != metric.value(p, target, None)


@pytest.mark.parametrize("name", [*NAMES, "f1[b]"])
def test_the_influence_of_a_row_is_the_derivative_by_its_weight(name):
    p, target, weight = rows()
    metric = find_metric(name, TARGET)
    influence = metric.influence(p, target, weight)
    step = 1e-5
    for row in range(0, 400, 57):
        values = []
        for sign in (1, -1):
            moved = weight.copy()
            moved[row] += sign * step
            values.append(metric.value(p, target, moved))
        assert influence[row] / weight[row] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_labels_folded_batch_by_batch_give_the_same_number(name):
    p, target, weight = rows()
    metric = find_metric(name, TARGET)
    accumulator = accumulator_of(metric.sums)
    for part in (slice(0, 1), slice(1, 130), slice(130, 400)):
        accumulator.add(p[part], target[part], weight[part])
    assert metric.sums.value(accumulator.total()) == metric.sums.value(metric.sums.partial(p, target, weight))
