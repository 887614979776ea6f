"""Check that metrics which a side cannot give are known from what is held there."""

from dataclasses import replace

import numpy as np
import pytest

from fmray.errors import DataError
from fmray.evaluate.sides import check_sides, is_defined
from fmray.metrics.find import find_metric
from fmray.records import Prepared, Target
from fmray.schema import Schema
from fmray.targets.classes import BINARY_METRICS as BINARY
from fmray.targets.classes import METRICS as MULTICLASS
from fmray.targets.number import METRICS as NUMBER

TWO = Target(("y",), "class", ("no", "yes"), 1, counts=(700, 30))
FOUR = Target(("y",), "class", ("a", "b", "c", "d"), counts=(90, 80, 3, 1))
ONE_NUMBER = Target(("y",), "number", mean=(0.0,), scale=(1.0,))


def prepared(target, val, test):
    return Prepared(
        fingerprint="", root="", schema=Schema(()), target=target, num_lanes=1, parts={}, steps=(), rows={},
        quarantine={}, test_identity="", split={"by": "hash", "column": ""}, held={"val": val, "test": test},
    )  # fmt: skip


def classes(**counts):
    return {"rows": sum(counts.values()), "counts": counts}


def numbers(rows, low, high):
    return {"rows": rows, "low": [low], "high": [high]}


SIDES = [
    classes(no=5),
    classes(no=5, yes=1),
    classes(yes=2),
    classes(a=9),
    classes(a=9, b=3),
    classes(a=4, b=3, c=2, d=1),
]


@pytest.mark.parametrize("name", dict.fromkeys([*BINARY, *MULTICLASS, "f1[yes]", "f1[a]"]))
@pytest.mark.parametrize("held", SIDES, ids=lambda held: str(held["counts"]))
def test_a_metric_of_classes_is_defined_where_it_is_on_random_predictions(name, held):
    target = TWO if set(held["counts"]) <= {"no", "yes"} else FOUR
    if "[" in name and name[3:-1] not in target.classes:
        return
    metric = find_metric(name, target)
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(len(target.classes)), [held["counts"].get(name, 0) for name in target.classes])
    values = [metric.value(rng.dirichlet(np.ones(len(target.classes)), len(truth)), truth, None) for _ in range(20)]
    assert is_defined(metric, held, target) == any(np.isfinite(values))


@pytest.mark.parametrize("name", NUMBER)
@pytest.mark.parametrize(("rows", "low", "high"), [(1, 3.0, 3.0), (50, 3.0, 3.0), (2, 0.0, 1.0), (50, -1.0, 9.0)])
def test_a_metric_of_numbers_is_defined_where_it_is_on_random_predictions(name, rows, low, high):
    metric = find_metric(name, ONE_NUMBER)
    truth = np.linspace(low, high, rows)
    value = metric.value(np.random.default_rng(1).standard_normal(rows), truth, None)
    assert is_defined(metric, numbers(rows, low, high), ONE_NUMBER) == bool(np.isfinite(value))


def test_a_primary_metric_that_validation_cannot_give_is_refused_with_counts_and_what_to_change():
    found = prepared(TWO, classes(no=500), classes(no=998, yes=2))
    with pytest.raises(DataError) as caught:
        check_sides(found, find_metric("roc_auc", TWO), BINARY)
    text = str(caught.value)
    assert text.startswith(
        "split: roc_auc is not defined on validation: none of its 500 rows is of class 'yes' (train 30"
    )
    assert "(train 30, validation 0, test 2)" in text
    assert "another split.salt" in text
    assert "under evaluate.primary: accuracy" in text


def test_a_constant_target_is_refused_where_the_primary_metric_needs_it_to_vary():
    found = prepared(ONE_NUMBER, numbers(80, 0.0, 1.0), numbers(100, 5.0, 5.0))
    with pytest.raises(
        DataError, match=r"r2 is not defined on test: 'y' is 5 in all of its 100 rows\..*rmse, mae, mse"
    ):
        check_sides(found, find_metric("r2", ONE_NUMBER), NUMBER)
    notes = check_sides(found, find_metric("rmse", ONE_NUMBER), NUMBER)
    assert notes == ["r2 not defined on test: 'y' is 5 in all of its 100 rows"]


def test_a_rare_class_that_a_side_lacks_stops_nothing_and_is_told():
    found = prepared(FOUR, classes(a=50, b=40), classes(a=50, b=41, c=1, d=7))
    notes = check_sides(found, find_metric("accuracy", FOUR), MULTICLASS)
    assert notes == [
        "fewer than 5 rows to judge by: class 'c' (train 3, validation 0, test 1); class 'd' (train 1, validation 0, test 7)"
    ]


def test_nothing_is_told_of_sides_that_hold_enough():
    held = classes(no=500, yes=40)
    assert check_sides(prepared(TWO, held, held), find_metric("roc_auc", TWO), BINARY) == []
    assert check_sides(replace(prepared(TWO, held, held), held={}), find_metric("roc_auc", TWO), BINARY) == []
