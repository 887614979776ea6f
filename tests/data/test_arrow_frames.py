"""Show that frames hold what files say, that faulty rows are named, and that the block is the columns side by side."""

import datetime
import decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from fmray.data.arrow_frames import as_frame, block, faults, raw_schema, without
from fmray.data.scan import scan
from fmray.errors import DataError
from fmray.schema import Column, Schema
from fmray.spec.job import Job

MOMENT = datetime.datetime(2024, 2, 29, 12, 30)


def described(folder, **sections):
    data = {"path": str(folder), "target": "y", **sections.pop("data", {})}
    job = Job.from_json({"name": "test", "data": data, **sections})
    return raw_schema(scan(job.data, "."), job)


def series(values, kind, column_kind="number", width=1, null_values=()):
    column = Column("x", column_kind, width)
    return as_frame(pa.table({"x": pa.array(values, kind)}), Schema((column,)), null_values)["x"]


# ----------------------------------------------------------------------------------------------------------------------
# Which columns


def test_columns_with_a_part_to_play_are_not_inputs(write):
    names = ("y", "name", "who", "when", "heavy", "side", "secret", "age")
    folder = write("a.parquet", {name: [1, 0, 1] for name in names})
    asked = {"key": "name", "group": "who", "time": "when", "weight": "heavy", "ignore": ["secret"]}
    schema = described(folder, data=asked, split={"by": "given", "column": "side"})
    assert [column.name for column in schema.columns] == ["age"]


def test_the_time_column_is_an_input_only_where_a_step_names_it(write):
    folder = write("a.parquet", {"y": [1.0], "at": [MOMENT], "x": [2.0]})
    asked = {"data": {"time": "at"}, "split": {"by": "time"}}
    assert [c.name for c in described(folder, **asked).columns] == ["x"]
    named = described(folder, **asked, steps=[{"date_parts": {"columns": "at"}}])
    assert [c.name for c in named.columns] == ["at", "x"]


def test_types_become_kinds(write):
    nested = pa.array([[[1.0, 2.0], [3.0, 4.0]]], pa.list_(pa.list_(pa.float32(), 2), 2))
    folder = write(
        "a.parquet",
        {
            "y": [1],
            "flag": [True],
            "price": pa.array([decimal.Decimal("1.50")]),
            "city": pa.array(["Ulm"]).dictionary_encode(),
            "at": [MOMENT],
            "day": [MOMENT.date()],
            "pixels": pa.array([b"\x00\x01\x02"]),
            "code": pa.array([b"\x00\x01"], pa.binary(2)),
            "grid": nested,
            "photo": pa.array([b"\x00"]),
        },
    )
    steps = [{"decode_image": {"columns": ["photo"], "size": [2, 2]}}]
    found = {column.name: (column.kind, column.width) for column in described(folder, steps=steps).columns}
    assert found == {
        "flag": ("number", 1),
        "price": ("number", 1),
        "city": ("text", 1),
        "at": ("time", 1),
        "day": ("time", 1),
        "pixels": ("bytes", 3),
        "code": ("bytes", 2),
        "grid": ("vector", 4),
        "photo": ("image", 1),
    }


def test_bytes_of_several_lengths_are_refused_with_their_lengths(write):
    folder = write("a.parquet", {"y": [1, 2], "image": pa.array([b"\xffbc", b"\xff"])})
    with pytest.raises(DataError, match="'image' holds bytes of lengths 1 to 3.*Name it in decode_image, or"):
        described(folder)


@pytest.mark.parametrize("named", ["image", ["image"]])
def test_bytes_of_several_lengths_pass_where_a_step_decodes_them(write, named):
    folder = write("a.parquet", {"y": [1, 2], "image": pa.array([b"\xffbc", b"\xff"])})
    found = described(folder, steps=[{"decode_image": {"columns": named, "size": [2, 2]}}])
    assert found.columns == (Column("image", "image"),)


