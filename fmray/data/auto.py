"""Make inputs of every column, as a careful person would without looking at the test rows.

One pass over the training rows answers all questions; every decision is said in a note.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from fmray import moments
from fmray.data.clean import DateParts
from fmray.data.row_names import (
    FLOAT_EXACT,
    Marks,
    encode_targets,
    first_look,
    is_related,
    looks_of,
    marks_of,
    merge_marks,
    why_a_name,
)
from fmray.data.step import Fitted, Partial, Remark, chosen, summed_up
from fmray.data.tabular import (
    MISSING,
    OTHER,
    array_series,
    bucketed,
    indicators,
    kept_levels,
    scaled,
    shift_of,
    to_rank,
)
from fmray.data.text_numbers import FORMS, MOST_UNITS, read, tidied, units
from fmray.errors import DataError
from fmray.printable import in_yaml
from fmray.records import Json
from fmray.schema import DENSE, Column, Schema
from fmray.spec.components import steps as declared

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
FIRST_ROWS = 64
"""Rows of a text column that tell whether it may hold numbers or dates at all."""
MOSTLY = 0.5
"""Share of values from which text that cannot be read as numbers throughout is worth a word."""
PARTS = ("year", "month_sin", "month_cos", "weekday_sin", "weekday_cos", "hour_sin", "hour_cos")
"""What `date_parts` makes of a time, behind its name."""
FINE_SHARE = 0.9
"""Share of distinct values in a part from which its column may name rows."""
_PARSE = "parse: {{columns: [{name}], form: {form}}} before auto"
_ONE_HOT = "one_hot before auto, with max_levels, keeps more levels"
_NUMBER = "standardise before auto keeps the number only"
_CLIP = "clip or quantile before auto handles them otherwise"

Levels = tuple[dict[Any, int] | None, np.ndarray]
"""Rows per level, None where levels are too many to be told apart, and the smallest hashes of all levels."""


class Auto:
    """Standardise numbers, spread levels, take times apart, leave out what cannot help.

    - Numbers: standardised, missing ones at the mean with a flag beside them, cut off at 10 standard deviations. One
      with a tail beyond 8 standard deviations also gets its normal rank; an integer of 3 to 32 levels also indicators.
    - Text: indicators up to 100 levels, 256 hash buckets beyond. Missing is a level; levels of fewer than 10 rows (or
      0.1 % of fewer rows) share one. A level never seen has theirs, or none where there are no rare ones.
    - Numbers and dates in text: read as such where every training value can be; see `fmray.data.text_numbers`. Whole
      numbers of up to 100 levels, and those that all have equally many digits, stay levels, as they may be codes.
    - Times: year, and month, weekday and hour as points on a circle. Bytes: divided by 255. Lists: one mean and scale.
    - Left out: constant columns; integers of which more than 95 % are distinct and that look like names of rows, see
      `fmray.data.row_names`; text of which more than 95 % is distinct.

    Args:
        params: As `fmray.spec.components.steps.Auto` declares them.
    """

    uses_target = True

    def __init__(self, params: declared.Auto = declared.Auto()) -> None:
        self.params = params

    def fit(self, frame: pl.DataFrame, schema: Schema, targets: pl.DataFrame | None = None) -> Partial:
        """Summarise all columns in one pass.

        Args:
            targets: Of the same rows; without them no column is found to be related to any.
        """
        chosen(
            self.params.keep, schema, kinds=tuple({column.kind for column in schema.columns}), step="auto", key="keep"
        )
        encoded = encode_targets(targets.get_columns()) if targets is not None else np.zeros((frame.height, 0))
        return _summary(frame, schema, encoded, _names(schema))

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give the summary of both sets of rows."""
        return {
            "rows": one["rows"] + other["rows"],
            "moments": moments.merge(one["moments"], other["moments"]),
            "points": {n: moments.merge_ranks(part, other["points"][n]) for n, part in one["points"].items()},
            "nulls": {name: part + other["nulls"][name] for name, part in one["nulls"].items()},
            "levels": {
                name: _merged_levels(part, other["levels"][name])
                for name, part in one["levels"].items()
                if name in other["levels"]
            },
            "wide": moments.merge(one["wide"], other["wide"]),
            "codes": {n: dict(Counter(part) + Counter(other["codes"][n])) for n, part in one["codes"].items()},
            "marks": {
                n: _both_marks(part, other["marks"][n]) for n, part in one["marks"].items() if n in other["marks"]
            },
            "looks": {n: part & other["looks"][n] for n, part in one["looks"].items() if n in other["looks"]},
            "readings": {n: self._merged_readings(part, other["readings"][n]) for n, part in one["readings"].items()},
        }

    def _merged_readings(self, one: Json, other: Json) -> Json:
        """Merge what text can be read as; a part without values follows every form."""
        if not one["values"] or not other["values"]:
            told = other if not one["values"] else one
            return {**told, "silent": one["silent"] + other["silent"]}
        forms = {}
        for form, mine in one["forms"].items():
            if (theirs := other["forms"].get(form)) is None:
                continue
            both = mine["summary"] is not None and theirs["summary"] is not None
            forms[form] = {
                "read": mine["read"] + theirs["read"],
                "summary": self.merge(mine["summary"], theirs["summary"]) if both else None,
            }
        return {
            "silent": one["silent"] + other["silent"],
            "values": one["values"] + other["values"],
            "units": sorted({*one["units"], *other["units"]})[: MOST_UNITS + 1],
            "digits": sorted({*one["digits"], *other["digits"]}),
            "forms": forms,
        }

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Decide about every column.

        Raises:
            DataError: If no column is left.
        """
        plan: list[Json] = []
        notes: list[Remark] = []
        left_out: list[str] = []
        known = _names(schema)
        taken = set(known)
        forms: dict[str, str] = {}
        times: dict[str, str] = {}
        for raw in schema.columns:
            column, own, said = _as_read(raw, partial)
            notes += said
            if column.kind != raw.kind:
                forms[column.name] = form_of(partial["readings"][column.name], partial["levels"][column.name])
            if column.kind == "time":
                times[column.name] = _prefix(column.name, known)
                taken |= set(_parts_of(times[column.name]))
            for inner in _dated(column, known):
                if why := _useless(inner, own, inner.name in self.params.keep):
                    notes.append(why)
                    left_out += [inner.name] if inner.kind == "number" and inner.name in own["marks"] else []
                    continue
                entries, note = _plan(inner, own, taken)
                plan += entries
                notes += note
        lines = summed_up(notes)
        if not plan:
            raise DataError(f"auto leaves out every column: {'; '.join(lines)}.", "steps")
        made = tuple(
            Column(e["name"], e["kind"], e.get("width", 1), tuple(e.get("levels", ())), block=e.get("block", DENSE))
            for e in plan
        )
        own_units = {name: partial["readings"][name]["units"] for name in forms}
        state: Json = {"times": times, "plan": plan, "forms": forms, "units": own_units, "left_out": left_out}
        return Fitted(state, Schema(made), lines)

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Make the inputs."""
        frame, state = seen_by_auto(frame, state)
        columns = dict(zip(frame.columns, frame.get_columns(), strict=True))
        return pl.DataFrame({entry["name"]: _made(columns[entry["of"]], entry) for entry in state["plan"]})


