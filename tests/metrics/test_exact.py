"""Check that metrics add up over parts of the rows, to the last bit."""

import math
import pickle
import warnings
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmray import catalogue
from fmray.metrics.exact import UNIT_BITS, exact_sums, products, ratio
from fmray.metrics.find import find_metric
from fmray.records import Target

BINARY = Target(("y",), "class", classes=("no", "yes"), positive=1, counts=(7, 3))
FIRST = replace(BINARY, positive=0)
MULTI = Target(("y",), "class", classes=("a", "b", "c", "d"), counts=(1, 1, 1, 1))
NUMBER = Target(("y",), "number", mean=(0.0,), scale=(1.0,))
NUMBERS = ("mse", "rmse", "mae", "r2", "mmd")
METRICS = [
    name for name in catalogue.METRICS if getattr(catalogue.METRICS.find(name), "kind", "") in ("class", "number")
]
FINITE = st.floats(allow_nan=False, allow_infinity=False)
CASES = [
    *((name, target) for name in METRICS if name not in NUMBERS for target in (BINARY, FIRST, MULTI)),
    *((f"f1[{target.classes[1]}]", target) for target in (BINARY, MULTI)),
    *((name, num_targets) for name in NUMBERS for num_targets in (1, 3)),
]
IDS = [f"{name}-{of if isinstance(of, int) else of.classes}" for name, of in CASES]


def case(name, of, seed=0, num_rows=400, ties=True, float32=False):
    """Give a metric with rows that suit it: outputs, targets and weights."""
    random = np.random.default_rng(seed)
    weight = random.uniform(0, 3, num_rows)
    if isinstance(of, int):
        target = random.normal(size=(num_rows, of)) * 3 + 100
        output = target + random.normal(size=target.shape)
        numbers = replace(NUMBER, columns=tuple("abc"[:of]), mean=(0.0,) * of, scale=(1.0,) * of)
        return find_metric(name, numbers), *((output[:, 0], target[:, 0]) if of == 1 else (output, target)), weight
    num_classes = len(of.classes)
    target = random.integers(0, num_classes, num_rows)
    logits = random.normal(size=(num_rows, num_classes)) + 1.5 * np.eye(num_classes)[target]
    p = np.exp(np.round(logits) if ties else logits)
    p /= p.sum(1, keepdims=True)
    return find_metric(name, of), p.astype(np.float32) if float32 else p, target, weight


def parts_of(random, num_rows, shuffled=True):
    """Cut rows, in any order, into one to seven parts, some of them empty."""
    places = np.sort(random.integers(0, num_rows + 1, random.integers(0, 7)))
    parts = np.split(random.permutation(num_rows) if shuffled else np.arange(num_rows), places)
    random.shuffle(parts)
    return parts


def merged(metric, output, target, weight, parts):
    return metric.sums.value(
        metric.sums.merge(
            [metric.sums.partial(output[p], target[p], None if weight is None else weight[p]) for p in parts]
        )
    )


def equal(one, other):
    """Tell numbers of the same bits."""
    return one == other or (math.isnan(one) and math.isnan(other))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("name", "of"), CASES, ids=IDS)
def test_the_value_does_not_depend_on_how_rows_are_cut_and_is_the_metrics(name, of, ties, weighted):
    random = np.random.default_rng(1)
    for seed in range(4):
        metric, output, target, weight = case(name, of, seed, num_rows=300 + seed, ties=ties)
        weight = weight if weighted else None
        whole = metric.sums.value(metric.sums.partial(output, target, weight))
        assert whole == pytest.approx(metric.value(output, target, weight), rel=1e-12, abs=1e-12)
        for _ in range(5):
            assert equal(merged(metric, output, target, weight, parts_of(random, len(target))), whole)


@pytest.mark.parametrize("name", [*METRICS, "f1[b]"])
def test_every_metric_of_the_catalogue_adds_up_over_few_and_odd_rows(name):
    of = 2 if name in NUMBERS else MULTI
    random = np.random.default_rng(2)
    for num_rows in (0, 1, 2, 3):
        for seed in range(5):
            metric, output, target, _ = case(name, of, seed, num_rows=num_rows)
            value = merged(metric, output, target, None, parts_of(random, num_rows))
            with warnings.catch_warnings(action="ignore"):
                expected = metric.value(output, target, None)
            assert equal(value, expected) or value == pytest.approx(expected, rel=1e-9), (num_rows, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "of"), CASES, ids=IDS)
def test_order_in_memory_and_width_of_outputs_change_nothing(name, of):
    random = np.random.default_rng(3)
    metric, output, target, weight = case(name, of, float32=not isinstance(of, int))
    whole = metric.sums.value(metric.sums.partial(output, target, weight))
    columns = np.asfortranarray(output)
    for parts in (parts_of(random, len(target)), [[row] for row in range(len(target))]):
        assert equal(merged(metric, columns, target, weight, parts), whole)


@pytest.mark.parametrize(("name", "of"), CASES, ids=IDS)
def test_parts_travel_between_processes_and_merge_in_any_grouping(name, of):
    metric, output, target, weight = case(name, of)
    rows = np.array_split(np.arange(len(target)), 4)
    a, b, c, d = (pickle.loads(pickle.dumps(metric.sums.partial(output[r], target[r], weight[r]))) for r in rows)
    merge = metric.sums.merge
    left, right = merge([merge([merge([a, b]), c]), d]), merge([d, merge([c, merge([b, a])])])
    assert equal(metric.sums.value(left), metric.sums.value(right))


