"""Turn columns into inputs: scale numbers, spread levels over indicators or buckets.

Whatever is learned is learned from training rows only; a level never seen there has a place of its own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from fmray import moments
from fmray.data.hashing import row_hash
from fmray.data.step import Fitted, Partial, chosen
from fmray.errors import DataError
from fmray.records import Json
from fmray.schema import Column, Kind, Schema
from fmray.spec.components import steps as declared

MOST_LEVELS = 10_000
MISSING, OTHER = "<missing>", "<other>"
NOWHERE = -1
BLOCK_ROWS = 8192  # so that what lies between stays in the core's own cache


class Standardise:
    """Bring columns to mean 0 and standard deviation 1; lists and bytes element by element.

    Args:
        params: As `fmray.spec.components.steps.Standardise` declares them.
    """

    def __init__(self, params: declared.Standardise = declared.Standardise()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Summarise moments."""
        columns = self._columns(schema)
        wide = {c.name: moments.vectors(frame[c.name].to_numpy()) for c in columns if c.kind != "number"}
        return {"numbers": moments.numbers(frame, [c.name for c in columns if c.kind == "number"]), "wide": wide}

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the moments of both sets of rows."""
        wide = {name: moments.merge_vectors(part, other["wide"][name]) for name, part in one["wide"].items()}
        return {"numbers": moments.merge(one["numbers"], other["numbers"]), "wide": wide}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Fix mean and scale; a constant column has scale 1.

        Raises:
            DataError: If numbers lie too far apart to have a scale.
        """
        shift: dict[str, Any] = {name: shift_of(name, m) for name, m in partial["numbers"].items()}
        for name, (count, mean, squares) in partial["wide"].items():
            deviations = np.sqrt(np.asarray(squares) / np.maximum(count, 1))
            shift[name] = [mean, np.where(deviations > 1e-12, deviations, 1.0).tolist()]
        kinds = {
            name: Column(name, "vector", len(state[0])) for name, state in shift.items() if isinstance(state[0], list)
        }
        return Fitted({"shift": shift}, Schema(tuple(kinds.get(column.name, column) for column in schema.columns)))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Subtract the mean and divide by the scale."""
        changed: list[pl.Expr | pl.Series] = []
        types = dict(zip(frame.columns, frame.dtypes, strict=True))  # once: a frame's schema is made at every use
        for name, (mean, scale) in state["shift"].items():
            if isinstance(mean, list):
                values = frame[name].to_numpy().reshape(frame.height, len(mean))
                scaled = (values - np.asarray(mean, np.float32)) * (1 / np.asarray(scale)).astype(np.float32)
                changed.append(array_series(name, scaled.astype(np.float32)))
            else:
                changed.append(shifted(types[name], name, mean, scale))
        return frame.with_columns(changed)

    def _columns(self, schema: Schema) -> tuple[Column, ...]:
        return chosen(self.params.columns, schema, ("number", "vector", "bytes"), "standardise")


class MinMax:
    """Bring numbers to [0, 1] by the range of training rows; others are cut off at it.

    Args:
        params: As `fmray.spec.components.steps.MinMax` declares them.
    """

    def __init__(self, params: declared.MinMax = declared.MinMax()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Summarise the range."""
        return moments.numbers(frame, [c.name for c in chosen(self.params.columns, schema, ("number",), "min_max")])

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the range of both sets of rows."""
        return moments.merge(one, other)

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Fix the range; a constant column becomes 0."""
        ranges = {name: [m[3], m[4]] if m[3] <= m[4] else [0.0, 0.0] for name, m in partial.items()}
        return Fitted({"range": ranges}, schema)

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Bring to the range."""
        return frame.with_columns(
            ((pl.col(name).cast(pl.Float64).clip(low, high) - low) / ((high - low) or 1.0)).cast(pl.Float32)
            for name, (low, high) in state["range"].items()
        )


class RobustScale:
    """Subtract the median and divide by the distance between two quantiles, which far values hardly move.

    Args:
        params: As `fmray.spec.components.steps.RobustScale` declares them.
    """

    def __init__(self, params: declared.RobustScale = declared.RobustScale()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Summarise the ranks."""
        return {
            c.name: moments.ranks(frame[c.name])
            for c in chosen(self.params.columns, schema, ("number",), "robust_scale")
        }

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the ranks of both sets of rows."""
        return {name: moments.merge_ranks(points, other[name]) for name, points in one.items()}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Fix median and scale, which is 1 where both quantiles are equal.

        Raises:
            DataError: If numbers lie too far apart to have a scale.
        """
        shift: dict[str, list[float]] = {}
        notes = []
        for name, points in partial.items():
            shares = [self.params.low, 0.5, self.params.high]
            low, median, high = moments.quantiles(points, shares) if len(points[0]) else [0.0] * 3
            spread = high - low if high - low > max(1e-12 * max(abs(low), abs(high)), 1e-300) else 0.0
            if not math.isfinite(spread):
                far = f"column '{name}' reaches from {low:g} to {high:g} between its quantiles."
                raise DataError(f"{far} Add clip or quantile before.", "steps")
            if not spread and len(points[0]) and points[0].min() < points[0].max():
                at = f"{self.params.low:g} and {self.params.high:g}"
                notes.append(f"'{name}': its quantiles at {at} are equal, so its scale is 1")
            shift[name] = [median, spread or 1.0]
        return Fitted({"shift": shift}, schema, tuple(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Subtract the median and divide by the scale."""
        types = dict(zip(frame.columns, frame.dtypes, strict=True))
        return frame.with_columns([shifted(types[name], name, *shift) for name, shift in state["shift"].items()])


class Quantile:
    """Replace numbers by their rank among training rows, evenly spread or as a normal variable.

    Args:
        params: As `fmray.spec.components.steps.Quantile` declares them.
    """

    def __init__(self, params: declared.Quantile = declared.Quantile()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Summarise the ranks."""
        return {
            c.name: moments.ranks(frame[c.name]) for c in chosen(self.params.columns, schema, ("number",), "quantile")
        }

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the ranks of both sets of rows."""
        return {name: moments.merge_ranks(points, other[name]) for name, points in one.items()}

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Fix the quantiles."""
        shares = np.linspace(0, 1, self.params.levels).tolist()
        return Fitted(
            {"edges": {n: moments.quantiles(p, shares) if len(p[0]) else [0.0, 0.0] for n, p in partial.items()}},
            schema,
        )

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Give ranks."""
        changed = [to_rank(frame[name], edges, self.params.to).alias(name) for name, edges in state["edges"].items()]
        return frame.with_columns(changed)


class OneHot:
    """Give each level of a column an indicator of its own, in order of value.

    Args:
        params: As `fmray.spec.components.steps.OneHot` declares them.
    """

    def __init__(self, params: declared.OneHot = declared.OneHot()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Count levels."""
        return {
            c.name: [*moments.levels(frame[c.name], MOST_LEVELS), frame[c.name].null_count()]
            for c in self._columns(schema)
        }

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        merged = {}
        for name, (counts, more, nulls) in one.items():
            both, too_many = moments.merge_levels(counts, other[name][0], MOST_LEVELS)
            merged[name] = [both, more or other[name][1] or too_many, nulls + other[name][2]]
        return merged

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Fix the levels."""
        levels = {}
        rest = {}
        notes = []
        for name, (counts, more, nulls) in partial.items():
            levels[name] = kept_levels(counts, self.params.max_levels, nulls > 0, self.params.other)
            rest[name] = sorted(set(map(moments.spell, counts)) - set(levels[name]))
            if more or len(counts) > self.params.max_levels:
                number = f"more than {MOST_LEVELS}" if more else str(len(counts))
                rest_is = f", the rest is {OTHER}" if self.params.other else ""
                notes.append(f"'{name}': {self.params.max_levels} of {number} levels kept{rest_is}")
        made = {name: Column(name, "one_hot", len(kept), tuple(kept)) for name, kept in levels.items()}
        columns = tuple(made.get(column.name, column) for column in schema.columns)
        # What is left out is remembered, so that levels never seen can be told apart from it.
        return Fitted({"levels": levels, "rest": rest}, Schema(columns), tuple(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Set the indicators."""
        return frame.with_columns([indicators(frame[name], levels) for name, levels in state["levels"].items()])

    def _columns(self, schema: Schema) -> tuple[Column, ...]:
        kinds: tuple[Kind, ...] = ("text",) if self.params.columns is None else ("text", "number")
        return chosen(self.params.columns, schema, kinds, "one_hot")


class Hashing:
    """Give each row an indicator in one of `buckets` buckets, chosen by the hash of its level.

    Args:
        params: As `fmray.spec.components.steps.Hashing` declares them.

    Source: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009.
    """

    def __init__(self, params: declared.Hashing = declared.Hashing()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Check the columns; nothing is learned."""
        self._names(schema)

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give nothing; nothing is learned."""

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Name the columns."""
        names = self._names(schema)
        made = {name: Column(name, "hashed", self.params.buckets) for name in names}
        return Fitted({"columns": names}, Schema(tuple(made.get(column.name, column) for column in schema.columns)))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Set the indicators."""
        return frame.with_columns([bucketed(frame[name], self.params.buckets) for name in state["columns"]])

    def _names(self, schema: Schema) -> list[str]:
        kinds: tuple[Kind, ...] = ("text",) if self.params.columns is None else ("text", "number")
        return [column.name for column in chosen(self.params.columns, schema, kinds, "hashing")]


def shifted(dtype: pl.DataType, name: str, mean: float, scale: float) -> pl.Expr:
    """Give (x - mean) / scale as float32; computed in float64 unless float32 loses nothing by it.

    Args:
        dtype: Of the column.
    """
    narrow = dtype == pl.Float32 and abs(mean) < 1e3 * scale
    kind = pl.Float32 if narrow else pl.Float64
    return ((pl.col(name).cast(kind) - pl.lit(mean, kind)) * pl.lit(1 / scale, kind)).cast(pl.Float32)


def scaled(values: pl.Series, mean: float, scale: float, farthest: float) -> np.ndarray:
    """Give what `shifted` gives, cut off; an expression of polars takes longer than the work on a few hundred rows.

    Shapes:
        returns: (num_rows,), float32; NaN for nulls.
    """
    narrow = values.dtype == pl.Float32 and abs(mean) < 1e3 * scale
    number = np.float32 if narrow else np.float64
    held = values.cast(pl.Float32 if narrow else pl.Float64).to_numpy()
    made = np.empty(len(held), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(held), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            moved = (held[rows] - number(mean)) * number(1 / scale)
            np.clip(moved.astype(np.float32), -farthest, farthest, out=made[rows])
    return made


def to_rank(values: pl.Series, edges: Sequence[float], to: str) -> pl.Series:
    """Give the share of training rows below each value; where many are equal, the middle of their shares."""
    x = values.cast(pl.Float64).fill_null(math.nan).to_numpy()
    shares = np.linspace(0, 1, len(edges))
    up = np.interp(x, edges, shares)
    down = 1 - np.interp(-x, -np.asarray(edges)[::-1], shares)
    ranked = (up + down) / 2
    if to == "normal":
        import scipy.special  # a tenth of a second, which `check` seldom needs

        ranked = scipy.special.ndtri(np.clip(ranked, 1e-7, 1 - 1e-7))
    return pl.Series(values.name, ranked.astype(np.float32)).fill_nan(None)


def shift_of(name: str, moment: Sequence[float]) -> list[float]:
    """Give mean and scale of a number column; a constant one has scale 1.

    Raises:
        DataError: If its values lie too far apart to have a scale.
    """
    shift = [moment[1], moments.scale(moment) or 1.0]
    if not all(map(math.isfinite, shift)):
        raise DataError(
            f"column '{name}' reaches from {moment[3]:g} to {moment[4]:g}. Add clip or quantile before.", "steps"
        )
    return shift


def kept_levels(counts: Mapping[Any, int], most: int, missing: bool, other: bool) -> list[str]:
    """Name the indicators of a column: the most frequent levels by value, then missing ones, then all others."""
    own = [level for level in counts if level not in (MISSING, OTHER)]  # cells that spell these names mean the same
    kept = sorted(sorted(own, key=lambda level: (-counts[level], level))[:most])
    marks = [*([MISSING] if missing or MISSING in counts else []), *([OTHER] if other or OTHER in counts else [])]
    return [*map(moments.spell, kept), *marks]


def indicators(values: pl.Series, levels: Sequence[str]) -> pl.Series:
    """Give 0/1 indicators of a column's levels; none is set where a value has no place and there is no "<other>"."""
    places = {level: place for place, level in enumerate(levels)}
    other = places.get(OTHER, NOWHERE)
    missing = places.get(MISSING, other)
    seen = values.unique().drop_nulls()
    known = [places.get(moments.spell(level), other) for level in seen.to_list()]
    codes = values.replace_strict(seen, known, default=missing, return_dtype=pl.Int64).fill_null(missing)
    return _at(values.name, codes.to_numpy(), len(levels))


def bucketed(values: pl.Series, buckets: int) -> pl.Series:
    """Give 0/1 indicators of buckets."""
    seen = values.unique().drop_nulls()
    hashes = row_hash(seen.to_frame("level").to_arrow(), ["level"])[:, 0] if len(seen) else np.zeros(0, np.uint64)
    places = (hashes % np.uint64(buckets)).astype(np.int64)
    codes = values.replace_strict(seen, places, default=NOWHERE, return_dtype=pl.Int64).fill_null(NOWHERE)
    return _at(values.name, codes.to_numpy(), buckets)


def _at(name: str, codes: np.ndarray, width: int) -> pl.Series:
    made = np.zeros((len(codes), width), np.uint8)
    rows = np.flatnonzero(codes >= 0)
    made[rows, codes[rows]] = 1
    return array_series(name, made)


def array_series(name: str, values: np.ndarray) -> pl.Series:
    """Give rows of a matrix as an Array column, without copying."""
    inner = pl.Series(name, values.reshape(-1))
    return (
        inner.reshape(values.shape)
        if len(values)
        else pl.Series(name, [], dtype=pl.Array(inner.dtype, values.shape[1]))
    )
