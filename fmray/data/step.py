"""Define what a step is: one change to rows, learned from training rows only.

A prepared step is fitted as map-reduce: `fit` on the training rows of each work item, `merge` of what they gave, in any
grouping, and `learn` once. What it learned is plain values, so it travels in the record and in the model folder;
`apply` needs nothing else.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from fmray.errors import SpecError
from fmray.records import Json
from fmray.registry import nearest
from fmray.schema import Column, Kind, Schema

MOST_NOTES, SHOWN_COLUMNS = 5, 3
"""Columns up to which each has a line of its own, and columns that are named where they share one."""

Partial = Any
"""What one work item says about its training rows; small, and picklable between Ray tasks."""


@dataclass(frozen=True)
class Fitted:
    """Hold what a step learned.

    Args:
        state: Plain values; all that `apply` needs beside the step's own parameters.
        schema: Columns after the step.
        notes: What a person should read: columns left out, levels merged.

    Raises:
        SpecError: If two columns bear one name.
    """

    state: Json
    schema: Schema
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        counts = Counter(column.name for column in self.schema.columns)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise SpecError(
                f"the data has a column '{twice[0]}', and a step makes one of that name. Rename it, or ignore it.",
                "steps",
            )


class Step(Protocol):
    """Change rows; built from the job file as `StepClass(**params)`.

    Frames hold one Polars column per schema column: numbers and 0/1 flags as floats or integers (null is missing),
    text as String, time as Datetime("us"), encoded images as Binary, everything wider than 1 as Array of that width.

    A step with an attribute `uses_target = True` gets the targets of the same rows, a frame, as a third argument of
    `fit`, to decide by; what it makes of a row must not depend on that row's target.
    """

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Summarise training rows; None where the step learns nothing, which spares the pass over the data.

        Raises:
            SpecError: If a named column is unknown or of a kind that the step cannot change.
        """
        ...

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the summary of both sets of rows."""
        ...

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Turn the summary of all training rows into what `apply` needs.

        Args:
            schema: Columns before the step.
        """
        ...

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Change rows of any split; never adds, drops or moves a row."""
        ...


@dataclass(frozen=True)
class Remark:
    """Say what a step decided about a column.

    Args:
        column: Its name.
        text: The decision, in full.
        many: The same of many columns at once, as a template with `{columns}`.
        cure: How to change it; empty if nothing can.
    """

    column: str
    text: str
    many: str
    cure: str = ""


def summed_up(notes: Sequence[Remark]) -> tuple[str, ...]:
    """Give a line for each note, or one for all of a kind where that kind concerns many columns."""
    kinds: dict[str, list[Remark]] = {}
    for note in notes:
        kinds.setdefault(note.many, []).append(note)
    lines = []
    for many, same in kinds.items():
        if len(same) <= MOST_NOTES:
            lines += [note.text + (f"; {note.cure}" if note.cure else "") for note in same]
            continue
        first = ", ".join(f"'{note.column}'" for note in same[:SHOWN_COLUMNS])
        columns = f"{len(same)} columns ({first} and {len(same) - SHOWN_COLUMNS} more)"
        cure = f"; e.g. {same[0].cure}" if same[0].cure else ""
        lines.append(many.replace("{columns}", columns) + cure)
    return tuple(lines)


def chosen(
    columns: Sequence[str] | str | None, schema: Schema, kinds: Sequence[Kind], step: str, key: str = "columns"
) -> tuple[Column, ...]:
    """Give the columns a step works on: those named, or all of the kinds it can change.

    Raises:
        SpecError: If a named column is unknown, or of another kind.
    """
    if columns is None:
        return tuple(column for column in schema.columns if column.kind in kinds)
    if not isinstance(columns, str | list | tuple):
        raise SpecError(f"{columns!r}. Give a name, or a list of names.", f"steps.{step}.{key}")
    known = {column.name: column for column in schema.columns}
    names = [columns] if isinstance(columns, str) else list(dict.fromkeys(columns))
    refused = []
    for name in names:
        if name not in known:
            refused.append(f"column '{name}' is not there. {nearest(name, known)}")
        elif known[name].kind not in kinds:
            refused.append(f"column '{name}' holds {known[name].kind}. Accepted: {', '.join(kinds)}.")
    if refused:
        raise SpecError.join([SpecError(text, f"steps.{step}.{key}") for text in refused])
    return tuple(known[name] for name in names)


def refuse_below(value: object, least: int, where: str) -> None:
    """Refuse a number that is not whole or too small.

    Raises:
        SpecError: If it is.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"{value!r}. Give {least} or more, a whole number.", where)
