"""Find equal rows over all work items, without ever holding all rows in one place.

Rows are cut into buckets by the upper bits of the hash of their inputs, so whatever can be equal meets in one bucket;
one task per bucket sees those. It tells only the exceptions, in the order of items and rows: rows that repeat an
earlier one, training rows that go, and test rows whose inputs stand in train.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fmray.data.identify import OUT, Recipe, bucket_of, keys_of, sides_of
from fmray.data.scratch import load, save
from fmray.data.split import TEST, TRAIN, VAL

BUCKET_ROWS = 1 << 20
SHOWN = 3

Place = tuple[int, int]
"""Item and row in it."""


@dataclass(frozen=True)
class Repeats:
    """Count equal rows of a bucket; which rows they are lies in the scratch folder.

    Args:
        dropped: Item -> training rows that go.
        in_train: Training rows that repeat an earlier training row.
        in_val, in_test: Rows of val and test that a training row equals.
        conflicts: Rows whose inputs equal another row's while the targets differ.
        overlapping: Test rows whose inputs a training row that stays has, whatever its target.
        repeated: Training rows whose inputs another training row has: how often that happens by chance. Where copies
            go, another one that differs elsewhere; where rows have groups, one of another group.
        pairs: Inputs that exactly two such training rows have.
    """

    dropped: Mapping[int, int]
    in_train: int
    in_val: int
    in_test: int
    conflicts: int
    overlapping: int
    repeated: int
    pairs: int


def num_buckets(num_rows: int) -> int:
    """Give the number of buckets, a power of two."""
    return 1 << max(0, (num_rows - 1) // BUCKET_ROWS).bit_length()


def find_repeats(recipe: Recipe, items: Sequence[int], drop: bool, bucket: int) -> Repeats:
    """Find the equal rows of one bucket.

    Args:
        drop: Whether training copies go: of equal training rows the first stays, unless val or test has one too.
    """
    item, row, x, y, content, identity, *group = suspects([bucket_of(recipe, index, bucket) for index in items], items)
    side = _sides(recipe, item, row)
    equal = Groups(x, content)
    occurrence = Groups(x, identity).places()
    is_train = side == TRAIN
    again = is_train & (equal.places(is_train) > 0)
    dropped = (again | (is_train & equal.any(~is_train))) & drop
    inputs = Groups(x)
    overlapping = (side == TEST) & inputs.any(is_train & ~dropped)
    told = np.flatnonzero((occurrence > 0) | dropped | overlapping)
    columns = [item, row, occurrence, dropped, overlapping]
    # Suspects come in the order of items, and so do the exceptions among them.
    save(_path(recipe, bucket), np.stack([column[told] for column in columns], 1).astype(np.int64))
    in_train = equal.any(is_train)
    alike = inputs.sums(is_train)
    # A row counts as its own copy too; where copies go, only what differs elsewhere could have stayed; rows of a group
    # stay together, so only those of others are like a test row.
    others = alike - (equal.sums(is_train) if drop else is_train)
    if group:
        others = np.minimum(others, alike - Groups(x, *group).sums(is_train))
    return Repeats(
        {int(i): int(n) for i, n in zip(*np.unique(item[dropped], return_counts=True), strict=True)},
        int(again.sum()),
        in_val=int((in_train & (side == VAL)).sum()),
        in_test=int((in_train & (side == TEST)).sum()),
        conflicts=int((Groups(x, y).sizes() < inputs.sizes()).sum()),
        overlapping=int(overlapping.sum()),
        repeated=int((is_train & (others > 0)).sum()),
        pairs=int((is_train & (alike == 2) & (others > 0)).sum()) // 2,
    )


def find_key_repeats(recipe: Recipe, items: Sequence[int], bucket: int) -> tuple[int, list[tuple[Place, Place]]]:
    """Count the rows of a bucket whose key an earlier row has, and give a few with that earlier row."""
    item, row, first, second = suspects([keys_of(recipe, index, bucket) for index in items], items)
    groups = Groups(first, second)
    again = np.flatnonzero(groups.places() > 0)
    places = [(int(i), int(r)) for i, r in zip(item, row, strict=True)]
    return len(again), [(places[a], places[b]) for a, b in zip(groups.firsts()[again], again, strict=True)][:SHOWN]


def kept_rows(recipe: Recipe, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the side of each row of an item once copies have gone, and its occurrence number.

    Shapes:
        returns: (n,) int8; (n,) int64.
    """
    sides = np.array(sides_of(recipe, index))
    occurrence = np.zeros(len(sides), np.int64)
    for bucket in range(recipe.num_buckets):
        table = load(_path(recipe, bucket))
        mine = np.asarray(table[slice(*np.searchsorted(table[:, 0], [index, index + 1]))])
        occurrence[mine[:, 1]] = mine[:, 2]
        sides[mine[mine[:, 3] > 0, 1]] = OUT
    return sides, occurrence


