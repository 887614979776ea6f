"""Metrics of labels equal scikit-learn's, and their influences are their derivatives."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from fmray.metrics.find import find_metric
from fmray.metrics.metric import accumulator_of
from fmray.records import Target
from fmray.targets.codec import codec_of

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


def slope_at(metric, row, p, target, weight, step):
    """Give the derivative of a metric by the weight of a row, from values on both sides of it."""
    values = []
    for sign in (1, -1):
        moved = weight.copy()
        moved[row] += sign * step
        values.append(metric.value(p, target, moved))
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("name", [*NAMES, "f1[b]"])
def test_the_influence_of_a_row_is_the_derivative_by_its_weight(name):
    p, target, weight = rows()
    metric = find_metric(name, TARGET)
    influence = metric.influence(p, target, weight)
    step = 1e-5
    for row in range(0, 400, 57):
        slope = slope_at(metric, row, p, target, weight, step=step)
        assert influence[row] / weight[row] == pytest.approx(slope, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_labels_folded_batch_by_batch_give_the_same_number(name):
    p, target, weight = rows()
    metric = find_metric(name, TARGET)
    accumulator = accumulator_of(metric.sums)
    for part in (slice(0, 1), slice(1, 130), slice(130, 400)):
        accumulator.add(p[part], target[part], weight[part])
    assert metric.sums.value(accumulator.total()) == metric.sums.value(metric.sums.partial(p, target, weight))


def settled(p, target, weight, rule):
    """Give outputs with what is decided behind them, by thresholds chosen on the same rows."""
    codec = codec_of(TARGET)
    return codec.as_in_tables(p, codec.settle(p, target, weight, {"thresholds": rule}))


@pytest.mark.parametrize("name", ["f1_micro", "f1_macro", "f1[b]"])
@pytest.mark.parametrize("rule", ["shared", "per_label"])
@pytest.mark.parametrize("weighted", [True, False])
def test_undecided_labels_score_about_as_by_the_thresholds_that_will_be_chosen(name, rule, weighted):
    p, target, weight = rows(num_rows=4000)
    p = p**4  # far below one half
    weight = weight if weighted else None
    found = find_metric(name, TARGET, {"thresholds": rule}).value(p, target, weight)
    decided = find_metric(name, TARGET).value(settled(p, target, weight, rule), target, weight)
    assert found == pytest.approx(decided, abs=0.01)
    assert found > find_metric(name, TARGET).value(p, target, weight) + 0.1


@pytest.mark.parametrize("rule", ["shared", "per_label"])
def test_the_thresholds_of_undecided_labels_are_the_best_of_all_on_a_grid(rule):
    """Outputs lie in the middle of bins, so that trying every threshold by scikit-learn is exact."""
    rng = np.random.default_rng(4)
    odds = rng.integers(-8, 8, (300, 5)) + 0.5
    target = (rng.random((300, 5)) < 1 / (1 + np.exp(-odds - [0, 1, 2, 3, -9]))).astype(np.uint8)
    p = 1 / (1 + np.exp(-odds))
    grid = range(-8, 9)
    if rule == "shared":
        expected = max(oracle.f1_score(target, odds > t, average="micro") for t in grid)
        name = "f1_micro"
    else:
        best = [max(oracle.f1_score(target[:, c], odds[:, c] > t, zero_division=0) for t in grid) for c in range(5)]
        occurring = target.any(0) | (odds > 0).any(0)
        expected = np.mean(np.array(best)[occurring])
        name = "f1_macro"
    assert find_metric(name, TARGET, {"thresholds": rule}).value(p, target, None) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", [*NAMES, "f1[b]"])
def test_a_threshold_that_the_job_gives_decides_while_members_train(name):
    p, target, weight = rows()
    found = find_metric(name, TARGET, {"thresholds": 0.3}).value(p, target, weight)
    assert found == pytest.approx(expected(name, (p > 0.3).astype(np.uint8), target, weight), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", ["shared", "per_label", 0.3])
def test_what_was_decided_is_scored_as_it_is_whatever_the_rule(name, rule):
    p, target, weight = rows()
    outputs = settled(p, target, weight, 0.9)
    assert find_metric(name, TARGET, {"thresholds": rule}).value(outputs, target, weight) == pytest.approx(
        expected(name, (p > 0.9).astype(np.uint8), target, weight), rel=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", ["shared", "per_label"])
@pytest.mark.parametrize("weighted", [True, False])
def test_undecided_labels_are_counted_alike_however_rows_are_cut(name, rule, weighted):
    p, target, weight = rows()
    weight = weight if weighted else None
    metric = find_metric(name, TARGET, {"thresholds": rule})
    cuts = (slice(0, 1), slice(1, 130), slice(130, 400), slice(400, 400))
    parts = [metric.sums.partial(p[cut], target[cut], None if weight is None else weight[cut]) for cut in cuts]
    whole = metric.sums.partial(p, target, weight)
    assert metric.sums.merge(parts) == whole == metric.sums.merge(parts[::-1])
    assert metric.sums.value(whole) == metric.value(p, target, weight)


@pytest.mark.parametrize("rule", ["shared", "per_label"])
def test_the_influence_of_a_row_on_undecided_labels_is_that_at_the_chosen_thresholds(rule):
    p, target, weight = rows(num_rows=3000)
    metric = find_metric("f1_macro", TARGET, {"thresholds": rule})
    influence = metric.influence(p, target, weight)
    step = 1e-6  # too small a weight to change what is chosen
    for row in range(0, 3000, 431):
        slope = slope_at(metric, row, p, target, weight, step=step)
        assert influence[row] / weight[row] == pytest.approx(slope, rel=1e-3, abs=1e-8)


def test_labels_that_nobody_has_and_probabilities_of_zero_and_one_and_none_are_scored():
    metric = find_metric("f1_macro", TARGET, {"thresholds": "per_label"})
    p = np.array([[0, 1, 0.5, np.nan, 0], [1, 0, 0.5, 1, 0]], np.float64)
    target = np.array([[0, 1, 0, 0, 0], [1, 0, 0, 1, 0]], np.uint8)
    assert metric.value(p, target, None) == 1  # nobody has the third and the fifth, and nobody is given them
    assert np.isnan(metric.value(p[:0], target[:0], None))
    assert np.isnan(metric.value(0 * p[:, [0] * 5], 0 * target, None))
