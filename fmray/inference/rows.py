"""Bring rows that a model has never seen to its inputs, exactly as training rows were brought there.

No row is dropped: one that cannot be an input keeps its place and gets a reason.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa

from fmray.data import pipeline as pipelines
from fmray.data.arrow_frames import as_frame, blocks, faults
from fmray.data.auto import Auto, seen_by_auto
from fmray.data.contents import is_bytes
from fmray.data.evolve import convert, normal, wider
from fmray.data.parse import Parse
from fmray.data.pipeline import Pipeline
from fmray.data.step import Fitted, Step
from fmray.data.tabular import MISSING, OneHot
from fmray.data.text_numbers import read, tidied
from fmray.data.weights import beside_model
from fmray.errors import DataError
from fmray.moments import spell
from fmray.ragged import Blocks, Ragged, empty_rows
from fmray.records import Json, Prepared
from fmray.schema import DENSE, Column, Schema
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_of
from fmray.train.saved import Saved

SLICE_BYTES = 8 << 20
LEAST_ROWS = 1024
SOUND, MISSING_INPUT, TOO_LARGE = "", "an input is missing, and no step fills it", "an input is not a finite float32"
MOST_LEVELS = 20


@dataclass
class Strangers:
    """Count rows of a column whose level no training row has.

    Args:
        rows: All of them.
        levels: Level -> its rows, the most frequent ones of every slice that was counted.
    """

    rows: int = 0
    levels: Counter[str] = field(default_factory=Counter)

    def add(self, rows: int, levels: Mapping[str, int]) -> None:
        """Count more rows."""
        self.rows += rows
        self.levels.update(levels)
        self.levels = Counter(dict(self.levels.most_common(MOST_LEVELS)))

    def to_json(self) -> Json:
        """Give the counts as plain values."""
        return {"rows": self.rows, "levels": dict(self.levels)}


@dataclass
class Unseen:
    """Count what rows have that no training row had, per column.

    Args:
        levels: Rows whose level no training row has.
        nulls: Rows without a value, of columns in which every training row has one.
        unread: Rows whose text cannot be read as the number or date that training rows' could.
    """

    levels: dict[str, Strangers] = field(default_factory=dict)
    nulls: Counter[str] = field(default_factory=Counter)
    unread: dict[str, Strangers] = field(default_factory=dict)

    def add(self, other: Json) -> None:
        """Count what was counted elsewhere; see `to_json`."""
        for mine, theirs in ((self.levels, other["unseen"]), (self.unread, other.get("unread", {}))):
            for name, found in theirs.items():
                mine.setdefault(name, Strangers()).add(found["rows"], found["levels"])
        self.nulls.update(other.get("nulls", {}))  # parts of an earlier version lack it

    def to_json(self) -> Json:
        """Give the counts as plain values, in order of columns."""
        return {
            "unseen": {name: found.to_json() for name, found in sorted(self.levels.items())},
            "nulls": dict(sorted(self.nulls.items())),
            "unread": {name: found.to_json() for name, found in sorted(self.unread.items())},
        }


@dataclass(frozen=True)
class Slice:
    """Hold a few consecutive rows as inputs.

    Args:
        start: Of the first row.
        x: Inputs for each way that members' rows were prepared, by fingerprint; zeros, or empty, where a row is faulty.
        faults: Reason why a row cannot be an input (n,), as a place in `REASONS` of the reader; 0 where it can.
    """

    start: int
    x: Mapping[str, Blocks]
    faults: np.ndarray


class Reader:
    """Apply the steps of a model, for each way in which its members' rows were prepared.

    Args:
        saved: The model.
        folder: Local folder that it lies in.

    Attributes:
        schema: Columns that steps read.
        types: The same columns, as the types that training rows had.
        generated: Column of the text that the model generates, which rows may lack; None where it generates none.

    Raises:
        DataError: If pretrained weights that a step uses are missing or damaged.
        SpecError: If a step is of the user's own code and cannot be found.
    """

    def __init__(self, saved: Saved, folder: str) -> None:
        self.ways = saved.ways()
        self.null_values = saved.data.null_values
        self.pipelines = {name: fitted(own, folder) for name, own in self.ways.items()}
        columns = {column.name: column for own in self.ways.values() for column in own.raw.columns}
        self.schema = Schema(tuple(columns.values()))
        self.types = pa.schema([saved.types.field(name) for name in columns])
        target = saved.prepared.target
        self.generated = target.columns[0] if codec_of(target).generates else None  # "" may be a column's name
        row_bytes = sum(own.schema.typical_bytes for own in self.ways.values())
        self._slice_rows = max(LEAST_ROWS, SLICE_BYTES // row_bytes)

    def slices(self, table: pa.Table, reasons: list[str], unseen: Unseen) -> Iterator[Slice]:
        """Give the inputs of rows a few at a time: fresh memory costs more than the work on it.

        Args:
            table: As `as_trained` gives it.
            reasons: Takes why rows are faulty, in words; its first entry is "".
            unseen: Takes what no training row has.
        """
        if self.generated is not None and self.generated not in table.column_names:
            table = table.append_column(self.generated, pa.nulls(len(table), self.types.field(self.generated).type))
        codes, found = faults(table, self.schema, [])
        reasons[:] = [*found, MISSING_INPUT, TOO_LARGE]
        missing = len(reasons) - 2
        large = len(reasons) - 1
        for start in range(0, table.num_rows, self._slice_rows):
            rows = table.slice(start, self._slice_rows)
            own = codes[start : start + len(rows)].copy()
            x = {}
            for number, (name, steps) in enumerate(self.pipelines.items()):
                x[name], holes = self._inputs(
                    rows, own == 0, way=self.ways[name], steps=steps, unseen=Unseen() if number else unseen
                )
                own[holes & (own == 0)] = missing
                if DENSE in x[name].arrays:
                    own[~np.isfinite(x[name].arrays[DENSE]).all(1) & (own == 0)] = large
            for made in x.values():
                for values in made.arrays.values():
                    _clear(values, own > 0)
            yield Slice(start, x, own)

    def _inputs(
        self, rows: pa.Table, sound: np.ndarray, way: Prepared, steps: Pipeline, unseen: Unseen
    ) -> tuple[Blocks, np.ndarray]:
        """Give the inputs of sound rows, zeros for others, and which sound rows have holes after the steps."""
        holes = np.zeros(len(rows), bool)
        table = rows if sound.all() else rows.filter(pa.array(sound))
        frame = as_frame(table, way.raw, self.null_values)
        count_nulls(frame.drop(self.generated) if self.generated in frame.columns else frame, way, unseen)
        for step, learned in zip(steps.steps, steps.fitted, strict=True):
            state = learned.state
            if isinstance(step, Auto):
                count_unread(frame, state, unseen)
                frame, state = seen_by_auto(frame, state)
            elif isinstance(step, Parse):
                count_unread(frame, state, unseen)
            count_unseen(frame, step, state=state, unseen=unseen.levels, with_nulls=way.with_nulls is None)
            frame = step.apply(frame, state)
        places = np.flatnonzero(sound)
        empty = _with_holes(frame)
        if empty.any():
            holes[places[empty]] = True
            frame = frame.filter(pl.Series(~empty))
            places = places[~empty]
        with np.errstate(over="ignore"):  # what no float32 holds is named by the caller
            made = blocks(frame, way.schema)
        whole = {name: empty_rows(len(rows), values) for name, values in made.arrays.items()}
        others = np.ones(len(rows), bool)
        others[places] = False
        for name, values in made.arrays.items():
            whole[name][places] = values
            _clear(whole[name], others)
        return Blocks(whole), holes


def _clear(values: np.ndarray | Ragged, rows: np.ndarray) -> None:
    """Fill rows (n,) with zeros, or leave them without entries."""
    if isinstance(values, Ragged):
        values.lengths[rows] = 0
    else:
        values[rows] = 0


def _with_holes(frame: pl.DataFrame) -> np.ndarray:
    holed = [name for name in frame.columns if frame[name].null_count()]
    if not holed:
        return np.zeros(frame.height, bool)
    return frame.select(pl.any_horizontal(pl.col(holed).is_null())).to_series().to_numpy()


def fitted(prepared: Prepared, folder: str) -> Pipeline:
    """Build the steps of a record again, with what they learned.

    Args:
        folder: Local folder of the model, which holds the pretrained weights that steps use.

    Raises:
        DataError: If weights are missing or damaged.
    """
    refs = [Ref(step["name"], step["params"]) for step in prepared.steps]
    learned = [Fitted(step["state"], prepared.schema) for step in prepared.steps]
    return Pipeline(pipelines.build(refs, beside_model(prepared.steps, folder)), prepared.raw, learned)


def count_nulls(frame: pl.DataFrame, way: Prepared, unseen: Unseen) -> None:
    """Count nulls in columns in which no training row has one; a model of an earlier version does not know."""
    if way.with_nulls is None:
        return
    known = set(way.with_nulls)
    for column in frame.get_columns():
        if (number := column.null_count()) and column.name not in known:
            unseen.nulls[column.name] += number


def count_unread(frame: pl.DataFrame, state: Json, unseen: Unseen) -> None:
    """Count text that is missing as it does not follow the form, or is in no unit, by which its column is read."""
    for name, form in state.get("forms", {}).items():
        tidy = tidied(frame[name])
        made = read(tidy, form, state.get("units", {}).get(name))
        strange = tidy.filter(tidy.is_not_null() & made.is_null()).alias("level")
        if len(strange):
            counts = strange.value_counts(name="rows").sort("rows", "level").tail(MOST_LEVELS)
            unseen.unread.setdefault(name, Strangers()).add(len(strange), dict(counts.iter_rows()))


def count_unseen(
    frame: pl.DataFrame, step: Step, state: Json, unseen: dict[str, Strangers], with_nulls: bool = True
) -> None:
    """Count the levels of a frame that a step has no place for and that no training row has.

    Args:
        with_nulls: Count text that is missing as a level as well.
    """
    for name, known in _known_levels(step, state).items():
        column = frame[name].alias("level")
        nulls = frame[name].null_count()
        if column.dtype == pl.String:
            spelled = pl.Series(sorted(known), dtype=pl.String)
        else:
            column = column.cast(pl.Float64)
            spelled = pl.Series(_numbers(known), dtype=pl.Float64)
        distinct = column.drop_nulls().unique()
        strange = distinct.filter(~distinct.is_in(spelled.implode()))
        found: dict[str, int] = {}
        if len(strange):
            counts = column.filter(column.is_in(strange.implode())).value_counts(name="rows").sort("rows", "level")
            found = {spell(level): rows for level, rows in counts.tail(MOST_LEVELS).iter_rows()}
            unseen.setdefault(name, Strangers()).add(int(counts["rows"].sum()), found)
        if with_nulls and nulls and frame[name].dtype == pl.String and MISSING not in known:
            unseen.setdefault(name, Strangers()).add(nulls, {MISSING: nulls})


def _numbers(spelled: Iterable[str]) -> list[float]:
    found = []
    for level in spelled:
        with contextlib.suppress(ValueError):  # what stands for missing and for other levels is no number
            found.append(float(level))
    return found


def _known_levels(step: Step, state: Json) -> dict[str, set[str]]:
    if isinstance(step, OneHot):
        return {name: {*levels, *state["rest"][name]} for name, levels in state["levels"].items()}
    if isinstance(step, Auto):
        entries = [entry for entry in state["plan"] if entry["by"] == "levels"]
        return {entry["of"]: {*entry["levels"], *entry["rare"]} for entry in entries}
    return {}


def as_trained(
    table: pa.Table,
    columns: Sequence[Column],
    types: pa.Schema,
    where: str = "the rows",
    time_zone: str | None = None,
) -> pa.Table:
    """Give the named columns, as the type they had in training wherever that type holds the values given.

    Args:
        types: As in training.
        where: What the rows are called in an error.
        time_zone: Of times that carry none, as `data.time_zone` said in training.

    Raises:
        DataError: If columns are missing, or hold another kind of value.
    """
    if absent := [column.name for column in columns if column.name not in table.column_names]:
        known = ", ".join(table.column_names[:20])
        raise DataError(f"{where}: column {_quoted(absent)} is missing, which the model reads. It has: {known}.")
    made = []
    wrong = []
    for column in columns:
        given = table.column(column.name)
        trained = types.field(column.name).type
        kind = accepted(given.type, trained, column, time_zone)
        if kind is None:
            wrong.append(f"'{column.name}' holds {given.type} where training rows held {trained}")
        else:
            made.append(
                given if given.type == kind else _cast(given, kind, name=column.name, where=where, time_zone=time_zone)
            )
    if wrong:
        raise DataError(f"{where}: {'; '.join(wrong)}. Convert the column.")
    return pa.table(made, names=[column.name for column in columns])


def accepted(
    given: pa.DataType, trained: pa.DataType, column: Column, time_zone: str | None = None
) -> pa.DataType | None:
    """Give the type a column is read as, None if its values are of another kind than in training."""
    kind = normal(given, time_zone)
    if kind == trained or pa.types.is_null(kind):
        return trained
    if column.kind == "number":
        both = wider(trained, kind)
        if both is None and pa.types.is_boolean(trained) != pa.types.is_boolean(kind):
            both = kind if _is_plain_number(kind) or pa.types.is_boolean(kind) else None
        return both
    if column.kind == "bytes":
        return kind if is_bytes(kind) else None
    if (column.kind == "image" and pa.types.is_fixed_size_binary(kind)) or (
        column.kind == "vector" and pa.types.is_list(kind)
    ):
        return trained
    return wider(trained, kind, time_zone)


def _is_plain_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, where: str, time_zone: str | None) -> pa.ChunkedArray:
    try:
        return convert(column, kind, time_zone)
    except pa.ArrowException as error:
        raise DataError(f"{where}: column '{name}' cannot be read as {kind}: {error}. Convert the column.") from error


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