def seen_by_auto(frame: pl.DataFrame, state: Json) -> tuple[pl.DataFrame, Json]:
    """Give a frame with text read and times taken apart, and the state with which `apply` does the rest."""
    return dated(as_read(frame, state), state["times"]), {**state, "forms": {}, "times": {}}


def as_read(frame: pl.DataFrame, state: Json) -> pl.DataFrame:
    """Give the columns with numbers and dates in text read; what cannot be read is null."""
    forms = state.get("forms", {})  # models of earlier versions read none
    known = state.get("units", {})
    made = [read(tidied(frame[name]), form, known.get(name)) for name, form in forms.items()]
    return frame.with_columns(made) if made else frame


def dated(frame: pl.DataFrame, times: Mapping[str, str] | Sequence[str]) -> pl.DataFrame:
    """Replace times by their parts.

    Args:
        times: Column -> what the names of its parts begin with; models of earlier versions name columns only.
    """
    if not times:
        return frame
    prefixes = dict(times) if isinstance(times, Mapping) else {name: name for name in times}
    names = list(prefixes.values())
    return DateParts(declared.DateParts(columns=names)).apply(frame.rename(prefixes), {"columns": names})


def _parts_of(prefix: str) -> list[str]:
    return [f"{prefix}_{part}" for part in PARTS]


