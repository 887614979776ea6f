"""Provide what steps that read text share: which columns, the blocks these become, and samples of texts.

A sample is chosen by a hash of the text alone, so it depends neither on the order of rows nor on how they are grouped.
"""

import re
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from fmray.data.hashing import row_hash
from fmray.data.step import chosen
from fmray.errors import DataError
from fmray.ragged import Ragged
from fmray.schema import Column, Kind, Schema

Sample = list[tuple[int, str, int]]
"""Hash, text and number of rows that have it, ascending by hash."""


def blocks_of(
    columns: Sequence[str] | str,
    schema: Schema,
    step: str,
    kind: Kind,
    block: str | None = None,
    of: Sequence[Kind] = ("text",),
) -> dict[str, str]:
    """Give the block that each column becomes.

    Args:
        block: As the job names it; by default it is called as the kind is.
        of: Kinds of the columns.

    Raises:
        SpecError: If a column is unknown or of another kind.
    """
    names = [column.name for column in chosen(columns, schema, of, step)]
    own = block or kind
    if len(names) == 1:
        return {names[0]: own}
    return {name: f"{own}_{re.sub(r'[^0-9A-Za-z]+', '_', name)}" for name in names}


def replaced(schema: Schema, blocks: dict[str, str], kind: Kind, width: int) -> Schema:
    """Give the schema with text columns as ragged blocks.

    Raises:
        SpecError: If two columns would be in one block.
    """
    made = Schema(
        tuple(Column(c.name, kind, width, block=blocks[c.name]) if c.name in blocks else c for c in schema.columns)
    )
    _ = made.blocks  # refuses two columns of one block
    return made


def refuse_empty(column: str, what: str, filled: int, step: str) -> None:
    """Refuse a column in which a step finds nothing to learn from.

    Args:
        what: The step looks for, for the message.
        filled: Training rows that have some.

    Raises:
        DataError: If none has.
    """
    if not filled:
        text = f"no training row has any {what} in column '{column}'. Name another column, or leave the step out."
        raise DataError(text, f"steps.{step}.columns")


def about_empty(empty: int, num_rows: int) -> str:
    """Say how many training rows have nothing that a step reads; "" where all have some."""
    return f"; {empty:,} of {num_rows:,} training rows have none" if empty else ""


def hashes_of(texts: pl.Series) -> np.ndarray:
    """Hash texts without nulls by value (n,), uint64."""
    return row_hash(pa.table({"text": texts.to_arrow().cast(pa.string())}), ["text"])[:, 0]


def sample_of(texts: pl.Series, most: int) -> Sample:
    """Give the texts with the smallest hashes, each once, with the number of rows that have it."""
    counts = texts.drop_nulls().alias("text").value_counts(name="rows")
    hashes = hashes_of(counts["text"])
    first = np.argsort(hashes)[:most]
    chosen_texts = counts[first]
    return list(
        zip(hashes[first].tolist(), chosen_texts["text"].to_list(), chosen_texts["rows"].to_list(), strict=True)
    )


def merged_sample(one: Sample, other: Sample, most: int) -> Sample:
    """Give the sample of both sets of rows."""
    counts: dict[tuple[int, str], int] = {}
    for word, text, rows in (*one, *other):
        counts[word, text] = counts.get((word, text), 0) + rows
    return [(word, text, rows) for (word, text), rows in sorted(counts.items())[:most]]


def list_series(name: str, rows: Ragged) -> pl.Series:
    """Give rows of ids as a column of a frame."""
    return pl.Series(name, rows.to_arrow())


def weighted_series(name: str, ids: Ragged, weights: np.ndarray) -> pl.Series:
    """Give rows of ids with a weight each as a column of a frame.

    Shapes:
        weights: (T,), in the order of the ids' values.
    """
    own = ids.compact()
    entries = pa.StructArray.from_arrays([pa.array(own.values), pa.array(weights)], ["id", "weight"])
    offsets = np.concatenate([own.starts, [len(own.values)]]).astype(np.int64)
    return pl.Series(name, pa.LargeListArray.from_arrays(pa.array(offsets), entries))
