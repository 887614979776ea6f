"""Give rows the identity that training gives them, over all work items, without ever holding all rows in one place.

Work items leave hashes in a scratch folder, cut into buckets; what is equal meets in one bucket. Equal rows are the
exception, so only the work items that hold some are mended afterwards.
"""

from collections.abc import Sequence

import numpy as np

from fmray.data.duplicates import Groups, suspects
from fmray.data.hashing import row_ids
from fmray.data.identify import load_bucket, save_buckets
from fmray.data.scratch import load, save


def leave_hashes(scratch: str, index: int, hashes: np.ndarray, num_buckets: int) -> None:
    """Keep the hashes (n, 2) of the rows of a work item for those that look for equal ones."""
    save_buckets(_hashes(scratch, index), np.arange(len(hashes)), list(hashes.T), num_buckets)


def find_equal(scratch: str, items: Sequence[int], bucket: int) -> dict[int, int]:
    """Find the rows of one bucket that equal an earlier one; give their number by work item."""
    parts = [load_bucket(_hashes(scratch, index), bucket) for index in items]
    item, row, first, second = suspects(parts, items)
    occurrence = Groups(first, second).places()
    told = np.flatnonzero(occurrence)
    save(_equal(scratch, bucket), np.stack([item[told], row[told], occurrence[told]], 1).astype(np.int64))
    return {int(index): int(n) for index, n in zip(*np.unique(item[told], return_counts=True), strict=True)}


def ids_of(scratch: str, index: int, num_buckets: int) -> np.ndarray:
    """Give the ids (n, 2) of the rows of a work item, equal rows told apart by their order over all items."""
    held = load(hashes_files(scratch, index)[0])
    hashes = np.empty((held.shape[1], 2), np.uint64)
    occurrence = np.zeros(held.shape[1], np.int64)
    rows = held[0].astype(np.int64)
    hashes[rows] = held[1:].T
    for bucket in range(num_buckets):
        table = load(_equal(scratch, bucket))
        mine = np.asarray(table[slice(*np.searchsorted(table[:, 0], [index, index + 1]))])
        occurrence[mine[:, 1]] = mine[:, 2]
    return row_ids(hashes, occurrence)


def hashes_files(scratch: str, index: int) -> tuple[str, str]:
    """Name the files that `leave_hashes` writes for a work item: the hashes, and where each bucket begins."""
    return f"{_hashes(scratch, index)}.npy", f"{_hashes(scratch, index)}-begin.npy"


def _hashes(scratch: str, index: int) -> str:
    return f"{scratch}/{index:06d}.ids"


def _equal(scratch: str, bucket: int) -> str:
    return f"{scratch}/equal-{bucket:05d}.npy"
