import math

import numpy as np
import pytest
import scipy.stats

from fmray.evaluate.intervals import detectable, interval, mcnemar, paired, squares, standard_error, wilson
from fmray.metrics.find import find_metric
from fmray.records import Target

BINARY = Target(("y",), "class", classes=("a", "b"), positive=1, counts=(1, 1))
NUMBER = Target(("y",), "number", mean=(0.0,), scale=(1.0,))


def scored(random, num_rows, shift=1.0):
    target = random.integers(0, 2, num_rows)
    p = 1 / (1 + np.exp(-random.normal(shift * (2 * target - 1), 1.5)))
    return np.stack([1 - p, p], 1), target, None


def test_wilson_equals_scipy():
    for hits, num in ((0, 10), (3, 10), (10, 10), (480, 500)):
        expected = scipy.stats.binomtest(hits, num).proportion_ci(0.95, method="wilson")
        assert wilson(hits, num, 0.95) == pytest.approx((expected.low, expected.high))


def test_mcnemar_equals_the_exact_binomial_test():
    for ours, theirs in ((9, 2), (0, 0), (5, 5), (1, 8)):
        expected = 1.0 if ours + theirs == 0 else scipy.stats.binomtest(ours, ours + theirs, 0.5, "greater").pvalue
        assert mcnemar(ours, theirs) == pytest.approx(expected)


def test_the_error_of_a_mean_is_its_standard_error():
    random = np.random.default_rng(0)
    output, target = random.normal(size=300), random.normal(size=300)
    influence = find_metric("mae", NUMBER).influence(output, target, None)
    assert standard_error(squares(influence, None))[0] == pytest.approx(scipy.stats.sem(np.abs(output - target)))


def test_what_is_detectable_is_found_four_times_out_of_five():
    size = detectable(1.0)
    assert scipy.stats.norm.sf(scipy.stats.norm.ppf(0.95) - size) == pytest.approx(0.8)


def test_summing_within_groups_is_what_a_bootstrap_over_groups_gives():
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(200), 10)
    effect = random.normal(size=200)[groups]
    target = random.integers(0, 2, len(groups))
    p = 1 / (1 + np.exp(-random.normal(2 * target - 1 + effect, 1.0)))
    rows = (np.stack([1 - p, p], 1), target, None)
    for name in ("roc_auc", "log_loss", "f1_macro", "average_precision"):
        metric = find_metric(name, BINARY)
        error, num = standard_error(squares(metric.influence(*rows), groups))
        draws = [metric.value(rows[0], target, random.poisson(1, 200)[groups].astype(float)) for _ in range(600)]
        assert num == 200
        assert error == pytest.approx(np.std(draws), rel=0.12)
        alone = standard_error(squares(metric.influence(*rows), None))[0]
        assert error > 1.1 * alone


@pytest.mark.slow
@pytest.mark.parametrize(("name", "truth"), [("roc_auc", None), ("accuracy", None), ("f1_macro", None), ("brier", None),
                                             ("log_loss", None), ("average_precision", None)])  # fmt: skip
def test_intervals_cover_the_truth_as_often_as_they_say(name, truth):
    random = np.random.default_rng(2)
    metric = find_metric(name, BINARY)
    truth = metric.value(*scored(random, 2_000_000))
    hits = [found.low <= truth <= found.high for found in
            (interval(metric, scored(random, 250), None, 0.95) for _ in range(2000))]  # fmt: skip
    assert 0.93 <= np.mean(hits) <= 0.97


@pytest.mark.slow
def test_intervals_of_grouped_rows_cover_and_those_of_single_rows_would_not():
    random = np.random.default_rng(3)

    def draw(num_groups):
        groups = np.repeat(np.arange(num_groups), 10)
        easy = 1.5 * random.normal(size=num_groups)[groups]
        hit = random.random(len(groups)) < 1 / (1 + np.exp(-1 - easy))
        target = random.integers(0, 2, len(groups))
        said = np.where(hit, target, 1 - target)
        return (np.stack([1 - said, said], 1).astype(float), target, None), groups

    metric = find_metric("accuracy", BINARY)
    truth = metric.value(*draw(200_000)[0])
    grouped, single = [], []
    for _ in range(1500):
        rows, groups = draw(80)
        for found, group in ((grouped, groups), (single, None)):
            i = interval(metric, rows, group, 0.95)
            found.append(i.low <= truth <= i.high)
    assert 0.93 <= np.mean(grouped) <= 0.97
    assert np.mean(single) < 0.85


