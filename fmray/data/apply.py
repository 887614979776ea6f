"""Take the training rows of a work item to the steps that learn, and all its rows to the lanes.

Both read the item again: nothing but identities and sides lies between the passes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from fmray.data.arrow_frames import as_frame, blocks
from fmray.data.canonical import LANES, key, mix
from fmray.data.class_sampling import lane_copies
from fmray.data.duplicates import kept_rows, overlapping_rows
from fmray.data.hashing import mixed_ids, row_ids
from fmray.data.identify import Recipe, Summary, hashes_of, some, summarise, where
from fmray.data.lanes import lane_order, write_part
from fmray.data.levels import encode_levels
from fmray.data.pipeline import Pipeline
from fmray.data.scan import WorkItem, read_item
from fmray.data.scratch import save
from fmray.data.sides import group_hashes
from fmray.data.split import TEST, TRAIN
from fmray.data.target import encode_target
from fmray.errors import DataError, SpecError
from fmray.pieces import tokens_of
from fmray.ragged import Arrays, Ragged, empty_rows, repeated
from fmray.records import SPLITS, Part, Split, Target
from fmray.schema import DENSE, Schema
from fmray.targets.codec import codec_of
from fmray.targets.sequence import REFERENCES

WORD = 1 << 64
SLICE_BYTES = 8 << 20
LEAST_ROWS = 1024


def fit_item(recipe: Recipe, pipeline: Pipeline, with_target: bool, item: WorkItem) -> Summary:
    """Summarise the training rows of an item for the target and for the step that learns next; None if not asked."""
    return fit_rows(recipe, pipeline, with_target, item, *kept_rows(recipe, item.index))


def fit_rows(
    recipe: Recipe, pipeline: Pipeline, with_target: bool, item: WorkItem, sides: np.ndarray, occurrence: np.ndarray
) -> Summary:
    """Summarise the training rows of an item, given the side and the occurrence number of each of its rows."""
    data = recipe.dataset.data
    inputs = [] if pipeline.is_complete else [column.name for column in recipe.schema.columns]
    targets = [name for name in data.reads_target if with_target or pipeline.uses_target]
    groups = [data.group] if recipe.fold and data.group else []
    rows = some(read_item(recipe.dataset, item, list(dict.fromkeys([*inputs, *targets, *groups]))), sides == TRAIN)
    if recipe.fold is None:
        return summarise(recipe, pipeline, rows, with_target)
    ids = row_ids(np.asarray(hashes_of(recipe, item.index))[sides == TRAIN], occurrence[sides == TRAIN])
    held_out = recipe.fold.holds(ids, group_hashes(rows, data, groups[0], ids) if groups else None)
    return summarise(recipe, pipeline, rows=rows, with_target=with_target, seen=~held_out)


@dataclass(frozen=True)
class Written:
    """Say what was written of a work item.

    Args:
        parts: Split -> (file, rows); splits without rows are left out.
        test_ids: Sums of the mixed ids of test rows modulo 2^64, per word: equal for equal sets of rows.
        unseen: Class that no training row has -> its rows here, and the first of them in words.
        entries: Column of a ragged block -> its entries, and those of its longest row.
        overlap: File with the ids (n, 2) of test rows whose inputs a training row has; empty if there are none.
    """

    parts: Mapping[Split, tuple[str, int]]
    test_ids: tuple[int, int]
    unseen: Mapping[str, tuple[int, str]]
    entries: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    overlap: str = ""


def write_item(
    recipe: Recipe,
    pipeline: Pipeline,
    target: Target,
    levels: Mapping[str, Sequence[str]],
    item: WorkItem,
    starts: Mapping[Split, int],
) -> Written:
    """Write the lanes of an item.

    Args:
        levels: Slice column -> its levels, in order.
        starts: Position of its first row in each split's sequence.

    Raises:
        DataError: If a value is not a finite number after the steps.
    """
    going = Going.of(recipe, item)
    rows = np.repeat(np.arange(len(going.ids)), going.copies)  # of the table, behind each row of the lanes
    encoded, _ = encode_target(going.table, target, recipe.dataset.data)
    order, counts = file_order(going.sides[rows], starts, recipe.num_lanes)
    inputs = inputs_of(going, recipe, pipeline, order)
    places = going.places[rows[order]]
    if isinstance(encoded, Ragged):
        kinds = {block.name: block.kind for block in pipeline.schema.blocks.values() if block.is_ragged}
        lengths = {name: tokens_of(inputs[name], kind) for name, kind in kinds.items()}
        _refuse_other_lengths(lengths, encoded[rows[order]], recipe=recipe, item=item, places=places)
    refuse_infinite(inputs, pipeline.schema, recipe=recipe, item=item, places=places)
    beside = {"target": encoded, "row_id": going.ids, **beside_of(recipe, going, levels)}
    arrays = {**inputs, **{name: values[rows[order]] for name, values in beside.items()}}
    unknown = codec_of(target).unknown(encoded)
    unseen = _unseen(recipe, item, table=going.table, target=target, unknown=unknown, places=going.places)
    return write_parts(recipe, item, going, arrays=arrays, counts=counts, unseen=unseen)


@dataclass(frozen=True)
class Going:
    """Hold the rows of an item that go into the lanes.

    Args:
        table: As read.
        sides: 0 train, 1 val, 2 test (n,).
        copies: How often each row stands in the lanes (n,), once at least.
        ids: Of each row (n, 2).
        places: Of each row in its item (n,).
    """

    table: pa.Table
    sides: np.ndarray
    copies: np.ndarray
    ids: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, recipe: Recipe, item: WorkItem) -> "Going":
        """Read the rows."""
        sides, occurrence = kept_rows(recipe, item.index)
        copies = lane_copies(recipe, item.index, sides)
        places = np.flatnonzero(copies)
        table = some(read_item(recipe.dataset, item, recipe.columns()), copies > 0)
        ids = row_ids(np.asarray(hashes_of(recipe, item.index))[places], occurrence[places])
        return cls(table, sides[places], copies[places], ids=ids, places=places)


def write_parts(
    recipe: Recipe,
    item: WorkItem,
    going: Going,
    arrays: Arrays,
    counts: Mapping[Split, int],
    unseen: Mapping[str, tuple[int, str]],
) -> Written:
    """Write rows in the order of the item's parts, a file for each side, and say what was written."""
    parts: dict[Split, tuple[str, int]] = {}
    begin = 0
    for split, count in counts.items():
        name = _part_name(split, item.index)
        write_part(f"{recipe.folder}/{name}", {key: values[begin : begin + count] for key, values in arrays.items()})
        parts[split] = (name, count)
        begin += count
    entries = {
        name: (int(values.lengths.sum()), int(values.lengths.max(initial=0)))
        for name, values in arrays.items()
        if isinstance(values, Ragged) and name not in ("target", REFERENCES)
    }
    overlap = _leave_overlap(recipe, item.index, going.places, going.ids)
    return Written(parts, _digest(going.ids[going.sides == TEST]), unseen, entries=entries, overlap=overlap)


