"""Read columns that stand in the names of folders, as `region=north/part-0.parquet`, like columns of the file.

Their type follows from all values at once, so it does not depend on the order of files.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from fmray.data.evolve import normal
from fmray.errors import DataError

Pairs = tuple[tuple[str, str | None], ...]
MISSING = frozenset({"__HIVE_DEFAULT_PARTITION__", "null", ""})
_WHOLE = re.compile(r"-?\d{1,18}")
_NUMBER = re.compile(r"-?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?")


def pairs_of(name: str) -> Pairs:
    """Give the columns and values that the folders of a path name, decoded; None stands for a missing value."""
    if "=" not in name:
        return ()
    found = []
    for part in name.split("/")[:-1]:
        column, sign, value = part.partition("=")
        if sign and column:
            found.append((unquote(column), None if value in MISSING else unquote(value)))
    return tuple(found)


def type_of(values: Sequence[str]) -> pa.DataType:
    """Give the narrowest of integer, float, date, time and string that holds all values, none taken for another."""
    if not values:
        return pa.string()
    for pattern, kind in ((_WHOLE, pa.int64()), (_NUMBER, pa.float64()), (_DAY, pa.date32()), (_MOMENT, _MICRO)):
        if all(pattern.fullmatch(value) for value in values):
            try:
                read = pa.array(values, pa.string()).cast(kind)
            except pa.ArrowException:  # the 31st of February
                return pa.string()
            # "01" beside "1" are two values, and would be one number
            return kind if len(pc.unique(read)) == len(set(values)) else pa.string()
    return pa.string()


_MICRO = pa.timestamp("us")


def schemas_with(
    pairs: Sequence[Pairs], names: Sequence[str], schemas: Sequence[pa.Schema], wanted: Mapping[str, pa.DataType]
) -> tuple[list[pa.Schema], list[str]]:
    """Add the columns that folders name to the schema of each file, and say what a person should know of them.

    Where a file holds such a column itself, its type is the file's, and `column_of` compares the values.

    Args:
        pairs: Of each file.
        names: Of each file.
        wanted: Types that are known beforehand.

    Raises:
        DataError: If one path names a column twice.
    """
    if not any(pairs):
        return list(schemas), []
    values: dict[str, dict[str, None]] = {}
    count: dict[str, int] = {}
    for name, found in zip(names, pairs, strict=True):
        columns = [column for column, _ in found]
        if len(set(columns)) < len(columns):
            raise DataError(f"{name}: the folders name one column twice. Rename one of them.", "data.path")
        for column, value in found:
            count[column] = count.get(column, 0) + 1
            held = values.setdefault(column, {})
            if value is not None:
                held[value] = None
    types = {
        column: wanted.get(column) or _type_in_files(column, schemas) or type_of([*held])
        for column, held in values.items()
    }
    memo: dict[tuple[int, tuple[str, ...]], pa.Schema] = {}
    result = []
    for schema in schemas:  # thousands of files share few schemas; each is extended once
        key = (id(schema), tuple(types))
        if key not in memo:
            fields = [pa.field(column, kind) for column, kind in types.items() if column not in schema.names]
            memo[key] = pa.schema([*schema, *fields])
        result.append(memo[key])
    return result, _notes(types, count, len(names))


def _type_in_files(column: str, schemas: Sequence[pa.Schema]) -> pa.DataType | None:
    seen = {id(schema): schema for schema in schemas}
    return next((normal(s.field(column).type) for s in seen.values() if column in s.names), None)


def _notes(types: Mapping[str, pa.DataType], count: Mapping[str, int], num_files: int) -> list[str]:
    shown = ", ".join(f"'{column}' ({kind})" for column, kind in types.items())
    notes = [f"read from the names of folders: {shown}; leave out with data.ignore"]
    for column, number in count.items():
        if number < num_files:
            notes.append(
                f"column '{column}' is missing (null) in {num_files - number} of {num_files} files: no folder names it"
            )
    return notes


def required_everywhere(
    pairs: Sequence[Pairs], names: Sequence[str], schemas: Sequence[pa.Schema], roles: Mapping[str, str]
) -> None:
    """Refuse a column with a part to play that some folders do not name.

    Raises:
        DataError: If there is one; it names a file.
    """
    columns = {column for found in pairs for column, _ in found} & set(roles)
    for column in sorted(columns):
        for name, found, schema in zip(names, pairs, schemas, strict=True):
            if column not in schema.names and column not in dict(found):
                raise DataError(
                    f"{name}: no folder of its path names '{column}', which is {roles[column]}. "
                    f"Move it below '{column}=...', or leave it out of data.path.", "data.path",
                )  # fmt: skip


def with_columns(table: pa.Table, pairs: Pairs, schema: pa.Schema, name: str) -> pa.Table:
    """Add to the rows of a file the columns that its folders name, as far as the schema has them.

    Raises:
        DataError: If the file holds another value than the folder says, or the value has another type.
    """
    for column, value in pairs:
        if column not in schema.names:
            continue
        kind = schema.field(column).type
        try:
            told = pa.scalar(value, pa.string()).cast(kind)
        except pa.ArrowException as error:
            raise DataError(
                f"{name}: folder '{column}={value}' is no {kind}. Rename it, or put '{column}' in data.ignore."
            ) from error
        if column not in table.column_names:
            table = table.append_column(pa.field(column, kind), pa.repeat(told, table.num_rows))
            continue
        held = table.column(column)
        held = held.cast(kind) if held.type != kind else held
        same = pc.is_null(held) if value is None else pc.equal(held, told).fill_null(False)
        if not pc.all(same).as_py():
            other = held.filter(pc.invert(same))[0].as_py()
            raise DataError(
                f"{name}: column '{column}' holds {other!r} in the file, and the folder says {value!r}. "
                "Drop the column from the file, or mend the folder's name."
            )
    return table
