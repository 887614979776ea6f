"""Bring prepared rows to the device: in memory where they fit, window by window where they do not.

Which rows form batch s of epoch e depends on the data, the seed, e and s alone; both ways give the same batches, and so
does any number of workers, each of which holds its share of every batch.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fmray.data.hashing import sample_of
from fmray.data.lanes import PARTNER, Lanes
from fmray.data.order import WHOLE, Share, num_windows, partners, window_start
from fmray.errors import DataError
from fmray.ragged import Array, Arrays, Ragged, entries_of
from fmray.records import SPLITS, Prepared, Split
from fmray.spec.sections import Order, Train
from fmray.targets.codec import codec_of
from fmray.tasks.task import Batch, Places
from fmray.train.blocks import NO_TARGET, Held, RaggedTensor, held, inputs_of, joined, multiple_of
from fmray.train.device import free_bytes

EVALUATION_ROWS = 8192
MANY_OUTPUTS = 256
"""Outputs of a row from which on fewer rows are predicted at a time."""
EVALUATION_ENTRIES = 1 << 15
"""Tokens that are predicted at a time, padding included, where each has an output."""
EVALUATION_NUMBERS = 1 << 26
"""Outputs of tokens that are held at a time: 256 MB."""


class Source(Protocol):
    """Read a share of the rows of one split; `data.lanes.Lanes` maps them from a disk at hand."""

    def load(self, columns: Sequence[str], share: Share) -> Arrays:
        """Give the rows of a share in sequence order."""
        ...

    def stream(
        self, order: Order, seed: int, epoch: int, first_row: int, columns: Sequence[str], share: Share
    ) -> Iterator[Arrays]:
        """Give the rows of a share in the order of an epoch, from a place in it on, with their position as "row"."""
        ...


class Rows:
    """Serve the rows of one split, or a worker's share of them.

    Args:
        prepared, split: Which rows.
        device: Where batches are needed.
        memory_bytes: Rows are kept in memory if they need no more than this; by default half of what is free.
        share: Whose rows.
        source: Where they come from; by default the lanes are mapped.
        identified: Whether batches carry the identities of their rows.
        paired: Whether batches carry partners of their rows.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: Split,
        device: torch.device | str,
        memory_bytes: int | None = None,
        share: Share = WHOLE,
        source: Source | None = None,
        *,
        identified: bool = False,
        paired: bool = False,
    ) -> None:
        self.lanes = Lanes(prepared, split, share)
        self.device = torch.device(device)
        self.num_rows = self.lanes.num_rows
        self._blocks = prepared.schema.blocks
        self.columns = [
            *prepared.schema.lane_columns,
            "target",
            *["weight"] * prepared.weighted,
            *["row_id"] * identified,
        ]
        self.columns += ["group"] * (identified and prepared.grouped)
        self._paired = paired
        self.schema = prepared.schema
        self.share = share
        self._source = source or self.lanes
        self._target = prepared.target
        self._row_bytes = prepared.row_bytes
        self.chunk_rows = chunk_rows(prepared, EVALUATION_ROWS)
        self.entries_per_row = entries_per_row(prepared)
        self._kept: dict[str, Array] = {}
        self._places: dict[tuple[int, int], Places] = {}
        self.home = self._home(memory_bytes)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="fmray-rows")
        self._next: tuple[object, Future[np.ndarray] | None] = (None, None)
        self._whole: dict[str, Held] | None = None
        self._closed = False
        if self.home is not None:
            self._whole = self._tensors(self._source.load(self.columns, share), self.home)

    @property
    def in_memory(self) -> bool:
        """Whether the rows are kept from one epoch to the next."""
        return self.home is not None

    def close(self) -> None:
        """Give no more batches: whoever wants one, in whatever thread, gets a `CancelledError`."""
        self._closed = True

    def batches(self, order: Order, seed: int, epoch: int, batch_rows: int, first_step: int = 0) -> Iterator[Batch]:
        """Give the batches of an epoch in its order, from a step on; the last one may be shorter.

        With several workers, a batch holds this one's share of its rows, which may be none.
        """
        if self._whole is None:
            yield from self._streamed(order, seed, epoch=epoch, batch_rows=batch_rows, first_step=first_step)
            return
        positions = self._order(order, seed, epoch)
        index = torch.from_numpy(self.share.index_of(positions, self.lanes.num_lanes)).to(self.home)
        rows = torch.from_numpy(positions)
        others = self._partners(order) if self._paired else None
        for start, first, last in self._cuts(batch_rows, first_step):
            picked = {name: value.index_select(0, index[first:last]) for name, value in self._whole.items()}
            if others is not None:
                chosen = index[others[first:last]]
                picked |= {f"{PARTNER}{name}": value.index_select(0, chosen) for name, value in self._whole.items()}
            yield self._batch(picked, rows[first:last], self._places_in(start, start + batch_rows), epoch)

    def endless(self, order: Order, seed: int, batch_rows: int, first_step: int) -> Iterator[Batch]:
        """Give the batches of one pass after the other, from a step on that is counted from the very first."""
        per_pass = num_steps(self.num_rows, batch_rows)
        epoch, step = divmod(first_step, per_pass)
        while True:
            yield from self.batches(order, seed, epoch=epoch, batch_rows=batch_rows, first_step=step)
            epoch, step = epoch + 1, 0

    def in_sequence(self, chunk_rows: int = 0) -> Iterator[Batch]:
        """Give every row, or every row of the share, exactly once, in sequence order.

        Args:
            chunk_rows: At a time; by default so many that outputs fit into little memory.
        """
        chunk_rows = chunk_rows or self.chunk_rows
        if self._whole is None:
            for arrays in self.lanes.sequence(chunk_rows, self.columns, self.share):
                yield self._batch(self._tensors(arrays, self.device), torch.from_numpy(arrays["position"]))
            return
        positions = torch.from_numpy(self.share.places(0, self.num_rows, self.lanes.num_lanes))
        for start in range(0, len(positions), chunk_rows):
            some = slice(start, start + chunk_rows)
            yield self._batch({k: v[some] for k, v in self._whole.items()}, positions[some])

    def sample(self, most: int | None) -> "Rows | Sample":
        """Give a sample of about so many of all rows, as far as they are this worker's; all where `most` is None."""
        return self if most is None or most >= self.num_rows else Sample(self, most)

    def at(self, positions: np.ndarray) -> Batch:
        """Give rows at some positions of the sequence, which are this worker's."""
        rows = torch.from_numpy(positions)
        if self._whole is None:
            return self._batch(self._tensors(self.lanes.take(positions, self.columns), self.device), rows)
        index = torch.from_numpy(self.share.index_of(positions, self.lanes.num_lanes)).to(self.home)
        return self._batch({name: value.index_select(0, index) for name, value in self._whole.items()}, rows)

    def scored(self, kept: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Give the targets and weights that predictions of these rows are scored by.

        Args:
            kept: Which of the rows, or of the rows of the share (N,), bool; None for all.

        Shapes:
            returns: "target" (N,) or (N, T), in its own units; "weight" (N,), unless all count the same. Where rows
                have several targets, an entry for each, see `ragged.entries_of`.
        """
        names = ["target", *["weight"] * ("weight" in self.columns)]
        columns = {name: self._given(name) for name in names}
        return entries_of(columns if kept is None else {name: values[kept] for name, values in columns.items()})

    def _home(self, memory_bytes: int | None) -> torch.device | None:
        """Say where rows are kept: on the device if they fit, else beside it, else nowhere."""
        own = self.share.before(self.num_rows, self.lanes.num_lanes)
        needed = own * self._row_bytes
        for device in dict.fromkeys([self.device, torch.device("cpu")]):
            if needed <= (free_bytes(device) // 2 if memory_bytes is None else memory_bytes):
                return device
        return None

    def _given(self, column: str) -> Array:
        if column not in self._kept:
            self._kept[column] = self.lanes.load([column], self.share)[column]
        return self._kept[column]

    def _cuts(self, batch_rows: int, first_step: int) -> Iterator[tuple[int, int, int]]:
        """Give where each batch begins in the epoch, and which of the share's rows, counted in its order, are in it."""
        num_lanes = self.lanes.num_lanes
        for start in range(first_step * batch_rows, self.num_rows, batch_rows):
            if self._closed:
                raise CancelledError("training was cancelled: its rows were closed")
            stop = min(start + batch_rows, self.num_rows)
            yield start, self.share.before(start, num_lanes), self.share.before(stop, num_lanes)

    def _places_in(self, start: int, stop: int) -> Places:
        """Give the places in the global batch of this worker's rows; they repeat as the lanes do."""
        num_lanes = self.lanes.num_lanes
        key = (start % num_lanes if self.share.size > 1 else 0, min(stop, self.num_rows) - start)
        if key not in self._places:
            offset, num_rows = key
            values = self.share.places(offset, offset + num_rows, num_lanes) - offset
            tensor = torch.from_numpy(values.astype(np.int32)).to(self.device)
            self._places[key] = Places((*key, self.share.rank, self.share.size), tensor)
        return self._places[key]

    def _order(self, order: Order, seed: int, epoch: int) -> np.ndarray:
        """Give the order of an epoch, and have the next one's worked out on the side."""
        key = (order, seed, epoch, self.share)
        known, future = self._next
        positions = future.result() if future is not None and known == key else self.lanes.order(*key)
        following = (order, seed, epoch + 1, self.share)
        self._next = (following, self._aside.submit(self.lanes.order, *following))
        return positions

    def _partners(self, order: Order) -> Tensor:
        """Give where in this worker's order of an epoch the partner of each row stands."""
        num_lanes = self.lanes.num_lanes
        found = []
        for window in range(num_windows(self.num_rows, order)):
            start = window_start(order, window)
            stop = min(window_start(order, window + 1), self.num_rows)
            first = self.share.before(start, num_lanes)
            own = self.share.before(stop, num_lanes) - first
            found.append(first + partners(own, len(self.share.lanes(num_lanes))))
        return torch.from_numpy(np.concatenate(found)).to(self.home)

    def _streamed(self, order: Order, seed: int, epoch: int, batch_rows: int, first_step: int) -> Iterator[Batch]:
        columns = [*self.columns, *(f"{PARTNER}{name}" for name in self.columns if self._paired)]
        pieces = self._ahead(
            self._source.stream(order, seed, epoch, first_step * batch_rows, columns=columns, share=self.share)
        )
        nobody = np.zeros(0, np.int64)
        piece = self._piece(self.lanes.paired(nobody, columns, self.share, slice(None)))
        at = 0
        for start, first, last in self._cuts(batch_rows, first_step):
            taken: list[dict[str, Any]] = []
            missing = last - first
            while missing or not taken:
                if missing and at == len(piece["rows"]):
                    piece = next(pieces)
                    at = 0
                here = min(missing, len(piece["rows"]) - at)
                taken.append({name: value[at : at + here] for name, value in piece.items()})
                missing = missing - here
                at = at + here
            whole = taken[0] if len(taken) == 1 else {k: joined([part[k] for part in taken]) for k in piece}
            yield self._batch(whole, whole.pop("rows"), self._places_in(start, start + batch_rows), epoch)

    def _ahead(self, source: Iterator[Arrays]) -> Iterator[dict[str, Any]]:
        """Have the next piece made while one is worked on."""

        def following() -> dict[str, Any] | None:
            arrays = next(source, None)
            return None if arrays is None else self._piece(arrays)

        future = self._aside.submit(following)
        while (piece := future.result()) is not None:
            future = self._aside.submit(following)
            yield piece

    def _piece(self, arrays: Arrays) -> dict[str, Any]:
        return self._tensors(arrays, self.device) | {"rows": torch.from_numpy(arrays["row"])}

    def _tensors(self, arrays: Arrays, device: torch.device) -> dict[str, Any]:
        found = {}
        for name, given in arrays.items():
            column = name.removeprefix(PARTNER)
            if column not in self.columns:
                continue
            values = codec_of(self._target).for_training(given) if column == "target" else given
            if isinstance(values, Ragged):
                found[name] = held(values, device)
                continue
            values = values.view(np.int64) if column in ("row_id", "group") else values
            found[name] = torch.from_numpy(values).to(device)
        return found

    def _batch(self, tensors: dict[str, Any], rows: Tensor, places: Places | None = None, epoch: int = 0) -> Batch:
        here = {name: value.to(self.device, non_blocking=True) for name, value in tensors.items()}
        partner = self._of(PARTNER, here, rows) if f"{PARTNER}target" in here else None
        return replace(self._of("", here, rows), places=places, partner=partner, epoch=epoch)

    def _of(self, prefix: str, tensors: dict[str, Any], rows: Tensor) -> Batch:
        if prefix:
            tensors = {k.removeprefix(prefix): value for k, value in tensors.items() if k.startswith(prefix)}
        weight, ids, entity = (tensors.get(name) for name in ("weight", "row_id", "group"))
        entity = ids[:, 0] if entity is None and ids is not None else entity
        if ids is not None and self._target.sampled:
            ids = ids + rows.to(ids.device)[:, None]  # copies of one row are to change each in its own way
        inputs = inputs_of(tensors, self._blocks)
        target = tensors["target"]
        if isinstance(target, RaggedTensor):
            target = target.padded(NO_TARGET, multiple_of(self._blocks))
        return Batch(inputs, target, weight, rows, ids=ids, entity=entity)


class Sample:
    """Serve a fixed sample of the rows of a split, or of a worker's share of them, in sequence order.

    Args:
        rows: From which it is drawn.
        most: Rows of the sample of the whole split, about; which they are depends on their ids alone.
    """

    def __init__(self, rows: Rows, most: int) -> None:
        ids = rows.lanes.load(["row_id"], rows.share)["row_id"]
        self._rows = rows
        self._kept = sample_of(ids, rows.num_rows, most)
        self._positions = rows.share.places(0, rows.num_rows, rows.lanes.num_lanes)[self._kept]

    def in_sequence(self, chunk_rows: int = 0) -> Iterator[Batch]:
        """Give every row of the sample exactly once; see `Rows.in_sequence`."""
        chunk_rows = chunk_rows or self._rows.chunk_rows
        for start in range(0, len(self._positions), chunk_rows):
            yield self._rows.at(self._positions[start : start + chunk_rows])

    def scored(self) -> dict[str, np.ndarray]:
        """Give the targets that predictions are scored by, and their weights; see `Rows.scored`."""
        return self._rows.scored(self._kept)


@dataclass(frozen=True)
class Steps:
    """Count the optimizer steps of a training.

    Args:
        per_pass: Batches of one pass over the training rows.
        per_epoch: Steps after which validation is scored: those of a pass, unless the job counts steps.
        total: Steps if nothing ends it early.
    """

    per_pass: int
    per_epoch: int
    total: int

    @classmethod
    def of(cls, train: Train, num_rows: int) -> "Steps":
        """Count the steps of a job on so many training rows.

        Raises:
            DataError: If there is no row to learn from.
        """
        per_pass = num_steps(num_rows, train.batch_rows)
        return cls(per_pass, train.steps_per_epoch or per_pass, train.steps or per_pass * train.epochs)

    @property
    def num_passes(self) -> int:
        """Count the passes over the training rows, of which the last one may be left early."""
        return -(-self.total // self.per_pass)

    def of_epoch(self, epoch: int) -> int:
        """Count the steps of an epoch; the last one may have fewer."""
        return min(self.per_epoch, self.total - epoch * self.per_epoch)


def chunk_rows(prepared: Prepared, most: int) -> int:
    """Give how many rows are predicted at a time: fewer than `most` where rows have many outputs, or each token has."""
    codec = codec_of(prepared.target)
    if not codec.by_entry:
        return max(1, min(most, most * MANY_OUTPUTS // codec.num_outputs))
    longest = max((longest for _, longest in prepared.entries.values()), default=1)
    entries = min(EVALUATION_ENTRIES, EVALUATION_NUMBERS // max(1, codec.num_outputs))
    return max(1, min(most, entries // max(longest, 1)))


def entries_per_row(prepared: Prepared) -> float:
    """Give how many outputs a row has, on average."""
    if not codec_of(prepared.target).by_entry:
        return 1.0
    return max(total for total, _ in prepared.entries.values()) / max(1, sum(map(prepared.num_rows, SPLITS)))


def num_steps(num_rows: int, batch_rows: int) -> int:
    """Count the steps of an epoch, the short last batch included.

    Raises:
        DataError: If there is no row to learn from.
    """
    if num_rows == 0:
        raise DataError("0 rows are left to learn from. See the row accounting; check split and quarantine.", "train")
    return -(-num_rows // batch_rows)
