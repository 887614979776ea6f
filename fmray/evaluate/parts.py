"""Judge tables of predictions of any length, a part of the rows at a time, here or in tasks.

Two passes. The first sums up the rows per metric; merged sums give each metric's value, and how far any row pulls it.
The second sums up the squares of these pulls, from which intervals follow. What comes back from a part is as large as
its number of levels, classes and distinct scores, never its number of rows but for rankings: their merged counts take
32 bytes per distinct score and weight, for each class, subject and level, where the passes are run and in each task.
Rows of a group may lie in many parts: the second pass leaves sums per group beside the table, sorted into buckets of
group numbers of which each fits a task; a third adds them up.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from fmray.errors import DataError
from fmray.evaluate.facts import Facts
from fmray.evaluate.intervals import Rows, Squares, squares, wins
from fmray.evaluate.table import Table, read, require_same_rows
from fmray.events import Report, ignore
from fmray.metrics.metric import Metric, Slope
from fmray.records import Predictions, Target
from fmray.store.copies import source_of, to_read, to_write
from fmray.store.places import files_of
from fmray.targets.codec import codec_of

PART_ROWS = 1 << 18
"""Rows that one task looks at; a table with no more is judged in one piece."""
ROUND_PARTS = 32
"""Parts whose sums are held before they are merged."""
BUCKET_BYTES = 1 << 28

Key = tuple[str, str, int]
"""Subject, column ("" for all rows) and level of it."""
Slopes = Mapping[Key, tuple[Slope, ...]]
"""Set of rows -> per metric: what tells how far a row pulls it."""
Squared = Mapping[Key, tuple[Squares, ...]]
"""Set of rows -> per metric: squares of pulls; ("versus", baseline, 0) has those of the differences between pulls of
the model and of a baseline, for the metric that decides."""
Pass = Callable[[Report, str, Callable[..., Any], tuple[Any, ...], Sequence[tuple[Any, ...]]], list[Any]]
"""Call a function for each work item and give the results in order, as `fmray.data.session.run_here` does."""


@dataclass(frozen=True)
class Board:
    """Hold what is judged: tables of the same rows in one order.

    Args:
        tables: Subject -> table; "model" is the one that gates and figures look at.
        metrics: All of one kind, the one that decides first.
        expected_ids: (start, stop) -> ids of the prepared rows there.
        num_expected: Prepared rows.
        target: What is predicted.
        sliced: Whether the model is also judged per level of the columns for slicing.
    """

    tables: Mapping[str, Predictions]
    metrics: tuple[Metric, ...]
    expected_ids: Callable[[int, int], np.ndarray]
    num_expected: int
    target: Target
    sliced: bool = False

    @property
    def num_rows(self) -> int:
        """Count the rows of each table."""
        return self.tables["model"].num_rows

    def sets(self, table: Table, subject: str) -> Iterator[tuple[Key, Table]]:
        """Give a subject's rows, and those of each level of each column for slicing."""
        yield (subject, "", 0), table
        if self.sliced and subject == "model":
            for column, codes in table.slices.items():
                order = np.argsort(codes, kind="stable")
                starts = np.flatnonzero(np.diff(codes[order], prepend=codes[order][:1] - 1))
                for rows in np.split(order, starts[1:]):
                    yield (subject, column, int(codes[rows[0]])), table.some(rows)


@dataclass(frozen=True)
class Count:
    """Sum up a set of rows for all metrics.

    Args:
        num_rows: How many.
        classes: Rows per class (C,); empty for numbers.
        hits: Per metric: rows that count as hits, None where that is no notion or rows weigh or stand together.
        totals: Per metric: what its sums make of the rows; one object where metrics count alike.
    """

    num_rows: int
    classes: np.ndarray
    hits: tuple[int | None, ...]
    totals: tuple[Any, ...]

    @classmethod
    def of(cls, table: Table, board: Board) -> "Count":
        """Sum up some rows."""
        shared: dict[object, Any] = {}
        for metric in board.metrics:
            if metric.sums.counts not in shared:
                shared[metric.sums.counts] = metric.sums.partial(*rows_of(table))
        alone = table.weight is None and table.group is None
        return cls(
            len(table),
            codec_of(board.target).counts(table.target),
            tuple(int(m.rate(*rows_of(table)[:2]).sum()) if m.rate and alone else None for m in board.metrics),
            tuple(shared[metric.sums.counts] for metric in board.metrics),
        )

    @classmethod
    def merge(cls, parts: Sequence["Count"], board: Board) -> "Count":
        """Sum up one part or more."""
        if len(parts) == 1:
            return parts[0]
        shared: dict[tuple[int, ...], Any] = {}  # what is one object in each part is one in their sum
        totals = []
        for metric, own in zip(board.metrics, zip(*(part.totals for part in parts), strict=True), strict=True):
            key = tuple(map(id, own))
            if key not in shared:
                shared[key] = metric.sums.merge(own)
            totals.append(shared[key])
        hits = zip(*(part.hits for part in parts), strict=True)
        return cls(
            sum(part.num_rows for part in parts),
            np.sum([part.classes for part in parts], 0),
            tuple(None if None in own else sum(own) for own in hits),
            tuple(totals),
        )


