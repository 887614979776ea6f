"""Bring rows as Parquet holds them into the frames that steps change, and name the rows that cannot go on.

Nothing is learned here and nothing is guessed: a value is what the file says, missing where the job says so.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fmray.catalogue import TASKS
from fmray.data.contents import is_bytes, is_list_of_text, refusal
from fmray.data.evolve import UUID
from fmray.data.image import is_image
from fmray.data.scan import Dataset, is_vector, read_item, work_items
from fmray.errors import DataError, SpecError
from fmray.ragged import Arrays, Blocks, Ragged
from fmray.schema import DENSE, PIXEL, Column, Kind, Schema
from fmray.spec.job import Job
from fmray.targets.codec import codec_for

NullValues = Sequence[str | float | int]
BLOCK_ROWS = 8192
SOUND = ""
DECODES = "decode_image"
CURES = {
    "text": "tokenize, tfidf, one_hot, hashing, parse, drop or auto",
    "time": "date_parts, drop or auto",
    "words": "tokenize_words or drop",
    "image": f"{DECODES} or drop",
}
"""What turns columns of a kind that no model reads into numbers, or leaves them out."""


def raw_schema(dataset: Dataset, job: Job) -> Schema:
    """Describe the columns a model may see, as read: without targets, keys, groups, weights and the split column.

    The time column is left out unless a step names it: a model that knows the date extrapolates by it.
    """
    named = {
        name for step in job.prepared_steps for key in ("columns", "beside") for name in _listed(step.params.get(key))
    }
    decoders = [step for step in job.prepared_steps if step.name == DECODES]
    decoded = {name for step in decoders for name in _listed(step.params.get("columns"))}
    data = dataset.data
    hidden = {*data.target, *data.ignore, *data.key, data.group, data.weight, data.references, job.split.column}
    hidden |= {data.time} - named
    if job.task.name in TASKS and codec_for(job.task.name).from_inputs:
        hidden -= set(data.target)
    fields = [field for field in dataset.schema if field.name not in hidden]
    for field in fields:
        if is_list_of_text(field.type) and field.name not in named:
            raise SpecError(
                f"{refusal(field.name, field.type)} Lists of words are read by tokenize_words.", "data.path"
            )
    return Schema(tuple(_column(dataset, field, field.name in decoded) for field in fields))


def _listed(columns: object) -> Collection[str]:
    return [columns] if isinstance(columns, str) else columns if isinstance(columns, list | tuple) else []


def _column(dataset: Dataset, field: pa.Field, decoded: bool) -> Column:
    kind = field.type
    if field.name == "*" or (field.name.startswith("^") and field.name.endswith("$")):
        # Polars takes such a name for a pattern, and would give other columns.
        raise DataError(f"column '{field.name}' is called like a pattern. Rename it, or add it to data.ignore.", "data")
    if decoded and is_bytes(kind):
        return Column(field.name, "image")
    if is_bytes(kind):
        return Column(field.name, "bytes", _num_bytes(dataset, field))
    if is_vector(kind):
        return Column(field.name, "vector", _vector_width(kind))
    return Column(field.name, _plain_kind(field))


def _plain_kind(field: pa.Field) -> Kind:
    kind = field.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_string(kind) or kind == UUID:
        return "text"
    if is_list_of_text(kind):
        return "words"
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        raise DataError(
            f"column '{field.name}' holds {kind}. Put it in data.ignore, or store it as a number.", "data.path"
        )
    return "number"


def _num_bytes(dataset: Dataset, field: pa.Field) -> int:
    if pa.types.is_fixed_size_binary(field.type):
        return int(field.type.byte_width)
    for item in work_items(dataset):
        lengths = pc.binary_length(read_item(dataset, item, [field.name]).column(0)).drop_null()
        if len(lengths):
            width = int(lengths[0].as_py())
            if width and pc.all(pc.equal(lengths, width)).as_py():
                return width
            raise DataError(
                f"column '{field.name}' holds bytes of lengths {pc.min(lengths)} to {pc.max(lengths)}. "
                "Accepted: raw values of one length. Name it in decode_image, or put it in data.ignore.",
                "data.path",
            )
    raise DataError(f"column '{field.name}' holds no bytes at all. Put it in data.ignore.", "data.path")


def _vector_width(kind: pa.DataType) -> int:
    inner = kind.value_type
    return int(kind.list_size) * (_vector_width(inner) if pa.types.is_fixed_size_list(inner) else 1)


def faults(table: pa.Table, schema: Schema, targets: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Name the rows that cannot go on: an infinite number, bytes of another length or no image, a list with holes.

    Shapes:
        returns: (num_rows,) uint16, 0 where nothing is wrong, else a place in the list of reasons; the first is "".
    """
    codes = np.zeros(table.num_rows, np.uint16)
    reasons = [SOUND]
    kinds: list[tuple[str, Kind, int]] = [(c.name, c.kind, c.width) for c in schema.columns]
    for name, kind, width in [*kinds, *((name, "number", 1) for name in targets)]:
        bad, reason = _bad(table.column(name), name, kind, width)
        if bad is not None and bad.any():
            reasons.append(reason)
            codes[bad & (codes == 0)] = len(reasons) - 1
    return codes, reasons


