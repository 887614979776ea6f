"""Read files of different ages as one table: widen, unify, fill, or refuse by name.

No value changes on the way: an integer becomes a float only if the float equals it, a time keeps its instant.
"""

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from fmray.errors import DataError

UNITS = ("s", "ms", "us", "ns")
SHOWN = 3


def normal(kind: pa.DataType) -> pa.DataType:
    """Give the one type that stands for all encodings of the same values."""
    if isinstance(kind, pa.BaseExtensionType):
        return normal(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return normal(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(normal(kind.value_type), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(normal(kind.value_type))
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind) and kind.tz:
        return pa.timestamp(kind.unit, "UTC")
    return kind


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Give the type that holds the values of both, None if there is none."""
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
    return _wider_time(one, other)


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


def _wider_time(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = pa.types
    if types.is_date32(one) and types.is_timestamp(other):
        return other
    if types.is_timestamp(one) and types.is_date32(other):
        return one
    if types.is_timestamp(one) and types.is_timestamp(other):
        return pa.timestamp(_finer(one, other), one.tz or other.tz)
    if types.is_duration(one) and types.is_duration(other):
        return pa.duration(_finer(one, other))
    if types.is_time(one) and types.is_time(other):
        unit = _finer(one, other)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    return None


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return max(str(one.unit), str(other.unit), key=UNITS.index)


Schemas = Mapping[pa.Schema, Sequence[str]]


def unify(schemas: Schemas, *, union: bool, required: Mapping[str, str], ignore: Collection[str]) -> pa.Schema:
    """Give the one schema that all files are read as, columns in the order they first appear.

    Args:
        schemas: Schema -> names of the files that have it.
        union: A column that a file lacks is null there.
        required: Column -> key of the job file, for columns that every file must have, union or not.
        ignore: Columns that nobody reads; left out where files disagree about them.

    Raises:
        DataError: If files disagree; it names them.
    """
    columns: dict[str, pa.DataType] = {}
    dropped: set[str] = set()
    for schema, files in schemas.items():
        if repeated := [name for name, count in Counter(schema.names).items() if count > 1]:
            raise DataError(f"{_some(files)}: several columns are called '{repeated[0]}'. Rename them.", "data.path")
        for field in schema:
            kind = wider(columns.get(field.name, field.type), field.type)
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
    for schema, files in schemas.items():
        if name in schema.names:
            holders.setdefault(str(schema.field(name).type), []).extend(files)
    held = " but ".join(f"{kind} in {_some(files)}" for kind, files in holders.items())
    return DataError(f"column '{name}' holds {held}. Convert one of them, or put it in data.ignore.", "data.schema")


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


def evolve(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Read a file's table as the unified schema: cast what is narrower, fill what is absent with nulls.

    Raises:
        pa.ArrowInvalid: If a value does not fit the wider type.
    """
    columns = []
    for field in schema:
        if field.name in table.column_names:
            column = table.column(field.name)
            columns.append(column if column.type == field.type else _cast(column, field))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    # Arrow forgets the number of rows of a table without columns.
    return pa.table(columns, schema=schema) if columns else table.select([])


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise pa.ArrowInvalid(f"column '{field.name}' cannot be read as {field.type}: {error}") from error