def _names(schema: Schema) -> frozenset[str]:
    return frozenset(column.name for column in schema.columns)


def _prefix(name: str, known: Collection[str]) -> str:
    """Choose what the names of a time's parts begin with, so that none is a name that the data have."""
    prefix = name
    number = 2
    while any(part in known for part in _parts_of(prefix)) or (prefix != name and prefix in known):
        prefix = f"{name}_{number}"
        number = number + 1
    return prefix


def _dated(column: Column, known: Collection[str]) -> list[Column]:
    if column.kind != "time":
        return [column]
    return [Column(name, "number") for name in _parts_of(_prefix(column.name, known))]


def free_name(wanted: str, taken: set[str]) -> str:
    """Give the name wanted, or one with a number behind it where a column has it; and take it."""
    name = wanted
    number = 2
    while name in taken:
        name = f"{wanted}_{number}"
        number = number + 1
    taken.add(name)
    return name


def _summary(frame: pl.DataFrame, schema: Schema, targets: np.ndarray, known: Collection[str]) -> Partial:
    """Summarise the columns of a schema; `known` are the names of all raw columns."""
    frame = dated(frame, {c.name: _prefix(c.name, known) for c in schema.columns if c.kind == "time"})
    columns = dict(zip(frame.columns, frame.get_columns(), strict=True))
    numbers = [inner.name for c in schema.columns for inner in _dated(c, known) if inner.kind == "number"]
    integers = [name for name in numbers if columns[name].dtype.is_integer()]
    text = [c.name for c in schema.columns if c.kind == "text"]
    found = moments.numbers(frame, numbers)
    levels = {name: _levels(columns[name]) for name in (*integers, *text)}
    fine = [name for name in levels if _hardly_repeats(levels[name], columns[name])]
    return {
        "rows": frame.height,
        "moments": found,
        "points": {name: moments.ranks(columns[name]) for name in numbers},
        "nulls": {name: columns[name].null_count() for name in (*numbers, *text)},
        "levels": levels,
        "wide": {c.name: _whole_moments(columns[c.name]) for c in schema.columns if c.kind == "vector"},
        "codes": {name: _codes_for_missing(columns[name], found[name]) for name in numbers},
        "marks": {name: _plain(marks_of(columns[name], targets)) for name in fine if columns[name].dtype.is_integer()},
        "looks": {name: looks_of(columns[name].drop_nulls()) for name in fine if columns[name].dtype == pl.String},
        "readings": {name: _readings(columns[name], targets, known) for name in text},
    }


def _hardly_repeats(levels: Levels, values: pl.Series) -> bool:
    """Tell whether the values of a part may be those of a column that names rows."""
    there = len(values) - values.null_count()
    return there <= LEAST_NAMES or moments.distinct_at_most(levels[1]) > FINE_SHARE * there


def _readings(values: pl.Series, targets: np.ndarray, known: Collection[str]) -> Json:
    """Say as what a text column can be read: by which forms, and what it then is."""
    first = tidied(values.drop_nulls().head(FIRST_ROWS)).drop_nulls()
    likely = _likely_forms(first)
    if not likely:
        return {"silent": 0, "values": 1, "units": [], "digits": [], "forms": {}}
    tidy = tidied(values)
    if not (count := len(tidy) - tidy.null_count()):
        return {"silent": len(tidy), "values": 0, "units": [], "digits": [], "forms": {}}
    bare = pl.select(pl.when(tidy.str.contains(r"^[1-9]\d*$")).then(tidy.str.len_chars()).otherwise(0)).to_series()
    forms = {}
    for form in likely:
        made = read(tidy, form)
        if (num_read := len(made) - made.null_count()) >= MOSTLY * count:
            own = Schema((Column(values.name, FORMS[form].kind),))
            summary = _summary(_whole(made).to_frame(), own, targets, known) if num_read == count else None
            forms[form] = {"read": num_read, "summary": summary}
    return {
        "silent": 0,
        "values": count,
        "units": sorted(units(tidy)),
        "digits": sorted(bare.filter(tidy.is_not_null()).unique().to_list()),
        "forms": forms,
    }


