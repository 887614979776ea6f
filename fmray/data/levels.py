"""Name the levels of columns that results are sliced by, and number them alike in every work item."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fmray.errors import DataError

MOST_LEVELS = 256
MISSING = "<missing>"

Levels = dict[str, tuple[bool, float, str]]
"""Name of a level -> what it is sorted by: missing last, numbers by value, text by spelling."""


def levels_of(column: pa.ChunkedArray, name: str, null_values: Sequence[str | float | int]) -> Levels:
    """Give the levels of a column.

    Raises:
        DataError: If there are too many to be scored one by one.
    """
    values = [_known(value, null_values) for value in pc.unique(column).to_pylist()]
    return _few({_spell(value): _rank(value) for value in values}, name)


def merge_levels(parts: Iterable[Mapping[str, Levels]], columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Give the levels of each column over all work items, in order.

    Raises:
        DataError: If there are too many.
    """
    every: dict[str, Levels] = {name: {} for name in columns}
    for part in parts:
        for name in columns:
            every[name] = _few(every[name] | part[name], name)
    return {name: tuple(sorted(levels, key=lambda level: levels[level])) for name, levels in every.items()}


def encode_levels(
    column: pa.ChunkedArray, levels: Sequence[str], null_values: Sequence[str | float | int]
) -> np.ndarray:
    """Give each row the number of its level.

    Shapes:
        returns: (num_rows,), int32.
    """
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    number = {name: place for place, name in enumerate(levels)}
    codes = [number[_spell(_known(value, null_values))] for value in encoded.dictionary.to_pylist()]
    rows: np.ndarray = np.array(codes, np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]
    return rows


def _known(value: object, null_values: Sequence[str | float | int]) -> object:
    """Give None for whatever means "missing"."""
    alike = [null for null in null_values if isinstance(null, str) == isinstance(value, str)]
    return None if value != value or value in alike else value


def _spell(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return MISSING if value is None else str(value)


def _rank(value: object) -> tuple[bool, float, str]:
    number = float(value) if isinstance(value, bool | int | float) else 0.0
    return value is None, number, _spell(value)


def _few(levels: Levels, name: str) -> Levels:
    if len(levels) > MOST_LEVELS:
        raise DataError(
            f"column '{name}' has {len(levels)} or more levels, e.g. {', '.join(list(levels)[:3])}. "
            f"Slice by columns of at most {MOST_LEVELS} levels.",
            "evaluate.slices",
        )
    return levels
