"""Check what counts as a level that no training row has, and which types hold the same kind of value."""

import polars as pl
import pyarrow as pa
import pytest

from fmray.data.auto import Auto
from fmray.data.tabular import OneHot
from fmray.inference.rows import MOST_LEVELS, Strangers, Unseen, accepted, count_unread, count_unseen
from fmray.schema import Column, Schema
from fmray.spec.components import steps

TEXT = Schema((Column("c", "text"),))
NUMBER = Schema((Column("c", "number"),))


def counted(step, trained, given, schema=TEXT):
    frame = pl.DataFrame({"c": trained})
    state = step.learn(step.fit(frame, schema), schema).state
    unseen = {}
    count_unseen(pl.DataFrame({"c": given}), step, state, unseen)
    return {name: found.to_json() for name, found in unseen.items()}


def test_levels_that_no_training_row_has_are_counted_row_by_row():
    assert counted(OneHot(), ["a", "b"], ["a", "x", "b", "y", "x"]) == {"c": {"rows": 3, "levels": {"x": 2, "y": 1}}}
    assert counted(OneHot(), ["a", "b"], ["b", "a"]) == {}


def test_a_level_too_rare_for_an_indicator_of_its_own_was_seen_nevertheless():
    many = ["a"] * 5000 + ["b"] * 5000 + ["rare"]
    assert counted(Auto(), many, ["rare", "a", "new"]) == {"c": {"rows": 1, "levels": {"new": 1}}}
    assert counted(OneHot(steps.OneHot(max_levels=1)), ["a", "a", "b"], ["b", "new"]) == {
        "c": {"rows": 1, "levels": {"new": 1}}
    }


def test_a_missing_value_counts_as_unseen_where_none_was_missing_before():
    assert counted(OneHot(), ["a", "b"], ["a", None]) == {"c": {"rows": 1, "levels": {"<missing>": 1}}}
    assert counted(OneHot(), ["a", None], [None, None]) == {}


def test_whole_numbers_are_the_same_levels_in_every_type():
    trained = [1, 2, 3] * 4
    assert counted(Auto(), trained, [1.0, 2.0, 3.0], NUMBER) == {}
    assert counted(Auto(), trained, [1, 2, 7, 7], NUMBER) == {"c": {"rows": 2, "levels": {"7": 2}}}


def test_all_rows_are_counted_and_the_most_frequent_levels_named():
    found = counted(OneHot(), ["a"], [f"new{i}" for i in range(500)] + ["often"] * 3)["c"]
    assert found["rows"] == 503
    assert len(found["levels"]) == MOST_LEVELS
    assert found["levels"]["often"] == 3


def test_counts_of_parts_add_up():
    strangers = Strangers()
    strangers.add(5, {"x": 3, "y": 2})
    strangers.add(4, {"x": 4})
    assert strangers.to_json() == {"rows": 9, "levels": {"x": 7, "y": 2}}


@pytest.mark.parametrize(
    ("given", "trained", "kind", "expected"),
    [
        (pa.int32(), pa.int64(), "number", pa.int64()),
        (pa.int64(), pa.float32(), "number", pa.float64()),
        (pa.float64(), pa.int64(), "number", pa.float64()),
        (pa.bool_(), pa.int64(), "number", pa.bool_()),
        (pa.int8(), pa.bool_(), "number", pa.int8()),
        (pa.null(), pa.int64(), "number", pa.int64()),
        (pa.null(), pa.string(), "text", pa.string()),
        (pa.string(), pa.int64(), "number", None),
        (pa.int64(), pa.string(), "text", None),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), "text", pa.string()),
        (pa.large_string(), pa.string(), "text", pa.string()),
        (pa.date32(), pa.timestamp("us"), "time", pa.timestamp("us")),
        (pa.timestamp("ns"), pa.timestamp("us"), "time", pa.timestamp("ns")),
        (pa.string(), pa.timestamp("us"), "time", None),
        (pa.list_(pa.float64(), 3), pa.list_(pa.float32(), 3), "vector", pa.list_(pa.float64(), 3)),
        (pa.list_(pa.float32(), 4), pa.list_(pa.float32(), 3), "vector", None),
    ],
    ids=str,
)
def test_a_column_may_come_in_every_type_that_holds_the_same_kind_of_value(given, trained, kind, expected):
    assert accepted(given, trained, Column("c", kind)) == expected


def test_text_that_can_no_longer_be_read_is_counted_with_what_it_says():
    step, frame = Auto(), pl.DataFrame({"c": [f"{i * i:,}" for i in (*range(900, 3000, 2), *range(901, 3000, 2))]})
    state = step.learn(step.fit(frame, TEXT), TEXT).state
    unseen = Unseen()
    count_unread(pl.DataFrame({"c": ["1,000", "n/a", "many", "many", None]}), state, unseen)
    assert unseen.to_json()["unread"] == {"c": {"rows": 2, "levels": {"many": 2}}}


@pytest.mark.parametrize(
    ("trained", "others"), [("%", ["5", "$5", "5 kg"]), ("", ["5%", "5 kg"]), (" kg", ["5 lb", "5"])]
)
def test_numbers_in_text_in_another_unit_than_in_training_are_counted_and_count_as_missing(trained, others):
    step, frame = Auto(), pl.DataFrame({"c": [f"{number}.5{trained}" for number in range(900, 3000)]})
    state = step.learn(step.fit(frame, TEXT), TEXT).state
    unseen, new = Unseen(), pl.DataFrame({"c": [f"7.5{trained}", *others]})
    count_unread(new, state, unseen)
    assert unseen.to_json()["unread"] == {"c": {"rows": len(others), "levels": dict.fromkeys(others, 1)}}
    assert step.apply(new, state)["c"].to_list()[1:] == [0.0] * len(others)
