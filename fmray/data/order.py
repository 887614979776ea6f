"""Say in which order the rows of a split pass in an epoch.

Row p of a split's sequence lies in lane p mod V. An epoch permutes each lane's chunks, then shuffles rows inside
windows of chunks; position q of the epoch takes the next row of lane q mod V. Which row stands at q is a function of
(number of rows, order, seed, epoch, q) alone, so memory and streaming, and any number of workers, see the same rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fmray.seeding import raw_bits
from fmray.spec.sections import Order


@dataclass(frozen=True)
class Share:
    """Say whose rows are meant: rank r of W workers owns the lanes v with floor(v W / V) = r.

    A lane holds every V-th row of the sequence and every V-th place of an epoch, so one arithmetic counts the rows of a
    share in both. Shares nest: those of ranks rm ... rm + m - 1 among Wm make up that of rank r among W.
    """

    rank: int = 0
    size: int = 1

    def lanes(self, num_lanes: int) -> range:
        """Give the lanes owned."""
        return range(-(-self.rank * num_lanes // self.size), -(-(self.rank + 1) * num_lanes // self.size))

    def before(self, place: int, num_lanes: int) -> int:
        """Count the rows owned before a place of the sequence, or of an epoch."""
        lanes = self.lanes(num_lanes)
        return place // num_lanes * len(lanes) + min(max(place % num_lanes - lanes.start, 0), len(lanes))

    def index_of(self, places: np.ndarray, num_lanes: int) -> np.ndarray:
        """Number places that are owned from 0 on, so that what is owned can be held without gaps."""
        if self.size == 1:
            return places
        lanes = self.lanes(num_lanes)
        index: np.ndarray = places // num_lanes * len(lanes) + places % num_lanes - lanes.start
        return index

    def places(self, start: int, stop: int, num_lanes: int) -> np.ndarray:
        """List the places owned from `start` up to `stop`, ascending."""
        lanes = self.lanes(num_lanes)
        mine = np.arange(self.before(start, num_lanes), self.before(stop, num_lanes))
        return mine // max(len(lanes), 1) * num_lanes + mine % max(len(lanes), 1) + lanes.start

    def parts(self, number: int) -> list["Share"]:
        """Cut the share into smaller ones."""
        return [Share(self.rank * number + part, self.size * number) for part in range(number)]


WHOLE = Share()


Lengths = Callable[[np.ndarray], np.ndarray]
"""Sequence positions (n,) -> the length of the row at each (n,)."""
MIXED_SLABS = 8
"""Rows of a bucket come from so many times as many rows of about its length, other ones in every epoch."""


def epoch_order(
    num_rows: int, order: Order, seed: int, epoch: int, share: Share = WHOLE, lengths: Lengths | None = None
) -> np.ndarray:
    """List the sequence positions of a split, or of a share of it, in the order of one epoch.

    Args:
        lengths: Of rows, where `order.bucket` puts those of similar length side by side.

    Shapes:
        returns: (num_rows,), int64; entry q is the position of the row that comes q-th.
    """
    windows = range(num_windows(num_rows, order))
    parts = [
        window_order(num_rows, order, seed=seed, epoch=epoch, window=window, share=share, lengths=lengths)
        for window in windows
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def num_windows(num_rows: int, order: Order) -> int:
    """Count the windows of an epoch; the longest lane decides."""
    return -(-lane_rows(num_rows, order.num_lanes, 0) // _window_rows(order))


def window_start(order: Order, window: int) -> int:
    """Give the epoch position at which a window begins."""
    return window * _window_rows(order) * order.num_lanes


def window_order(
    num_rows: int,
    order: Order,
    seed: int,
    epoch: int,
    window: int,
    share: Share = WHOLE,
    lengths: Lengths | None = None,
) -> np.ndarray:
    """List the sequence positions of one window of an epoch, the lanes of a share interleaved.

    A window needs no other window, and a lane no other lane, which is what lets a cursor seek and workers share.

    Args:
        lengths: As for `epoch_order`.

    Shapes:
        returns: (rows of the share in the window,), int64.
    """
    lanes = share.lanes(order.num_lanes)
    lanes = range(lanes.start, min(lanes.stop, num_rows))  # lanes beyond the rows are empty, and would only cost time
    first = window * _window_rows(order)
    longest = min(lane_rows(num_rows, order.num_lanes, 0) - first, _window_rows(order))
    table = np.empty((len(lanes), longest), np.int64)
    slabs = None
    if lengths is not None and order.bucket:
        slab_rows = -(-order.bucket // order.num_lanes)
        slabs = _slabs(longest, slab_rows, _shuffle(-(-longest // slab_rows), seed, "order", epoch, "slabs", window))
    for place, lane in enumerate(lanes):
        size = lane_rows(num_rows, order.num_lanes, lane)
        rows = min(size - first, longest)
        shuffled = _shuffle(rows, seed, "order", epoch, lane, window)
        if size > _window_rows(order):
            shuffled = _chunk_sequence(size, order, seed=seed, epoch=epoch, lane=lane, first=first, num_rows=rows)[
                shuffled
            ]
        np.multiply(shuffled, order.num_lanes, out=table[place, :rows])
        table[place, :rows] += lane
        if lengths is not None and slabs is not None and rows:
            table[place, :rows] = table[place, _by_length(lengths(table[place, :rows]), slabs, slab_rows)]
    start = window_start(order, window)
    stop = min(start + longest * order.num_lanes, num_rows)
    own = share.before(stop, order.num_lanes) - share.before(start, order.num_lanes)
    # Lanes differ by at most one row, so whatever the shorter ones lack stands at the very end of the transpose.
    return table.T.reshape(-1)[:own]


def _slabs(num_rows: int, slab_rows: int, turn: np.ndarray) -> np.ndarray:
    """List the ranks by length of a lane's rows in the order of an epoch: slabs of consecutive ranks, in turn."""
    ranks = (turn[:, None] * slab_rows + np.arange(slab_rows)).reshape(-1)
    return ranks[ranks < num_rows]


