"""Find files that are copies of one another and lie on different sides of the split.

A row's side follows from its values, so a copied file goes where its original went, unless the split is read from the
names of folders. Copies have one size and as many rows; whether they are copies is seen by the hashes of their rows.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fmray.data.identify import OUT, Recipe, bucket_of, sides_of
from fmray.data.scan import Dataset, WorkItem
from fmray.data.split import TRAIN

CONTENT = 3
"""Place of the hash of all that makes rows equal, in what `bucket_of` gives."""


def same_shapes(dataset: Dataset) -> list[tuple[int, int]]:
    """Pair each file with the first of its size, rows and row groups that lies in other folders."""
    alike = defaultdict(list)
    for place, file in enumerate(dataset.files):
        if file.partition and file.num_rows:
            alike[file.size, file.num_rows, file.row_groups].append(place)
    pairs = [(a, b) for places in alike.values() for a, b in itertools.pairwise(places)]
    return [(a, b) for a, b in pairs if dataset.files[a].partition != dataset.files[b].partition]


def compare_files(recipe: Recipe, items: Sequence[WorkItem], pair: tuple[int, int]) -> int:
    """Count the rows of a file that stand in another one at the same place and in another split.

    Returns:
        0 unless the files are copies of each other, row by row.
    """
    (content, sides), (others, other_sides) = (_rows_of(recipe, items, file) for file in pair)
    used = (sides < OUT) & (other_sides < OUT)
    if not np.array_equal(content[used], others[used]):
        return 0
    if recipe.dataset.data.dedup == "exact":  # training copies go before anything learns from them
        used &= (sides != TRAIN) & (other_sides != TRAIN)
    return int((used & (sides != other_sides)).sum())


def _rows_of(recipe: Recipe, items: Sequence[WorkItem], file: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the content hash and the side of each row of a file, in file order."""
    found = []
    for item in items:
        start = 0
        for piece in item.pieces:
            if piece[0] == file:
                found.append((piece[3], item.index, slice(start, start + piece[4])))
            start += piece[4]
    content = []
    sides = []
    for _, index, rows in sorted(found, key=lambda entry: entry[0]):
        own = np.asarray(sides_of(recipe, index))
        hashes = np.zeros(len(own), np.uint64)
        for bucket in range(recipe.num_buckets):
            part = bucket_of(recipe, index, bucket)
            hashes[part[0].astype(np.int64)] = part[CONTENT]
        content.append(hashes[rows])
        sides.append(own[rows])
    return np.concatenate(content), np.concatenate(sides)