def _bad(column: pa.ChunkedArray, name: str, kind: str, width: int) -> tuple[np.ndarray | None, str]:
    if kind == "number" and pa.types.is_floating(column.type):
        infinite = pc.is_inf(column)
        if pc.any(infinite).as_py():
            return infinite.fill_null(False).to_numpy(), f"'{name}' is infinite"
    if kind == "bytes":
        right = pc.equal(pc.binary_length(column), width).fill_null(False)
        return ~right.to_numpy(), f"'{name}' has not {width} bytes"
    if kind == "image":
        broken = (not is_image(value) for value in column.to_pylist())
        return np.fromiter(broken, bool, len(column)), f"'{name}' is no image that can be decoded"
    if kind == "vector":
        holes = np.zeros(len(column), bool)
        start = 0
        for chunk in column.chunks:
            holes[start : start + len(chunk)] = _with_holes(chunk)
            start += len(chunk)
        return holes, f"'{name}' is missing, has holes or is infinite"
    return None, SOUND


def _with_holes(array: pa.Array) -> np.ndarray:
    missing = array.is_null().to_numpy(zero_copy_only=False)
    size = array.type.list_size
    values = array.values.slice(array.offset * size, len(array) * size)
    if pa.types.is_fixed_size_list(values.type):
        return np.asarray(missing | _with_holes(values).reshape(-1, size).any(1))
    if values.null_count:
        missing |= values.is_null().to_numpy(zero_copy_only=False).reshape(-1, size).any(1)
    if pa.types.is_floating(values.type):
        missing |= ~np.isfinite(values.to_numpy(zero_copy_only=False)).reshape(-1, size).all(1)
    return np.asarray(missing)


def as_frame(table: pa.Table, schema: Schema, null_values: NullValues) -> pl.DataFrame:
    """Give sound rows as a frame: one column per schema column, missing values as null.

    Raises:
        DataError: If a column of bytes holds another length.
    """
    held = dict(zip(table.column_names, table.columns, strict=True))
    # By name: polars would give an unnamed series in a list a name of its own.
    frame = pl.DataFrame({c.name: _series(held[c.name], c, null_values) for c in schema.columns})
    floats = [series.name for series in frame.get_columns() if series.dtype.is_float() and _may_hold_nan(series)]
    return frame.with_columns(pl.col(floats).fill_nan(None)) if floats else frame


def _may_hold_nan(values: pl.Series) -> bool:
    """Tell whether a pass that takes NaN for missing is needed at all; it takes longer than this."""
    return bool(len(values)) and math.isnan(values.to_numpy().min())


