"""Decide what columns hold where their type leaves it open: bytes that are text, lists of one length.

The first rows of the first files are looked at, the same ones in `check` and in `run`; a model keeps what was decided.
A later row that does not fit is an error or set aside, never read as something else.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from fmray.errors import SpecError
from fmray.printable import in_yaml
from fmray.spec.sections import Data

STORED = b"fmray.stored_as"
"""Key of a field's metadata: the type that the files hold, where the column is read as another."""
NOTED_UUID = b"uuid"
NO_TEXT = r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]"
"""Control characters that no text holds, but numbers written as bytes do; a tab, a line break or an escape may be."""
SHOWN = 5
Rows = Callable[[Sequence[str]], pa.Table]


def settle(schema: pa.Schema, data: Data, roles: Mapping[str, str], first: Rows) -> tuple[pa.Schema, tuple[str, ...]]:
    """Give the types that columns are read as, and in words what was decided.

    Args:
        roles: Column -> key of the job file that gives it a part to play.
        first: Gives the first rows, as the schema says.

    Raises:
        SpecError: If lists have several lengths or hold no numbers, or a target is neither number nor text.
    """
    fields = [field for field in schema if field.name not in data.ignore]
    bytes_of = [field.name for field in fields if is_bytes(field.type) and field.name not in data.read_as]
    lists_of = [field.name for field in fields if pa.types.is_list(field.type) and field.name not in data.target]
    lists_of = [name for name in lists_of if not is_list_of_text(schema.field(name).type)]
    rows = first([*bytes_of, *lists_of]) if bytes_of or lists_of else None
    kinds: dict[str, pa.DataType] = {
        name: pa.string() for name, kind in data.read_as.items() if kind == "text" and name not in data.ignore
    }
    notes = []
    if rows is not None:
        bytes_of.sort(key=roles.__contains__)  # features first
        if found := [name for name in bytes_of if is_text(rows.column(name))]:
            kinds |= dict.fromkeys(found, pa.string())
            notes.append(
                f"bytes of {_named(found)} are valid UTF-8 and read as text; data.read_as: "
                f"{{{in_yaml(found[0])}: bytes}} says otherwise"
            )
        kinds |= {name: _vector(rows.column(name), schema.field(name)) for name in lists_of}
        notes += [
            f"lists of '{name}' have {kinds[name].list_size} numbers each and are read as one vector"
            for name in lists_of
        ]
    settled = pa.schema([_read_as(field, kinds.get(field.name, field.type)) for field in schema])
    _refuse_bytes(settled, data, roles)
    return settled, tuple(notes)


def _named(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - SHOWN} more columns" if len(columns) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in columns[:SHOWN]) + more


def is_bytes(kind: pa.DataType) -> bool:
    """Tell columns of bytes, of one length or not."""
    return bool(pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _read_as(field: pa.Field, kind: pa.DataType) -> pa.Field:
    if kind == field.type:
        return field
    return pa.field(field.name, kind, metadata={STORED: b"binary"} if is_bytes(field.type) else None)


def stored_as(field: pa.Field) -> pa.DataType:
    """Give the type of a column's values in the files it was read from."""
    return pa.binary() if _note(field) == b"binary" else field.type


def without_extensions(fields: Iterable[pa.Field]) -> pa.Schema:
    """Give columns as types of Arrow's own, so that a schema is read without the libraries of extension types.

    Only UUIDs keep a type that is an extension; they are noted in the field's metadata, and everything else there goes.
    """
    return pa.schema([_without_extension(field) for field in fields])


def with_extensions(schema: pa.Schema) -> pa.Schema:
    """Give back the columns that `without_extensions` was given."""
    return pa.schema([pa.field(f.name, pa.uuid()) if _note(f) == NOTED_UUID else f for f in schema])


def _without_extension(field: pa.Field) -> pa.Field:
    if field.type.equals(pa.uuid()):
        return pa.field(field.name, pa.binary(16), metadata={STORED: NOTED_UUID})
    note = _note(field)
    return pa.field(field.name, field.type, metadata=None if note is None else {STORED: note})


def _note(field: pa.Field) -> bytes | None:
    return (field.metadata or {}).get(STORED)


def is_text(column: pa.ChunkedArray) -> bool:
    """Tell whether all bytes are valid UTF-8 without control characters; with no bytes at all, they are not."""
    known = column.drop_null()
    if not len(known):
        return False
    try:
        text = known.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return not pc.any(pc.match_substring_regex(text, NO_TEXT)).as_py()


def _vector(column: pa.ChunkedArray, field: pa.Field) -> pa.DataType:
    """Give the type of lists of one length.

    Raises:
        SpecError: If the lists have several, or none is there.
    """
    kind = field.type
    if not holds_numbers(kind):
        raise SpecError(refusal(field.name, kind), "data.path")
    lengths = sorted(length for length in pc.unique(pc.list_value_length(column)).to_pylist() if length is not None)
    if len(lengths) != 1 or lengths == [0]:
        shown = ", ".join(map(str, lengths[:SHOWN])) + (f" ... {lengths[-1]}" if len(lengths) > SHOWN else "")
        held = f"lists of {len(lengths)} lengths ({shown})" if len(lengths) > 1 else "no list with a value"
        text = f"column '{field.name}' holds {held} in the first rows. Accepted: lists of numbers of one length; "
        raise SpecError(f"{text}sequences cannot be learned from yet. Add it to data.ignore.", "data.path")
    inner = kind.value_type
    if pa.types.is_list(inner):
        values = pa.chunked_array([chunk.flatten() for chunk in column.chunks], inner)
        inner = _vector(values, pa.field(field.name, inner))
    return pa.list_(inner, lengths[0])


def holds_numbers(kind: pa.DataType) -> bool:
    """Tell lists of numbers, or of such lists."""
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return holds_numbers(kind.value_type)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_list_of_text(kind: pa.DataType) -> bool:
    """Tell lists of text of any length, as of words that were split before."""
    return bool(pa.types.is_list(kind)) and bool(pa.types.is_string(kind.value_type))


def refusal(name: str, kind: pa.DataType) -> str:
    """Say why a nested column cannot be read."""
    return f"column '{name}' holds {kind}. Accepted: lists of numbers of one length. Add it to data.ignore."


def _refuse_bytes(schema: pa.Schema, data: Data, roles: Mapping[str, str]) -> None:
    for name in data.target:
        if is_bytes(schema.field(name).type):
            text = (
                f"column '{name}' holds bytes that are no UTF-8 text. Accepted: numbers, text, dates, true and false."
            )
            raise SpecError(text, roles[name])
