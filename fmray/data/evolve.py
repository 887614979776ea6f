"""Read files of different ages as one table: widen, unify, fill, or refuse by name.

No value changes on the way: an integer becomes a float only if the float equals it, a time keeps its instant, bytes
become text only if they are valid UTF-8. `docs/types.md` lists what every type is read as.
"""

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fmray.errors import DataError
from fmray.printable import in_yaml

UNITS = ("s", "ms", "us", "ns")
SHOWN = 3


UUID = pa.uuid()


def normal(kind: pa.DataType, time_zone: str | None = None) -> pa.DataType:
    """Give the one type that stands for all encodings of the same values.

    Args:
        time_zone: Zone of times that carry none, `data.time_zone`; they are then instants, as those with a zone are.
    """
    if kind == UUID:
        return kind  # its storage, 16 bytes, would be taken for numbers
    if isinstance(kind, pa.BaseExtensionType):
        return normal(kind.storage_type, time_zone)
    if pa.types.is_dictionary(kind):
        return normal(kind.value_type, time_zone)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(normal(kind.value_type, time_zone), kind.list_size)
    if is_list(kind):
        inner = kind.value_type
        if pa.types.is_struct(inner):  # spans; other structs are left as they are, for they name a data set too
            return pa.list_(pa.struct([(field.name, normal(field.type, time_zone)) for field in inner]))
        return pa.list_(normal(inner, time_zone))
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind) and (kind.tz or time_zone):
        return pa.timestamp(kind.unit, "UTC")
    return kind