@dataclass(frozen=True)
class First:
    """Hold what the first pass found.

    Args:
        counts: Of each set of rows.
        apart: Baseline -> rows where the model alone is right, and where the baseline alone is, by the metric that
            decides; none where right is no notion.
        facts: About the model's table.
        shown: The model's rows at places divisible by the step; all of them where the step is 1.
    """

    counts: Mapping[Key, Count]
    apart: Mapping[str, tuple[int, int]]
    facts: Facts
    shown: Table

    @classmethod
    def merge(cls, parts: Sequence["First"], board: Board) -> "First":
        """Put one part or more together, in the order of their rows."""
        if len(parts) == 1:
            return parts[0]
        keys = dict.fromkeys(key for part in parts for key in part.counts)
        counts = {key: Count.merge([part.counts[key] for part in parts if key in part.counts], board) for key in keys}
        apart = {
            name: (sum(part.apart[name][0] for part in parts), sum(part.apart[name][1] for part in parts))
            for name in parts[0].apart
        }
        facts = Facts.merge([part.facts for part in parts])
        shown = Table.join([part.shown for part in parts])
        return cls(counts, apart, facts, shown)


def rows_of(table: Table) -> Rows:
    """Give what metrics look at."""
    return table.output, table.target, table.weight


def count(board: Board, run: Pass) -> First:
    """Make the first pass over all rows.

    Raises:
        DataError: If tables are not of the same rows in one order, or one cannot be read.
    """
    for subject, table in board.tables.items():
        if table.num_rows != board.num_rows:
            raise DataError(f"model and {subject}: predictions of {board.num_rows} and {table.num_rows} rows.")
    found: list[First] = []
    cuts = _cuts(board.num_rows)
    step = -(-board.num_rows // PART_ROWS)
    for start in range(0, len(cuts), ROUND_PARTS):
        found += run(ignore, "score", _count_part, (board, step), cuts[start : start + ROUND_PARTS])
        found = [First.merge(found, board)]
    return found[0]


def pull(board: Board, slopes: Slopes, scratch: str, run: Pass) -> Squared:
    """Make the second pass over all rows.

    Args:
        slopes: Sets left out are passed over.
        scratch: Folder for sums per group, if rows come in groups and in many parts; gone in the end.
    """
    cuts = _cuts(board.num_rows)
    keys = [*slopes, *(("versus", subject, 0) for subject in board.tables if subject != "model")]
    if len(cuts) == 1 or "group" not in pq.read_schema(source_of(board.tables["model"].path)).names:
        return _add(run(ignore, "score", _pull_part, (board, slopes), cuts))
    num_sets = len({key[:2] for key in keys})  # levels of a column share the rows
    num_buckets = -(-board.num_rows * num_sets * (1 + len(board.metrics)) * 8 // BUCKET_BYTES)
    own = [(f"{scratch}/{bucket}",) for bucket in range(num_buckets)]
    try:
        run(ignore, "score", _write_groups, (board, slopes, keys, scratch, num_buckets), cuts)
        return _add(run(ignore, "score", _add_groups, (keys,), own))  # a group lies in one bucket
    finally:
        files_of(scratch).remove(scratch)


def _cuts(num_rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + PART_ROWS, num_rows)) for start in range(0, num_rows, PART_ROWS)]


