"""Turn values into text that is the same wherever it is written: JSON for records, fingerprints for reuse.

JSON on disk is strict. It has no NaN, so NaN and the infinities are the strings "NaN", "Infinity", "-Infinity", and a
real string that reads like one gets a backslash in front. `read_text(write_text(value))` gives the value back.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from fmray.errors import DataError, SpecError

Plain = dict[str, Any] | list[Any] | str | int | float | bool | None
"""What JSON holds."""

MOST_DEPTH = 100
"""How deep JSON may be nested; records of fmray are nested some ten deep."""


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_SPECIAL = re.compile(r"\\*(NaN|-?Infinity)")
_ENDS = ("NaN", "Infinity")
_PLAIN = frozenset({str, int, float, bool, type(None)})
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_plain(value: object, where: str = "value") -> Plain:
    """Give dictionaries, lists, strings, numbers and None for anything that fmray keeps in records.

    Raises:
        DataError: If a value has no JSON form, or a key is not a string.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float) or type(value) is str:
        return value
    if isinstance(value, Enum):
        return to_plain(value.value, where)
    if isinstance(value, Mapping):
        if odd := next((key for key in value if not isinstance(key, str)), None):
            raise DataError(f"{where}: key {odd!r} is not text. JSON keys are.")
        return {
            str(key): item if type(item) in _PLAIN else to_plain(item, f"{where}.{key}") for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [item if type(item) in _PLAIN else to_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist(), where)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name), f"{where}.{field.name}") for field in fields(value)}
    if isinstance(value, str | PurePath):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise DataError(f"{where}: {value!r} is a {type(value).__name__}. JSON holds text, numbers, lists and tables.")


def write_text(value: object, *, indent: int | None = None) -> str:
    """Give a plain value as strict JSON, keys sorted unless indented for people."""
    compact = (",", ":") if indent is None else None
    return json.dumps(
        _escape(value), indent=indent, separators=compact, sort_keys=indent is None, ensure_ascii=False, allow_nan=False
    )


def write_visible(value: object, *, indent: int | None = None) -> str:
    """Give a plain value as JSON in which no invisible character stands as itself, safe to show and to encode."""
    lines = write_text(value, indent=indent).split("\n")
    return "\n".join(line if line.isprintable() else _visible(line) for line in lines)


def _visible(line: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def read_text(text: str | bytes) -> Any:
    """Read back what `write_text` gave.

    Raises:
        ValueError: If it is not strict JSON, or nested without end.
    """
    try:
        return _unescape(_DECODER.decode(text if isinstance(text, str) else text.decode()))
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from error


def checksum(value: object) -> str:
    """Give the digest that protects a plain value on disk."""
    return hashlib.blake2b(write_text(value).encode(), digest_size=16).hexdigest()


def fingerprint(*parts: object) -> str:
    """Name values by content: 32 hex digits, equal in every process for equal values.

    Dataclasses count by class name and compared fields, tuples as lists, floats by `repr`; keys in any order.

    Raises:
        SpecError: If a value has no content to go by, such as a function.

    Source: BLAKE2b (RFC 7693) over canonical text.
    """
    text = ",".join(_canonical(part, f"part {i}") for i, part in enumerate(parts))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _canonical(value: object, where: str) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case Enum():
            return f"{type(value).__name__}:{_canonical(value.value, where)}"
        case None | bool() | int():
            return json.dumps(value)
        case float():
            return repr(value)
        case str():
            return json.dumps(str(value))
        case bytes():
            return f"bytes:{value.hex()}"
        case Mapping():
            pairs = sorted((_canonical(key, where), _canonical(item, f"{where}.{key}")) for key, item in value.items())
            return "{" + ",".join(f"{key}:{item}" for key, item in pairs) + "}"
        case list() | tuple():
            return "[" + ",".join(_canonical(item, f"{where}[{i}]") for i, item in enumerate(value)) + "]"
        case set() | frozenset():
            return "set[" + ",".join(sorted(_canonical(item, where) for item in value)) + "]"
        case np.ndarray():
            return f"array:{value.dtype.str}{value.shape}{_canonical(value.tolist(), where)}"
        case PurePath():
            return f"path:{json.dumps(value.as_posix())}"
        case date() | timedelta() | Decimal():
            return f"{type(value).__name__}:{value}"
    if is_dataclass(value) and not isinstance(value, type):
        compared = {field.name: getattr(value, field.name) for field in fields(value) if field.compare}
        return f"{type(value).__name__}{_canonical(compared, where)}"
    raise SpecError(f"{where} is {value!r}, a {type(value).__name__}. Give plain values or dataclasses.", "fingerprint")


def _escape(value: object) -> object:
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, str) and value.endswith(_ENDS) and _SPECIAL.fullmatch(value):
        return f"\\{value}"
    return value


def _unescape(value: object, depth: int = 0) -> object:
    if depth > MOST_DEPTH:  # what walks values later, with several frames for each level, must not run out of them
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
    if isinstance(value, dict):
        return {key: _unescape(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescape(item, depth + 1) for item in value]
    if isinstance(value, str) and value.endswith(_ENDS) and _SPECIAL.fullmatch(value):
        return _NUMBERS.get(value, value[1:])
    return value
