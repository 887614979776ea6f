"""Give every row of a work item its identity and its side, and set aside what cannot go on.

What is found lies in a scratch folder, one set of arrays per item; the driver sees counts only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fmray.data.hashing import row_hash
from fmray.data.raw import faults
from fmray.data.scan import Dataset, WorkItem, read_item
from fmray.data.split import EXCLUDED, Definition, assign
from fmray.errors import DataError
from fmray.schema import Schema

OUT = 3
"""Side of rows that go nowhere; 0, 1 and 2 are train, val and test."""
UNLABELLED = "unlabelled"


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
        scratch: Folder for what one pass leaves to the next.
    """

    dataset: Dataset
    definition: Definition
    schema: Schema
    task: str
    slices: tuple[str, ...]
    num_lanes: int
    num_buckets: int
    scratch: str

    def columns(self) -> list[str]:
        """Name every column that is read."""
        return [name for name in self.dataset.schema.names if name not in self.dataset.data.ignore]


@dataclass(frozen=True)
class Identified:
    """Say what one work item holds.

    Args:
        index: Of the item.
        sides: Rows of train, val and test.
        reasons: Why rows were set aside -> their number.
        levels: Slice column -> its levels.
    """

    index: int
    sides: tuple[int, int, int]
    reasons: Mapping[str, int]
    levels: Mapping[str, Sequence[str]]


def identify(recipe: Recipe, item: WorkItem, quarantine: str) -> Identified:
    """Hash, divide and check the rows of an item, and leave the result in the scratch folder.

    Args:
        quarantine: Folder for the rows set aside, with file, row and reason.
    """
    data = recipe.dataset.data
    table = read_item(recipe.dataset, item, recipe.columns())
    hashes = row_hash(table, data.key or recipe.columns())
    sides = assign(recipe.definition, table)
    codes, reasons = faults(table, recipe.schema, data.target)
    reasons += [f"'{data.time}' is missing", f"'{data.weight}' is missing or negative", UNLABELLED]
    codes[(codes == 0) & (sides == EXCLUDED)] = len(reasons) - 3
    if data.weight:
        weight = table.column(data.weight).cast(pa.float64()).fill_null(-1.0).to_numpy()
        codes[(codes == 0) & ~(weight >= 0)] = len(reasons) - 2
    codes[(codes == 0) & _unlabelled(table, data.target, data.null_values)] = len(reasons) - 1
    sides[codes > 0] = OUT
    counts = np.bincount(codes, minlength=len(reasons))
    _set_aside(recipe, item, codes, reasons, f"{quarantine}/{item.index:06d}.parquet")
    _leave(recipe, item.index, hashes, sides)
    return Identified(
        item.index,
        tuple(np.bincount(sides, minlength=4)[:3].tolist()),
        {reason: int(count) for reason, count in zip(reasons, counts, strict=True) if count and reason},
        {name: _levels(table.column(name), name) for name in recipe.slices},
    )


def sides_of(scratch: str, index: int) -> np.ndarray:
    """Give the side of each row of an item, in file order (n,), int8."""
    return np.load(f"{scratch}/{index:06d}.sides.npy")


def hashes_of(scratch: str, index: int) -> np.ndarray:
    """Give the row hash of each row of an item, in file order (n, 2), uint64."""
    return np.load(f"{scratch}/{index:06d}.hashes.npy", mmap_mode="r")


def rows_of_bucket(scratch: str, index: int, bucket: int) -> np.ndarray:
    """Give the rows of an item whose hash falls into a bucket, ascending (n,), int64."""
    bounds = np.load(f"{scratch}/{index:06d}.bounds.npy")
    rows = np.load(f"{scratch}/{index:06d}.buckets.npy", mmap_mode="r")
    return rows[bounds[bucket] : bounds[bucket + 1]].astype(np.int64)


def _leave(recipe: Recipe, index: int, hashes: np.ndarray, sides: np.ndarray) -> None:
    prefix = f"{recipe.scratch}/{index:06d}"
    np.save(f"{prefix}.hashes.npy", hashes)
    np.save(f"{prefix}.sides.npy", sides)
    bits = recipe.num_buckets.bit_length() - 1
    bucket = (hashes[:, 0] >> np.uint64(64 - bits)).astype(np.uint16) if bits else np.zeros(len(hashes), np.uint16)
    rows = np.argsort(bucket, kind="stable")  # radix sort, linear
    np.save(f"{prefix}.buckets.npy", rows.astype(np.uint32))
    np.save(f"{prefix}.bounds.npy", np.r_[0, np.cumsum(np.bincount(bucket, minlength=recipe.num_buckets))])


def _unlabelled(table: pa.Table, targets: Sequence[str], null_values: Sequence[str | float | int]) -> np.ndarray:
    missing = np.zeros(table.num_rows, bool)
    for name in targets:
        column = table.column(name)
        missing |= pc.is_null(column, nan_is_null=True).to_numpy()
        fitting = [value for value in null_values if isinstance(value, str) == pa.types.is_string(column.type)]
        if fitting:
            missing |= pc.is_in(column, pa.array(fitting).cast(column.type)).to_numpy()
    return missing


def _set_aside(recipe: Recipe, item: WorkItem, codes: np.ndarray, reasons: Sequence[str], path: str) -> None:
    rows = np.flatnonzero((codes > 0) & (codes < len(reasons) - 1))
    if not len(rows):
        return
    names, places = _provenance(recipe.dataset, item, rows)
    why = pa.array(list(reasons)).take(pa.array(codes[rows]))
    kept = read_item(recipe.dataset, item, recipe.columns()).take(pa.array(rows))
    told = {"_reason": why, "_file": pa.array(names), "_row": pa.array(places)}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(told | dict(zip(kept.column_names, kept.columns, strict=True))), path)


def _provenance(dataset: Dataset, item: WorkItem, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    ends = np.cumsum([piece[4] for piece in item.pieces])
    piece = np.searchsorted(ends, rows, side="right")
    begins = ends - [p[4] for p in item.pieces]
    first = np.array([p[3] for p in item.pieces])
    return [dataset.files[item.pieces[p][0]].path for p in piece], rows - begins[piece] + first[piece]


def where(dataset: Dataset, item: WorkItem, row: int) -> str:
    """Name a row for a person: file and row."""
    names, places = _provenance(dataset, item, np.array([row]))
    return f"{names[0]} row {places[0]}"


def _levels(column: pa.ChunkedArray, name: str) -> list[str]:
    levels = [str(level) for level in pc.unique(column).to_pylist()]
    if len(levels) > 1000:
        raise DataError(f"column '{name}' has {len(levels)} levels. Slice by columns of fewer than 1000.", "evaluate.slices")
    return sorted(set(levels))