def _by_length(lengths: np.ndarray, slabs: np.ndarray, slab_rows: int) -> np.ndarray:
    """Order a lane's rows of a window so that those at one place have similar lengths in all lanes.

    Args:
        lengths: Of the rows, as they were shuffled (n,).
        slabs: Rank by length of what stands at each place of the longest lane, n of them or one more.

    Shapes:
        returns: (n,), which of the shuffled rows stands at each place.
    """
    num_rows = len(lengths)
    ascending = np.argsort(lengths, kind="stable")
    # within a few slabs rows go back to the order that they were shuffled into, so buckets are others in every epoch
    mixed = ascending[np.lexsort((ascending, np.arange(num_rows) // (MIXED_SLABS * slab_rows)))]
    ranks = slabs[:num_rows]
    if len(slabs) > num_rows:  # a shorter lane lacks what stands last
        ranks = ranks - (ranks > slabs[-1])
    found: np.ndarray = mixed[ranks]
    return found


def partners(num_rows: int, num_lanes: int) -> np.ndarray:
    """Pair each row of a window with the one that comes next in its lane, the last with the first.

    A partner is drawn as the order is, from the same lane, so every worker has it and all of them draw the same.

    Args:
        num_rows: Of a share in a window.
        num_lanes: Of the share.

    Shapes:
        returns: (num_rows,), where in the window the partner of each row stands.
    """
    following = np.arange(num_lanes, num_rows + num_lanes)
    return np.where(following < num_rows, following, following % max(num_lanes, 1))


def lane_rows(num_rows: int, num_lanes: int, lane: int) -> int:
    """Count the rows p < num_rows with p mod num_lanes == lane."""
    return max(0, -(-(num_rows - lane) // num_lanes))


def _window_rows(order: Order) -> int:
    return order.chunk_rows * order.window_chunks


def _shuffle(size: int, seed: int, *names: str | int) -> np.ndarray:
    """Permute range(size) by sorting random words that carry their own index.

    The index in the low bits makes every key distinct: the result depends on no sorting algorithm, and sorting keys is
    several times faster than sorting indices by key.
    """
    if size <= 0:
        return np.zeros(0, np.int64)
    bits = np.uint64(max(size - 1, 1).bit_length())
    keys = (raw_bits(size, seed, *names) >> bits << bits) | np.arange(size, dtype=np.uint64)
    keys.sort()
    return (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def _chunk_sequence(size: int, order: Order, seed: int, epoch: int, lane: int, first: int, num_rows: int) -> np.ndarray:
    """List lane-local rows [first, first + num_rows) of the lane once its chunks are permuted."""
    num_chunks = -(-size // order.chunk_rows)
    chunks = _shuffle(num_chunks, seed, "order", epoch, lane, "chunks")
    lengths = np.minimum(order.chunk_rows, size - chunks * order.chunk_rows)  # the lane's last chunk may be short
    ends = np.cumsum(lengths)
    inside = slice(
        int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(ends, first + num_rows - 1, "right")) + 1
    )
    starts = (ends - lengths)[inside]
    taken = np.minimum(ends[inside], first + num_rows) - np.maximum(starts, first)
    return np.repeat(chunks[inside] * order.chunk_rows - starts, taken) + np.arange(first, first + num_rows)