def _series(values: pa.ChunkedArray, column: Column, null_values: NullValues) -> pl.Series:
    if column.kind in ("bytes", "vector"):
        return pl.Series(column.name, _matrix(values, column), dtype=_array_type(values, column))
    if column.kind == "image":
        return pl.Series(column.name, values.cast(pa.large_binary()))
    series = pl.Series(column.name, plain(values))
    if column.kind == "words":
        return series
    if column.kind == "time":
        return (
            series.dt.replace_time_zone(None).cast(pl.Datetime("us"))
            if series.dtype == pl.Datetime
            else series.cast(pl.Datetime("us"))
        )
    if series.dtype == pl.Boolean:
        series = series.cast(pl.UInt8)
    return without(series, null_values)


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column as a type that frames know: decimals as floats, UUIDs as text."""
    if pa.types.is_decimal(values.type):
        return values.cast(pa.float64())
    if pa.types.is_dictionary(values.type):
        return plain(values.cast(values.type.value_type))
    if values.type == UUID:
        return pa.chunked_array([_spelled_uuids(chunk.storage) for chunk in values.chunks], pa.string())
    return values


def _spelled_uuids(array: pa.Array) -> pa.Array:
    """Spell 16 bytes as 8-4-4-4-12 hexadecimal digits."""
    bytes_of = array.fill_null(bytes(16)) if array.null_count else array
    digits = pa.py_buffer(b"".join(bytes_of.to_numpy(zero_copy_only=False).tolist()).hex().encode())
    text = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(array), [None, digits])
    text = text.cast(pa.binary()).cast(pa.string())
    parts = [pc.utf8_slice_codeunits(text, start, stop) for start, stop in itertools.pairwise((0, 8, 12, 16, 20, 32))]
    spelled = pc.binary_join_element_wise(*parts, "-")
    return pc.if_else(array.is_valid(), spelled, None) if array.null_count else spelled


def without(series: pl.Series, null_values: NullValues) -> pl.Series:
    """Give the series with the values that mean "missing" as nulls."""
    if series.dtype == pl.String:
        missing: list[Any] = [value for value in null_values if isinstance(value, str)]
    else:
        missing = [value for value in null_values if not isinstance(value, str)]
        if series.dtype.is_integer():  # 1.5 would otherwise be cut to 1
            missing = [int(value) for value in missing if float(value).is_integer()]
    if not missing:
        return series
    codes = pl.Series(missing, dtype=series.dtype if series.dtype == pl.String else None)
    mask = series.is_in(codes.cast(series.dtype, strict=False).implode())
    return (
        series.to_frame()
        .select(pl.when(pl.lit(mask)).then(None).otherwise(pl.col(series.name)).alias(series.name))
        .to_series()
    )


def _matrix(values: pa.ChunkedArray, column: Column) -> np.ndarray:
    parts = [_flat(chunk, column) for chunk in values.chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.zeros((0, column.width), np.uint8)


def _array_type(values: pa.ChunkedArray, column: Column) -> pl.Array:
    inner = values.type
    while pa.types.is_fixed_size_list(inner):
        inner = inner.value_type
    number = pl.UInt8 if column.kind == "bytes" else pl.Series(pa.array([], inner)).dtype
    return pl.Array(number, column.width)


def _flat(array: pa.Array, column: Column) -> np.ndarray:
    if column.kind == "vector":
        values = array
        while pa.types.is_fixed_size_list(values.type):
            size = values.type.list_size
            values = values.values.slice(values.offset * size, len(values) * size)
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(-1, column.width)
    if not pa.types.is_fixed_size_binary(array.type):
        lengths = pc.binary_length(array)
        if array.null_count or not pc.all(pc.equal(lengths, column.width)).as_py():
            raise DataError(f"column '{column.name}' has values that are not {column.width} bytes long.", "data.path")
        first = int(np.frombuffer(array.buffers()[1], np.int32)[array.offset])
    else:
        first = array.offset * column.width
    data = np.frombuffer(array.buffers()[-1], np.uint8)[first : first + len(array) * column.width]
    return data.reshape(-1, column.width)


def blocks(frame: pl.DataFrame, schema: Schema) -> Blocks:
    """Give the inputs of prepared rows: what the lanes hold of them.

    Raises:
        DataError: If a column is still text or time, or has missing values.
    """
    arrays: Arrays = {}
    found = schema.blocks
    if DENSE in found or not found:
        arrays[DENSE] = block(frame, schema)
    for ragged in found.values():
        if ragged.is_ragged:
            arrays |= dict(zip(ragged.lane_columns, _ragged(frame[ragged.columns[0]]), strict=True))
    return Blocks(arrays)


def _ragged(series: pl.Series) -> list[Ragged]:
    """Give the ids of a column of lists, and where there are any their weights."""
    _refuse_nulls(series)
    column = series.rechunk().to_arrow()
    offsets = np.asarray(column.offsets.to_numpy())
    first = int(offsets[0])
    fields = [column.flatten()]
    if pa.types.is_struct(column.type.value_type):
        fields = fields[0].flatten()
    return [Ragged(np.asarray(values.to_numpy()), offsets[:-1] - first, np.diff(offsets)) for values in fields]


def _refuse_nulls(series: pl.Series) -> None:
    if series.null_count():
        raise DataError(
            f"column '{series.name}' has {series.null_count()} missing values after the steps. Add impute.", "steps"
        )


def block(frame: pl.DataFrame, schema: Schema) -> np.ndarray:
    """Lay the columns of the block `x` side by side, in schema order.

    Shapes:
        returns: (num_rows, schema.width), float32, or uint8 where all columns hold pixels.

    Raises:
        DataError: If a column is still text or time, or has missing values.
    """
    columns: list[np.ndarray] = []
    keeps_bytes = schema.keeps_bytes
    made = dict(zip(frame.columns, frame.get_columns(), strict=True))
    for column in schema.dense:
        if column.kind in CURES:
            text = f"column '{column.name}' is still {column.kind} after the steps. Add {CURES[column.kind]}."
            raise DataError(text, "steps")
        series = made[column.name]
        _refuse_nulls(series)
        values = series.to_numpy().reshape(len(series), column.width)
        if column.kind == "pixels" and not keeps_bytes:
            values = values.astype(np.float32) * np.float32(PIXEL)
        columns.append(values)
    result = np.empty((frame.height, schema.width), np.uint8 if keeps_bytes else np.float32)
    for start in range(0, frame.height, BLOCK_ROWS):  # so that what is written stays in the core's own cache
        rows = slice(start, start + BLOCK_ROWS)
        left = 0
        for values in columns:
            result[rows, left : left + values.shape[1]] = values[rows]
            left += values.shape[1]
    return result
