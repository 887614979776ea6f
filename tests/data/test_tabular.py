import numpy as np
import polars as pl
import pytest
from sklearn import preprocessing as oracle

from fmray.data.clean import Clip, DateParts, Drop, Impute
from fmray.data.hashing import row_hash
from fmray.data.tabular import MISSING, OTHER, Hashing, MinMax, OneHot, Quantile, Standardise
from fmray.errors import DataError, SpecError
from fmray.schema import Column, Schema

NUMBER = Schema((Column("x", "number"),))
TEXT = Schema((Column("c", "text"),))
TIME = Schema((Column("t", "time"),))


def numbers(values, dtype=pl.Float64):
    return pl.DataFrame({"x": pl.Series(values, dtype=dtype)})


def text(values):
    return pl.DataFrame({"c": pl.Series(values, dtype=pl.String)})


def run(step, frame, schema, on=None):
    fitted = step.learn(step.fit(frame, schema), schema)
    return step.apply(frame if on is None else on, fitted.state), fitted


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Float32, pl.Int64, pl.UInt8])
def test_standardising_equals_scikit_learn(dtype):
    values = np.random.default_rng(0).integers(0, 200, 500)
    made, _ = run(Standardise(), numbers(values.tolist(), dtype), NUMBER)
    expected = oracle.StandardScaler().fit_transform(values[:, None].astype(float))[:, 0]
    np.testing.assert_allclose(made["x"].to_numpy(), expected, rtol=1e-5, atol=1e-6)


def test_standardising_numbers_far_from_zero_loses_nothing():
    values = 1.7e9 + np.random.default_rng(0).normal(size=1000)
    made, _ = run(Standardise(), numbers(values.tolist()), NUMBER)
    np.testing.assert_allclose(made["x"].to_numpy(), (values - values.mean()) / values.std(), atol=1e-5)


def test_lists_and_bytes_are_standardised_element_by_element():
    values = np.random.default_rng(0).integers(0, 255, (300, 4)).astype(np.uint8)
    values[:, 2] = 7
    schema = Schema((Column("b", "bytes", 4),))
    made, fitted = run(Standardise(), pl.DataFrame({"b": pl.Series(values)}), schema)
    expected = oracle.StandardScaler().fit_transform(values.astype(float))
    np.testing.assert_allclose(made["b"].to_numpy(), expected, atol=1e-5)
    assert fitted.schema.columns[0].kind == "vector"


def test_a_constant_column_becomes_zero_and_not_a_number():
    made, _ = run(Standardise(), numbers([0.1] * 9), NUMBER)
    np.testing.assert_allclose(made["x"].to_numpy(), 0, atol=1e-6)
    assert run(MinMax(), numbers([5.0] * 4), NUMBER)[0]["x"].to_list() == [0, 0, 0, 0]


def test_min_max_equals_scikit_learn_and_cuts_off_beyond_train():
    values = np.random.default_rng(1).normal(size=100)
    made, fitted = run(MinMax(), numbers(values.tolist()), NUMBER)
    np.testing.assert_allclose(
        made["x"].to_numpy(), oracle.MinMaxScaler().fit_transform(values[:, None])[:, 0], atol=1e-6
    )
    assert MinMax().apply(numbers([-99.0, 99.0]), fitted.state)["x"].to_list() == [0, 1]


@pytest.mark.parametrize("to", ["uniform", "normal"])
def test_quantiles_equal_scikit_learn_between_the_ends(to):
    values = np.random.default_rng(2).gamma(1.0, size=800)
    values[:200] = np.round(values[:200])
    made, _ = run(Quantile(levels=100, to=to), numbers(values.tolist()), NUMBER)
    theirs = oracle.QuantileTransformer(n_quantiles=100, output_distribution=to).fit_transform(values[:, None])[:, 0]
    inner = (values > values.min()) & (values < values.max())
    np.testing.assert_allclose(made["x"].to_numpy()[inner], theirs[inner], atol=2e-3)


def test_many_equal_values_at_an_end_stand_in_the_middle_of_their_share_and_not_at_infinity():
    made, _ = run(Quantile(levels=101), numbers([0.0] * 60 + list(range(1, 41))), NUMBER)
    assert made["x"][0] == pytest.approx(0.3, abs=0.01)