def test_a_time_of_day_is_refused(write):
    folder = write("a.parquet", {"y": [1], "opens": [datetime.time(8, 30)]})
    with pytest.raises(DataError, match=r"'opens' holds time64\[us\]. Put it in data.ignore"):
        described(folder)


# ----------------------------------------------------------------------------------------------------------------------
# Frames


@pytest.mark.parametrize(
    ("values", "kind", "expected", "dtype"),
    [
        ([True, None], pa.bool_(), [1, None], pl.UInt8),
        ([decimal.Decimal("1.25"), None], pa.decimal128(10, 2), [1.25, None], pl.Float64),
        ([1.5, float("nan")], pa.float32(), [1.5, None], pl.Float32),
        ([2**63 + 1, None], pa.uint64(), [2**63 + 1, None], pl.UInt64),
        ([None, None], pa.null(), [None, None], pl.Null),
    ],
)
def test_numbers_are_what_the_file_says_and_nan_is_missing(values, kind, expected, dtype):
    found = series(values, kind)
    assert (found.to_list(), found.dtype) == (expected, dtype)


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns", "UTC"), pa.timestamp("ms")])
def test_times_are_microseconds_without_a_zone(kind):
    found = series([MOMENT, None], kind, "time")
    assert (found.to_list(), found.dtype) == ([MOMENT, None], pl.Datetime("us"))


def test_a_day_is_its_midnight():
    assert series([MOMENT.date()], pa.date32(), "time").to_list() == [datetime.datetime(2024, 2, 29)]


def test_dictionaries_are_text():
    found = as_frame(
        pa.table({"x": pa.array(["a", None, "?"]).dictionary_encode()}), Schema((Column("x", "text"),)), ("?", -1)
    )
    assert found["x"].to_list() == ["a", None, None]


def test_nested_lists_and_bytes_are_flat_rows_even_of_a_slice():
    grid = pa.array([[[i, 1], [2, 3]] for i in range(5)], pa.list_(pa.list_(pa.int16(), 2), 2))
    raw = pa.array([bytes([i, 9]) for i in range(5)])
    fixed = pa.array([bytes([i, 7]) for i in range(5)], pa.binary(2))
    table = pa.table({"grid": grid, "raw": raw, "fixed": fixed}).slice(3)
    schema = Schema((Column("grid", "vector", 4), Column("raw", "bytes", 2), Column("fixed", "bytes", 2)))
    frame = as_frame(table, schema, ())
    assert frame["grid"].to_list() == [[3, 1, 2, 3], [4, 1, 2, 3]]
    assert frame["raw"].to_list() == [[3, 9], [4, 9]]
    assert frame["fixed"].to_list() == [[3, 7], [4, 7]]
    assert frame["raw"].dtype == pl.Array(pl.UInt8, 2)


@pytest.mark.parametrize(
    ("values", "dtype", "null_values", "expected"),
    [
        ([1, 2, 3], pl.Int64, (1.5,), [1, 2, 3]),
        ([1, -999, 3], pl.Int32, (-999.0, 1.5, "?"), [1, None, 3]),
        ([1, 255], pl.UInt8, (-1, 999), [1, 255]),
        ([-99.9, 1.0], pl.Float32, (-99.9,), [None, 1.0]),
        (["?", "-999", "a", None], pl.String, ("?", -999), [None, "-999", "a", None]),
    ],
)
def test_only_values_that_mean_missing_become_missing(values, dtype, null_values, expected):
    assert without(pl.Series("x", values, dtype=dtype), null_values).to_list() == pytest.approx(expected)


# ----------------------------------------------------------------------------------------------------------------------
# Faults


