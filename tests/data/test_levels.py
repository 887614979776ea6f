"""Check that levels are named, ordered and numbered alike in every work item."""

import datetime

import pyarrow as pa
import pytest

from fmray.data.levels import MISSING, encode_levels, levels_of, merge_levels
from fmray.errors import DataError


def both(*parts, null_values=()):
    """Give the merged levels of columns, and each column's codes spelled out again."""
    columns = [pa.chunked_array([part]) for part in parts]
    merged = merge_levels([{"c": levels_of(column, "c", null_values)} for column in columns], ["c"])["c"]
    codes = [encode_levels(column, merged, null_values) for column in columns]
    return merged, [[merged[code] for code in part.tolist()] for part in codes]


def test_numbers_are_ordered_by_value_and_text_by_spelling():
    assert both(pa.array([10, 9, 100]))[0] == ("9", "10", "100")
    assert both(pa.array(["10", "9", "100"]))[0] == ("10", "100", "9")
    assert both(pa.array([2.5, 1.0, 10.0]))[0] == ("1", "2.5", "10")
    assert both(pa.array([True, False]))[0] == ("False", "True")


def test_levels_of_all_parts_are_numbered_alike():
    merged, spelled = both(pa.array(["b", "a"]), pa.array(["c", "a", "a"]))
    assert merged == ("a", "b", "c")
    assert spelled == [["b", "a"], ["c", "a", "a"]]


def test_what_means_missing_is_one_level_and_the_last():
    merged, spelled = both(pa.array([None, 1.0, float("nan"), -99.0]), null_values=[-99, "?"])
    assert merged == ("1", MISSING)
    assert spelled == [[MISSING, "1", MISSING, MISSING]]
    assert both(pa.array(["?", "x", None]), null_values=[-99, "?"])[0] == ("x", MISSING)


def test_dates_have_levels_too():
    assert both(pa.array([datetime.date(2024, 2, 1), datetime.date(2024, 1, 1)]))[0] == ("2024-01-01", "2024-02-01")


def test_too_many_levels_are_refused_by_name():
    with pytest.raises(DataError, match=r"evaluate.slices: column 'c' has 300 or more levels, e.g. 0, 1, 2\."):
        both(pa.array(range(300)))
    with pytest.raises(DataError, match="column 'c' has 400 or more"):
        both(pa.array(range(200)), pa.array(range(200, 400)))
