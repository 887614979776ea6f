"""Write what work items say as text, and read back exactly the same: types, order and every bit of a number.

It holds plain values and arrays only, so that reading it, from a store that others write to, runs nothing.
"""

import base64
import json
from typing import Any

import numpy as np

from fmray.store.plain import read_text, write_text

PLAIN = frozenset({str, int, float, bool, type(None)})


def to_text(value: object) -> str:
    """Give a value as text.

    Raises:
        TypeError: If it holds anything but numbers, text, bytes, arrays of numbers, lists, tuples, sets and mappings.
    """
    return write_text(_marked(value))


def from_text(text: str | bytes) -> Any:
    """Read back what `to_text` gave.

    Raises:
        ValueError: If it is not what was written.
    """
    try:
        return _unmarked(read_text(text))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"this is not what was written: {error}") from error


def _marked(value: Any) -> Any:
    """Give JSON that says of everything but plain values what it is: [kind, content]."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is dict:
        return ["dict", [[_marked(key), _marked(item)] for key, item in value.items()]]
    if kind is list or kind is tuple:
        return [kind.__name__, list(value) if PLAIN.issuperset(map(type, value)) else [_marked(item) for item in value]]
    if kind is frozenset:
        return ["frozenset", sorted((_marked(item) for item in value), key=json.dumps)]
    if kind is bytes:
        return ["bytes", value.hex()]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        held = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return ["array" if isinstance(value, np.ndarray) else "number", [value.dtype.str, list(value.shape), held]]
    raise TypeError(f"{value!r} is a {kind.__name__}, which is not kept as text")


def _unmarked(value: Any) -> Any:
    if type(value) is not list:
        return value
    kind, content = value
    match kind:
        case "dict":
            return {_unmarked(key): _unmarked(item) for key, item in content}
        case "list":
            return [_unmarked(item) for item in content]
        case "tuple" | "frozenset":
            return (tuple if kind == "tuple" else frozenset)(_unmarked(item) for item in content)
        case "bytes":
            return bytes.fromhex(content)
        case "array" | "number":
            dtype, shape, held = content
            read = np.frombuffer(base64.b64decode(held), dtype).reshape(shape)
            return read.copy() if kind == "array" else read[()]
    raise ValueError(f"{kind!r} is no kind of value")
