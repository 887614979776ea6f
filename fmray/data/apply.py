"""Take the training rows of a work item to the steps that learn, and all its rows to the lanes.

Both read the item again: nothing but identities and sides lies between the passes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fmray.data.canonical import key, mix
from fmray.data.hashing import row_hash, row_ids
from fmray.data.identify import Recipe, hashes_of, where
from fmray.data.lanes import write_part
from fmray.data.occurrences import kept_rows
from fmray.data.pipeline import Pipeline
from fmray.data.raw import as_frame, block
from fmray.data.scan import WorkItem, read_item
from fmray.data.split import TRAIN
from fmray.data.step import Partial
from fmray.data.target import encode_target, fit_target
from fmray.errors import DataError
from fmray.records import SPLITS, Split, Target

WORD = 1 << 64


def fit_item(recipe: Recipe, item: WorkItem, pipeline: Pipeline, with_target: bool) -> tuple[Partial, Partial]:
    """Summarise the training rows of an item for the target and for the step that learns next; None where not asked."""
    wanted = [column.name for column in recipe.schema.columns] if not pipeline.is_complete else []
    sides = kept_rows(recipe.scratch, item.index, recipe.num_buckets)[0]
    targets = recipe.dataset.data.target if with_target else ()
    table = _some(read_item(recipe.dataset, item, [*wanted, *targets]), sides == TRAIN)
    target = fit_target(table, recipe.dataset.data, recipe.task) if with_target else None
    if pipeline.is_complete:
        return target, None
    return target, pipeline.fit_next(as_frame(table, recipe.schema, recipe.dataset.data.null_values))


@dataclass(frozen=True)
class Written:
    """Say what was written of a work item.

    Args:
        parts: Split -> (file, rows); splits without rows are left out.
        test_ids: Sums of the mixed ids of test rows modulo 2^64, per word: equal for equal sets of rows.
    """

    parts: Mapping[Split, tuple[str, int]]
    test_ids: tuple[int, int]


def apply_item(
    recipe: Recipe,
    item: WorkItem,
    pipeline: Pipeline,
    target: Target,
    levels: Mapping[str, Sequence[str]],
    starts: Mapping[Split, int],
    folder: str,
) -> Written:
    """Write the lanes of an item.

    Args:
        levels: Slice column -> its levels, in order.
        starts: Position of its first row in each split's sequence.
        folder: Where the files go.

    Raises:
        DataError: If a row of val or test has a class that no training row has, or a value no step has made a number.
    """
    sides, occurrence = kept_rows(recipe.scratch, item.index, recipe.num_buckets)
    going = np.flatnonzero(sides < len(SPLITS))
    table = _some(read_item(recipe.dataset, item, recipe.columns()), sides < len(SPLITS))
    ids = row_ids(np.asarray(hashes_of(recipe.scratch, item.index))[going], occurrence[going])
    codes, _ = encode_target(table, target, recipe.dataset.data)
    if target.kind == "class" and (codes < 0).any():
        _refuse_unseen(recipe, item, table, codes, going)
    frame = pipeline.apply(as_frame(table, recipe.schema, recipe.dataset.data.null_values))
    arrays = {"x": block(frame, pipeline.schema), "target": codes, "row_id": ids, **_beside(recipe, table, levels)}
    parts: dict[Split, tuple[str, int]] = {}
    for side, split in enumerate(SPLITS):
        rows = np.flatnonzero(sides[going] == side)
        if len(rows):
            name = f"{split}-{item.index:06d}.arrow"
            write_part(f"{folder}/{name}", arrays, rows, starts[split], recipe.num_lanes)
            parts[split] = (name, len(rows))
    return Written(parts, _digest(ids[sides[going] == SPLITS.index("test")]))


def _some(table: pa.Table, mask: np.ndarray) -> pa.Table:
    return table if mask.all() else table.filter(pa.array(mask))


def _beside(recipe: Recipe, table: pa.Table, levels: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    data = recipe.dataset.data
    found: dict[str, Any] = {}
    if data.weight:
        found["weight"] = table.column(data.weight).cast(pa.float32()).to_numpy()
    if data.group:
        found["group"] = row_hash(table, [data.group])[:, 0]
    for name, known in levels.items():
        column = table.column(name).cast(pa.string()).fill_null("None").combine_chunks()
        found[f"slice_{name}"] = pa.compute.index_in(column, pa.array(list(known))).to_numpy(zero_copy_only=False).astype(np.int32)
    return found


def _digest(ids: np.ndarray) -> tuple[int, int]:
    first, second = (int(mix(ids[:, lane], key(lane, "test set", "", 0)).sum(dtype=np.uint64)) for lane in (0, 1))
    return first, second


def add_digests(parts: Sequence[tuple[int, int]]) -> str:
    """Give one name to a set of test rows, from what its items say."""
    return "".join(f"{sum(part[lane] for part in parts) % WORD:016x}" for lane in (0, 1))


def _refuse_unseen(recipe: Recipe, item: WorkItem, table: pa.Table, codes: np.ndarray, going: np.ndarray) -> None:
    name = recipe.dataset.data.target[0]
    rows = np.flatnonzero(codes < 0)
    value = table.column(name)[int(rows[0])].as_py()
    raise DataError(
        f"class {value!r} of '{name}' is in no training row, but in {len(rows)} rows of validation or test, the first in "
        f"{where(recipe.dataset, item, int(going[rows[0]]))}. Map it with data.labels, or set split.salt to divide anew.",
        "data.target",
    )