def _part_name(split: Split, index: int) -> str:
    return f"{split}-{index:06d}.arrow"


def item_of(part: Part) -> int:
    """Give the index of the work item that the rows of a part come from."""
    return int(part.file.removesuffix(".arrow").rpartition("-")[2])


def _leave_overlap(recipe: Recipe, index: int, going: np.ndarray, ids: np.ndarray) -> str:
    """Keep the ids of test rows whose inputs stand in train, beside the lanes, and name the file."""
    places = np.searchsorted(going, overlapping_rows(recipe, index))
    if not len(places):
        return ""
    name = f"overlap-{index:06d}.npy"
    save(f"{recipe.folder}/{name}", ids[places])
    return name


def file_order(sides: np.ndarray, starts: Mapping[Split, int], num_lanes: int) -> tuple[np.ndarray, dict[Split, int]]:
    """List rows as the item's parts hold them, one part behind the other, and count the rows of each."""
    orders = []
    counts = {}
    for side, split in enumerate(SPLITS):
        if len(rows := np.flatnonzero(sides == side)):
            orders.append(rows[lane_order(starts[split], len(rows), num_lanes)])
            counts[split] = len(rows)
    return np.concatenate(orders or [np.zeros(0, np.int64)]), counts


def inputs_of(going: Going, recipe: Recipe, pipeline: Pipeline, order: np.ndarray) -> Arrays:
    """Give the inputs of rows, each as many times as it has copies, in the order asked for.

    Rows go through the steps a few at a time: fresh memory costs more than the work on it, so little is used often.
    """
    frame = as_frame(going.table, recipe.schema, recipe.dataset.data.null_values)
    copies = going.copies
    result: Arrays = {}
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    num_rows = max(LEAST_ROWS, SLICE_BYTES // pipeline.schema.typical_bytes)
    first = 0
    for start in range(0, max(1, len(copies)), num_rows):  # an item without rows has columns all the same
        rows = slice(start, start + num_rows)
        with np.errstate(over="ignore"):  # what no float32 holds is named by the caller
            made = blocks(pipeline.apply(frame[rows]), pipeline.schema)
        num_copies = int(copies[rows].sum())
        for name, values in made.arrays.items():
            if name not in result:
                result[name] = empty_rows(len(order), values)
            own = repeated(values, copies[rows]) if (copies[rows] > 1).any() else values
            result[name][place[first : first + num_copies]] = own
        first += num_copies
    return result


def beside_of(recipe: Recipe, going: Going, levels: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Give what lies beside inputs and target of each row: its weight, group and slices."""
    data = recipe.dataset.data
    table = going.table
    found: dict[str, np.ndarray] = {}
    if data.weight:
        found["weight"] = table.column(data.weight).cast(pa.float64()).to_numpy().astype(np.float32)
    if data.group:
        found["group"] = group_hashes(table, data, data.group, going.ids)
    for name, known in levels.items():
        found[f"slice_{name}"] = encode_levels(table.column(name), known, data.null_values)
    return found


def refuse_infinite(inputs: Arrays, schema: Schema, recipe: Recipe, item: WorkItem, places: np.ndarray) -> None:
    """Refuse rows that hold a number after the steps which is not finite.

    Raises:
        DataError: Naming the column and the first such row, by its place in the item.
    """
    x = inputs.get(DENSE, np.zeros(0))
    if np.isfinite(x).all():
        return
    row, place = np.argwhere(~np.isfinite(x))[0].tolist()
    raise DataError(
        f"'{schema.feature_names()[place]}' is {x[row, place]} after the steps in "
        f"{where(recipe.dataset, item, int(places[row]))}: no float32 holds it. Add clip or quantile before.",
        "steps",
    )


def _refuse_other_lengths(
    blocks: Mapping[str, np.ndarray], target: Ragged, recipe: Recipe, item: WorkItem, places: np.ndarray
) -> None:
    """Refuse rows that have not as many tokens as tags.

    Args:
        blocks: Tokens of each row (n,), by the block that holds them.
    """
    name = recipe.dataset.data.target[0]
    if not blocks:
        raise SpecError(f"'{name}' is learned token by token, and no step makes any. Add tokenize_words.", "steps")
    for block, lengths in blocks.items():
        if len(wrong := np.flatnonzero(lengths != target.lengths)):
            row = int(wrong[0])
            text = recipe.dataset.data.text
            what = f"words in '{text}'" if text else f"tags in '{name}'"
            cure = f"Make tokens by tokenize_words of '{text}' alone." if text else "Give one tag per token."
            raise DataError(
                f"{where(recipe.dataset, item, int(places[row]))} has {lengths[row]} tokens in block '{block}' and "
                f"{target.lengths[row]} {what}, and {len(wrong)} rows here differ. {cure}",
                "data.target",
            )


def _unseen(
    recipe: Recipe, item: WorkItem, table: pa.Table, target: Target, unknown: np.ndarray, places: np.ndarray
) -> dict[str, tuple[int, str]]:
    """Give each class that no training row has, the number of its rows here, and the first of them in words."""
    rows = np.flatnonzero(unknown)
    data = recipe.dataset.data
    values = table.column(data.target[0]).take(pa.array(rows)).to_pylist()
    codec = codec_of(target)
    known = set(codec.class_names)
    found: dict[str, tuple[int, str]] = {}
    for row, value in zip(rows.tolist(), values, strict=True):
        names = codec.names_in(value)
        if isinstance(value, list):  # of a list, those that are meant
            names = [name for name in names if data.labels.get(name, name) not in known]
        for name in names:
            count, first = found.get(name) or (0, where(recipe.dataset, item, int(places[row])))
            found[name] = (count + 1, first)
    return found


def _digest(ids: np.ndarray) -> tuple[int, int]:
    """Sum the ids of rows so that neither their order nor their grouping matters; an id's words stay tied together."""
    tied = mixed_ids(ids, key(0, "test set", "", 0))
    first, second = (int(mix(tied, key(lane, "test set", "", 0)).sum(dtype=np.uint64)) for lane in LANES)
    return first, second


def add_digests(parts: Sequence[tuple[int, int]]) -> str:
    """Give one name to a set of test rows, from what its items say."""
    return "".join(f"{sum(part[lane] for part in parts) % WORD:016x}" for lane in LANES)