def test_paired_gains_are_positive_for_the_better_whichever_way_the_metric_runs():
    random = np.random.default_rng(4)
    target = random.normal(size=400)
    good, bad = target + 0.3 * random.normal(size=400), target + random.normal(size=400)
    for name in ("r2", "rmse", "mae"):
        gain, p = paired(find_metric(name, NUMBER), (good, target, None), (bad, target, None), None, 0.95)
        assert gain.value > 0
        assert gain.low > 0
        assert p < 1e-6
        worse, q = paired(find_metric(name, NUMBER), (bad, target, None), (good, target, None), None, 0.95)
        assert worse.value == pytest.approx(-gain.value)
        assert q > 0.99


@pytest.mark.slow
def test_without_a_difference_a_gain_is_shown_one_time_in_twenty():
    random = np.random.default_rng(5)
    metric = find_metric("roc_auc", BINARY)
    shown = []
    for _ in range(1500):
        one, target, _ = scored(random, 200)
        noise = 1 / (1 + np.exp(-random.normal(2 * target - 1, 1.5)))
        other = np.stack([1 - noise, noise], 1)
        shown.append(paired(metric, (one, target, None), (other, target, None), None, 0.95)[1] < 0.05)
    assert 0.03 <= np.mean(shown) <= 0.07


def test_two_areas_are_compared_as_delong_does():
    random = np.random.default_rng(6)
    one, target, _ = scored(random, 120)
    other = scored(random, 120)[0]
    gain, p = paired(find_metric("roc_auc", BINARY), (one, target, None), (other, target, None), None, 0.95)
    parts = []
    for output in (one, other):
        pos, neg = output[target == 1, 1], output[target == 0, 1]
        kernel = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
        parts.append((kernel.mean(1), kernel.mean(0), kernel.mean()))
    d10, d01 = parts[0][0] - parts[1][0], parts[0][1] - parts[1][1]
    error = math.sqrt((d10.var() / len(d10) + d01.var() / len(d01)) * 120 / 119)
    assert gain.value == pytest.approx(parts[0][2] - parts[1][2])
    assert p == pytest.approx(scipy.stats.t.sf(gain.value / error, 119))


def test_perfect_answers_still_have_an_interval():
    target = np.array([0] * 40 + [1] * 10)
    output = np.eye(2)[target]
    found = interval(find_metric("roc_auc", BINARY), (output, target, None), None, 0.95)
    assert found.value == 1
    assert 0.6 < found.low < 0.8
    assert found.high == pytest.approx(1)


@pytest.mark.parametrize("name", ["roc_auc", "balanced_accuracy", "recall_macro", "average_precision", "accuracy"])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_of_constant_answers_holds_their_number(name, grouped):
    target = np.repeat([0, 1], [70, 30])
    outputs = np.tile([0.7, 0.3], (100, 1))
    group = np.arange(100) // 2 if grouped else None
    found = interval(find_metric(name, BINARY), (outputs, target, None), group, 0.95)
    assert found.low <= found.value <= found.high
    if name == "roc_auc":
        assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)


def test_the_interval_of_labels_of_which_every_row_has_half_the_answer_holds_its_number():
    labels = Target(("y",), "labels", classes=("a", "b"), counts=(1, 1), rows=2)
    target = np.array([[1, 0], [0, 1]] * 30, np.uint8)
    found = interval(find_metric("f1_micro", labels), (np.ones((60, 2)), target, None), None, 0.95)
    assert found.value == pytest.approx(2 / 3)
    assert found.low <= found.value <= found.high


def test_what_is_undefined_has_no_interval():
    output, _, _ = scored(np.random.default_rng(0), 20)
    found = interval(find_metric("roc_auc", BINARY), (output, np.zeros(20, int), None), None, 0.95)
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.method == "undefined"


def test_one_group_has_no_interval():
    rows = scored(np.random.default_rng(0), 20)
    found = interval(find_metric("accuracy", BINARY), rows, np.zeros(20, np.uint64), 0.95)
    assert math.isnan(found.low)
    assert found.n == 1