def test_rows_that_cannot_go_on_are_named_with_the_first_reason():
    table = pa.table(
        {
            "x": [1.0, np.inf, np.nan, 2.0, -np.inf, 3.0],
            "image": pa.array([b"ab", b"ab", b"ab", b"abc", None, b"ab"]),
            "v": pa.array(
                [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, None]], pa.list_(pa.float64(), 2)
            ),
            "y": [0.0, 0.0, np.nan, 0.0, 0.0, np.inf],
        }
    )
    schema = Schema((Column("x", "number"), Column("image", "bytes", 2), Column("v", "vector", 2)))
    codes, reasons = faults(table, schema, ["y"])
    assert [reasons[code] for code in codes] == [
        "",
        "'x' is infinite",
        "",
        "'image' has not 2 bytes",
        "'x' is infinite",
        "'v' is missing, has holes or is infinite",
    ]


def test_more_columns_than_a_byte_can_count_may_be_at_fault():
    values = np.where(np.eye(300, dtype=bool), np.inf, 0.0)
    table = pa.table({f"c{i}": values[i] for i in range(300)})
    codes, reasons = faults(table, Schema(tuple(Column(name, "number") for name in table.column_names)), [])
    assert [reasons[code] for code in codes] == [f"'c{i}' is infinite" for i in range(300)]


def test_nested_lists_with_holes_or_infinities_are_found():
    kind = pa.list_(pa.list_(pa.float32(), 1), 2)
    values = [[[1.0], [2.0]], [[1.0], None], None, [[1.0], [np.inf]], [[1.0], [np.nan]]]
    codes, _ = faults(pa.table({"v": pa.array(values, kind)}), Schema((Column("v", "vector", 2),)), [])
    assert (codes > 0).tolist() == [False, True, True, True, True]


# ----------------------------------------------------------------------------------------------------------------------
# The block


def test_columns_lie_side_by_side_in_schema_order_however_many_rows():
    num_rows = 20_000  # more than are laid out at once
    pixels = np.arange(2.0 * num_rows, dtype=np.float32).reshape(-1, 2)
    frame = pl.DataFrame({"p": pl.Series(pixels), "a": np.arange(num_rows), "b": np.ones(num_rows, np.uint8)})
    schema = Schema((Column("a", "number"), Column("p", "vector", 2), Column("b", "missing")))
    found = block(frame, schema)
    assert (found.dtype, found.shape, found.flags.c_contiguous) == (np.float32, (num_rows, 4), True)
    np.testing.assert_array_equal(found, np.column_stack([frame["a"], pixels, frame["b"]]))


def test_pixels_stay_bytes_alone_and_are_shares_of_255_beside_numbers():
    pixels = np.random.default_rng(1).integers(0, 256, (3000, 3)).astype(np.uint8)
    frame = pl.DataFrame({"p": pl.Series(pixels), "a": np.ones(3000)})
    alone, beside = Schema((Column("p", "pixels", 3),)), Schema((Column("p", "pixels", 3), Column("a", "number")))
    assert (alone.dense_bytes, beside.dense_bytes) == (3, 16)
    kept, laid = block(frame, alone), block(frame, beside)
    assert kept.dtype == np.uint8
    np.testing.assert_array_equal(kept, pixels)
    np.testing.assert_array_equal(laid[:, :3], pixels.astype(np.float32) * np.float32(1 / 255))


def test_no_rows_are_an_empty_block():
    assert block(pl.DataFrame({"a": pl.Series([], dtype=pl.Float64)}), Schema((Column("a", "number"),))).shape == (0, 1)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (
            ["a"],
            "text",
            "column 'x' is still text after the steps. Add tokenize, tfidf, one_hot, hashing, parse, drop or auto.",
        ),
        ([MOMENT], "time", "column 'x' is still time after the steps. Add date_parts, drop or auto."),
        ([b"a"], "image", "column 'x' is still image after the steps. Add decode_image or drop."),
        ([1.0, None], "number", "column 'x' has 1 missing values after the steps. Add impute."),
    ],
)
def test_what_is_no_number_is_refused_with_the_cure(values, kind, message):
    with pytest.raises(DataError, match=message):
        block(pl.DataFrame({"x": values}), Schema((Column("x", kind),)))
