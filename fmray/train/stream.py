"""Stream lanes to a worker through Ray Data.

A work item is arithmetic, not rows: a number from which a read task knows its window and lanes, or its piece of the
sequence. So a plan holds no row however many it covers, every worker makes its own, and a restarted worker makes it
again from its newest cursor.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from fmray.data.lanes import Lanes
from fmray.data.order import Share, num_windows, window_start
from fmray.data.session import quiet
from fmray.events import Note, Report, ignore
from fmray.ragged import Arrays, empty_rows, flattened, restored
from fmray.spec.sections import Order

READ_CPUS = 0.25
"""Share of a core that a read task reserves; workers leave that much free."""
READERS = 2
"""Read tasks of a worker at a time; each is a process of some 100 MB and reads a million rows a second."""
ITEM_BYTES = 32 << 20
AHEAD_BYTES = 4 * ITEM_BYTES
"""What Ray Data may hold in its object store; less starves it, as it reserves a part for each operator."""

PATIENCE_SECONDS = 60.0


class Stream:
    """Read a share of the rows of one split over Ray Data; a `train.ingest.Source`.

    One execution reads all epochs that are left, since to start one takes a second or two.

    Args:
        lanes: Where the rows lie.
        row_bytes: Of one row.
        epochs: Epochs at most.
        report: Gets a note where rows do not come.
        item_bytes: Rows per read task, about.
    """

    def __init__(
        self,
        lanes: Lanes,
        row_bytes: int,
        epochs: int,
        report: Report = ignore,
        item_bytes: int = ITEM_BYTES,
    ) -> None:
        self._report = report
        self.lanes = lanes
        self.row_bytes = row_bytes
        self.epochs = epochs
        self.item_rows = max(1, item_bytes // row_bytes)
        self._running: tuple[Any, Iterator[Arrays]] = (None, iter(()))

    def load(self, columns: Sequence[str], share: Share) -> Arrays:
        """Give the rows of a share in sequence order."""
        plan = Pieces(self.lanes, tuple(columns), share, self.item_rows * share.size)
        found: Arrays = {}
        filled = 0
        num_rows = share.before(self.lanes.num_rows, self.lanes.num_lanes)
        for arrays in _read(plan, self._report):
            for name, values in arrays.items():
                if name not in found:
                    found[name] = empty_rows(num_rows, values)
                found[name][filled : filled + len(values)] = values
            filled += len(arrays[columns[0]])
        return found or self.lanes.take(np.zeros(0, np.int64), columns)

    def stream(
        self, order: Order, seed: int, epoch: int, first_row: int, columns: Sequence[str], share: Share
    ) -> Iterator[Arrays]:
        """Give the rows of a share in the order of an epoch, from a place in it on, with their position as "row"."""
        per_window = window_start(order, 1)
        first_window = first_row // per_window
        asked = (order, seed, tuple(columns), share)
        plan = Windows(
            self.lanes,
            tuple(columns),
            share=share,
            order=order,
            seed=seed,
            first_epoch=epoch,
            first_window=first_window,
            epochs=self.epochs,
        )
        plan = replace(plan, num_parts=max(1, -(-per_window // share.size // self.item_rows)))
        running, blocks = self._running
        if running != (*asked, epoch) or first_window:
            blocks = _read(plan, self._report)
        self._running = (None, iter(()))
        for window in range(first_window, plan.num_windows):
            arrays = plan.join(window, [next(blocks) for _ in range(plan.num_parts)])
            start = window * per_window
            before = [share.before(place, self.lanes.num_lanes) for place in (start, max(first_row, start))]
            yield {name: values[before[1] - before[0] :] for name, values in arrays.items()}
        self._running = ((*asked, epoch + 1), blocks)


@dataclass(frozen=True)
class Pieces:
    """Plan to read a share of a split in sequence order, piece by piece.

    Args:
        piece_rows: Rows of the sequence per item, other workers' included.
    """

    lanes: Lanes
    columns: tuple[str, ...]
    share: Share
    piece_rows: int

    def __len__(self) -> int:
        return -(-self.lanes.num_rows // self.piece_rows)

    def read(self, item: int) -> Arrays:
        """Give the rows of an item."""
        start = item * self.piece_rows
        return self.lanes.between(start, min(start + self.piece_rows, self.lanes.num_rows), self.columns, self.share)


@dataclass(frozen=True)
class Windows:
    """Plan to read a share of a split window by window, in the order of one epoch after the other.

    Args:
        order, seed, epochs: Of the training.
        first_epoch, first_window: Where to begin.
        num_parts: Items per window, each some lanes of it.
    """

    lanes: Lanes
    columns: tuple[str, ...]
    share: Share
    order: Order
    seed: int
    first_epoch: int
    first_window: int
    epochs: int
    num_parts: int = 1

    def __len__(self) -> int:
        windows = self.num_windows * (self.epochs - self.first_epoch) - self.first_window
        return windows * self.num_parts

    @property
    def num_windows(self) -> int:
        """Windows of an epoch."""
        return num_windows(self.lanes.num_rows, self.order)

    def read(self, item: int) -> Arrays:
        """Give the rows of an item: some lanes of a window, in their order."""
        place, part = divmod(item, self.num_parts)
        epochs, window = divmod(self.first_window + place, self.num_windows)
        part_of = self.share.parts(self.num_parts)[part]
        epoch = self.first_epoch + epochs
        positions = self.lanes.window(self.order, self.seed, epoch, window=window, share=part_of)
        return self.lanes.paired(positions, self.columns, part_of, slice(None))

    def join(self, window: int, parts: Sequence[Arrays]) -> Arrays:
        """Interleave the lanes of all items of a window."""
        if len(parts) == 1:
            return dict(parts[0])
        num_lanes = self.lanes.num_lanes
        start = window_start(self.order, window)
        stop = min(window_start(self.order, window + 1), self.lanes.num_rows)
        first = self.share.before(start, num_lanes)
        joined: Arrays = {}
        for part_of, arrays in zip(self.share.parts(self.num_parts), parts, strict=True):
            index = self.share.index_of(part_of.places(start, stop, num_lanes), num_lanes) - first
            for name, values in arrays.items():
                if name not in joined:
                    num_rows = self.share.before(stop, num_lanes) - first
                    joined[name] = empty_rows(num_rows, values)
                joined[name][index] = values
        return joined


def _read(plan: Pieces | Windows, report: Report) -> Iterator[Arrays]:
    """Have Ray Data read the items of a plan, and give what they hold in their order."""
    import ray.data

    if not len(plan):
        return
    with quiet() as context:
        # Only a reservation keeps what is read ahead within a limit; it is worked out anew once a second.
        context.op_resource_reservation_enabled = True
        context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=AHEAD_BYTES)
        with ray.data.DataContext.current(context):
            read = ray.data.read_datasource(
                _items(plan), num_cpus=READ_CPUS, concurrency=READERS, override_num_blocks=len(plan)
            )
            blocks = iter(read.iterator().iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
            while (table := _next(blocks, report)) is not None:
                yield _arrays(table)


def _items(plan: Pieces | Windows) -> Any:
    """Give the items of a plan as a data source, whose read tasks are all that Ray Data runs."""
    import ray.data
    from ray.data.block import BlockMetadata

    held = ray.put(plan)  # named once: with many files a plan is larger than all that is said of an item

    class Items(ray.data.Datasource):  # type: ignore[misc]  # Ray has no types
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            about = BlockMetadata(num_rows=1, size_bytes=None, exec_stats=None, input_files=None)
            return [ray.data.ReadTask(partial(_read_item, held, item), about) for item in range(len(plan))]

    return Items()


def _next(blocks: Iterator[pa.Table], report: Report) -> pa.Table | None:
    with _impatience(report):
        return next(blocks, None)


@contextmanager
def _impatience(report: Report) -> Iterator[None]:
    """Say so where rows stay away, since Ray Data waits for room without a word."""
    text = f"no row has come after {PATIENCE_SECONDS:.0f} s: Ray Data needs {READ_CPUS} CPUs that nobody reserves"
    timer = threading.Timer(PATIENCE_SECONDS, report, (Note(text, about="ingest"),))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read_item(plan: Any, item: int) -> list[pa.Table]:
    """Read an item in a Ray task."""
    import ray

    arrays = flattened(ray.get(plan).read(item))
    # one row of one value per column: Ray Data neither looks into the rows nor cuts them apart
    kinds = {f"{name} kind": [f"{v.dtype.str} {' '.join(map(str, v.shape))}"] for name, v in arrays.items()}
    return [pa.table({**{name: _packed(values) for name, values in arrays.items()}, **kinds})]


def _packed(values: np.ndarray) -> pa.Array:
    offsets = pa.py_buffer(np.array([0, values.nbytes], np.int64))
    data = pa.py_buffer(np.ascontiguousarray(values)) if values.size else pa.py_buffer(b"")
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def _arrays(table: pa.Table) -> Arrays:
    found = {}
    for name in table.column_names:
        if not name.endswith(" kind"):
            dtype, *shape = table.column(f"{name} kind")[0].as_py().split(" ")
            buffer = table.column(name).chunk(0)[0].as_buffer()
            found[name] = np.frombuffer(buffer, np.dtype(dtype)).reshape([int(size) for size in shape])
    return restored(found)