def _likely_forms(first: pl.Series) -> list[str]:
    """Name the forms by which most of the first values can be read; all of them where there is no value."""
    if not len(first):
        return list(FORMS)
    least = MOSTLY * len(first)
    if first.str.contains(r"\d").sum() < least:  # no form does without a digit
        return []
    fitting = [form for form in FORMS if first.str.contains(FORMS[form].pattern).sum() >= least]
    return [form for form in fitting if len(first) - read(first, form).null_count() >= least]


def _whole(values: pl.Series) -> pl.Series:
    """Give numbers as integers if all of them are."""
    if values.dtype != pl.Float64 or not len(values.drop_nulls()):
        return values
    are_whole = (values == values.round()) & (values.abs() <= FLOAT_EXACT)
    return values.cast(pl.Int64) if are_whole.all() else values


def form_of(reading: Json, levels: Levels) -> str:
    """Choose the form by which `auto` reads a text column; empty if it stays text.

    Few levels stay levels, for indicators tell all that numbers do, and so do whole numbers that may be codes.
    """
    forms = [form for form in FORMS if form in reading["forms"] and reading["forms"][form]["summary"] is not None]
    if not forms or len(reading["units"]) != 1 or not reading["digits"]:
        return ""
    num_levels = MOST_LEVELS + 1 if levels[0] is None else len(levels[0])
    is_bare = 0 not in reading["digits"]
    if num_levels <= (MOST_LEVELS if is_bare else FEW_INTEGERS):
        return ""
    if is_bare and len(reading["digits"]) == 1:  # as zip codes, and as numbers of telephones and orders
        marks = list(reading["forms"][forms[0]]["summary"]["marks"].values())
        return forms[0] if any(m is not None and is_related(m["sample"]) for m in marks) else ""
    return forms[0]


def _as_read(column: Column, partial: Partial) -> tuple[Column, Partial, list[Remark]]:
    """Give a column as `auto` sees it, with its summary: text of numbers as numbers, and dates as times."""
    if column.kind != "text":
        return column, partial, []
    name = column.name
    reading = partial["readings"][name]
    form = form_of(reading, partial["levels"][name])
    if not form:
        return column, partial, _about_text(name, reading, partial)
    what = "numbers" if FORMS[form].kind == "number" else "dates"
    other = [f for f, r in reading["forms"].items() if f != form and _differ(r, reading["forms"][form])]
    text = f"auto reads '{name}' as {what} written like {FORMS[form].example}"
    many = f"auto reads {{columns}} as {what} written like {FORMS[form].example}"
    cure = (
        f"{_PARSE.format(name=in_yaml(name), form=other[0])} reads them like {FORMS[other[0]].example}" if other else ""
    )
    doubt = f", though all values can be written like {FORMS[other[0]].example} as well" if other else ""
    note = Remark(name, text + doubt, many + doubt, cure or f"one_hot or hashing before auto keeps '{name}' as levels")
    own = reading["forms"][form]["summary"]
    silent = reading["silent"]
    nulls = {made: number + silent for made, number in own["nulls"].items()}
    return Column(name, FORMS[form].kind), {**own, "rows": own["rows"] + silent, "nulls": nulls}, [note]


def _differ(one: Json, other: Json) -> bool:
    """Tell whether two forms read all values, and not as the same."""
    return one["summary"] is not None and one["summary"]["moments"] != other["summary"]["moments"]


def _about_text(name: str, reading: Json, partial: Partial) -> list[Remark]:
    """Say what could be read of text that stays text."""
    if not reading["forms"] or len(reading["units"]) > MOST_UNITS:
        return []
    form = max(reading["forms"], key=lambda form: reading["forms"][form]["read"])
    what = "numbers" if FORMS[form].kind == "number" else "dates"
    cure = f"{_PARSE.format(name=in_yaml(name), form=form)} reads them"
    num_read = reading["forms"][form]["read"]
    count = reading["values"]
    if num_read < count:
        why = f"{count - num_read} of {count} values are no {what}"
    elif len(reading["units"]) > 1:
        why = f"it has several units: {', '.join(repr(unit) for unit in reading['units'])}"
    elif 0 in reading["digits"]:
        why = f"its {len(partial['levels'][name][0] or ())} levels have indicators each"
    else:
        why = "whole numbers may be codes"
    many = f"auto does not read {{columns}} as {what}, as not all values are, or they may be codes"
    return [Remark(name, f"auto does not read '{name}' as {what}: {why}", many, cure)]


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