def is_list(kind: pa.DataType) -> bool:
    """Tell lists whose rows may differ in length."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view)
    return any(fits(kind) for fits in tests)


def wider(one: pa.DataType, other: pa.DataType, time_zone: str | None = None) -> pa.DataType | None:
    """Give the type that holds the values of both, None if there is none.

    Args:
        time_zone: As in `normal`; with it a date may stand beside instants.
    """
    types = pa.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_integer(one) and types.is_integer(other):
        return _wider_integer(one, other)
    if _is_number(one) and _is_number(other):
        both = {one, other}
        return pa.float32() if both == {pa.float16(), pa.float32()} else pa.float64()
    if types.is_fixed_size_list(one) and types.is_fixed_size_list(other) and one.list_size == other.list_size:
        inner = wider(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner, one.list_size)
    if types.is_list(one) and types.is_list(other):
        inner = wider(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if types.is_struct(one) and types.is_struct(other) and _names(one) == _names(other):
        fields = [(a.name, wider(a.type, b.type, time_zone)) for a, b in zip(one, other, strict=True)]
        return None if any(kind is None for _, kind in fields) else pa.struct(fields)
    if _is_list(one) and _is_list(other) and types.is_list(one) != types.is_list(other):
        inner = wider(one.value_type, other.value_type)  # reading refuses rows of another length
        fixed = other if types.is_list(one) else one
        return None if inner is None else pa.list_(inner, fixed.list_size)
    return _wider_bytes(one, other) or _wider_time(one, other, time_zone)


def _names(kind: pa.StructType) -> list[str]:
    return [field.name for field in kind]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _wider_bytes(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Some writers do not say that bytes are text: beside text they are, or reading refuses them."""
    binary = [pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) for kind in (one, other)]
    if all(binary):
        return pa.binary()
    if any(binary) and pa.string() in (one, other):
        return pa.string()
    return None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _wider_integer(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    signed = pa.types.is_signed_integer(one), pa.types.is_signed_integer(other)
    if signed[0] == signed[1]:
        return max(one, other, key=lambda kind: kind.bit_width)
    unsigned, plain = (other, one) if signed[0] else (one, other)
    # uint64 beside a signed type is read as int64, and a value beyond it is an error at reading.
    bits = min(64, max(plain.bit_width, 2 * unsigned.bit_width))
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[bits]


def _wider_time(one: pa.DataType, other: pa.DataType, time_zone: str | None) -> pa.DataType | None:
    types = pa.types
    # A time without a zone, and so a date, is no instant: beside instants only `data.time_zone` can make it one.
    if types.is_date32(one) and types.is_timestamp(other):
        return other if time_zone or not other.tz else None
    if types.is_timestamp(one) and types.is_date32(other):
        return one if time_zone or not one.tz else None
    if types.is_timestamp(one) and types.is_timestamp(other):
        return pa.timestamp(_finer(one, other), one.tz) if bool(one.tz) == bool(other.tz) else None
    if types.is_duration(one) and types.is_duration(other):
        return pa.duration(_finer(one, other))
    if types.is_time(one) and types.is_time(other):
        unit = _finer(one, other)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    return None


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return max(str(one.unit), str(other.unit), key=UNITS.index)


Schemas = Mapping[pa.Schema, Sequence[str]]


def unify(
    schemas: Schemas,
    *,
    union: bool,
    required: Mapping[str, str],
    ignore: Collection[str],
    time_zone: str | None = None,
) -> pa.Schema:
    """Give the one schema that all files are read as, columns in the order they first appear.

    Args:
        schemas: Schema -> names of the files that have it.
        union: A column that a file lacks is null there.
        required: Column -> key of the job file, for columns that every file must have, union or not.
        ignore: Columns that nobody reads; left out where files disagree about them.
        time_zone: As in `normal`.

    Raises:
        DataError: If files disagree; it names them.
    """
    columns: dict[str, pa.DataType] = {}
    dropped: set[str] = set()
    for schema, files in schemas.items():
        if repeated := [name for name, count in Counter(schema.names).items() if count > 1]:
            raise DataError(f"{_some(files)}: several columns are called '{repeated[0]}'. Rename them.", "data.path")
        for field in schema:
            kind = wider(columns.get(field.name, field.type), field.type, time_zone)
            if kind is None and field.name in ignore:
                dropped.add(field.name)
            elif kind is None:
                raise _conflict(field.name, schemas)
            else:
                columns[field.name] = kind
    everywhere = set.intersection(*(set(schema.names) for schema in schemas))
    for name in columns:
        if name not in everywhere and name not in ignore and (not union or name in required):
            raise _absence(name, schemas, everywhere, required.get(name))
    return pa.schema([(name, kind) for name, kind in columns.items() if name not in dropped])


def _conflict(name: str, schemas: Schemas) -> DataError:
    holders: dict[str, list[str]] = {}
    kinds = []
    for schema, files in schemas.items():
        if name in schema.names:
            kind = schema.field(name).type
            holders.setdefault(str(kind), []).extend(files)
            kinds.append(kind)
    held = " but ".join(f"{kind} in {_some(files)}" for kind, files in holders.items())
    cure = "Convert one of them, or put it in data.ignore."
    if all(pa.types.is_timestamp(kind) or pa.types.is_date(kind) for kind in kinds):
        cure = (
            "Times without a zone are no instants beside those with one. Say data.time_zone, the zone of those without "
            "(e.g. Asia/Tokyo or UTC), or put it in data.ignore."
        )
    return DataError(f"column '{name}' holds {held}. {cure}", "data.schema")


def _absence(name: str, schemas: Schemas, everywhere: Collection[str], role: str | None) -> DataError:
    lacking = {file: schema.names for schema, files in schemas.items() if name not in schema.names for file in files}
    shown = [f"{file}{_renamed(name, set(names) - set(everywhere))}" for file, names in sorted(lacking.items())[:SHOWN]]
    more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
    cure = (
        f"It is {role}, so every file needs it: rename it there, or leave those files out of data.path."
        if role
        else "Rename it there, or set data.schema: union to read it as null."
    )
    count = f"{len(lacking)} of {sum(map(len, schemas.values()))} files"
    return DataError(f"column '{name}' is missing from {count}: {', '.join(shown)}{more}. {cure}", "data.schema")


def _renamed(name: str, candidates: Iterable[str]) -> str:
    """Point at a column that other files lack and whose name is alike."""
    folded = {other.casefold(): other for other in sorted(candidates)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f" (which has '{folded[close[0]]}')" if close else ""


def _some(files: Iterable[str]) -> str:
    names = sorted(files)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def evolve(table: pa.Table, schema: pa.Schema, time_zone: str | None = None) -> pa.Table:
    """Read a file's table as the unified schema: cast what is narrower, fill what is absent with nulls.

    Args:
        time_zone: Zone of times that carry none, where the schema holds instants; UTC if unsaid.

    Raises:
        pa.ArrowInvalid: If a value does not fit the wider type.
    """
    columns = []
    there = dict(zip(table.column_names, table.columns, strict=True))
    for field in schema:
        if field.name in there:
            column = there[field.name]
            columns.append(column if column.type == field.type else _cast(column, field, time_zone))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    # Arrow forgets the number of rows of a table without columns.
    return pa.table(columns, schema=schema) if columns else table.select([])


def _cast(column: pa.ChunkedArray, field: pa.Field, time_zone: str | None) -> pa.ChunkedArray:
    try:
        return convert(column, field.type, time_zone)
    except pa.ArrowException as error:
        if pa.types.is_string(field.type) and "UTF8" in str(error):
            text = (
                f"column '{field.name}' holds bytes here that are no UTF-8, and text elsewhere. Mend them, say "
                f"data.read_as: {{{in_yaml(field.name)}: bytes}} if they are no text, or put it in data.ignore"
            )
            raise pa.ArrowInvalid(text) from error
        raise pa.ArrowInvalid(f"column '{field.name}' cannot be read as {field.type}: {error}") from error


def convert(column: pa.ChunkedArray, kind: pa.DataType, time_zone: str | None = None) -> pa.ChunkedArray:
    """Give a column as another type that holds the same values.

    Raises:
        pa.ArrowInvalid: If it does not hold one of them.
    """
    if isinstance(column.type, pa.BaseExtensionType) and column.type != kind:
        stored = [chunk.storage for chunk in column.chunks]
        return convert(pa.chunked_array(stored, column.type.storage_type), kind, time_zone)
    if pa.types.is_dictionary(column.type) and column.type != kind:
        return convert(column.cast(column.type.value_type), kind, time_zone)
    if pa.types.is_fixed_size_list(kind) and column.type != kind:
        return pa.chunked_array([_of_one_length(chunk, kind) for chunk in column.chunks], kind)
    if pa.types.is_fixed_size_binary(column.type) and pa.types.is_string(kind):
        column = column.cast(pa.binary())
    if pa.types.is_string(kind) and pa.types.is_binary_view(column.type):
        column = column.cast(pa.binary())
    if pa.types.is_timestamp(kind) and kind.tz:
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s"))
        if pa.types.is_timestamp(column.type) and not column.type.tz:
            # Where clocks are put back an hour comes twice, the first is meant; where they go forward one never was.
            column = pc.assume_timezone(column, time_zone or "UTC", ambiguous="earliest", nonexistent="earliest")
    return column if column.type == kind else column.cast(kind)


def _of_one_length(array: pa.Array, kind: pa.FixedSizeListType) -> pa.Array:
    """Give lists as lists of one length; a missing list stays missing.

    Raises:
        pa.ArrowInvalid: If one has another length.
    """
    size = kind.list_size
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if not pa.types.is_fixed_size_list(array.type) and not pa.types.is_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(array).drop_null()
    if len(lengths) and not pc.all(pc.equal(lengths, size)).as_py():
        shown = f"{pc.min(lengths)} to {pc.max(lengths)}"
        raise pa.ArrowInvalid(f"it holds lists of {shown} values here, and {size} elsewhere")
    values = array.flatten()  # of the lists that are there
    if not valid.all():
        places = np.repeat(np.cumsum(valid) - 1, size) * size + np.tile(np.arange(size), len(array))
        values = values.take(pa.array(places, mask=np.repeat(~valid, size)))
    if pa.types.is_fixed_size_list(kind.value_type):
        values = _of_one_length(values, kind.value_type)
    elif values.type != kind.value_type:
        values = values.cast(kind.value_type)
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=None if valid.all() else pa.array(~valid))
