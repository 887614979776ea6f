"""Check mending against numpy and plain arithmetic."""

import datetime
import re

import numpy as np
import polars as pl
import pytest
from one_column import NUMBER, TEXT, numbers, run, text

from fmray.catalogue import STEPS
from fmray.data.clean import Clip, DateParts, Drop, Impute
from fmray.errors import DataError, SpecError
from fmray.schema import Column, Schema
from fmray.spec.components import steps

TIME = Schema((Column("t", "time"),))


@pytest.mark.parametrize(("by", "expected"), [("mean", 7 / 3), ("median", 2.0), ("most_frequent", 1.0)])
def test_missing_numbers_are_filled_by_what_train_suggests(by, expected):
    frame = numbers([1.0, 1.0, 2.0, 3.0, None, 5.0, 2.0]) if by == "median" else numbers([1.0, 1.0, 5.0, None])
    made, _ = run(Impute(steps.Impute(by=by)), frame, NUMBER)
    assert made["x"].null_count() == 0
    assert made["x"][4 if by == "median" else 3] == pytest.approx(expected)


def test_integers_are_filled_with_a_mean_that_is_none():
    made, _ = run(Impute(steps.Impute(flag=True)), numbers([1, 2, None], pl.Int64), NUMBER)
    assert made["x"].to_list() == [1, 2, 1.5]
    assert made["x_missing"].to_list() == [0, 0, 1]


def test_text_is_filled_by_a_constant():
    made, _ = run(Impute(steps.Impute(by="constant", value="?")), text(["a", None]), TEXT)
    assert made["c"].to_list() == ["a", "?"]


def test_a_column_without_any_value_cannot_be_filled():
    with pytest.raises(DataError, match="'x' has no value in any training row"):
        run(Impute(), numbers([None, None]), NUMBER)


def test_clipping_by_quantiles_equals_numpy():
    values = np.random.default_rng(3).normal(size=999)
    made, _ = run(Clip(steps.Clip(quantile=0.95)), numbers(values.tolist()), NUMBER)
    low, high = np.quantile(values, [0.05, 0.95])
    np.testing.assert_allclose(made["x"].to_numpy(), values.clip(low, high), rtol=1e-9)


def test_dates_come_round_on_a_circle():
    times = pl.DataFrame({"t": pl.Series(["2024-01-01T00:00", "2024-12-31T18:00"]).str.to_datetime(time_unit="us")})
    made, fitted = run(DateParts(steps.DateParts(parts=["year", "month", "hour"])), times, TIME)
    assert [c.name for c in fitted.schema.columns] == made.columns
    assert made["t_year"].to_list() == [2024, 2024]
    assert made["t_month_cos"].to_list() == pytest.approx([1, np.cos(2 * np.pi * 11 / 12)])
    assert made["t_hour_sin"].to_list() == pytest.approx([0, -1])


def test_the_most_frequent_level_is_the_first_by_value_among_equals():
    made, _ = run(Impute(steps.Impute(by="most_frequent")), text(["b", "a", "b", "a", "c", None]), TEXT)
    assert made["c"][5] == "a"


@pytest.mark.parametrize("value", [-1, 300, 0.5])
def test_a_constant_beyond_the_type_of_its_column_is_kept(value):
    made, _ = run(Impute(steps.Impute(by="constant", value=value)), numbers([1, None], pl.UInt8), NUMBER)
    assert made["x"].to_list() == [1, value]


def test_a_constant_that_is_text_goes_into_text_only():
    with pytest.raises(SpecError, match="column 'x' holds number. Accepted: text"):
        run(Impute(steps.Impute(columns=["x"], by="constant", value="?")), numbers([1.0]), NUMBER)


def test_a_flag_whose_name_is_taken_is_refused():
    schema = Schema((Column("x", "number"), Column("x_missing", "number")))
    frame = pl.DataFrame({"x": [1.0, None], "x_missing": [0.0, 1.0]})
    with pytest.raises(SpecError, match="the data has a column 'x_missing', and a step makes one of that name"):
        run(Impute(steps.Impute(columns=["x"], flag=True)), frame, schema)


def test_one_column_may_stand_for_a_list_and_a_name_twice_counts_once():
    for columns in ("x", ["x", "x"]):
        made, _ = run(Impute(steps.Impute(columns=columns)), numbers([1.0, None, 3.0]), NUMBER)
        assert made["x"].to_list() == [1, 2, 3]