def test_one_hot_orders_levels_by_value_and_gives_missing_and_unseen_a_place():
    made, fitted = run(OneHot(), text(["b", "a", None, "a"]), TEXT)
    assert fitted.schema.columns[0].classes == ("a", "b", MISSING, OTHER)
    assert made["c"].to_list() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    assert OneHot().apply(text(["z"]), fitted.state)["c"].to_list() == [[0, 0, 0, 1]]


def test_rare_levels_share_a_place_and_it_is_said():
    made, fitted = run(OneHot(max_levels=1), text(["a", "a", "b", "c"]), TEXT)
    assert fitted.schema.columns[0].classes == ("a", OTHER)
    assert made["c"].to_list() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert "1 of 3 levels kept" in fitted.notes[0]


def test_buckets_follow_the_published_hash():
    levels = ["Oslo", "Bonn", "", "Rome"]
    made, _ = run(Hashing(buckets=16), text([*levels, None]), TEXT)
    places = (row_hash(pl.DataFrame({"level": levels}).to_arrow(), ["level"])[:, 0] % 16).tolist()
    assert [row.index(1) for row in made["c"].to_list()[:4]] == places
    assert sum(made["c"].to_list()[4]) == 0


@pytest.mark.parametrize(("by", "expected"), [("mean", 7 / 3), ("median", 2.0), ("most_frequent", 1.0)])
def test_missing_numbers_are_filled_by_what_train_suggests(by, expected):
    frame = numbers([1.0, 1.0, 2.0, 3.0, None, 5.0, 2.0]) if by == "median" else numbers([1.0, 1.0, 5.0, None])
    made, _ = run(Impute(by=by), frame, NUMBER)
    assert made["x"].null_count() == 0
    assert made["x"][4 if by == "median" else 3] == pytest.approx(expected)


def test_integers_are_filled_with_a_mean_that_is_none():
    made, _ = run(Impute(flag=True), numbers([1, 2, None], pl.Int64), NUMBER)
    assert made["x"].to_list() == [1, 2, 1.5]
    assert made["x_missing"].to_list() == [0, 0, 1]


def test_text_is_filled_by_a_constant():
    made, _ = run(Impute(by="constant", value="?"), text(["a", None]), TEXT)
    assert made["c"].to_list() == ["a", "?"]


def test_a_column_without_any_value_cannot_be_filled():
    with pytest.raises(DataError, match="'x' has no value in any training row"):
        run(Impute(), numbers([None, None]), NUMBER)


def test_clipping_by_quantiles_equals_numpy():
    values = np.random.default_rng(3).normal(size=999)
    made, _ = run(Clip(quantile=0.95), numbers(values.tolist()), NUMBER)
    low, high = np.quantile(values, [0.05, 0.95])
    np.testing.assert_allclose(made["x"].to_numpy(), values.clip(low, high), rtol=1e-9)


def test_dates_come_round_on_a_circle():
    times = pl.DataFrame({"t": pl.Series(["2024-01-01T00:00", "2024-12-31T18:00"]).str.to_datetime(time_unit="us")})
    made, fitted = run(DateParts(parts=["year", "month", "hour"]), times, TIME)
    assert [c.name for c in fitted.schema.columns] == made.columns
    assert made["t_year"].to_list() == [2024, 2024]
    assert made["t_month_cos"].to_list() == pytest.approx([1, np.cos(2 * np.pi * 11 / 12)])
    assert made["t_hour_sin"].to_list() == pytest.approx([0, -1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Impute(by="mode"), r"steps\.impute\.by: 'mode'"),
        (lambda: Impute(by="constant"), "A value goes with by: constant"),
        (lambda: Clip(), "Give bounds or a quantile"),
        (lambda: Clip(quantile=0.2), "between 0.5 and 1"),
        (lambda: DateParts(parts=["decade"]), "'decade'. Accepted: year"),
        (lambda: OneHot(max_levels=0), "Give 1 or more"),
        (lambda: Hashing(buckets=0), "Give 1 or more"),
        (lambda: Quantile(levels=1), "Give 2 or more"),
        (lambda: Quantile(to="gauss"), "'gauss'"),
        (lambda: Drop(["x"]).learn(None, NUMBER), "all columns there are"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(build, message):
    with pytest.raises(SpecError, match=message):
        build()
