"""Run every step of the catalogue through what preparation relies on."""

import io
import json
import pickle

import numpy as np
import polars as pl
import pytest
from PIL import Image

from fmray.catalogue import STEPS
from fmray.data.arrow_frames import block
from fmray.data.pipeline import empty_frame
from fmray.data.step import Fitted, chosen
from fmray.errors import SpecError
from fmray.schema import Column, Schema

SCHEMA = Schema(
    (
        Column("age", "number"),
        Column("level", "number"),
        Column("city", "text"),
        Column("price", "text"),
        Column("day", "text"),
        Column("at", "time"),
        Column("pixels", "vector", 3),
        Column("raw", "bytes", 2),
        Column("photo", "image"),
        Column("said", "words"),
    )
)
PARAMS = {
    "auto": [{}, {"keep": ["city"]}],
    "clip": [{"low": 0, "high": 50}, {"quantile": 0.9}],
    "copy": [{"columns": "city", "name": "town"}, {"columns": "pixels", "name": "again"}],
    "date_parts": [{}, {"parts": ["year", "day", "minute"], "cyclic": False}],
    "decode_image": [{"columns": ["photo"], "size": [3, 2]}, {"columns": "photo", "size": [5, 4], "channels": 1}],
    "drop": [{"columns": ["city", "raw"]}],
    "hashing": [{"buckets": 8}, {"columns": ["level", "city"], "buckets": 3}],
    "impute": [{}, {"by": "median", "flag": True}, {"by": "most_frequent"}, {"by": "constant", "value": -1.0}],
    "min_max": [{}],
    "one_hot": [{}, {"columns": ["level", "city"], "max_levels": 2}, {"other": False}],
    "parse": [{"columns": ["price", "day"]}, {"columns": ["price"], "form": "decimal_comma"}],
    "quantile": [{}, {"levels": 5, "to": "normal"}],
    "robust_scale": [{}, {"columns": ["age"], "low": 0.1, "high": 0.9}],
    "standardise": [{}, {"columns": ["age"]}],
    "tfidf": [
        {"columns": "city"},
        {"columns": ["price"], "marks": True},
        {"columns": ["city", "day"], "of": "characters", "longest": 3, "buckets": 64},
    ],
    "tokenize": [
        {"columns": ["city", "price"], "kind": kind, "vocabulary": 300, "block": "text"}
        for kind in ("words", "bpe", "byte_bpe", "characters", "bytes")
    ],
    "tokenize_words": [
        {"columns": "said", "min_count": 1},
        {"columns": ["said"], "parts": ["suffix2", "prefix1", "shape"], "vocabulary": 5, "lowercase": False},
        {"columns": "price", "parts": ["whole", "shape"], "beside": ["said", "city"]},
    ],
}
PRETRAINED = [name for name in STEPS if STEPS.params(name).keeps_weights]
"""Steps that compute by weights which only their own tests have."""
CASES = [(name, params) for name in STEPS if name not in PRETRAINED for params in PARAMS[name]]


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


PHOTOS = [png(np.random.default_rng(i).integers(0, 256, (5, 4, 3), np.uint8)) for i in range(4)]


SAID = [None, [], ["Oslo"], ["the", "Cat", None], ["the", "cat", "sat"], ["Ünïcode", "ﬁne", "", "a1-b"]]