def test_bounds_cut_off_at_one_side_or_both():
    assert run(Clip(steps.Clip(low=0)), numbers([-5.0, 5.0]), NUMBER)[0]["x"].to_list() == [0, 5]
    assert run(Clip(steps.Clip(high=1.5)), numbers([1, 2], pl.Int8), NUMBER)[0]["x"].to_list() == [1, 1.5]
    assert run(Clip(steps.Clip(low=-1, high=1)), numbers([-5.0, None, 5.0]), NUMBER)[0]["x"].to_list() == [-1, None, 1]


def test_a_column_without_values_has_no_quantiles_and_is_left_alone():
    assert run(Clip(steps.Clip(quantile=0.9)), numbers([None, None]), NUMBER)[0]["x"].to_list() == [None, None]


def test_dates_as_plain_numbers_are_those_of_the_calendar():
    moment = datetime.datetime(2024, 2, 29, 13, 45)
    parts = ["year", "month", "day", "weekday", "hour", "minute"]
    frame = pl.DataFrame({"t": pl.Series([moment, None]).cast(pl.Datetime("us"))})
    made, _ = run(DateParts(steps.DateParts(parts=parts, cyclic=False)), frame, TIME)
    assert made.row(0) == (2024, 2, 29, moment.isoweekday(), 13, 45)
    assert made.row(1) == (None,) * 6


def test_dropping_leaves_the_rest_in_order():
    schema = Schema(tuple(Column(name, "number") for name in "abc"))
    made, fitted = run(Drop(steps.Drop(columns="b")), pl.DataFrame({"a": [1], "b": [2], "c": [3]}), schema)
    assert made.columns == [c.name for c in fitted.schema.columns] == ["a", "c"]
    assert fitted.notes == ("drop leaves out 'b'",)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("impute", {"by": "mode"}, "step.impute.by: 'mode'. Accepted: mean or median or most_frequent or constant."),
        ("impute", {"by": "constant"}, "A value goes with by: constant"),
        ("impute", {"by": "mean", "value": 1.0}, "A value goes with by: constant"),
        ("clip", {}, "Give bounds or a quantile"),
        ("clip", {"low": 0, "quantile": 0.9}, "Give bounds or a quantile"),
        ("clip", {"low": 5, "high": 1}, "low 5 is above high 1"),
        ("clip", {"quantile": 0.2}, "step.clip.quantile: 0.2. Accepted: a number in (0.5, 1) or null."),
        ("date_parts", {"parts": ["decade"]}, "step.date_parts.parts: ['decade']. Accepted: a list of year or month"),
        ("drop", {"columns": 3}, "step.drop.columns: 3. Accepted: text or a list of texts."),
    ],
)
def test_parameters_that_make_no_sense_are_refused(name, params, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        STEPS.build(name, params=params)


def test_dropping_every_column_is_refused():
    with pytest.raises(SpecError, match="all columns there are"):
        Drop(steps.Drop(columns=["x"])).learn(None, NUMBER)


@pytest.mark.parametrize(
    ("by", "frame", "schema", "shown"),
    [
        ("mean", numbers([1.0, None, 3.0, None]), NUMBER, "2"),
        ("median", numbers([1.0, None, 9.0, 3.0, None]), NUMBER, "3"),
        ("most_frequent", text(["a", None, "a", "b", None]), TEXT, "'a'"),
    ],
)
def test_what_missing_values_are_filled_with_is_said(by, frame, schema, shown):
    _, fitted = run(Impute(steps.Impute(by=by)), frame, schema)
    name = schema.columns[0].name
    assert len(fitted.notes) == 1
    assert fitted.notes[0].startswith(
        f"impute fills 2 missing values of '{name}' with {shown} (by: {by}); by: constant"
    )
    assert run(Impute(steps.Impute(by=by)), frame.drop_nulls(), schema)[1].notes == ()


def test_bounds_that_clip_learned_are_said():
    _, fitted = run(Clip(steps.Clip(quantile=0.75)), numbers([float(n) for n in range(101)]), NUMBER)
    assert fitted.notes == ("clip cuts 'x' off at 25 and 75 (quantile: 0.75); low and high set bounds of your own",)
    assert run(Clip(steps.Clip(low=0)), numbers([1.0]), NUMBER)[1].notes == ()
