"""Write prepared rows as lanes, and read them back in any order that the loop asks for.

A part is one uncompressed Arrow file of fixed-size columns with consecutive rows of a split's sequence, sorted by lane
(position mod V), then by position. Where row p lies follows from arithmetic; a local file is mapped, never copied.
Opening a part checks its shape, and in each process once every byte of it, at about a quarter of a second per GB.
"""

import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fmray.data.hashing import sample_of
from fmray.data.order import (
    WHOLE,
    Lengths,
    Share,
    epoch_order,
    num_windows,
    partners,
    window_order,
    window_start,
)
from fmray.data.scratch import is_local, write_file
from fmray.errors import ClusterError, DataError
from fmray.ragged import Arrays, Ragged, empty_rows, entries_of
from fmray.records import Part, Prepared, Split
from fmray.schema import DECODED, Schema
from fmray.spec.sections import Order
from fmray.store import Store, require_whole
from fmray.store.files import NO_MEMORY, is_short_of_memory
from fmray.store.manifest import require_same
from fmray.store.places import files_of

KIND = "prepared"
JUDGED = ("row_id", "target", "weight", "group")
"""Columns beside what is predicted that a choice looks at."""
"""Kind of record that lanes lie in."""
PIECE_BYTES = 32 << 20
PARTNER = "partner "
"""Begins the names of columns of the rows that rows are mixed with."""


def lane_order(start: int, num_rows: int, num_lanes: int) -> np.ndarray:
    """List the rows of a part by lane, then by position.

    Shapes:
        returns: (num_rows,), int64; entry i is the row, counted from `start`, that stands i-th in the file.
    """
    return np.concatenate([np.arange((lane - start) % num_lanes, num_rows, num_lanes) for lane in range(num_lanes)])


def write_part(path: str, arrays: Arrays) -> None:
    """Write rows that stand in lane order as one part.

    Shapes:
        arrays: each (num_rows,) or (num_rows, width), or ragged.
    """
    batch = pa.record_batch({name: _column(name, values) for name, values in arrays.items()})
    if is_local(path):
        with pa.OSFile(path, "wb") as sink:
            _write(sink, batch)
    else:
        held = pa.BufferOutputStream()
        _write(held, batch)
        write_file(path, memoryview(held.getvalue()))


def _write(sink: pa.NativeFile, batch: pa.RecordBatch) -> None:
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _column(name: str, values: np.ndarray | Ragged) -> pa.Array:
    if isinstance(values, Ragged):
        return values.to_arrow()
    if name == "row_id":
        flat = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(values), [None, pa.py_buffer(flat)])
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def verify_lanes(prepared: Prepared, store: Store) -> None:
    """Read every byte of a prepared record and compare it with what was written.

    Raises:
        DataError: Naming the file that is missing or damaged.
    """
    manifest = store.find(KIND, prepared.fingerprint)
    if manifest is None:
        raise DataError(f"{prepared.root}: the record is gone or unfinished. Run the job again to prepare it anew.")
    require_whole([f"{manifest['folder']}/{name}" for name in manifest["files"]])