def _plain(marks: Marks | None) -> Json | None:
    """Give marks as plain values, which can be kept as text beside what else a part says."""
    return None if marks is None else vars(marks)


def _both_marks(one: Json | None, other: Json | None) -> Json | None:
    return _plain(merge_marks(Marks(**one) if one else None, Marks(**other) if other else None))


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


def _suspect_code(name: str, partial: Partial) -> list[Remark]:
    """Name a value that is repeated far outside of all others, as a code for "missing" is."""
    for code, count in partial["codes"][name].items():
        low, high = moments.quantiles(partial["points"][name], [0.1, 0.9])
        outside = max(low - code, code - high)
        if count >= max(3, CODE_SHARE * partial["rows"]) and outside > 2 * (high - low) > 0:
            cure = f"if that means missing, say data.null_values: [{code}]"
            text = f"'{name}' is {code} in {count} training rows, far from all others"
            return [Remark(name, text, f"{{columns}}: {code} stands far from all other values", cure)]
    return []


def _useless(column: Column, partial: Partial, is_kept: bool) -> Remark | None:
    """Say why a column is left out, if it is."""
    name = column.name
    rows = partial["rows"]
    if column.kind == "number" and not moments.scale(partial["moments"][name]) and not partial["nulls"][name]:
        low, high = partial["moments"][name][3:5]
        if low != high or (name in partial["levels"] and moments.distinct(partial["levels"][name][1]) > 1):
            return _left_out(name, "its values are too close together to tell them apart as floats")
        return _left_out(name, "it is the same in all training rows")
    if column.kind == "number" and not partial["moments"][name][0]:
        return _left_out(name, "it is missing in all training rows")
    if name not in partial["levels"]:
        return None
    hashes = partial["levels"][name][1]
    there = rows - partial["nulls"][name]
    distinct = moments.distinct(hashes)
    if column.kind == "text" and distinct + (partial["nulls"][name] > 0) < 2:
        return _left_out(name, "it is the same in all training rows")
    if is_kept or there <= LEAST_NAMES or moments.distinct_at_most(hashes) <= ID_SHARE * there:
        return None
    about = "about " if len(hashes) == moments.SMALLEST_HASHES else ""
    counted = f"{about}{min(distinct, there):.0f} of {there} values are distinct"
    if column.kind == "text":
        if look := first_look(partial["looks"].get(name, frozenset())):
            return _left_out(name, f"it names rows: {counted}, and all look like {look}", "they name rows", True)
        note = _left_out(name, f"it is free text: {counted}", "they are free text", can_stay=True)
        return replace(note, cure=f"tokenize or tfidf before auto would use it; {note.cure}")
    marks = partial["marks"].get(name)
    why, related = why_a_name(Marks(**marks), distinct) if marks else ("", False)
    if not why or related:
        return None
    return _left_out(name, f"it names rows: {counted}, and {why}", "they name rows", True)


def _left_out(name: str, why: str, many: str = "", can_stay: bool = False) -> Remark:
    cure = f"steps: [{{auto: {{keep: [{in_yaml(name)}]}}}}] keeps it" if can_stay else ""
    return Remark(name, f"auto leaves out '{name}': {why}", f"auto leaves out {{columns}}: {many or why}", cure)


def _plan(column: Column, partial: Partial, taken: set[str]) -> tuple[list[Json], list[Remark]]:
    name = column.name
    match column.kind:
        case "number":
            return _number(name, partial, taken)
        case "text":
            counts, hashes = partial["levels"][name]
            if counts is None:
                about = moments.distinct(hashes)
                text = f"auto hashes '{name}': about {about:.0f} levels into {BUCKETS} buckets"
                note = Remark(name, text, f"auto hashes {{columns}} into {BUCKETS} buckets each", _ONE_HOT)
                return [{"by": "hash", "of": name, "name": name, "kind": "hashed", "width": BUCKETS}], [note]
            return _text(name, counts, partial)
        case "bytes":
            return [{"by": "keep", "of": name, "name": name, "kind": "pixels", "width": column.width}], []
        case "vector":
            shift = [partial["wide"][name][1], moments.scale(partial["wide"][name]) or 1.0]
            return [
                {"by": "wide", "of": name, "name": name, "kind": "vector", "width": column.width, "shift": shift}
            ], []
    kept = {"by": "keep", "of": name, "name": name, "kind": column.kind, "width": column.width}
    block = {"block": column.block} if column.block != DENSE else {}
    return [{**kept, "levels": list(column.classes), **block}], []


