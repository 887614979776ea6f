"""Write prepared rows as lanes, and read them back in any order that the loop asks for.

A part is one uncompressed Arrow file of fixed-size columns with consecutive rows of a split's sequence, sorted by lane
(position mod V), then by position. Where row p lies follows from arithmetic; a local file is mapped, never copied whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fmray.data.order import num_windows, window_order, window_start
from fmray.errors import DataError
from fmray.records import Part, Prepared, Split
from fmray.spec.sections import Order

Arrays = dict[str, np.ndarray]


def lane_order(start: int, num_rows: int, num_lanes: int) -> np.ndarray:
    """List the rows of a part by lane, then by position.

    Shapes:
        returns: (num_rows,), int64; entry i is the row, counted from `start`, that stands i-th in the file.
    """
    lanes = [np.arange((lane - start) % num_lanes, num_rows, num_lanes) for lane in range(num_lanes)]
    return np.concatenate(lanes) if lanes else np.zeros(0, np.int64)


def write_part(path: str, arrays: Mapping[str, np.ndarray], rows: np.ndarray, start: int, num_lanes: int) -> None:
    """Write consecutive rows of a split as one part.

    Args:
        rows: Which rows of the arrays, in sequence order.
        start: Position of the first of them.

    Shapes:
        arrays: each (any number of rows,) or (..., width); rows: (num_rows,).
    """
    order = rows[lane_order(start, len(rows), num_lanes)]
    columns = {name: _column(name, values[order]) for name, values in arrays.items()}
    batch = pa.record_batch(columns)
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _column(name: str, values: np.ndarray) -> pa.Array:
    if name == "row_id":
        flat = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(values), [None, pa.py_buffer(flat)])
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


class Lanes:
    """Read the rows of one split.

    Columns: "x" (n, D) float32, "target" (n,) int64 or (n,) or (n, T) float64, "row_id" (n, 2) uint64, and where there are
    any "weight" float32, "group" uint64, "slice_<column>" int32.

    Args:
        prepared, split: Which rows.

    Raises:
        DataError: On reading, if a lane file is missing or damaged.
    """

    def __init__(self, prepared: Prepared, split: Split) -> None:
        self.parts = prepared.parts[split]
        self.num_rows = prepared.num_rows(split)
        self.num_lanes = prepared.num_lanes
        self._root = prepared.root
        self._ends = np.cumsum([part.num_rows for part in self.parts])
        self._open: dict[int, Arrays] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def load(self, columns: Sequence[str]) -> Arrays:
        """Give whole columns in sequence order."""
        result: Arrays = {}
        for place, part in enumerate(self.parts):
            order = lane_order(part.start, part.num_rows, self.num_lanes)
            for name in columns:
                values = self._column(place, name)
                if name not in result:
                    result[name] = np.empty((self.num_rows, *values.shape[1:]), values.dtype)
                result[name][part.start : part.start + part.num_rows][order] = values
        return result

    def sequence(self, chunk_rows: int, columns: Sequence[str] | None = None) -> Iterator[Arrays]:
        """Give every row once, in sequence order, in chunks with their "position"."""
        for start in range(0, self.num_rows, chunk_rows):
            positions = np.arange(start, min(start + chunk_rows, self.num_rows))
            yield self.take(positions, columns) | {"position": positions}

    def stream(self, order: Order, seed: int, epoch: int, first_row: int) -> Iterator[Arrays]:
        """Give the rows of an epoch in its order, from a place in it on, window by window, with their position as "row"."""
        for window in range(num_windows(self.num_rows, order)):
            positions = window_order(self.num_rows, order, seed, epoch, window)
            positions = positions[max(0, first_row - window_start(order, window)) :]
            if len(positions):
                yield self.take(positions) | {"row": positions}

    def take(self, positions: np.ndarray, columns: Sequence[str] | None = None) -> Arrays:
        """Give rows by their positions in the sequence.

        Shapes:
            positions: (n,), int64.
        """
        place = np.searchsorted(self._ends, positions, side="right")
        result: Arrays = {}
        for part in np.unique(place):
            mine = np.flatnonzero(place == part) if len(self.parts) > 1 else slice(None)
            rows = self._rows_in(self.parts[part], positions[mine])
            for name in columns or self.columns():
                values = self._column(int(part), name)
                if name not in result:
                    result[name] = np.empty((len(positions), *values.shape[1:]), values.dtype)
                result[name][mine] = values[rows]
        return result

    def columns(self) -> list[str]:
        """Name the columns."""
        return list(self._arrays(0)) if self.parts else []

    def _rows_in(self, part: Part, positions: np.ndarray) -> np.ndarray:
        """Give where rows stand in the file of their part."""
        lanes = np.arange(self.num_lanes)
        first = (lanes - part.start) % self.num_lanes  # of each lane, counted from the part's start
        sizes = np.maximum(0, -(-(part.num_rows - first) // self.num_lanes))
        begins = np.cumsum(sizes) - sizes
        lane = positions % self.num_lanes
        rows: np.ndarray = begins[lane] + (positions - part.start - first[lane]) // self.num_lanes
        return rows

    def _column(self, place: int, name: str) -> np.ndarray:
        return self._arrays(place)[name]

    def _arrays(self, place: int) -> Arrays:
        if place not in self._open:
            self._open[place] = self._map(self.parts[place])
        return self._open[place]

    def _map(self, part: Part) -> Arrays:
        path = f"{self._root}/{part.file}"
        try:
            with pa.memory_map(path) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: {error}. Remove the record {self._root}, and the data is prepared anew.") from error
        if batch.num_rows != part.num_rows:
            raise DataError(f"{path} has {batch.num_rows} rows where its record says {part.num_rows}. Remove the record.")
        return {name: _array(batch.column(name)) for name in batch.schema.names}


def _array(column: pa.Array) -> np.ndarray:
    if pa.types.is_fixed_size_binary(column.type):
        return np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, 2)[column.offset : column.offset + len(column)]
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten().to_numpy()).reshape(len(column), column.type.list_size)
    return np.asarray(column.to_numpy())
