"""Find equal rows over all work items, without ever holding all rows in one place.

Rows are cut into buckets by the upper bits of their hash; one task per bucket sees all rows that can be equal. It tells
only the exceptions: rows that repeat an earlier one, in the order of items and rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fmray.data.identify import OUT, hashes_of, rows_of_bucket, sides_of
from fmray.data.split import TEST, TRAIN

BUCKET_ROWS = 1 << 22


@dataclass(frozen=True)
class Repeats:
    """Say what repeats mean; which rows they are lies in the scratch folder.

    Args:
        dropped: Item -> training rows that go.
        in_train: Training rows that repeat a training row.
        across: Rows of val or test that also stand in train.
        example: (item, row) of a repeat and of the row it repeats, if there is one.
    """

    dropped: Mapping[int, int]
    in_train: int
    across: int
    example: tuple[tuple[int, int], tuple[int, int]] | None


def num_buckets(num_rows: int) -> int:
    """Give the number of buckets, a power of two."""
    return 1 << max(0, (num_rows - 1) // BUCKET_ROWS).bit_length()


def find_repeats(scratch: str, items: Sequence[int], bucket: int, drop: bool) -> Repeats:
    """Find the repeats of one bucket.

    Args:
        drop: Whether training rows that repeat any row go: of equal training rows the first stays, unless one stands in
            val or test.
    """
    hashes, item, row, side = _suspects(scratch, items, bucket)
    order = np.lexsort((row, item, hashes[:, 1], hashes[:, 0]))
    hashes, item, row, side = hashes[order], item[order], row[order], side[order]
    starts = np.flatnonzero(np.r_[True, (hashes[1:] != hashes[:-1]).any(1)][: len(row)])
    group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(row)]))
    occurrence = np.arange(len(row)) - starts[group]
    is_train = side == TRAIN
    before = np.cumsum(is_train) - is_train
    again = is_train & (before > before[starts][group])  # a training row of its group stands before it
    in_train, held_out = (np.bincount(group, kind, len(starts))[group] > 0 for kind in (is_train, side > TRAIN))
    dropped = (again | (is_train & held_out)) & drop
    told = np.flatnonzero((occurrence > 0) | dropped)
    table = np.stack([item[told], row[told], occurrence[told], dropped[told]], 1).astype(np.int64)
    np.save(_path(scratch, bucket), table[np.lexsort((table[:, 1], table[:, 0]))])
    second = np.flatnonzero(occurrence == 1)[:1]
    example = [((int(item[k - 1]), int(row[k - 1])), (int(item[k]), int(row[k]))) for k in second]
    return Repeats(
        {int(i): int(n) for i, n in zip(*np.unique(item[dropped], return_counts=True), strict=True)},
        int(again.sum()),
        int(((side > TRAIN) & in_train).sum()),
        example[0] if example else None,
    )


def kept_rows(scratch: str, index: int, num_buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the side of each row of an item once repeats have gone, and its occurrence number.

    Shapes:
        returns: (n,) int8; (n,) int64.
    """
    sides = sides_of(scratch, index)
    occurrence = np.zeros(len(sides), np.int64)
    for bucket in range(num_buckets):
        table = np.load(_path(scratch, bucket), mmap_mode="r")
        mine = table[slice(*np.searchsorted(table[:, 0], [index, index + 1]))]
        occurrence[mine[:, 1]] = mine[:, 2]
        sides[mine[mine[:, 3] > 0, 1]] = OUT
    return sides, occurrence


def _path(scratch: str, bucket: int) -> str:
    return f"{scratch}/repeats-{bucket:05d}.npy"


def _suspects(scratch: str, items: Sequence[int], bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give hash, item, row and side of the rows of a bucket whose first hash word is not unique.

    Nearly all rows are unique, and sorting bare words is many times faster than sorting rows.
    """
    parts = []
    for item in items:
        rows, sides = rows_of_bucket(scratch, item, bucket), sides_of(scratch, item)
        rows = rows[sides[rows] < OUT]
        parts.append((hashes_of(scratch, item)[rows], np.full(len(rows), item), rows, sides[rows]))
    hashes, item_of, row, side = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    words = np.sort(hashes[:, 0])
    repeated = np.unique(words[1:][words[1:] == words[:-1]])
    kept = np.flatnonzero(np.isin(hashes[:, 0], repeated)) if len(repeated) else np.zeros(0, np.int64)
    return hashes[kept], item_of[kept], row[kept], side[kept]
