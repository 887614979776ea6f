"""Make inputs of every column, as a careful person would without looking at the test rows.

One pass over the training rows answers all questions; every decision is said in a note.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from fmray.data import moments
from fmray.data.clean import DateParts
from fmray.data.step import Fitted, Partial
from fmray.data.tabular import (
    MISSING,
    OTHER,
    array_series,
    bucketed,
    indicators,
    kept_levels,
    shift_of,
    shifted,
    to_rank,
)
from fmray.errors import DataError
from fmray.records import Json
from fmray.schema import Column, Schema

MOST_LEVELS = 100
BUCKETS = 256
FEW_INTEGERS = 32
ID_SHARE = 0.95
HEAVY_TAIL = 8.0
FARTHEST = 10.0
RANKS = 200
CODES = (-1, -9, -99, -999, -9999, -99999, 99, 999, 9999, 99999)
CODE_SHARE = 0.002
LEAST_NAMES = 64
RARE_ROWS, RARE_SHARE = 10, 0.001

Levels = tuple[dict[Any, int] | None, np.ndarray]
"""Rows per level, None where levels are too many to be told apart, and the smallest hashes of all levels."""


class Auto:
    """Standardise numbers, spread levels, take times apart, leave out what cannot help.

    - Numbers: standardised, missing ones at the mean with a flag beside them, cut off at 10 standard deviations. One
      with a tail beyond 8 standard deviations also gets its normal rank; an integer of 3 to 32 levels also indicators.
    - Text: indicators up to 100 levels, 256 hash buckets beyond. Missing is a level; levels of fewer than 10 rows (or
      0.1 % of fewer rows) share one. A level never seen has theirs, or none where there are no rare ones.
    - Times: year, and month, weekday and hour as points on a circle. Bytes: divided by 255. Lists: one mean and scale.
    - Left out: constant columns, and integers and text of which more than 95 % are distinct, because they name rows.
    """

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Summarise all columns in one pass."""
        frame = _with_dates(frame, schema)
        numbers = [c.name for c in _dated(schema).columns if c.kind == "number"]
        integers = [name for name in numbers if frame.schema[name].is_integer()]
        text = [c.name for c in schema.columns if c.kind == "text"]
        return {
            "rows": frame.height,
            "moments": (found := moments.numbers(frame, numbers)),
            "points": {name: moments.ranks(frame[name]) for name in numbers},
            "nulls": {name: frame[name].null_count() for name in (*numbers, *text)},
            "levels": {name: _levels(frame[name]) for name in (*integers, *text)},
            "wide": {c.name: _whole_moments(frame[c.name]) for c in schema.columns if c.kind == "vector"},
            "codes": {name: _codes_for_missing(frame[name], found[name]) for name in numbers},
        }

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the summary of both sets of rows."""
        return {
            "rows": one["rows"] + other["rows"],
            "moments": moments.merge(one["moments"], other["moments"]),
            "points": {n: moments.merge_ranks(part, other["points"][n]) for n, part in one["points"].items()},
            "nulls": {name: part + other["nulls"][name] for name, part in one["nulls"].items()},
            "levels": {name: _merged_levels(part, other["levels"][name]) for name, part in one["levels"].items()},
            "wide": moments.merge(one["wide"], other["wide"]),
            "codes": {n: dict(Counter(part) + Counter(other["codes"][n])) for n, part in one["codes"].items()},
        }

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Decide about every column.

        Raises:
            DataError: If no column is left.
        """
        plan: list[Json] = []
        notes: list[str] = []
        for column in _dated(schema).columns:
            if why := _useless(column, partial):
                notes.append(f"auto leaves out '{column.name}': {why}")
                continue
            entries, note = _plan(column, partial)
            plan += entries
            notes += note
        if not plan:
            raise DataError(f"auto leaves out every column: {'; '.join(notes)}.", "steps")
        made = tuple(
            Column(e["name"], e["kind"], e.get("width", 1), tuple(e["levels"]) if "levels" in e else ()) for e in plan
        )
        return Fitted(
            {"times": [c.name for c in schema.columns if c.kind == "time"], "plan": plan}, Schema(made), tuple(notes)
        )

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Make the inputs."""
        for name in state["times"]:
            frame = _dates(name).apply(frame, {"columns": [name]})
        simple = [_expression(frame, entry) for entry in state["plan"] if entry["by"] in ("shift", "flag")]
        made = [_made(frame, entry) for entry in state["plan"] if entry["by"] not in ("shift", "flag")]
        result = frame.select(simple).with_columns(made) if simple else pl.DataFrame(made)
        return result.select(entry["name"] for entry in state["plan"])


def _dates(name: str) -> DateParts:
    return DateParts([name])


def _dated(schema: Schema) -> Schema:
    for column in schema.columns:
        if column.kind == "time":
            schema = _dates(column.name).learn(None, schema).schema
    return schema


def _with_dates(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    for column in schema.columns:
        if column.kind == "time":
            frame = _dates(column.name).apply(frame, {"columns": [column.name]})
    return frame


def _whole_moments(values: pl.Series) -> list[float]:
    flat = values.to_numpy().reshape(-1).astype(np.float64)
    mean = float(flat.mean()) if len(flat) else 0.0
    return [
        float(len(flat)),
        mean,
        float(((flat - mean) ** 2).sum()),
        float(flat.min(initial=np.inf)),
        float(flat.max(initial=-np.inf)),
    ]


def _levels(values: pl.Series) -> Levels:
    seen = values.drop_nulls().unique()
    counts = moments.levels(values, MOST_LEVELS)[0] if len(seen) <= MOST_LEVELS else None
    return counts, moments.smallest_hashes(seen)


def _merged_levels(one: Levels, other: Levels) -> Levels:
    hashes = moments.merge_hashes(one[1], other[1])
    if one[0] is None or other[0] is None:
        return None, hashes
    counts, too_many = moments.merge_levels(one[0], other[0], MOST_LEVELS)
    return None if too_many else counts, hashes


def _codes_for_missing(values: pl.Series, moment: Sequence[float]) -> dict[int, int]:
    """Count values that people write where they have none, and that lie farther out than all others."""
    ends = [int(end) for end in dict.fromkeys(moment[3:5]) if end in CODES]
    return {end: int((values == end).sum()) for end in ends}


def _suspect_code(name: str, partial: Partial) -> str:
    """Name a value that is repeated far outside of all others, as a code for "missing" is."""
    for code, count in partial["codes"][name].items():
        low, high = moments.quantiles(partial["points"][name], [0.1, 0.9])
        outside = max(low - code, code - high)
        if count >= max(3, CODE_SHARE * partial["rows"]) and outside > 2 * (high - low) > 0:
            return (
                f"'{name}' is {code} in {count} training rows, far from all others; if that means missing, "
                f"say data.null_values: [{code}]"
            )
    return ""


def _useless(column: Column, partial: Partial) -> str:
    name, rows = column.name, partial["rows"]
    if column.kind == "number" and not moments.scale(partial["moments"][name]) and not partial["nulls"][name]:
        return "it is the same in all training rows"
    if column.kind == "number" and not partial["moments"][name][0]:
        return "it is missing in all training rows"
    if name not in partial["levels"]:
        return ""
    hashes, there = partial["levels"][name][1], rows - partial["nulls"][name]
    distinct = moments.distinct(hashes)
    if column.kind == "text" and distinct + (partial["nulls"][name] > 0) < 2:
        return "it is the same in all training rows"
    if there > LEAST_NAMES and moments.distinct_at_most(hashes) > ID_SHARE * there:
        about = "about " if len(hashes) == moments.SMALLEST_HASHES else ""
        return f"{about}{min(distinct, there):.0f} of {there} values are distinct, so they name rows"
    return ""


def _plan(column: Column, partial: Partial) -> tuple[list[Json], list[str]]:
    name = column.name
    match column.kind:
        case "number":
            return _number(name, partial)
        case "text":
            counts, hashes = partial["levels"][name]
            if counts is None:
                about = moments.distinct(hashes)
                note = f"auto hashes '{name}': about {about:.0f} levels into {BUCKETS} buckets"
                return [{"by": "hash", "of": name, "name": name, "kind": "hashed", "width": BUCKETS}], [note]
            return _text(name, counts, partial)
        case "bytes":
            return [
                {"by": "wide", "of": name, "name": name, "kind": "vector", "width": column.width, "shift": [0.0, 255.0]}
            ], []
        case "vector":
            shift = [partial["wide"][name][1], moments.scale(partial["wide"][name]) or 1.0]
            return [
                {"by": "wide", "of": name, "name": name, "kind": "vector", "width": column.width, "shift": shift}
            ], []
    return [
        {
            "by": "keep",
            "of": name,
            "name": name,
            "kind": column.kind,
            "width": column.width,
            "levels": list(column.classes),
        }
    ], []


def _text(name: str, counts: dict[str, int], partial: Partial) -> tuple[list[Json], list[str]]:
    """Give levels indicators; rare ones share one, which thereby learns what a level never seen is like."""
    least = min(RARE_ROWS, partial["rows"] * RARE_SHARE)
    common = {level: count for level, count in counts.items() if count >= least}
    num_rare = len(counts) - len(common)
    levels = kept_levels(common, MOST_LEVELS, partial["nulls"][name] > 0, other=num_rare > 0)
    notes = [f"auto puts {num_rare} levels of '{name}' with fewer than {least:g} rows into {OTHER}"] if num_rare else []
    rare = sorted(set(counts) - set(common))
    return [_indicator_entry(name, name, levels, rare)], notes


def _number(name: str, partial: Partial) -> tuple[list[Json], list[str]]:
    moment, notes = partial["moments"][name], []
    mean, scale = shift_of(name, moment)
    notes += [suspect] if (suspect := _suspect_code(name, partial)) else []
    entries: list[Json] = [{"by": "shift", "of": name, "name": name, "kind": "number", "shift": [mean, scale]}]
    counts = partial["levels"].get(name, (None, None))[0] or {}
    if 3 <= len(counts) <= FEW_INTEGERS:
        levels = kept_levels(counts, FEW_INTEGERS, missing=False, other=False)
        entries.append(_indicator_entry(name, f"{name}_level", levels, []))
        notes.append(f"auto gives '{name}' indicators of its {len(counts)} levels beside the number")
    elif max(moment[4] - mean, mean - moment[3]) > HEAVY_TAIL * scale:
        edges = moments.quantiles(partial["points"][name], np.linspace(0, 1, RANKS).tolist())
        entries.append({"by": "rank", "of": name, "name": f"{name}_rank", "kind": "number", "edges": edges})
        notes.append(
            f"auto gives '{name}' its normal rank beside the number: it reaches beyond "
            f"{HEAVY_TAIL:g} standard deviations"
        )
    if partial["nulls"][name]:
        entries.append({"by": "flag", "of": name, "name": f"{name}_missing", "kind": "missing"})
        notes.append(f"auto puts {partial['nulls'][name]} missing values of '{name}' at the mean and flags them")
    return entries, notes


def _indicator_entry(of: str, name: str, levels: Sequence[str], rare: Sequence[str]) -> Json:
    """Describe indicators; rare levels share one, and are kept apart from those never seen."""
    places = {"width": len(levels), "levels": list(levels), "rare": list(rare)}
    return {"by": "levels", "of": of, "name": name, "kind": "one_hot", **places}


def _expression(frame: pl.DataFrame, entry: Json) -> pl.Expr:
    if entry["by"] == "flag":
        return pl.col(entry["of"]).is_null().cast(pl.UInt8).alias(entry["name"])
    scaled = shifted(frame, entry["of"], *entry["shift"]).clip(-FARTHEST, FARTHEST)
    return scaled.fill_null(0.0).alias(entry["name"])


def _made(frame: pl.DataFrame, entry: Json) -> pl.Series:
    values: pl.Series = frame[entry["of"]]
    match entry["by"]:
        case "levels":
            return indicators(values.rename(entry["name"]), entry["levels"])
        case "hash":
            return bucketed(values.fill_null(MISSING) if values.dtype == pl.String else values, entry["width"])
        case "rank":
            return to_rank(values.rename(entry["name"]), entry["edges"], "normal").fill_null(0.0)
        case "wide":
            mean, scale = entry["shift"]
            matrix = values.to_numpy().reshape(len(values), entry["width"]).astype(np.float32)
            return array_series(entry["name"], (matrix - np.float32(mean)) * np.float32(1 / scale))
    return values