class Lanes:
    """Read the rows of one split.

    Columns: "x" (n, D) float32, or uint8 where all are pixels; ragged ones of int32 ids and float32 weights, as
    `Schema.blocks` names them; "target" (n,) int64 or (n,) or (n, T) float64; "row_id" (n, 2) uint64; and where there
    are any "weight" float32, "group" uint64, "slice_<column>" int32.

    Args:
        prepared, split: Which rows.
        share: Of the parts, which this worker verifies: its turn. All workers of a group map all parts.

    Raises:
        DataError: On reading, if a lane file is missing or damaged.
    """

    def __init__(self, prepared: Prepared, split: Split, share: Share = WHOLE) -> None:
        self.parts = prepared.parts[split]
        self.num_rows = prepared.num_rows(split)
        self.num_lanes = prepared.num_lanes
        self._share = share
        self._root = prepared.root
        self._width = prepared.schema.width
        self.inputs = prepared.schema.lane_columns
        self._bucketed = _bucketed(prepared.schema)
        self._ends = np.cumsum([part.num_rows for part in self.parts])
        self._open: dict[int, Arrays] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def columns(self) -> list[str]:
        """Name the columns."""
        return list(self._arrays(0)) if self.parts else []

    def sample(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Give the positions of the rows that choices are made by, and their identity, target, weight and group.

        Which rows these are depends on their identities alone, see `hashing.sample_of`. Where rows have several
        targets, each has an identity, weight and group, see `ragged.entries_of`.
        """
        rows = np.flatnonzero(sample_of(self.load(["row_id"])["row_id"], self.num_rows))
        return rows, entries_of(self.take(rows, [name for name in self.columns() if name in JUDGED]))

    def load(self, columns: Sequence[str], share: Share = WHOLE) -> Arrays:
        """Give whole columns, or a share of their rows, in sequence order."""
        return self.between(0, self.num_rows, columns, share)

    def between(self, start: int, stop: int, columns: Sequence[str], share: Share = WHOLE) -> Arrays:
        """Give the rows of a share at sequence positions from `start` up to `stop`, in order.

        A share's rows lie together in every file, so each file is read once from front to back.
        """
        first = share.before(start, self.num_lanes)
        num_rows = share.before(stop, self.num_lanes) - first
        lanes = share.lanes(self.num_lanes)
        result: Arrays = {}
        for place, part in enumerate(self.parts):
            if part.start >= stop or part.start + part.num_rows <= start:
                continue
            begins = self._begins(part)
            own = slice(int(begins[lanes.start]), int(begins[lanes.stop]))
            positions = part.start + lane_order(part.start, part.num_rows, self.num_lanes)[own]
            inside: slice | np.ndarray = slice(None)
            if part.start < start or part.start + part.num_rows > stop:
                inside = (positions >= start) & (positions < stop)
            order = share.index_of(positions[inside], self.num_lanes) - first
            for name in columns:
                values = self._arrays(place)[name]
                if name not in result:
                    result[name] = empty_rows(num_rows, values)
                result[name][order] = values[own][inside]
        return result

    def sequence(self, chunk_rows: int, columns: Sequence[str] | None = None, share: Share = WHOLE) -> Iterator[Arrays]:
        """Give every row once, in sequence order, in chunks with their "position"."""
        for start in range(0, self.num_rows, chunk_rows):
            positions = share.places(start, min(start + chunk_rows, self.num_rows), self.num_lanes)
            yield self.take(positions, columns) | {"position": positions}

    def stream(
        self, order: Order, seed: int, epoch: int, first_row: int, columns: Sequence[str], share: Share = WHOLE
    ) -> Iterator[Arrays]:
        """Give the rows of an epoch in its order, from a place in it on, with their position as "row".

        Rows come in pieces of about 32 MB, cut anywhere: besides one piece only the positions of a window are held.
        """
        piece_rows = max(1, PIECE_BYTES // self._row_bytes())
        rows_per_window = window_start(order, 1)
        for window in range(first_row // rows_per_window, num_windows(self.num_rows, order)):
            positions = self.window(order, seed, epoch, window=window, share=share)
            begin = window * rows_per_window
            skipped = share.before(max(first_row, begin), self.num_lanes) - share.before(begin, self.num_lanes)
            for start in range(skipped, len(positions), piece_rows):
                yield self.paired(positions, columns, share, slice(start, start + piece_rows))

    def order(self, order: Order, seed: int, epoch: int, share: Share = WHOLE) -> np.ndarray:
        """List the positions of the rows of a share in the order of an epoch; see `data.order.epoch_order`."""
        lengths = self._lengths_for(order)
        return epoch_order(self.num_rows, order, seed, epoch, share=share, lengths=lengths)

    def window(self, order: Order, seed: int, epoch: int, window: int, share: Share = WHOLE) -> np.ndarray:
        """List the positions of the rows of a share in one window; see `data.order.window_order`."""
        lengths = self._lengths_for(order)
        return window_order(self.num_rows, order, seed, epoch, window=window, share=share, lengths=lengths)

    def _lengths_for(self, order: Order) -> Lengths | None:
        """Give what tells the lengths of rows, where these decide about the order."""
        return self.lengths if order.bucket and self._bucketed else None

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """Give the number of tokens of rows by their positions in the sequence (n,), of source and target together."""
        place = np.searchsorted(self._ends, positions, side="right")
        found = np.empty(len(positions), np.int64)
        for part in np.unique(place).tolist():
            mine = place == part
            rows = self._rows_in(self.parts[part], positions[mine])
            found[mine] = sum(self._arrays(part)[name].lengths[rows] for name in self._bucketed)
        return found

    def paired(self, positions: np.ndarray, columns: Sequence[str], share: Share, some: slice) -> Arrays:
        """Give some rows of a window, their position as "row", and columns named "partner ..." of their partners.

        Args:
            positions: Of all rows of a share in the window, in order.
        """
        own = [name for name in columns if not name.startswith(PARTNER)]
        result = self.take(positions[some], own) | {"row": positions[some]}
        if others := [name.removeprefix(PARTNER) for name in columns if name.startswith(PARTNER)]:
            others_at = positions[partners(len(positions), len(share.lanes(self.num_lanes)))[some]]
            result |= {f"{PARTNER}{name}": values for name, values in self.take(others_at, others).items()}
        return result

    def take(self, positions: np.ndarray, columns: Sequence[str] | None = None) -> Arrays:
        """Give rows by their positions in the sequence.

        Shapes:
            positions: (n,), int64.
        """
        names = list(columns or self.columns())
        place = np.searchsorted(self._ends, positions, side="right")
        order = np.argsort(place, kind="stable")
        cuts = np.searchsorted(place[order], np.arange(len(self.parts) + 1))
        result: Arrays = {}
        if not len(positions):
            return {name: empty_rows(0, self._arrays(0)[name]) for name in names}
        for part in np.unique(place).tolist():
            mine = order[cuts[part] : cuts[part + 1]] if cuts[part + 1] - cuts[part] < len(positions) else slice(None)
            rows = self._rows_in(self.parts[part], positions[mine])
            for name in names:
                values = self._arrays(part)[name]
                if name not in result:
                    result[name] = empty_rows(len(positions), values)
                result[name][mine] = values[rows]
        return result

    def _row_bytes(self) -> int:
        if not self.parts:
            return 1
        return int(sum(values.nbytes for values in self._arrays(0).values())) // self.parts[0].num_rows

    def _rows_in(self, part: Part, positions: np.ndarray) -> np.ndarray:
        """Give where rows stand in the file of their part."""
        lane = positions % self.num_lanes
        first = part.start + (lane - part.start) % self.num_lanes  # position of the first row of its lane
        rows: np.ndarray = self._begins(part)[lane] + (positions - first) // self.num_lanes
        return rows

    def _begins(self, part: Part) -> np.ndarray:
        """Give where each lane begins in the file of a part, and where the last one ends (V + 1,)."""
        first = (np.arange(self.num_lanes) - part.start) % self.num_lanes  # row of each lane, counted from the start
        sizes = np.maximum(0, -(-(part.num_rows - first) // self.num_lanes))
        return np.concatenate([[0], np.cumsum(sizes)])

    def _arrays(self, place: int) -> Arrays:
        if place not in self._open:
            self._open[place] = self._map(place)
        return self._open[place]

    def _map(self, place: int) -> Arrays:
        part = self.parts[place]
        path = f"{self._root}/{part.file}"
        cure = f"Remove the record {posixpath.dirname(self._root)}, and the data is prepared anew."
        try:
            if is_local(path) and place % self._share.size == self._share.rank:
                require_whole([path])
            batch = _mapped(path)
            batch.validate()
        except (OSError, MemoryError, pa.ArrowException) as error:
            if is_short_of_memory(error):
                raise ClusterError(f"{path} cannot be mapped: {NO_MEMORY}") from error
            raise DataError(f"{path} is damaged or missing: {error}. {cure}") from error
        if batch.num_rows != part.num_rows:
            raise DataError(f"{path} has {batch.num_rows} rows where its record says {part.num_rows}. {cure}")
        arrays: Arrays = {name: _array(batch.column(name)) for name in batch.schema.names}
        if absent := [name for name in self.inputs if name not in arrays]:
            raise DataError(f"{path} lacks {', '.join(absent)}, which its record names. {cure}")
        if self._width and (width := arrays["x"].shape[1]) != self._width:
            raise DataError(f"{path} has {width} inputs per row where its record says {self._width}. {cure}")
        return arrays


def _bucketed(schema: Schema) -> list[str]:
    """Name the blocks whose lengths decide which rows share a batch: those of source and target, or the first one."""
    ragged = [name for name, block in schema.blocks.items() if block.is_ragged]
    return ragged if any(block.kind == DECODED for block in schema.blocks.values()) else ragged[:1]


def _mapped(path: str) -> pa.RecordBatch:
    if is_local(path):
        with pa.memory_map(path) as source:
            return pa.ipc.open_file(source).get_batch(0)
    # What lies elsewhere is fetched once to a file that goes when the last array on it does.
    data = files_of(path).read(path)
    require_same(path, data)
    with tempfile.NamedTemporaryFile(prefix="fmray-lanes-") as held:
        held.write(data)
        held.flush()
        return _mapped(held.name)


def _array(column: pa.Array) -> np.ndarray | Ragged:
    if pa.types.is_large_list(column.type):
        return Ragged.from_arrow(column)
    if pa.types.is_fixed_size_binary(column.type):
        return np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, 2)[column.offset : column.offset + len(column)]
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten().to_numpy()).reshape(len(column), column.type.list_size)
    return np.asarray(column.to_numpy())