def rows(num_rows: int = 300, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    missing = random.random(num_rows) < 0.1
    age = random.normal(40, 12, num_rows)
    cities = np.array(["Oslo", "Bonn", "Rome", None], object)[random.integers(0, 4, num_rows)]
    return pl.DataFrame(
        {
            "age": pl.Series(np.where(missing, np.nan, age)).fill_nan(None),
            "level": random.integers(0, 6, num_rows),
            "city": pl.Series(cities.tolist(), dtype=pl.String),
            "price": [f"{value:,}" if value % 9 else "n/a" for value in random.integers(1, 10**7, num_rows).tolist()],
            "day": [f"{1 + i % 28}.{1 + i % 12}.{1980 + i % 45}" for i in random.integers(0, 9999, num_rows).tolist()],
            "at": pl.Series(random.integers(0, 2**50, num_rows)).cast(pl.Datetime("us")),
            "pixels": pl.Series(random.normal(size=(num_rows, 3)).astype(np.float32)),
            "raw": pl.Series(random.integers(0, 256, (num_rows, 2)).astype(np.uint8)),
            "photo": [PHOTOS[i] for i in random.integers(0, len(PHOTOS), num_rows)],
            "said": pl.Series([SAID[i] for i in random.integers(0, len(SAID), num_rows)], dtype=pl.List(pl.String)),
        }
    )


def strange() -> pl.DataFrame:
    """Rows unlike any in train: unseen levels, missing everything, far values."""
    return pl.DataFrame(
        {
            "age": [None, 1e30, -5.0],
            "level": pl.Series([99, None, -3], dtype=pl.Int64),
            "city": ["Atlantis", None, ""],
            "price": ["a lot", None, "1e400"],
            "day": ["31.2.2020", None, "yesterday"],
            "at": pl.Series([None, 0, 2**50]).cast(pl.Datetime("us")),
            "pixels": pl.Series(np.full((3, 3), 1e6, np.float32)),
            "raw": pl.Series(np.zeros((3, 2), np.uint8)),
            "photo": [png(np.zeros((1, 1, 4), np.uint8)), png(np.ones((9, 1), bool)), png(np.ones((2, 2), np.uint16))],
            "said": pl.Series([["never", "seen"], None, [None]], dtype=pl.List(pl.String)),
        }
    )


def fitted(step, parts):
    partials = [step.fit(part, SCHEMA) for part in parts]
    merged = partials[0]
    for partial in partials[1:]:
        merged = step.merge(merged, partial)
    return step.learn(merged, SCHEMA)


def equal(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    return one.columns == other.columns and all(
        one[c].to_list() == other[c].to_list()
        if isinstance(one[c].dtype, pl.List)
        else np.array_equal(one[c].to_numpy(), other[c].to_numpy(), equal_nan=one[c].dtype.is_float())
        for c in one.columns
        if one[c].dtype not in (pl.String, pl.Datetime("us"))
    )


def close(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, rel=1e-9, abs=1e-12) if isinstance(one, float) else one == other


@pytest.mark.parametrize(("name", "params"), CASES)
def test_learning_in_parts_in_any_grouping_is_learning_at_once(name, params):
    step, frame = STEPS.build(name, params=params), rows()
    whole = fitted(step, [frame])
    if step.fit(frame, SCHEMA) is None:
        return
    parts = [frame[:70], frame[70:71], frame[71:71], frame[71:200], frame[200:]]
    assert close(fitted(step, parts).state, whole.state)
    assert close(fitted(step, parts[::-1]).state, whole.state)
    a, b, c, d, e = (step.fit(part, SCHEMA) for part in parts)
    tree = step.merge(step.merge(c, a), step.merge(b, step.merge(d, e)))
    assert close(step.learn(tree, SCHEMA).state, whole.state)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_a_part_without_rows_changes_nothing_even_where_it_comes_first(name, params):
    step, frame = STEPS.build(name, params=params), rows()
    if step.fit(frame, SCHEMA) is not None:
        assert close(fitted(step, [frame[:0], frame, frame[:0]]).state, fitted(step, [frame]).state)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_what_was_learned_is_the_same_every_time(name, params):
    assert fitted(STEPS.build(name, params=params), [rows()]) == fitted(STEPS.build(name, params=params), [rows()])


@pytest.mark.parametrize(("name", "params"), CASES)
def test_a_summary_survives_the_way_between_processes(name, params):
    step, frame = STEPS.build(name, params=params), rows()
    partial = step.fit(frame, SCHEMA)
    if partial is not None:
        sent = pickle.loads(pickle.dumps(partial))
        assert step.learn(sent, SCHEMA) == step.learn(partial, SCHEMA)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_what_was_learned_survives_as_json_and_describes_its_columns(name, params):
    step, frame = STEPS.build(name, params=params), rows()
    learned = fitted(step, [frame])
    state = json.loads(json.dumps(learned.state, allow_nan=False))
    assert state == learned.state
    made = step.apply(frame, state)
    assert sorted(made.columns) == sorted(c.name for c in learned.schema.columns)
    for column in learned.schema.dense:
        width = made[column.name].dtype.shape[0] if isinstance(made[column.name].dtype, pl.Array) else 1
        assert width == column.width, column.name
        assert not column.classes or len(column.classes) == column.width


@pytest.mark.parametrize(("name", "params"), CASES)
def test_a_row_becomes_the_same_alone_and_among_others(name, params):
    step, frame = STEPS.build(name, params=params), rows()
    state = fitted(step, [frame]).state
    whole = step.apply(frame, state)
    assert whole.height == frame.height
    assert equal(step.apply(frame[17:18], state), whole[17:18])
    order = np.random.default_rng(1).permutation(frame.height)
    assert equal(step.apply(frame[order], state), whole[order])


@pytest.mark.parametrize(("name", "params"), CASES)
def test_rows_unlike_any_in_train_do_not_fail(name, params):
    step, frame = STEPS.build(name, params=params), rows()
    assert step.apply(strange(), fitted(step, [frame]).state).height == 3


@pytest.mark.parametrize(("name", "params"), CASES)
def test_no_rows_are_no_rows(name, params):
    step = STEPS.build(name, params=params)
    state = fitted(step, [rows()]).state
    assert step.apply(rows()[:0], state).height == 0


@pytest.mark.parametrize(("name", "params"), CASES)
def test_nothing_depends_on_rows_outside_of_train(name, params):
    """Learn once with and once without rows that were never given to fit: there is no other way in."""
    step, other = STEPS.build(name, params=params), STEPS.build(name, params=params)
    step.apply(strange(), fitted(step, [rows()]).state)
    assert fitted(step, [rows()]).state == fitted(other, [rows()]).state


@pytest.mark.parametrize("name", [n for n in STEPS if n not in ("auto", *PRETRAINED)])
def test_a_misspelt_column_is_answered_with_the_nearest_one(name):
    params = {**PARAMS[name][0], "columns": "agee"}
    with pytest.raises(SpecError, match=rf"steps\.{name}\.columns: column 'agee' is not there\. Did you mean 'age'\?"):
        STEPS.build(name, params=params).fit(empty_frame(SCHEMA), SCHEMA)


def test_a_column_of_another_kind_is_answered_with_the_kinds_that_fit():
    with pytest.raises(SpecError, match="column 'city' holds text. Accepted: number"):
        chosen(["city"], SCHEMA, ("number",), "clip")


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(SpecError, match="the data has a column 'x', and a step makes one of that name"):
        Fitted({}, Schema((Column("x", "number"), Column("x", "missing"))))


def test_every_step_has_a_case():
    assert set(PARAMS) == set(STEPS) - set(PRETRAINED)


def test_auto_leaves_nothing_that_a_model_cannot_read():
    schema, states = SCHEMA, []
    first = [("decode_image", {"columns": ["photo"], "size": [3, 2]}), ("tokenize_words", {"columns": "said"})]
    steps = [STEPS.build(name, params=params) for name, params in [*first, ("auto", {})]]

    def upto(frame, number):
        for step, state in zip(steps[:number], states, strict=False):
            frame = step.apply(frame, state)
        return frame

    for number, step in enumerate(steps):
        learned = step.learn(step.fit(upto(rows(), number), schema), schema)
        schema = learned.schema
        states.append(learned.state)
    assert list(schema.blocks) == ["x", "tokens"]
    for frame in (rows(), strange()):
        inputs = block(upto(frame, len(steps)), schema)
        assert inputs.shape == (frame.height, schema.width)
        assert np.isfinite(inputs).all()
