"""Make inputs of every column, as a careful person would without looking at the test rows.

One pass over the training rows answers all questions; every decision is said in a note.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from fmray.data import moments
from fmray.data.clean import DateParts
from fmray.data.step import Fitted, Partial
from fmray.data.tabular import MISSING, array_series, bucketed, indicators, kept_levels, shifted, to_rank  # fmt: skip
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


class Auto:
    """Standardise numbers, spread levels, take times apart, leave out what cannot help.

    - Numbers: standardised, missing ones at the mean with a flag beside them, cut off at 10 standard deviations. One
      with a tail beyond 8 standard deviations also gets its normal rank; an integer of 3 to 32 levels also indicators.
    - Text: indicators up to 100 levels, 256 hash buckets beyond. Missing is a level.
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
            "moments": moments.numbers(frame, numbers),
            "points": {name: moments.ranks(frame[name]) for name in numbers},
            "levels": {name: moments.levels(frame[name], 10 * MOST_LEVELS)[0] for name in (*integers, *text)},
            "nulls": {name: frame[name].null_count() for name in (*numbers, *text)},
            "hashes": {name: moments.smallest_hashes(frame[name]) for name in (*integers, *text)},
            "wide": {c.name: _whole_moments(frame[c.name]) for c in schema.columns if c.kind == "vector"},
            "codes": {name: _codes_for_missing(frame[name]) for name in numbers},
        }

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the summary of both sets of rows."""
        return {
            "rows": one["rows"] + other["rows"],
            "moments": moments.merge(one["moments"], other["moments"]),
            "points": {name: part + other["points"][name] for name, part in one["points"].items()},
            "levels": {name: moments.merge_levels(part, other["levels"][name]) for name, part in one["levels"].items()},
            "nulls": {name: part + other["nulls"][name] for name, part in one["nulls"].items()},
            "hashes": {name: moments.merge_hashes(part, other["hashes"][name]) for name, part in one["hashes"].items()},
            "wide": moments.merge(one["wide"], other["wide"]),
            "codes": {n: moments.merge_levels(part, other["codes"][n]) for n, part in one["codes"].items()},
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


def _codes_for_missing(values: pl.Series) -> dict[str, int]:
    """Count values that people write where they have none."""
    codes = pl.Series([code for code in CODES if _fits(values.dtype, code)], dtype=pl.Int64).cast(values.dtype)
    found = values.filter(values.is_in(codes.implode())).cast(pl.Int64)
    counts = found.alias("code").value_counts(name="rows")
    return dict(zip(counts["code"].cast(pl.String).to_list(), counts["rows"].to_list(), strict=True))


def _fits(kind: pl.DataType, code: int) -> bool:
    return pl.Series([code], dtype=pl.Int64).cast(kind, strict=False).null_count() == 0


def _suspect_code(name: str, partial: Partial) -> str:
    """Name a value that is repeated far outside of all others, as a code for "missing" is."""
    low, high = moments.quantiles(partial["points"][name], [0.1, 0.9]) if partial["points"][name] else (0.0, 0.0)
    for code, count in partial["codes"][name].items():
        outside = max(low - float(code), float(code) - high)
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
    if column.kind == "text" and len(partial["levels"][name]) + (partial["nulls"][name] > 0) < 2:
        return "it is the same in all training rows"
    if name in partial["hashes"] and rows > 2 * FEW_INTEGERS:
        distinct = moments.distinct(partial["hashes"][name])
        if distinct > ID_SHARE * rows:
            return f"{min(distinct, rows):.0f} of {rows} values are distinct, so they name rows"
    return ""


def _plan(column: Column, partial: Partial) -> tuple[list[Json], list[str]]:
    name = column.name
    match column.kind:
        case "number":
            return _number(name, partial)
        case "text":
            counts = partial["levels"][name]
            if len(counts) > MOST_LEVELS:
                about = moments.distinct(partial["hashes"][name])
                note = f"auto hashes '{name}': about {about:.0f} levels into {BUCKETS} buckets"
                return [{"by": "hash", "of": name, "name": name, "kind": "hashed", "width": BUCKETS}], [note]
            levels = kept_levels(counts, MOST_LEVELS, partial["nulls"][name] > 0)
            return [_indicator_entry(name, name, levels)], []
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


def _number(name: str, partial: Partial) -> tuple[list[Json], list[str]]:
    moment, notes = partial["moments"][name], []
    mean, scale = moment[1], moments.scale(moment) or 1.0
    notes += [suspect] if (suspect := _suspect_code(name, partial)) else []
    entries: list[Json] = [{"by": "shift", "of": name, "name": name, "kind": "number", "shift": [mean, scale]}]
    counts = partial["levels"].get(name, {})
    if 3 <= len(counts) <= FEW_INTEGERS:
        entries.append(_indicator_entry(name, f"{name}_level", kept_levels(counts, FEW_INTEGERS, False)))
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


def _indicator_entry(of: str, name: str, levels: Sequence[str]) -> Json:
    return {"by": "levels", "of": of, "name": name, "kind": "one_hot", "width": len(levels), "levels": list(levels)}


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
