"""Check scaling and spreading against scikit-learn and the published hash."""

import re

import numpy as np
import polars as pl
import pytest
from one_column import NUMBER, TEXT, numbers, run, text
from sklearn import preprocessing as oracle

from fmray import moments
from fmray.catalogue import STEPS
from fmray.data import tabular
from fmray.data.hashing import row_hash
from fmray.data.tabular import MISSING, OTHER, Hashing, MinMax, OneHot, Quantile, RobustScale, Standardise
from fmray.errors import DataError, SpecError
from fmray.schema import Column, Schema
from fmray.spec.components import steps


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


@pytest.mark.parametrize(("low", "high"), [(0.25, 0.75), (0.1, 0.6), (0.0, 1.0)])
@pytest.mark.parametrize("dtype", [pl.Float64, pl.Int64])
def test_robust_scaling_of_few_rows_equals_scikit_learn(low, high, dtype):
    values = np.random.default_rng(3).gamma(0.5, 1000, 900).round()
    values[:3] = 1e9
    step = RobustScale(steps.RobustScale(low=low, high=high))
    rows = numbers(values).cast(dtype)
    parts = [step.fit(part, NUMBER) for part in (rows[:7], rows[7:400], rows[400:])]
    learned = step.learn(step.merge(parts[0], step.merge(parts[1], parts[2])), NUMBER)
    theirs = oracle.RobustScaler(quantile_range=(100 * low, 100 * high)).fit(values[:, None])
    assert learned.state["shift"]["x"] == pytest.approx([theirs.center_[0], theirs.scale_[0]], rel=1e-12)
    made = step.apply(rows, learned.state)["x"].to_numpy()
    np.testing.assert_allclose(made, theirs.transform(values[:, None])[:, 0], rtol=1e-5, atol=1e-6)


def test_robust_scaling_of_many_rows_is_within_the_error_that_the_ranks_state():
    values = np.random.default_rng(4).standard_t(2, 300_000)
    step = RobustScale()
    parts = [step.fit(numbers(part), NUMBER) for part in np.split(values, [150_000, 220_000])]
    partial = step.merge(step.merge(parts[0], parts[1]), parts[2])
    (median, scale) = step.learn(partial, NUMBER).state["shift"]["x"]
    error = 1 / (2 * moments.POINTS) + 1.5 / moments.SAMPLED**0.5  # of ranks
    below, middle, above = (np.quantile(values, [share - error, share + error]) for share in (0.25, 0.5, 0.75))
    assert middle[0] < median < middle[1]
    assert above[0] - below[1] < scale < above[1] - below[0]
    assert scale == pytest.approx(np.subtract(*np.quantile(values, [0.75, 0.25])), rel=0.02)


def test_a_missing_value_stays_missing_under_robust_scaling_and_counts_for_nothing():
    made, _ = run(RobustScale(), numbers([1.0, None, 2.0, 3.0, 4.0, 5.0]), NUMBER)
    assert made["x"].to_list() == [-1.0, None, -0.5, 0.0, 0.5, 1.0]


def test_equal_quantiles_have_scale_1_and_it_is_said_unless_all_values_are_equal():
    made, fitted = run(RobustScale(), numbers([0.0] * 80 + [5.0] * 20), NUMBER)
    assert set(made["x"].to_list()) == {0.0, 5.0}
    assert fitted.notes == ("'x': its quantiles at 0.25 and 0.75 are equal, so its scale is 1",)
    made, fitted = run(RobustScale(), numbers([0.1] * 9), NUMBER)
    assert set(made["x"].to_list()) == {0.0}
    assert fitted.notes == ()
    made, _ = run(RobustScale(), numbers([None, None]), NUMBER, on=numbers([3.0]))
    assert made["x"].to_list() == [3.0]


@pytest.mark.parametrize("to", ["uniform", "normal"])
def test_quantiles_equal_scikit_learn_between_the_ends(to):
    values = np.random.default_rng(2).gamma(1.0, size=800)
    values[:200] = np.round(values[:200])
    made, _ = run(Quantile(steps.Quantile(levels=100, to=to)), numbers(values.tolist()), NUMBER)
    theirs = oracle.QuantileTransformer(n_quantiles=100, output_distribution=to).fit_transform(values[:, None])[:, 0]
    inner = (values > values.min()) & (values < values.max())
    np.testing.assert_allclose(made["x"].to_numpy()[inner], theirs[inner], atol=2e-3)


def test_many_equal_values_at_an_end_stand_in_the_middle_of_their_share_and_not_at_infinity():
    made, _ = run(Quantile(steps.Quantile(levels=101)), numbers([0.0] * 60 + list(range(1, 41))), NUMBER)
    assert made["x"][0] == pytest.approx(0.3, abs=0.01)