def test_the_size_of_a_part_is_that_of_its_groups_or_distinct_scores():
    metric, output, target, _ = case("f1_macro", MULTI, num_rows=5000)
    assert {len(sums) for sums in metric.sums.partial(output, target).values()} == {1, 4}
    metric, _, _, _ = case("roc_auc", BINARY)
    scores = np.round(np.random.default_rng(0).random(5000), 2)
    (table,) = metric.sums.partial(np.stack([1 - scores, scores], 1), (scores > 0.3).astype(int), None)
    assert len(table.score) == len(np.unique(scores)) <= 101


@given(st.lists(st.tuples(FINITE, st.integers(0, 2)), max_size=40))
@settings(max_examples=150, deadline=None)
def test_sums_are_exact_for_any_numbers(terms):
    values, groups = np.array([v for v, _ in terms], np.float64), np.array([g for _, g in terms], np.int64)
    sums = exact_sums(values, groups, 3)
    for group in range(3):
        expected = sum((Fraction(value) for value, of in terms if of == group), Fraction(0))
        assert Fraction(sums[group], 1 << UNIT_BITS) == expected


def test_many_groups_and_many_rows_are_summed_exactly(monkeypatch):
    random = np.random.default_rng(0)
    values = random.normal(size=20_000) * 10.0 ** random.integers(-200, 200, 20_000)
    groups = random.integers(0, 3000, len(values))
    sums = exact_sums(values, groups, 3000)  # more buckets than are laid out side by side
    monkeypatch.setattr("fmray.metrics.exact.CHUNK_ROWS", 999)
    assert exact_sums(values, groups, 3000) == sums
    assert sum(sums) == exact_sums(values)[0]
    assert float(Fraction(sum(sums), 1 << UNIT_BITS)) == math.fsum(values)


@pytest.mark.parametrize("most", [1, 1000, 2**52, 2**53 - 1])
def test_whole_numbers_are_summed_exactly_whether_float64_could_or_not(most):
    rng = np.random.default_rng(most)
    values = rng.integers(-most, most, 300, endpoint=True).astype(np.float64)
    values[0] = most
    for some in (values, values[:1], np.abs(values), values + 0.5 * (most == 1000)):
        assert Fraction(exact_sums(some)[0], 1 << UNIT_BITS) == sum(map(Fraction, some))


def test_a_quotient_is_rounded_once_and_may_be_infinite_or_undefined():
    assert ratio(Fraction(1), Fraction(3)) == 1 / 3
    assert ratio(Fraction(-(10**400)), Fraction(1, 7)) == -math.inf
    assert math.isnan(ratio(Fraction(1), Fraction(0)))


@given(FINITE.filter(lambda v: v == 0 or 1e-140 < abs(v) < 1e140), FINITE.filter(lambda v: 1e-140 < abs(v) < 1e140))
@settings(max_examples=200, deadline=None)
def test_products_are_exact_in_two_parts(one, other):
    high, low = products(np.array([one]), np.array([other]))
    assert high[0] == one * other
    assert Fraction(high[0]) + Fraction(low[0]) == Fraction(one) * Fraction(other)


def test_the_share_of_explained_variance_survives_targets_far_from_zero():
    random = np.random.default_rng(0)
    target = random.normal(size=500) + 1e9
    output, weight = target + 0.1 * random.normal(size=500), random.uniform(0.2, 3, 500)
    w, t, y = ([Fraction(v) for v in values.tolist()] for values in (weight, target, output))
    centre = sum(a * b for a, b in zip(w, t, strict=True)) / sum(w)
    errors = sum(a * (b - c) ** 2 for a, b, c in zip(w, t, y, strict=True))
    expected = 1 - errors / sum(a * (b - centre) ** 2 for a, b in zip(w, t, strict=True))
    assert merged(find_metric("r2", NUMBER), output, target, weight, [np.arange(500)]) == pytest.approx(
        float(expected), rel=1e-14
    )


@pytest.mark.parametrize("name", [*METRICS, "f1[b]"])
def test_what_is_undefined_is_nan_without_a_warning(name):
    of = 1 if name in NUMBERS else MULTI
    metric, output, target, weight = case(name, of)
    with warnings.catch_warnings(action="error"):
        nothing = merged(metric, output[:0], target[:0], None, [[], []])
        weightless = merged(metric, output, target, 0 * weight, [np.arange(len(target))])
    if name == "f1[b]":  # without a case it is 0, as scikit-learn says
        assert nothing == weightless == 0
    else:
        assert math.isnan(nothing)
        assert math.isnan(weightless)


@pytest.mark.parametrize("name", [*NUMBERS, "log_loss", "brier", "roc_auc", "average_precision"])
def test_an_output_that_is_no_number_makes_the_value_none_either(name):
    metric, output, target, weight = case(name, 1 if name in NUMBERS else MULTI)
    output[3] = np.nan
    with warnings.catch_warnings(action="error"):
        assert math.isnan(merged(metric, output, target, weight, np.array_split(np.arange(len(target)), 3)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("name", "of"), CASES, ids=IDS)
def test_a_row_pulls_the_same_in_whichever_part_it_lies(name, of, weighted):
    random = np.random.default_rng(4)
    metric, output, target, weight = case(name, of, num_rows=303)
    weight = weight if weighted else None
    whole = metric.influence(output, target, weight)
    places = parts_of(random, len(target))
    parts = [(output[p], target[p], None if weight is None else weight[p]) for p in places]
    slope = metric.sums.slope(metric.sums.merge([metric.sums.partial(*part) for part in parts]))
    for place, part in zip(places, parts, strict=True):
        assert np.array_equal(slope.of(*part), whole[place])
