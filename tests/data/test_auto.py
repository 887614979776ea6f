"""Show what `auto` decides about each kind of column, that it says so, and that real data become finite inputs."""

import datetime

import numpy as np
import polars as pl
import pytest
import scipy.stats

from fmray.data import auto
from fmray.data.arrow_frames import as_frame, block, raw_schema
from fmray.data.auto import Auto
from fmray.data.scan import read_item, scan, work_items
from fmray.data.tabular import MISSING, OTHER
from fmray.errors import DataError
from fmray.schema import Column, Schema
from fmray.spec.job import Job

RANDOM = np.random.default_rng(0)
N = 2000
KINDS = {pl.String: "text", pl.Datetime("us"): "time"}


def schema_of(frame):
    return Schema(tuple(Column(name, KINDS.get(dtype, "number")) for name, dtype in frame.schema.items()))


def run(columns, on=None, parts=1):
    """Learn from columns, beside one that is always kept, and apply to them or to others."""
    frame = pl.DataFrame(columns).with_columns(kept=pl.Series(np.arange(len(next(iter(columns.values())))) / 7.0))
    schema, step = schema_of(frame), Auto()
    partials = [step.fit(part, schema) for part in frame.iter_slices(-(-frame.height // parts))]
    merged = partials[0]
    for partial in partials[1:]:
        merged = step.merge(merged, partial)
    fitted = step.learn(merged, schema)
    other = frame if on is None else pl.DataFrame(on, schema_overrides=frame.schema).with_columns(kept=pl.lit(0.0))
    return step.apply(other, fitted.state), fitted


def made_of(fitted):
    return {c.name: c.kind for c in fitted.schema.columns if c.name != "kept"}


def test_numbers_are_standardised_and_cut_off_far_out():
    values = RANDOM.normal(50, 3, N)
    made, fitted = run({"x": values}, on={"x": [50.0, 1e9, -1e9, None]})
    assert made_of(fitted) == {"x": "number"}
    assert made["x"].to_list() == pytest.approx([(50 - values.mean()) / values.std(), 10, -10, 0], abs=1e-5)
    assert fitted.notes == ()


def test_missing_numbers_go_to_the_mean_with_a_flag_and_a_note():
    made, fitted = run({"x": [1.0, None, 3.0, 8.5] * 20}, on={"x": [None, 1.0]})
    assert made_of(fitted) == {"x": "number", "x_missing": "missing"}
    assert (made["x"][0], made["x_missing"].to_list()) == (0, [1, 0])
    assert any("auto puts 20 missing values of 'x' at the mean and flags them" in note for note in fitted.notes)


def test_a_heavy_tail_also_gets_its_normal_rank():
    values = np.exp(RANDOM.normal(0, 2, N))
    made, fitted = run({"x": values})
    assert made_of(fitted) == {"x": "number", "x_rank": "number"}
    assert "auto gives 'x' its normal rank beside the number" in fitted.notes[0]
    expected = scipy.stats.norm.ppf((scipy.stats.rankdata(values) - 0.5) / N)
    inner = np.abs(expected) < 2
    np.testing.assert_allclose(made["x_rank"].to_numpy()[inner], expected[inner], atol=0.03)


def test_integers_of_few_levels_also_get_indicators_and_those_of_two_do_not():
    made, fitted = run(
        {"hour": np.arange(N) % 24, "flag": np.arange(N) % 2}, on={"hour": [3, 99, None], "flag": [0, 1, 1]}
    )
    assert made_of(fitted) == {"hour": "number", "hour_level": "one_hot", "flag": "number"}
    assert next(c for c in fitted.schema.columns if c.name == "hour_level").classes == tuple(map(str, range(24)))
    assert made["hour_level"].to_numpy().sum(1).tolist() == [1, 0, 0]


def test_rare_levels_share_a_place_that_unseen_ones_have_too():
    levels = [None] * 50 + ["Rome"] + ["Oslo"] + ["Bonn"] * (N - 52)
    made, fitted = run({"city": levels}, on={"city": ["Bonn", "Rome", "Atlantis", None]})
    assert next(c for c in fitted.schema.columns if c.name == "city").classes == ("Bonn", MISSING, OTHER)
    assert made["city"].to_list() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]
    assert "auto puts 2 levels of 'city' with fewer than 2 rows into <other>" in fitted.notes[0]


def test_where_no_level_is_rare_an_unseen_one_sets_no_weight_that_never_learned():
    made, fitted = run({"city": ["Bonn", "Rome"] * 50}, on={"city": ["Atlantis", "Rome"]})
    assert next(c for c in fitted.schema.columns if c.name == "city").classes == ("Bonn", "Rome")
    assert made["city"].to_list() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(("num_levels", "kind", "width"), [(100, "one_hot", 100), (101, "hashed", 256)])
def test_text_of_more_than_a_hundred_levels_is_hashed(num_levels, kind, width):
    _, fitted = run({"word": [f"w{i % num_levels}" for i in range(10 * num_levels)]}, parts=3)
    found = next(c for c in fitted.schema.columns if c.name == "word")
    assert (found.kind, found.width) == (kind, width)
    assert any("auto hashes 'word': about 101 levels into 256" in note for note in fitted.notes) == (kind == "hashed")


def test_times_become_a_year_and_points_on_circles():
    moments = [datetime.datetime(2020 + i % 3, 1 + i % 12, 1 + i % 28, i % 24) for i in range(N)]
    made, fitted = run({"at": moments}, on={"at": [moments[0], None]})
    circles = [f"at_{part}_{wave}" for part in ("month", "weekday", "hour") for wave in ("sin", "cos")]
    assert set(made_of(fitted)) >= {"at_year", *circles}
    assert made.null_count().sum_horizontal()[0] == 0


def test_bytes_stay_bytes_and_lists_have_one_mean_and_scale():
    raw, vector = RANDOM.integers(0, 256, (60, 5)).astype(np.uint8), RANDOM.normal(3, 2, (60, 4))
    frame = pl.DataFrame({"raw": pl.Series(raw), "v": pl.Series(vector)})
    schema, step = Schema((Column("raw", "bytes", 5), Column("v", "vector", 4))), Auto()
    fitted = step.learn(step.merge(step.fit(frame[:13], schema), step.fit(frame[13:], schema)), schema)
    made = step.apply(frame, fitted.state)
    np.testing.assert_array_equal(made["raw"].to_numpy(), raw)
    assert [(column.kind, column.width) for column in fitted.schema.columns] == [("pixels", 5), ("vector", 4)]
    np.testing.assert_allclose(made["v"].to_numpy(), (vector - vector.mean()) / vector.std(), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([7.5] * 100, "it is the same in all training rows"),
        (["a"] * 100, "it is the same in all training rows"),
        (pl.Series([None] * 100, dtype=pl.Float64), "it is missing in all training rows"),
        (list(range(100)), "it names rows: 100 of 100 values are distinct, and they count the rows in the order"),
        ([f"row {i}" for i in range(100)], "it names rows: 100 of 100 values are distinct, and all look like numbered"),
        ([f"row {i}" if i % 4 else None for i in range(400)], "it names rows: 300 of 300 values are distinct"),
    ],
)
def test_columns_that_cannot_help_are_left_out_and_it_is_said(values, why):
    _, fitted = run({"x": values}, parts=3)
    assert made_of(fitted) == {}
    assert fitted.notes[0].startswith(f"auto leaves out 'x': {why}")


def test_columns_that_name_rows_are_found_among_many_rows_whatever_the_values():
    """The estimate of distinct values errs by 1.6 %; a column of names must not slip through by that."""
    for seed in range(20):
        values = np.random.default_rng(seed).integers(0, 2**62, 40_000)
        _, fitted = run({"id": values}, parts=2)
        assert made_of(fitted) == {}, seed


def test_floats_are_kept_however_distinct():
    assert made_of(run({"x": RANDOM.normal(size=N)})[1]) == {"x": "number"}


@pytest.mark.parametrize("code", [-999, 9999])
def test_a_code_for_missing_is_suspected_and_the_cure_named(code):
    values = RANDOM.normal(40, 10, N).round(1)
    values[:20] = code
    _, fitted = run({"age": values}, parts=3)
    assert f"'age' is {code} in 20 training rows, far from all others" in " ".join(fitted.notes)
    assert f"say data.null_values: [{code}]" in " ".join(fitted.notes)


def test_an_honest_99_is_not_suspected():
    _, fitted = run({"age": np.r_[np.arange(N) % 99, [99] * 30].astype(float)})
    assert fitted.notes == ()


def test_nothing_left_is_an_error_that_says_why():
    schema, step = Schema((Column("x", "number"),)), Auto()
    with pytest.raises(DataError, match="auto leaves out every column: auto leaves out 'x': it is the same"):
        step.learn(step.fit(pl.DataFrame({"x": [1.0, 1.0]}), schema), schema)


def test_a_name_that_the_data_have_is_not_given_to_what_auto_makes():
    columns = {"x": [1.0, None, 2.0, 4.0] * 30, "x_missing": [0.5, 0.1, 0.7, 0.2] * 30, "x_missing_2": [1.5, 2.5] * 60}
    made, fitted = run(columns)
    assert list(made_of(fitted)) == ["x", "x_missing_3", "x_missing", "x_missing_2"]
    assert made["x_missing_3"].to_list() == [0, 1, 0, 0] * 30
    assert made["x_missing"].to_numpy().std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("part", ["at_year", "at_hour_sin"])
def test_the_names_of_parts_of_times_and_of_levels_avoid_those_of_the_data(part):
    moments = [datetime.datetime(2020 + i % 3, 1 + i % 12, 1 + i % 28, i % 24) for i in range(N)]
    own = RANDOM.normal(7, 2, N)
    made, fitted = run({"at": moments, part: own, "hour": np.arange(N) % 24, "hour_level": own})
    assert {"at_2_year", "at_2_hour_sin", part, "hour_level", "hour_level_2"} <= set(made_of(fitted))
    assert np.corrcoef(made[part], own)[0, 1] == pytest.approx(1)


def test_summaries_stay_small_however_many_rows_and_levels():
    frame = pl.DataFrame(
        {"id": np.arange(200_000), "word": [f"w{i}" for i in range(200_000)], "x": RANDOM.random(200_000)}
    )
    summary = Auto().fit(frame, schema_of(frame))
    counts, hashes = summary["levels"]["word"]
    assert (counts, len(hashes)) == (None, auto.moments.SMALLEST_HASHES)
    assert len(summary["points"]["x"][0]) == auto.moments.POINTS


@pytest.mark.parametrize(
    ("name", "target", "null_values", "expected"),
    [
        ("adult", "income", ["?"], {"sex": "one_hot", "capital_gain_rank": "number", "education_num_level": "one_hot"}),
        (
            "california_housing",
            "median_house_value",
            [],
            {"total_bedrooms_missing": "missing", "ocean_proximity": "one_hot"},
        ),
        ("beijing_pm25", "pm25", [], {"timestamp_hour_sin": "number", "wind_direction": "one_hot"}),
        ("digits_8x8", "label", [], {"pixels": "vector"}),
        ("movietweetings_100k", "rating", [], {"movie_id": "hashed"}),
    ],
)
def test_real_data_become_finite_inputs(real_data, name, target, null_values, expected):
    job = Job.from_json(
        {"name": "t", "data": {"path": str(real_data(name)), "target": target, "null_values": null_values}}
    )
    dataset = scan(job.data, ".")
    schema, step = raw_schema(dataset, job), Auto()
    tables = [read_item(dataset, item) for item in work_items(dataset, target_bytes=1 << 20)]
    frames = [as_frame(table, schema, job.data.null_values) for table in tables]
    merged = step.fit(frames[0], schema)
    for frame in frames[1:]:
        merged = step.merge(merged, step.fit(frame, schema))
    fitted = step.learn(merged, schema)
    assert made_of(fitted).items() >= expected.items()
    for frame in frames:
        x = block(step.apply(frame, fitted.state), fitted.schema)
        assert x.shape == (frame.height, fitted.schema.width)
        assert np.isfinite(x).all()
        assert np.abs(x).max() <= auto.FARTHEST


@pytest.mark.parametrize(
    "values", [[2**53 + number % 2 for number in range(N)], [number * 1e-313 for number in range(N)]]
)
def test_numbers_that_floats_cannot_tell_apart_are_left_out_and_not_called_the_same(values):
    _, fitted = run({"x": values}, parts=2)
    assert fitted.notes == ("auto leaves out 'x': its values are too close together to tell them apart as floats",)