def _text(name: str, counts: dict[str, int], partial: Partial) -> tuple[list[Json], list[Remark]]:
    """Give levels indicators; rare ones share one, which thereby learns what a level never seen is like."""
    least = min(RARE_ROWS, partial["rows"] * RARE_SHARE)
    common = {level: count for level, count in counts.items() if count >= least}
    num_rare = len(counts) - len(common)
    levels = kept_levels(common, MOST_LEVELS, partial["nulls"][name] > 0, other=num_rare > 0)
    text = f"auto puts {num_rare} levels of '{name}' with fewer than {least:g} rows into {OTHER}"
    many = f"auto puts levels of {{columns}} with fewer than {least:g} rows into {OTHER}"
    rare = sorted(set(counts) - set(common))
    return [_indicator_entry(name, name, levels, rare)], [Remark(name, text, many, _ONE_HOT)] if num_rare else []


def _number(name: str, partial: Partial, taken: set[str]) -> tuple[list[Json], list[Remark]]:
    moment = partial["moments"][name]
    notes = _suspect_code(name, partial)
    mean, scale = shift_of(name, moment)
    entries: list[Json] = [{"by": "shift", "of": name, "name": name, "kind": "number", "shift": [mean, scale]}]
    counts = partial["levels"].get(name, (None, None))[0] or {}
    reach = max(moment[4] - mean, mean - moment[3]) / scale
    cut = f"; what lies beyond {FARTHEST:g} is cut off there" if reach > FARTHEST else ""
    if 3 <= len(counts) <= FEW_INTEGERS:
        levels = kept_levels(counts, FEW_INTEGERS, missing=False, other=False)
        entries.append(_indicator_entry(name, free_name(f"{name}_level", taken), levels, []))
        text = f"auto gives '{name}' indicators of its {len(counts)} levels beside the number"
        notes.append(Remark(name, text, "auto gives {columns} indicators of their levels beside the number", _NUMBER))
        if cut:
            text = f"auto cuts '{name}' off at {FARTHEST:g} standard deviations: it reaches {reach:.3g}"
            notes.append(Remark(name, text, f"auto cuts {{columns}} off at {FARTHEST:g} standard deviations", _CLIP))
    elif reach > HEAVY_TAIL:
        edges = moments.quantiles(partial["points"][name], np.linspace(0, 1, RANKS).tolist())
        rank = free_name(f"{name}_rank", taken)
        entries.append({"by": "rank", "of": name, "name": rank, "kind": "number", "edges": edges})
        many = f"beside the number: {{}} beyond {HEAVY_TAIL:g} standard deviations{cut}"
        text = f"auto gives '{name}' its normal rank {many.format('it reaches')}"
        notes.append(
            Remark(name, text, f"auto gives {{columns}} their normal ranks {many.format('they reach')}", _CLIP)
        )
    if partial["nulls"][name]:
        flag = free_name(f"{name}_missing", taken)
        entries.append({"by": "flag", "of": name, "name": flag, "kind": "missing"})
        text = f"auto puts {partial['nulls'][name]} missing values of '{name}' at the mean and flags them"
        many = "auto puts missing values of {columns} at the mean and flags them"
        notes.append(Remark(name, text, many, "impute before auto fills them otherwise"))
    return entries, notes


def _indicator_entry(of: str, name: str, levels: Sequence[str], rare: Sequence[str]) -> Json:
    """Describe indicators; rare levels share one, and are kept apart from those never seen."""
    places = {"width": len(levels), "levels": list(levels), "rare": list(rare)}
    return {"by": "levels", "of": of, "name": name, "kind": "one_hot", **places}


def _made(values: pl.Series, entry: Json) -> pl.Series | np.ndarray:
    match entry["by"]:
        case "shift":
            mean, scale = entry["shift"]
            made = scaled(values, mean, scale, FARTHEST)
            made[_is_null(values)] = 0.0
            return made
        case "flag":
            return _is_null(values).astype(np.uint8)
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


def _is_null(values: pl.Series) -> np.ndarray:
    return values.is_null().to_numpy() if values.null_count() else np.zeros(len(values), bool)