def overlapping_rows(recipe: Recipe, index: int) -> np.ndarray:
    """Give the test rows of an item whose inputs a training row has, ascending (n,)."""
    found = []
    for bucket in range(recipe.num_buckets):
        table = load(_path(recipe, bucket))
        mine = np.asarray(table[slice(*np.searchsorted(table[:, 0], [index, index + 1]))])
        found.append(mine[mine[:, 4] > 0, 1])
    return np.sort(np.concatenate(found))


class Groups:
    """Group rows whose words are all equal; answers are in the order of the rows.

    Shapes:
        words: each (n,), uint64.
    """

    def __init__(self, *words: np.ndarray) -> None:
        self._order = np.lexsort(words[::-1])  # stable: within a group the order of rows stays
        ordered = [word[self._order] for word in words]
        is_new = np.ones(len(self._order), bool)
        if len(is_new):
            is_new[1:] = np.logical_or.reduce([word[1:] != word[:-1] for word in ordered])
        self._starts = np.flatnonzero(is_new)
        self._group = np.cumsum(is_new) - 1

    def places(self, counted: np.ndarray | None = None) -> np.ndarray:
        """Count the earlier rows of the same group, all or only those that are counted."""
        ones = np.ones(len(self._order), np.int64) if counted is None else counted[self._order].astype(np.int64)
        before = np.cumsum(ones) - ones
        return self._back(before - before[self._starts][self._group])

    def sizes(self) -> np.ndarray:
        """Count the rows of the same group."""
        return self._back(np.bincount(self._group, minlength=len(self._starts))[self._group])

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """Count the rows of the same group that are among these."""
        return self._back(np.bincount(self._group, rows[self._order], len(self._starts)).astype(np.int64)[self._group])

    def firsts(self) -> np.ndarray:
        """Give the first row of the same group."""
        return self._back(self._order[self._starts][self._group])

    def any(self, rows: np.ndarray) -> np.ndarray:
        """Tell whether some row of the same group is among these."""
        found = np.bincount(self._group, rows[self._order], minlength=len(self._starts)) > 0
        return self._back(found[self._group])

    def _back(self, values: np.ndarray) -> np.ndarray:
        result = np.empty_like(values)
        result[self._order] = values
        return result


def _path(recipe: Recipe, bucket: int) -> str:
    return f"{recipe.scratch}/repeats-{bucket:05d}.npy"


def suspects(parts: Sequence[np.ndarray], items: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Give the item, the row and the words of rows whose first word is not unique, in the order of items and rows.

    Nearly all are unique, and sorting bare words is fast.
    """
    words = np.sort(np.concatenate([part[1] for part in parts]))
    repeated = np.unique(words[1:][words[1:] == words[:-1]])
    kept = [np.flatnonzero(_among(part[1], repeated)) if len(repeated) else np.zeros(0, np.int64) for part in parts]
    columns = np.concatenate([part[:, rows] for part, rows in zip(parts, kept, strict=True)], axis=1)
    item = np.repeat(np.asarray(items, np.int64), [len(rows) for rows in kept])
    return item, columns[0].astype(np.int64), *columns[1:]


def _among(words: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Tell which words are among sorted ones."""
    places = np.searchsorted(known, words)
    found: np.ndarray = known[np.minimum(places, len(known) - 1)] == words
    return found


def _sides(recipe: Recipe, item: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Give the side of rows that come in the order of items."""
    sides = np.empty(len(item), np.int8)
    for index in np.unique(item).tolist():
        mine = slice(*np.searchsorted(item, [index, index + 1]))
        sides[mine] = sides_of(recipe, index)[row[mine]]
    return sides
