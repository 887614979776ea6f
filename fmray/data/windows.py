"""Take rows whose tokens are foretold to the lanes, as windows or whole; see `fmray.data.cut`.

How many windows an item has is known only once its texts are tokens, and where a window stands in its split depends on
all items before; so items are tokenized twice, once to count and once to write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from fmray.data.apply import Going, Written, beside_of, file_order, inputs_of, refuse_infinite, write_parts
from fmray.data.cut import Windows, cut, ended, foretold_block, masked
from fmray.data.hashing import part_ids
from fmray.data.identify import Recipe
from fmray.data.pipeline import Pipeline
from fmray.data.scan import WorkItem
from fmray.data.split import TRAIN
from fmray.data.target import target_frame
from fmray.ragged import Arrays, Ragged
from fmray.records import SPLITS, Split, Target
from fmray.targets.sequence import BETWEEN, REFERENCES


@dataclass(frozen=True)
class Counted:
    """Say what windows an item has.

    Args:
        windows: Of train, val and test.
        tokens: How often each id stands in train (V,).
    """

    windows: tuple[int, int, int]
    tokens: np.ndarray


def count_windows(recipe: Recipe, pipeline: Pipeline, item: WorkItem) -> Counted:
    """Count the windows of an item, and its training tokens."""
    going = Going.of(recipe, item)
    windows, _ = _windows(going, recipe, pipeline)
    sides = going.sides[windows.row]
    train, val, test = np.bincount(sides, minlength=len(SPLITS)).tolist()
    width = pipeline.schema.blocks[foretold_block(pipeline.schema)].width
    tokens = windows.target[sides == TRAIN].compact().values
    ids = tokens if tokens.ndim == 1 else tokens[:, 0]
    return Counted((train, val, test), np.bincount(ids, minlength=width))


def write_windows(
    recipe: Recipe,
    pipeline: Pipeline,
    target: Target,
    levels: Mapping[str, Sequence[str]],
    item: WorkItem,
    starts: Mapping[Split, int],
) -> Written:
    """Write the windows of an item; see `fmray.data.apply.write_item`.

    Windows of a row have identities of their own; their group is that of the row, or else the row. Beside a text that
    is generated stands what a generated one is compared with.

    Raises:
        DataError: If a value is not a finite number after the steps.
    """
    going = Going.of(recipe, item)
    windows, others = _windows(going, recipe, pipeline)
    refuse_infinite(others, pipeline.schema, recipe=recipe, item=item, places=going.places)
    order, counts = file_order(going.sides[windows.row], starts, recipe.num_lanes)
    beside = beside_of(recipe, going, levels)
    if recipe.context:
        beside.setdefault("group", np.ascontiguousarray(going.ids[:, 0]))
    else:
        others[REFERENCES] = _references(going, recipe)
    arrays = windows.arrays(foretold_block(pipeline.schema), {**others, **beside})
    arrays["row_id"] = part_ids(going.ids[windows.row], windows.part)
    ordered = {name: values[order] for name, values in arrays.items()}
    return write_parts(recipe, item, going, arrays=ordered, counts=counts, unseen={})


def _windows(going: Going, recipe: Recipe, pipeline: Pipeline) -> tuple[Windows, Arrays]:
    """Give the windows of rows, and other inputs that the rows have."""
    inputs = inputs_of(going, recipe, pipeline, np.arange(len(going.ids)))
    block = foretold_block(pipeline.schema)
    tokens = inputs.pop(block)
    if not recipe.context:
        texts = target_frame(going.table, recipe.dataset.data).to_series()
        return ended(tokens, texts.str.len_chars().fill_null(0).to_numpy()), inputs
    windows = cut(tokens, recipe.context)
    if recipe.masked:
        is_kept = going.sides[windows.row] == TRAIN
        num_ids = pipeline.schema.blocks[block].width
        windows = masked(windows, recipe.masked, num_ids=num_ids, is_kept=is_kept)
    return windows, inputs


def _references(going: Going, recipe: Recipe) -> Ragged:
    """Give the bytes of the texts that one generated for a row is compared with."""
    data = recipe.dataset.data
    texts = target_frame(going.table, data).to_series()
    if data.references is not None:
        listed = pl.Series(data.references, going.table.column(data.references)).list.drop_nulls()
        texts = pl.select(pl.when(listed.list.len() > 0).then(listed.list.join(BETWEEN)).otherwise(texts)).to_series()
    return Ragged.from_texts(texts.to_arrow())
