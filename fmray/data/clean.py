"""Mend columns before they become inputs: fill what is missing, cut what sticks out, take dates apart, leave out.

Whatever is learned is learned from training rows; a value never seen there is treated like the nearest one seen.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from fmray import moments
from fmray.data.step import Fitted, Partial, Remark, chosen, summed_up
from fmray.errors import DataError, SpecError
from fmray.records import Json
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared

PARTS: dict[str, tuple[Callable[[pl.Expr], pl.Expr], int, int]] = {
    "year": (lambda c: c.dt.year(), 0, 0),
    "month": (lambda c: c.dt.month(), 1, 12),
    "day": (lambda c: c.dt.day(), 1, 31),
    "weekday": (lambda c: c.dt.weekday(), 1, 7),
    "hour": (lambda c: c.dt.hour(), 0, 24),
    "minute": (lambda c: c.dt.minute(), 0, 60),
}
"""Part -> (expression, its first value, its period; 0 where it does not come round)."""
MOST_LEVELS = 10_000


class Impute:
    """Fill missing values with what training rows suggest.

    Args:
        params: As `fmray.spec.components.steps.Impute` declares them.
    """

    def __init__(self, params: declared.Impute = declared.Impute()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Summarise the columns as `by` needs it."""
        names = self._names(schema)
        nulls = {name: frame[name].null_count() for name in names}
        match self.params.by:
            case "mean":
                return {"nulls": nulls, "moments": moments.numbers(frame, names)}
            case "median":
                return {"nulls": nulls, "points": {name: moments.ranks(frame[name]) for name in names}}
            case "most_frequent":
                levels = {name: moments.levels(frame[name], MOST_LEVELS)[0] for name in names}
                return {"nulls": nulls, "levels": levels}
        return None

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the summary of both sets of rows."""
        nulls = {name: count + other["nulls"][name] for name, count in one["nulls"].items()}
        if self.params.by == "mean":
            return {"nulls": nulls, "moments": moments.merge(one["moments"], other["moments"])}
        if self.params.by == "median":
            points = {n: moments.merge_ranks(mine, other["points"][n]) for n, mine in one["points"].items()}
            return {"nulls": nulls, "points": points}
        both = {n: moments.merge_levels(seen, other["levels"][n], MOST_LEVELS) for n, seen in one["levels"].items()}
        return {"nulls": nulls, "levels": {name: counts for name, (counts, _) in both.items()}}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Choose the filling of each column.

        Raises:
            DataError: If a column has no value in any training row.
        """
        fill = {name: self._filling(name, partial) for name in self._names(schema)}
        flags = tuple(Column(f"{name}_missing", "missing") for name in fill) if self.params.flag else ()
        notes = (
            []
            if self.params.by == "constant"
            else [self._about(name, fill[name], partial["nulls"][name]) for name in fill]
        )
        return Fitted({"fill": fill}, Schema((*schema.columns, *flags)), summed_up([n for n in notes if n is not None]))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Fill, and flag where asked."""
        names = list(state["fill"])
        flagged = names if self.params.flag else []
        flags = [pl.col(name).is_null().cast(pl.UInt8).alias(f"{name}_missing") for name in flagged]
        types = dict(zip(frame.columns, frame.dtypes, strict=True))  # once: a frame's schema is made at every use
        filled = [_filled(types[name], name, value) for name, value in state["fill"].items()]
        return frame.with_columns(*flags, *filled)

    def _names(self, schema: Schema) -> list[str]:
        by = self.params.by
        is_text = isinstance(self.params.value, str)
        numeric = by in ("mean", "median", "most_frequent") or (by == "constant" and not is_text)
        text = by == "most_frequent" or (by == "constant" and is_text)
        kinds = (*(("number",) if numeric else ()), *(("text",) if text else ()))
        return [column.name for column in chosen(self.params.columns, schema, kinds, "impute")]

    def _about(self, name: str, value: Any, number: int) -> Remark | None:
        """Say with what missing values are filled, if there are any."""
        if not number:
            return None
        shown = f"{value:.6g}" if isinstance(value, int | float) else repr(value)
        text = f"impute fills {number} missing values of '{name}' with {shown} (by: {self.params.by})"
        many = f"impute fills missing values of {{columns}} (by: {self.params.by})"
        return Remark(name, text, many, "by: constant, with a value, fills them otherwise")

    def _filling(self, name: str, partial: Partial) -> Any:
        if self.params.by == "constant":
            return self.params.value
        if self.params.by == "mean":
            count, mean = partial["moments"][name][:2]
            if count:
                return mean
        elif self.params.by == "median" and len(partial["points"][name][0]):
            return moments.quantiles(partial["points"][name], [0.5])[0]
        elif self.params.by == "most_frequent" and partial["levels"][name]:
            counts = partial["levels"][name]
            return min(counts, key=lambda level: (-counts[level], level))
        raise DataError(f"column '{name}' has no value in any training row. Put it in data.ignore.", "steps.impute")


def _filled(dtype: pl.DataType, name: str, value: Any) -> pl.Expr:
    column = pl.col(name)
    if isinstance(value, float) and dtype.is_integer():
        column = column.cast(pl.Float64)
    return column.fill_null(value)


class Clip:
    """Cut numbers off at bounds given, or at quantiles of training rows.

    Args:
        params: As `fmray.spec.components.steps.Clip` declares them.
    """

    def __init__(self, params: declared.Clip) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Summarise the ranks of each column, if quantiles are asked for."""
        names = [column.name for column in chosen(self.params.columns, schema, ("number",), "clip")]
        return None if self.params.quantile is None else {name: moments.ranks(frame[name]) for name in names}

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the summary of both sets of rows."""
        return {name: moments.merge_ranks(points, other[name]) for name, points in one.items()}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Fix the bounds."""
        names = [column.name for column in chosen(self.params.columns, schema, ("number",), "clip")]
        if self.params.quantile is None:
            return Fitted({"bounds": {name: [self.params.low, self.params.high] for name in names}}, schema)
        shares = [1 - self.params.quantile, self.params.quantile]
        bounds = {name: moments.quantiles(partial[name], shares) for name in names if len(partial[name][0])}
        cure = "low and high set bounds of your own"
        notes = []
        for name, (low, high) in bounds.items():
            text = f"clip cuts '{name}' off at {low:.6g} and {high:.6g} (quantile: {self.params.quantile:g})"
            notes.append(Remark(name, text, f"clip cuts {{columns}} off (quantile: {self.params.quantile:g})", cure))
        return Fitted({"bounds": bounds}, schema, summed_up(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Cut off."""
        types = dict(zip(frame.columns, frame.dtypes, strict=True))
        wide = {name: types[name] if types[name].is_float() else pl.Float64 for name in state["bounds"]}
        return frame.with_columns(
            pl.col(name).cast(wide[name]).clip(low, high) for name, (low, high) in state["bounds"].items()
        )


class DateParts:
    """Turn times into numbers that a model can use.

    Args:
        params: As `fmray.spec.components.steps.DateParts` declares them.
    """

    def __init__(self, params: declared.DateParts = declared.DateParts()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Check the columns; nothing is learned."""
        chosen(self.params.columns, schema, ("time",), "date_parts")

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give nothing; nothing is learned."""

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Name the columns that replace each time."""
        names = [column.name for column in chosen(self.params.columns, schema, ("time",), "date_parts")]
        made = {name: [made for part in self.params.parts for made in self._columns(name, part)] for name in names}
        columns = [made.get(column.name, [column.name]) for column in schema.columns]
        known = {column.name: column for column in schema.columns}
        return Fitted(
            {"columns": names},
            Schema(tuple(known.get(name, Column(name, "number")) for group in columns for name in group)),
        )

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Replace each time by its parts; a missing time has missing parts."""
        places = [(name, part) for name in state["columns"] for part in self.params.parts]
        made = [expression for name, part in places for expression in self._values(name, part)]
        return frame.with_columns(made).drop(state["columns"])

    def _columns(self, name: str, part: str) -> list[str]:
        comes_round = PARTS[part][2] > 0 and self.params.cyclic
        return [f"{name}_{part}_sin", f"{name}_{part}_cos"] if comes_round else [f"{name}_{part}"]

    def _values(self, name: str, part: str) -> list[pl.Expr]:
        take, first, period = PARTS[part]
        value = take(pl.col(name)).cast(pl.Float64)
        columns = self._columns(name, part)
        if len(columns) == 1:
            return [value.alias(columns[0])]
        angle = (value - first) * (2 * np.pi / period)
        return [angle.sin().alias(columns[0]), angle.cos().alias(columns[1])]


class Copy:
    """Repeat a column under another name.

    Args:
        params: As `fmray.spec.components.steps.Copy` declares them.
    """

    def __init__(self, params: declared.Copy) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Check the column; nothing is learned."""
        self._column(schema)

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give nothing; nothing is learned."""

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Put the copy behind the other columns."""
        return Fitted({}, Schema((*schema.columns, replace(self._column(schema), name=self.params.name))))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Copy."""
        return frame.with_columns(frame[self.params.columns].alias(self.params.name))

    def _column(self, schema: Schema) -> Column:
        kinds = tuple({column.kind for column in schema.columns})
        return chosen(self.params.columns, schema, kinds, "copy")[0]


class Drop:
    """Leave columns out.

    Args:
        params: As `fmray.spec.components.steps.Drop` declares them.
    """

    def __init__(self, params: declared.Drop) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Check the columns; nothing is learned."""
        self._names(schema)

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give nothing; nothing is learned."""

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Take the columns out of the schema."""
        names = self._names(schema)
        kept = tuple(column for column in schema.columns if column.name not in names)
        if not kept:
            raise SpecError(f"{', '.join(names)} are all columns there are. Leave one.", "steps.drop.columns")
        notes = [Remark(name, f"drop leaves out '{name}'", "drop leaves out {columns}") for name in names]
        return Fitted({"columns": names}, Schema(kept), summed_up(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Leave them out."""
        return frame.drop(state["columns"])

    def _names(self, schema: Schema) -> list[str]:
        kinds = tuple({column.kind for column in schema.columns})
        return [column.name for column in chosen(self.params.columns, schema, kinds, "drop")]
