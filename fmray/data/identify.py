"""Give every row of a work item its identity and its side, and set aside what cannot go on.

What is found lies in a scratch folder, a few arrays per item; the driver sees counts only. Where no training row can go
for being a copy, the first step learns in the same pass, which spares one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.arrow_frames import NullValues, as_frame, faults
from fmray.data.folds import Fold
from fmray.data.hashing import row_hashes
from fmray.data.levels import Levels, levels_of
from fmray.data.pipeline import Pipeline
from fmray.data.scan import Dataset, WorkItem, read_item
from fmray.data.scratch import load, save, write_file
from fmray.data.sides import describe, lacking
from fmray.data.split import EXCLUDED, TRAIN, Definition, assign
from fmray.data.step import Partial
from fmray.data.target import faulty, fit_target, labels_seen, target_frame, unlabelled
from fmray.records import Json
from fmray.schema import Schema
from fmray.store.copies import source_of
from fmray.targets.codec import codec_for

OUT = 3
"""Side of rows that go nowhere; 0, 1 and 2 are train, val and test."""
UNLABELLED = "unlabelled"
ASIDE = "aside.parquet"
QUARANTINE = ("quarantine_reason", "quarantine_file", "quarantine_row")
"""Columns of rows that are set aside, before their own."""


@dataclass(frozen=True)
class Recipe:
    """Hold what every pass over a work item needs.

    Args:
        dataset: Rows, as scanned.
        definition: Of the split.
        schema: Columns a model may see, as read.
        task: Name of the objective.
        slices: Columns carried along for slicing.
        num_lanes: V.
        num_buckets: Into how many parts rows are cut to find equal ones; a power of two.
        folder: Of the record that is made.
        fold: Training rows that steps do not learn from.
        context: Tokens of the windows that rows are cut into; 0 where they stay whole.
        masked: Share of the tokens of a window that are hidden.
        kept: Item -> folder with what is known of its rows; the scratch folder where there is none.
    """

    dataset: Dataset
    definition: Definition
    schema: Schema
    task: str
    slices: tuple[str, ...]
    num_lanes: int
    num_buckets: int
    folder: str
    fold: Fold | None = None
    context: int = 0
    masked: float = 0.0
    kept: Mapping[int, str] = field(default_factory=dict)

    @property
    def scratch(self) -> str:
        """Folder for what one pass leaves to the next."""
        return f"{self.folder}/scratch"

    def place(self, index: int, what: str) -> str:
        """Give the path of something that is known of an item's rows."""
        return f"{self.kept[index]}/{what}" if index in self.kept else f"{self.scratch}/{index:06d}.{what}"

    @property
    def learns_at_once(self) -> bool:
        """Whether all rows of train are learned from: no copies go, and none is held out by its id."""
        return self.dataset.data.dedup == "report" and self.fold is None

    @property
    def quarantine(self) -> str:
        """Folder for rows that are set aside."""
        return f"{self.folder}/quarantine"

    def columns(self) -> list[str]:
        """Name the columns that make up a row."""
        return [name for name in self.dataset.schema.names if name not in self.dataset.data.ignore]

    def reads(self) -> list[str]:
        """Name every column that is read: a split that was made by a column goes by it, ignored since or not."""
        return list(dict.fromkeys([*self.columns(), *self.definition.reads()]))

    def content(self) -> list[str]:
        """Name the columns by which rows count as equal: all but their name and their published side."""
        hidden = {*self.dataset.data.key, self.definition.column if self.definition.by == "given" else None}
        return [name for name in self.columns() if name not in hidden]


@dataclass(frozen=True)
class Summary:
    """Hold what training rows of a work item say about the target, and for the next step; None if not asked.

    Args:
        num_rows: That the step sees.
        with_nulls: Columns in which some of these rows have no value; None if no step looked.
    """

    target: Partial
    step: Partial
    num_rows: int
    with_nulls: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Identified:
    """Say what one work item holds.

    Args:
        sides: Rows of train, val and test.
        reasons: Why rows were set aside -> their number.
        levels: Slice column -> its levels.
        summary: What its training rows say, unless some of them may still go.
        labels: Spellings of `data.labels` that occur.
        held: What its sides hold, as `sides.describe` gives it.
    """

    sides: tuple[int, int, int]
    reasons: Mapping[str, int]
    levels: Mapping[str, Levels]
    summary: Summary | None
    labels: frozenset[str]
    held: Json