def test_one_hot_orders_levels_by_value_and_gives_missing_and_unseen_a_place():
    made, fitted = run(OneHot(), text(["b", "a", None, "a"]), TEXT)
    assert fitted.schema.columns[0].classes == ("a", "b", MISSING, OTHER)
    assert made["c"].to_list() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    assert OneHot().apply(text(["z"]), fitted.state)["c"].to_list() == [[0, 0, 0, 1]]


def test_rare_levels_share_a_place_and_it_is_said():
    made, fitted = run(OneHot(steps.OneHot(max_levels=1)), text(["a", "a", "b", "c"]), TEXT)
    assert fitted.schema.columns[0].classes == ("a", OTHER)
    assert made["c"].to_list() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert "1 of 3 levels kept" in fitted.notes[0]


def test_without_other_a_level_that_has_no_place_sets_no_indicator():
    made, fitted = run(OneHot(steps.OneHot(other=False)), text(["a", "b"]), TEXT, on=text(["b", "z", None]))
    assert fitted.schema.columns[0].classes == ("a", "b")
    assert made["c"].to_list() == [[0, 1], [0, 0], [0, 0]]


def test_cells_that_spell_the_reserved_names_share_their_place():
    made, fitted = run(OneHot(), text([MISSING, OTHER, None, "a"]), TEXT)
    assert fitted.schema.columns[0].classes == ("a", MISSING, OTHER)
    assert made["c"].to_list() == [[0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_a_level_keeps_its_place_when_its_column_widens():
    made, fitted = run(
        OneHot(steps.OneHot(columns=["x"])), numbers([1, 2], pl.Int64), NUMBER, on=numbers([2.0, 1.0, 1.5], pl.Float64)
    )
    assert fitted.schema.columns[0].classes == ("1", "2", OTHER)
    assert made["x"].to_list() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_of_too_many_levels_the_most_frequent_are_kept_whatever_their_order(monkeypatch):
    monkeypatch.setattr(tabular, "MOST_LEVELS", 4)
    values = [c for i, c in enumerate("hgfedcba", 1) for _ in range(i)]
    step = OneHot(steps.OneHot(max_levels=2))
    parts = [step.fit(text(part), TEXT) for part in (values[:20], values[20:])]
    assert all(len(part["c"][0]) <= 4 for part in parts)
    learned = step.learn(step.merge(*parts), TEXT)
    assert learned.schema.columns[0].classes == ("a", "b", OTHER)
    assert learned.notes == (f"'c': 2 of more than 4 levels kept, the rest is {OTHER}",)


def test_numbers_too_far_apart_to_have_a_scale_are_named():
    with pytest.raises(DataError, match=r"column 'x' reaches from -1e\+200 to 1e\+200. Add clip or quantile before"):
        run(Standardise(), numbers([1e200, -1e200]), NUMBER)
    with pytest.raises(DataError, match=r"column 'x' reaches from -1\.5e\+308 to 1\.5e\+308 between its quantiles"):
        run(RobustScale(), numbers([-1.5e308] * 2 + [1.5e308] * 2), NUMBER)


def test_buckets_follow_the_published_hash():
    levels = ["Oslo", "Bonn", "", "Rome"]
    made, _ = run(Hashing(steps.Hashing(buckets=16)), text([*levels, None]), TEXT)
    places = (row_hash(pl.DataFrame({"level": levels}).to_arrow(), ["level"])[:, 0] % 16).tolist()
    assert [row.index(1) for row in made["c"].to_list()[:4]] == places
    assert sum(made["c"].to_list()[4]) == 0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("one_hot", {"max_levels": 0}, "step.one_hot.max_levels: 0. Accepted: a whole number in [1, inf)."),
        ("hashing", {"buckets": 2.5}, "step.hashing.buckets: 2.5. Accepted: a whole number in [1, inf)."),
        ("hashing", {"buckets": True}, "step.hashing.buckets: True. Accepted: a whole number in [1, inf)."),
        ("quantile", {"levels": 1}, "step.quantile.levels: 1. Accepted: a whole number in [2, inf)."),
        ("quantile", {"to": "gauss"}, "step.quantile.to: 'gauss'. Accepted: uniform or normal."),
        (
            "robust_scale",
            {"low": 0.75, "high": 0.25},
            "step.robust_scale: low 0.75 and high 0.25. Give 0 <= low < high <= 1.",
        ),
        ("robust_scale", {"high": 75}, "step.robust_scale.high: 75. Accepted: a number in [0, 1]."),
    ],
)
def test_parameters_that_make_no_sense_are_refused(name, params, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        STEPS.build(name, params=params)
