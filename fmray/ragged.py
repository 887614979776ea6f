"""Hold rows of different lengths as arrays: values side by side, where each row starts and how many values it has.

Choosing rows copies no values, so a row may be chosen twice and in any order; `compact` lays them out anew.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import pyarrow as pa

Index = np.ndarray | slice
Array = Union[np.ndarray, "Ragged"]
Arrays = dict[str, Any]
"""Columns by name: `np.ndarray`, or `Ragged` where rows differ in length."""
VALUES, LENGTHS = " values", " lengths"


class Ragged:
    """Hold rows of different lengths; indexed and assigned by row, as an array is.

    Shapes:
        values: (T,) or (T, C); entries of all rows, and possibly of others.
        starts, lengths: (n,), int64.
    """

    def __init__(self, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        self._values = [values]
        self.starts = starts
        self.lengths = lengths

    @classmethod
    def empty(cls, num_rows: int, like: np.ndarray) -> "Ragged":
        """Give rows without values, to be assigned entries like these (T, ...)."""
        return cls(like[:0].copy(), np.zeros(num_rows, np.int64), np.zeros(num_rows, np.int64))

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Give rows that lie one behind the other."""
        lengths = np.asarray(lengths, np.int64)
        return cls(values, np.cumsum(lengths) - lengths, lengths)

    @property
    def values(self) -> np.ndarray:
        """Entries of all rows (T, ...)."""
        if len(self._values) > 1:
            self._values = [np.concatenate(self._values)]
        return self._values[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self._values[0].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the values of these rows, and of what says where they are."""
        entry = self.dtype.itemsize * math.prod(self._values[0].shape[1:])
        return int(self.lengths.sum()) * entry + self.starts.nbytes + self.lengths.nbytes

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: Index) -> "Ragged":
        return Ragged(self.values, self.starts[rows], self.lengths[rows])

    def __setitem__(self, rows: Index, given: "Ragged") -> None:
        """Put rows in place; values that were there before are no longer seen."""
        own = given.compact()
        offset = sum(len(values) for values in self._values)
        self._values.append(own.values)
        self.starts[rows] = own.starts + offset
        self.lengths[rows] = own.lengths

    def compact(self) -> "Ragged":
        """Give the same rows with their values, and no others, one row behind the other."""
        ends = np.cumsum(self.lengths)
        starts = ends - self.lengths
        total = int(ends[-1]) if len(ends) else 0
        if total == len(self.values) and np.array_equal(starts[self.lengths > 0], self.starts[self.lengths > 0]):
            return Ragged(self.values, starts, self.lengths)
        places = np.repeat(self.starts - starts, self.lengths) + np.arange(total)
        return Ragged(self.values[places], starts, self.lengths)

    def to_arrow(self) -> pa.Array:
        """Give a list column; entries of several numbers are lists of one length."""
        own = self.compact()
        offsets = np.concatenate([own.starts, [len(own.values)]]).astype(np.int64)
        entries = pa.array(np.ascontiguousarray(own.values).reshape(-1))
        if own.values.ndim > 1:
            entries = pa.FixedSizeListArray.from_arrays(entries, own.values.shape[1])
        return pa.LargeListArray.from_arrays(pa.array(offsets), entries)

    @classmethod
    def from_texts(cls, column: pa.Array) -> "Ragged":
        """Give the bytes of texts, uint8; those of a null are none."""
        texts = column.cast(pa.large_string()).fill_null("")
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        _, ends, values = texts.buffers()
        offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        return cls(np.frombuffer(values or b"", np.uint8), offsets[:-1].copy(), np.diff(offsets))

    def to_texts(self) -> list[str]:
        """Read back what `from_texts` gave."""
        own = self.compact()
        values = own.values.tobytes()
        pairs = zip(own.starts.tolist(), (own.starts + own.lengths).tolist(), strict=True)
        return [values[start:stop].decode() for start, stop in pairs]

    @classmethod
    def from_arrow(cls, column: pa.Array) -> "Ragged":
        """Read a list column without nulls; values and offsets are those of the buffers, never copied."""
        offsets = np.asarray(column.offsets.to_numpy()).astype(np.int64)
        values = column.values
        if pa.types.is_fixed_size_list(values.type):
            width = values.type.list_size
            numbers = values.values.slice(values.offset * width, len(values) * width)
            return cls(np.asarray(numbers.to_numpy()).reshape(-1, width), offsets[:-1], np.diff(offsets))
        return cls(np.asarray(values.to_numpy()), offsets[:-1], np.diff(offsets))


@dataclass(frozen=True)
class Blocks:
    """Hold the inputs of some rows: a column of the lanes each.

    Args:
        arrays: By name; all of them have as many rows.
    """

    arrays: Mapping[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, rows: Index) -> "Blocks":
        return Blocks({name: values[rows] for name, values in self.arrays.items()})

    @classmethod
    def joined(cls, parts: "Sequence[Blocks]") -> "Blocks":
        """Give the rows of all parts, one part behind the other."""
        return cls({name: joined([part.arrays[name] for part in parts]) for name in parts[0].arrays})


def empty_rows(num_rows: int, like: Array) -> Any:
    """Give room for rows of the type and width of others."""
    if isinstance(like, Ragged):
        return Ragged.empty(num_rows, like.values)
    return np.empty((num_rows, *like.shape[1:]), like.dtype)


def repeated(values: Array, counts: np.ndarray) -> Any:
    """Give each row so many times."""
    if isinstance(values, Ragged):
        return values[np.repeat(np.arange(len(values)), counts)]
    return np.repeat(values, counts, axis=0)


def joined(parts: Sequence[Array]) -> Any:
    """Give the rows of all parts, one part behind the other."""
    if not isinstance(parts[0], Ragged):
        return np.concatenate([np.asarray(part) for part in parts])
    whole = Ragged.empty(sum(map(len, parts)), parts[0].values)
    start = 0
    for part in (part for part in parts if isinstance(part, Ragged)):
        whole[slice(start, start + len(part))] = part
        start += len(part)
    return whole


def by_row(values: np.ndarray, like: Array) -> Array:
    """Give values as rows of the same lengths as others; as they are, where a row has one.

    Shapes:
        values: (T, ...), an entry for each of `like`.
    """
    return Ragged.of_lengths(values, like.lengths) if isinstance(like, Ragged) else values


def values_of(rows: Array) -> np.ndarray:
    """Give the entries of rows one behind the other (T, ...), or the rows themselves, where each has one."""
    return rows.compact().values if isinstance(rows, Ragged) else rows


def entries_of(arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Give columns beside a target with an entry for each entry of the target, where rows have several.

    Everything that is scored row by row then scores entries. Those of a row belong together, so the row is their group
    where rows have none.

    Shapes:
        returns: "target" (T, 2), the entry and its place in its row, or (T, n + 1) of entries of n numbers; others
            (T, ...). All as they are, where each row has one target.
    """
    target = arrays.get("target")
    if not isinstance(target, Ragged):
        return {name: np.asarray(values) for name, values in arrays.items()}
    own = target.compact()
    found = {name: repeated(values, own.lengths) for name, values in arrays.items() if name != "target"}
    places = np.arange(len(own.values)) - np.repeat(own.starts, own.lengths)
    found["target"] = np.column_stack([own.values, places])
    if "group" not in found and "row_id" in found:
        found["group"] = np.ascontiguousarray(found["row_id"][:, 0])
    return found


def flattened(arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Give columns as plain arrays: two for each ragged one. `restored` reads them back."""
    plain: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        if isinstance(values, Ragged):
            own = values.compact()
            plain |= {f"{name}{VALUES}": own.values, f"{name}{LENGTHS}": own.lengths}
        else:
            plain[name] = values
    return plain


def restored(plain: Mapping[str, np.ndarray]) -> Arrays:
    """Read back what `flattened` gave."""
    found: Arrays = {}
    for name, values in plain.items():
        if name.endswith(VALUES):
            own = name.removesuffix(VALUES)
            found[own] = Ragged.of_lengths(values, plain[f"{own}{LENGTHS}"])
        elif not name.endswith(LENGTHS):
            found[name] = values
    return found