def identify(recipe: Recipe, pipeline: Pipeline, item: WorkItem) -> Identified:
    """Hash, divide and check the rows of an item, and leave the result in the scratch folder."""
    table = read_item(recipe.dataset, item, recipe.reads())
    data = recipe.dataset.data
    sides = assign(recipe.definition, table, data.null_values)
    codes, reasons = _judge(recipe, table, sides)
    sides[codes > 0] = OUT
    _leave(recipe, item.index, table, sides)
    _set_aside(recipe, item.index, table=table, codes=codes, reasons=reasons)
    counts = np.bincount(codes, minlength=len(reasons))
    train, val, test = np.bincount(sides, minlength=OUT + 1)[:OUT].tolist()
    kept = some(table, sides < OUT)
    return Identified(
        (train, val, test),
        {reason: int(count) for reason, count in zip(reasons, counts, strict=True) if count and reason},
        levels={name: levels_of(kept.column(name), name, data.null_values) for name in recipe.slices},
        summary=summarise(recipe, pipeline, some(table, sides == TRAIN)) if recipe.learns_at_once else None,
        labels=labels_seen(table, data),
        held=describe(table, sides, data, recipe.task),
    )


def summarise(
    recipe: Recipe, pipeline: Pipeline, rows: pa.Table, with_target: bool = True, seen: np.ndarray | None = None
) -> Summary:
    """Summarise training rows for the target and for the step that learns next.

    Args:
        seen: Which of them the step may see (n,), bool; None for all.
    """
    data = recipe.dataset.data
    target = fit_target(rows, data, recipe.task) if with_target else None
    rows = rows if seen is None else some(rows, seen)
    if pipeline.is_complete:
        return Summary(target, None, len(rows))
    targets = target_frame(rows, data) if pipeline.uses_target else None
    frame = as_frame(rows, recipe.schema, data.null_values)
    with_nulls = tuple(column.name for column in frame.get_columns() if column.null_count())
    return Summary(target, pipeline.fit_next(frame, targets), len(rows), with_nulls)


def some(table: pa.Table, mask: np.ndarray) -> pa.Table:
    """Give the rows of a table where the mask says so."""
    return table if mask.all() else table.filter(pa.array(mask))


def sides_of(recipe: Recipe, index: int) -> np.ndarray:
    """Give the side of each row of an item, in file order (n,), int8."""
    return load(recipe.place(index, "sides.npy"))


def hashes_of(recipe: Recipe, index: int) -> np.ndarray:
    """Give the row hash of each row of an item, in file order (n, 2), uint64."""
    return load(recipe.place(index, "hashes.npy"))


def bucket_of(recipe: Recipe, index: int, bucket: int) -> np.ndarray:
    """Give the rows of an item that may equal others of a bucket, ascending.

    Shapes:
        returns: (5, n), uint64: row, and hashes of its inputs, its targets, all that makes rows equal, and its id;
            (6, n) where rows have groups, with the hash of the group last.
    """
    return load_bucket(recipe.place(index, "rows"), bucket)


def keys_of(recipe: Recipe, index: int, bucket: int) -> np.ndarray:
    """Give the rows of an item whose key falls into a bucket, ascending.

    Shapes:
        returns: (3, n), uint64: row, and both words of its key.
    """
    return load_bucket(recipe.place(index, "keys"), bucket)