def _count_part(board: Board, step: int, start: int, stop: int) -> First:
    counts: dict[Key, Count] = {}
    apart: dict[str, tuple[int, int]] = {}
    model = read(board.tables["model"], start, stop)
    for subject, predictions in board.tables.items():
        table = model if subject == "model" else read(predictions, start, stop)
        require_same_rows(model, table, f"model and {subject}")
        counts |= {key: Count.of(rows, board) for key, rows in board.sets(table, subject)}
        if subject != "model" and board.metrics[0].rate is not None:
            apart[subject] = wins(board.metrics[0], rows_of(model), rows_of(table))
    last = stop == board.num_rows  # which also has to answer for rows that are not there
    ids = board.expected_ids(
        min(start, board.num_expected), board.num_expected if last else min(stop, board.num_expected)
    )
    codec = codec_of(board.target)
    facts = Facts.of(model, ids, codec)
    place = start + np.cumsum(codec.opens_row(model.target)) - 1  # of the row, all of whose targets are shown or none
    return First(counts, apart, facts, model.some(np.flatnonzero(place % step == 0)))


def _pulls(board: Board, slopes: Slopes, start: int, stop: int) -> Iterator[tuple[Key, np.ndarray, np.ndarray | None]]:
    """Give for each set of rows how far each row pulls each metric (N, M), and its group (N,)."""
    model: Table | None = None
    for subject, predictions in board.tables.items():
        table = read(predictions, start, stop)
        for key, rows in board.sets(table, subject):
            if key in slopes:
                yield key, np.stack([slope.of(*rows_of(rows)) for slope in slopes[key]], 1), rows.group
        if model is None:
            model = table
        else:
            ours, theirs = (
                slopes[(name, "", 0)][0].of(*rows_of(t)) for name, t in (("model", model), (subject, table))
            )
            yield ("versus", subject, 0), (ours - theirs)[:, None], model.group


def _pull_part(board: Board, slopes: Slopes, start: int, stop: int) -> Squared:
    """Sum up squares where a part holds all rows of each of its groups."""
    found: dict[Key, tuple[Squares, ...]] = {}
    for key, pulled_NM, group in _pulls(board, slopes, start, stop):
        sums = pulled_NM if group is None else _by_group(group, pulled_NM)[1]
        found[key] = tuple(squares(column, None) for column in sums.T)
    return found


def _write_groups(
    board: Board, slopes: Slopes, keys: Sequence[Key], scratch: str, num_buckets: int, start: int, stop: int
) -> None:
    """Write how far the groups of some rows pull, sorted into buckets."""
    buckets: list[dict[str, np.ndarray]] = [{} for _ in range(num_buckets)]
    for key, pulled_NM, group in _pulls(board, slopes, start, stop):
        groups, sums = _by_group(np.asarray(group), pulled_NM)
        place = groups % np.uint64(num_buckets)
        number = keys.index(key)
        for bucket, held in enumerate(buckets):
            mine = place == bucket
            held |= {f"groups {number}": groups[mine], f"sums {number}": sums[mine]}
    for bucket, held in enumerate(buckets):
        with to_write(f"{scratch}/{bucket}/{start:015d}.npz") as path:
            np.savez(path, allow_pickle=False, **held)


def _add_groups(keys: Sequence[Key], folder: str) -> Squared:
    """Add up a bucket of groups over all parts."""
    found: dict[str, list[np.ndarray]] = {}
    for piece in files_of(folder).names(folder):
        with to_read(f"{folder}/{piece}") as path, np.load(path) as held:
            for name in held.files:
                found.setdefault(name, []).append(held[name])
    squared: dict[Key, tuple[Squares, ...]] = {}
    for number, key in enumerate(keys):
        if pieces := found.get(f"sums {number}"):
            _, sums = _by_group(np.concatenate(found[f"groups {number}"]), np.concatenate(pieces))
            squared[key] = tuple(squares(column, None) for column in sums.T)
    return squared


def _by_group(group: np.ndarray, pulled_NM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the distinct groups (G,) and the sums of their rows (G, M)."""
    groups, place = np.unique(group, return_inverse=True)
    return groups, np.stack([np.bincount(place, column, len(groups)) for column in pulled_NM.T], 1)


def _add(parts: Sequence[Squared]) -> Squared:
    added: dict[Key, tuple[Squares, ...]] = {}
    for part in parts:
        for key, own in part.items():
            before = added.get(key, ((0.0, 0),) * len(own))
            added[key] = tuple((a + x, b + n) for (a, b), (x, n) in zip(before, own, strict=True))
    return added
