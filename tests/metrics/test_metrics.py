import warnings

import numpy as np
import pytest
from sklearn import metrics as oracle

from fmray import catalogue
from fmray.errors import SpecError
from fmray.metrics.find import defaults, find_metric
from fmray.records import Target

BINARY = Target(("y",), "class", classes=("no", "yes"), positive=1, counts=(7, 3))
MULTI = Target(("y",), "class", classes=("a", "b", "c", "d"), counts=(1, 1, 1, 1))
NUMBER = Target(("y",), "number", mean=(0.0,), scale=(1.0,))
METRICS = [
    name for name in catalogue.METRICS if getattr(catalogue.METRICS.find(name), "kind", "") in ("class", "number")
]


def classified(num_classes, seed=0, ties=True, num_rows=300):
    random = np.random.default_rng(seed)
    target = random.integers(0, num_classes, num_rows)
    logits = random.normal(size=(num_rows, num_classes)) + 1.5 * np.eye(num_classes)[target]
    if ties:
        logits = np.round(logits)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, target, random.uniform(0.2, 3, num_rows)


def numbered(seed=0, num_targets=1, num_rows=200):
    random = np.random.default_rng(seed)
    target = random.normal(size=(num_rows, num_targets)) * 3 + 1
    output = target + random.normal(size=target.shape)
    weight = random.uniform(0.2, 3, num_rows)
    return (output[:, 0], target[:, 0], weight) if num_targets == 1 else (output, target, weight)


def said(p):
    return p.argmax(1)