def _judge(recipe: Recipe, table: pa.Table, sides: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Say which rows cannot go on, and why; the last reason is that there is nothing to learn from them."""
    data = recipe.dataset.data
    codes, reasons = faults(table, recipe.schema, data.target)

    def mark(rows: np.ndarray, reason: str) -> None:
        reasons.append(reason)
        codes[(codes == 0) & rows] = len(reasons) - 1

    mark(sides == EXCLUDED, f"'{data.time}' is missing")
    if data.weight:
        weight = table.column(data.weight).cast(pa.float64()).fill_null(-1.0).to_numpy()
        most = float(np.finfo(np.float32).max)  # weights are kept as such, beyond which all is infinite
        mark(~((weight >= 0) & (weight <= most)), f"'{data.weight}' is missing, negative or infinite")
    for reason, rows in faulty(table, data, recipe.task).items():
        if rows.any():
            mark(rows, reason)
    mark(unlabelled(table, data, recipe.task), UNLABELLED)
    return codes, reasons


def _leave(recipe: Recipe, index: int, table: pa.Table, sides: np.ndarray) -> None:
    data = recipe.dataset.data
    targets = list(data.target)
    content = recipe.content()
    if data.labels:  # rows that say the same in two spellings are equal, though each keeps its own id
        meant = target_frame(table, data).to_arrow()
        targets = [f"{name} as meant" for name in data.target]
        content = [*targets, *(name for name in content if name not in data.target)]
        for name, column in zip(targets, meant.columns, strict=True):
            table = table.append_column(name, column)
    # rows with equal sources have equal inputs, whatever is to be generated
    hidden = data.target if codec_for(recipe.task).generates else ()
    asked = {
        "x": [column.name for column in recipe.schema.columns if column.name not in hidden],
        "y": targets,
        "content": content,
        "id": data.key or recipe.columns(),
    }
    hashes = dict(zip(asked, row_hashes(table, list(asked.values())), strict=True))
    save(recipe.place(index, "hashes.npy"), hashes["id"])
    save(recipe.place(index, "sides.npy"), sides)
    # A row that nobody sees has no copies; a key must be unique even where the label is missing.
    words = [h[:, 0] for h in hashes.values()]
    if data.group:
        words.append(_group_word(table, data.group, hashes["id"][:, 0], data.null_values))
    save_buckets(recipe.place(index, "rows"), np.flatnonzero(sides < OUT), words, recipe.num_buckets)
    if data.key:
        save_buckets(recipe.place(index, "keys"), np.arange(len(sides)), list(hashes["id"].T), recipe.num_buckets)


def _group_word(table: pa.Table, name: str, own: np.ndarray, null_values: NullValues) -> np.ndarray:
    """Give the hash of each row's group (n,); a row without one is a group of its own."""
    (words,) = row_hashes(table, [[name]], num_words=1)
    return np.where(lacking(table, [name], null_values), own, words[:, 0])


def save_buckets(path: str, rows: np.ndarray, words: Sequence[np.ndarray], num_buckets: int) -> None:
    """Sort rows by the upper bits of their first word, and remember where each bucket begins; see `load_bucket`."""
    bits = num_buckets.bit_length() - 1
    bucket = np.zeros(len(rows), np.uint16)
    if bits:
        bucket = (words[0][rows] >> np.uint64(64 - bits)).astype(np.uint16)
        rows = rows[np.argsort(bucket, kind="stable")]  # of 16-bit words: a radix sort, linear
    held = np.empty((1 + len(words), len(rows)), np.uint64)
    held[0] = rows
    for place, values in enumerate(words, start=1):
        held[place] = values[rows]
    save(f"{path}.npy", held)
    save(f"{path}-begin.npy", np.r_[0, np.cumsum(np.bincount(bucket, minlength=num_buckets))])


def load_bucket(path: str, bucket: int) -> np.ndarray:
    """Give what `save_buckets` left of a bucket: rows, ascending, and their words (1 + words, n), uint64."""
    begin = load(f"{path}-begin.npy")
    return load(f"{path}.npy")[:, begin[bucket] : begin[bucket + 1]]


def _set_aside(recipe: Recipe, index: int, table: pa.Table, codes: np.ndarray, reasons: Sequence[str]) -> None:
    """Leave the rows that cannot go on, each with the reason and its place in the item."""
    rows = np.flatnonzero((codes > 0) & (codes < len(reasons) - 1))  # the last reason is no fault
    told: dict[str, Any] = {"quarantine_reason": [reasons[code] for code in codes[rows]], "quarantine_row": rows}
    values = table.take(pa.array(rows))
    told |= {name: _readable(values.column(name)) for name in values.column_names if name not in QUARANTINE}
    if len(rows):
        _write_table(recipe.place(index, ASIDE), pa.table(told))


def _readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give lists of one length as lists of any: of the former, Arrow writes missing ones but does not read them."""
    kind = column.type
    return column.cast(_any_length(kind)) if pa.types.is_fixed_size_list(kind) else column


def _any_length(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_any_length(kind.value_type)) if pa.types.is_fixed_size_list(kind) else kind


def quarantine(recipe: Recipe, item: WorkItem, found: Identified) -> None:
    """Write the rows of an item that were set aside to the record, with the names that files have now."""
    if not set(found.reasons) - {UNLABELLED}:
        return
    aside = pq.ParquetFile(source_of(recipe.place(item.index, ASIDE))).read()
    names, places = provenance(recipe.dataset, item, aside.column("quarantine_row").to_numpy())
    told = {"quarantine_reason": aside.column(0), "quarantine_file": names, "quarantine_row": places}
    values = {name: aside.column(name) for name in aside.column_names if name not in QUARANTINE}
    _write_table(f"{recipe.quarantine}/{item.index:06d}.parquet", pa.table(told | values))


def _write_table(path: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_file(path, memoryview(sink.getvalue()))


def provenance(dataset: Dataset, item: WorkItem, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Say in which file, and where in it, rows of an item stand."""
    ends = np.cumsum([piece[4] for piece in item.pieces])
    piece = np.searchsorted(ends, rows, side="right")
    begins = ends - [p[4] for p in item.pieces]
    first = np.array([p[3] for p in item.pieces])
    return [dataset.files[item.pieces[p][0]].path for p in piece], rows - begins[piece] + first[piece]


def where(dataset: Dataset, item: WorkItem, row: int) -> str:
    """Name a row for a person: file and row."""
    names, places = provenance(dataset, item, np.array([row]))
    return f"{names[0]} row {places[0]}"