ORACLES = {
    "accuracy": lambda t, p, w: oracle.accuracy_score(t, said(p), sample_weight=w),
    "balanced_accuracy": lambda t, p, w: oracle.balanced_accuracy_score(t, said(p), sample_weight=w),
    "precision_macro": lambda t, p, w: oracle.precision_score(
        t, said(p), average="macro", zero_division=0, sample_weight=w
    ),
    "recall_macro": lambda t, p, w: oracle.recall_score(t, said(p), average="macro", zero_division=0, sample_weight=w),
    "f1_macro": lambda t, p, w: oracle.f1_score(t, said(p), average="macro", zero_division=0, sample_weight=w),
    "f1_micro": lambda t, p, w: oracle.f1_score(t, said(p), average="micro", sample_weight=w),
    "log_loss": lambda t, p, w: oracle.log_loss(t, p, sample_weight=w, labels=range(p.shape[1])),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("name", list(ORACLES))
def test_metrics_of_classes_equal_scikit_learn(name, num_classes, weighted):
    p, target, weight = classified(num_classes)
    weight = weight if weighted else None
    metric = find_metric(name, BINARY if num_classes == 2 else MULTI)
    assert metric.value(p, target, weight) == pytest.approx(ORACLES[name](target, p, weight), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
def test_rankings_with_ties_and_weights_equal_scikit_learn(name, weighted):
    oracle_of = {"roc_auc": oracle.roc_auc_score, "average_precision": oracle.average_precision_score}[name]
    p, target, weight = classified(2)
    weight = weight if weighted else None
    assert find_metric(name, BINARY).value(p, target, weight) == pytest.approx(
        oracle_of(target, p[:, 1], sample_weight=weight)
    )
    p, target, weight = classified(4)
    weight = weight if weighted else None
    expected = np.mean([oracle_of(target == c, p[:, c], sample_weight=weight) for c in range(4)])
    assert find_metric(name, MULTI).value(p, target, weight) == pytest.approx(expected)


def test_the_positive_class_may_be_the_first_one():
    p, target, _ = classified(2)
    first = Target(("y",), "class", classes=("no", "yes"), positive=0, counts=(3, 7))
    expected = oracle.average_precision_score(target == 0, p[:, 0])
    assert find_metric("average_precision", first).value(p, target, None) == pytest.approx(expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_brier_equals_scikit_learn_for_two_classes_and_the_definition_for_more(weighted):
    p, target, weight = classified(2)
    weight = weight if weighted else None
    brier = find_metric("brier", BINARY)
    assert brier.value(p, target, weight) == pytest.approx(
        oracle.brier_score_loss(target, p[:, 1], sample_weight=weight)
    )
    p, target, weight = classified(4)
    rows = ((p - np.eye(4)[target]) ** 2).sum(1)
    assert find_metric("brier", MULTI).value(p, target, weight) == pytest.approx(np.average(rows, weights=weight))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_targets", [1, 3])
@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("mse", oracle.mean_squared_error),
        ("rmse", oracle.root_mean_squared_error),
        ("mae", oracle.mean_absolute_error),
        ("r2", oracle.r2_score),
    ],
)
def test_metrics_of_numbers_equal_scikit_learn(name, of, num_targets, weighted):
    output, target, weight = numbered(num_targets=num_targets)
    weight = weight if weighted else None
    assert find_metric(name, NUMBER).value(output, target, weight) == pytest.approx(
        of(target, output, sample_weight=weight)
    )


def test_f1_of_one_class_equals_scikit_learn():
    p, target, weight = classified(4)
    expected = oracle.f1_score(target == 2, said(p) == 2, sample_weight=weight)
    assert find_metric("f1[c]", MULTI).value(p, target, weight) == pytest.approx(expected)


@pytest.mark.parametrize("name", [*METRICS, "f1[c]"])
def test_the_influence_of_a_row_is_the_slope_of_the_metric_in_its_weight(name):
    """Influence times its row's weight is w dm/dw: checked by central differences for every metric."""
    is_number = name in ("mse", "rmse", "mae", "r2", "mmd")
    output, target, weight = numbered(num_rows=40) if is_number else classified(4, num_rows=40)
    metric = find_metric(name, NUMBER if is_number else MULTI)
    slopes = []
    for row in range(len(target)):
        values = []
        for sign in (1, -1):
            moved = weight.copy()
            moved[row] *= 1 + sign * 1e-5
            values.append(metric.value(output, target, moved))
        slopes.append((values[0] - values[1]) / 2e-5)
    np.testing.assert_allclose(metric.influence(output, target, weight), slopes, atol=1e-9)


def test_delongs_variance_is_the_sum_of_squared_influences():
    p, target, _ = classified(2, num_rows=120)
    pos, neg = p[target == 1, 1], p[target == 0, 1]
    kernel = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
    v10, v01 = kernel.mean(1), kernel.mean(0)
    expected = v10.var() / len(pos) + v01.var() / len(neg)
    assert np.sum(find_metric("roc_auc", BINARY).influence(p, target, None) ** 2) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["roc_auc", "r2"])
def test_what_is_undefined_is_nan_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if name == "r2":
            assert np.isnan(find_metric(name, NUMBER).value(np.arange(3.0), np.ones(3), None))
        else:
            p, _, _ = classified(2)
            assert np.isnan(find_metric(name, BINARY).value(p, np.zeros(len(p), int), None))


def test_defaults_begin_with_the_primary_metric_and_all_fit():
    for target in (BINARY, MULTI, NUMBER):
        primary, names = defaults(target)
        assert names[0] == primary
        assert all(find_metric(name, target).name == name for name in names)
    assert [defaults(t)[0] for t in (BINARY, MULTI, NUMBER)] == ["roc_auc", "accuracy", "r2"]


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("acuracy", MULTI, r"unknown metric 'acuracy'\. Did you mean 'accuracy'\?"),
        ("rmse", MULTI, r"'rmse' judges a number, the target is a class\. Accepted: accuracy"),
        ("f1[e]", MULTI, r"there is no class 'e'"),
        ("f1[c]", NUMBER, r"there is no class 'c'"),
    ],
)
def test_a_metric_that_does_not_fit_is_answered_with_those_that_do(name, target, message):
    with pytest.raises(SpecError, match=message):
        find_metric(name, target)
