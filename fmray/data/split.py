"""Divide rows into train, validation and test by a definition that outlives the run that made it.

A row's side is a function of its own values and the recorded definition, never of its file, its position, the rows
around it or a column that came later. So data may grow, widen and move, and no row changes side.
"""

import datetime
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fmray.data.arrow_frames import NullValues
from fmray.data.hashing import HASH_VERSION, row_hashes, uniform
from fmray.data.scan import Dataset, read_item, work_items
from fmray.data.sides import lacking
from fmray.errors import DataError, SpecError
from fmray.records import Json
from fmray.registry import nearest
from fmray.seeding import derive
from fmray.spec.sections import Split
from fmray.store import Store

TRAIN, VAL, TEST, EXCLUDED = 0, 1, 2, 3
GIVEN = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL, "test": TEST}
EXACT_ROWS = 1 << 25  # up to here time cuts are exact quantiles; beyond, those of every k-th row


@dataclass(frozen=True)
class Definition:
    """Say which side any row is on, now and later.

    Args:
        by: What decides: "hash" of `columns`, "time" in `column`, "given" by `column`.
        columns: Columns whose values are hashed; none for "time".
        column: The time column or the given one; empty for "hash".
        val, test: Shares of the hash range; for "given", `val` is cut from train, 0 if the data brings its own.
        cuts: For "time", where val and test begin: microseconds since 1970 UTC, or plain numbers.
        salt: As the job gave it.
        hash_version: Of `fmray.data.hashing`.
        own: Columns hashed instead for rows without a group, each of which is one of its own; none refuses them.
        sides: For "given", the side of values that do not name one, as pairs.
    """

    by: Literal["hash", "time", "given"]
    columns: tuple[str, ...]
    column: str
    val: float
    test: float
    cuts: tuple[int | float, ...]
    salt: int
    hash_version: str = HASH_VERSION
    own: tuple[str, ...] = ()
    sides: tuple[tuple[str, str], ...] = ()

    @property
    def side_of(self) -> dict[str, int]:
        """Give the side that each value of the given column stands for."""
        return {**GIVEN, **{value: GIVEN[side] for value, side in self.sides}}

    def reads(self) -> tuple[str, ...]:
        """Name the columns that `assign` needs."""
        named = (*self.columns, *self.own, self.column) if self.column else (*self.columns, *self.own)
        return tuple(dict.fromkeys(named))

    def to_json(self) -> Json:
        """Give the definition as plain values."""
        plain = {**asdict(self), "columns": list(self.columns), "cuts": list(self.cuts), "own": list(self.own)}
        plain["sides"] = dict(self.sides)
        # the name of a test set covers these values, and must stay what it was
        return {name: value for name, value in plain.items() if value or name not in ("own", "sides")}

    @classmethod
    def from_json(cls, value: Json) -> "Definition":
        """Read back what `to_json` gave."""
        tuples: Json = {name: tuple(value[name]) for name in ("columns", "cuts", "own") if name in value}
        return cls(**{**value, **tuples, "sides": tuple(value.get("sides", {}).items())})


def define(dataset: Dataset, split: Split, store: Store, job_name: str, *, seen: Sequence[str] = ()) -> Definition:
    """Read the definition recorded under the job's name, or make and record the first one.

    Args:
        seen: Targets that a model sees, as the text whose tokens it foretells: rows may differ in nothing else.

    Raises:
        SpecError: If the job asks for another split than the recorded one, and not to redefine it.
        DataError: If the data lacks a column of the recorded definition, or cannot be divided as asked.
    """
    path = store.path("splits", f"{job_name}.json")
    if split.redefine or not store.exists(path):
        with store.lease(store.path("splits", job_name)):  # of two first runs one defines, the other reads
            if split.redefine or not store.exists(path):
                return _record(dataset, split, seen, store=store, path=path)
    record = store.read_json(path)
    asked = _request(dataset, split)
    if record["asked"] != asked:
        raise SpecError(
            f"this job asks for {_difference(asked, record['asked'])}, but the rows of '{job_name}' were divided by "
            f"{_difference(record['asked'], asked)}. Restore that, or set split.redefine: true, "
            "which retires the test set. If that was another job of the same name, give this one a name: of its own.",
            "split",
        )
    definition = Definition.from_json(record["definition"])
    own = _own(dataset, split, seen)
    if own and not definition.own:  # rows that have a group stay where they are
        definition = replace(definition, own=own)
        store.write_json(path, {**record, "definition": definition.to_json()})
    definition = replace(definition, own=definition.own if own else ())
    _refuse_unreadable(definition, dataset, job_name)
    return definition


def _own(dataset: Dataset, split: Split, seen: Sequence[str]) -> tuple[str, ...]:
    """Name what divides rows without a group, where each of them is its own."""
    data = dataset.data
    if data.group is None or data.group_nulls != "own" or split.by == "time":
        return ()
    but = [data.group, *([split.column] if split.column else [])]
    return _hashed(replace(dataset, data=replace(data, group=None)), seen, but)


def _record(dataset: Dataset, split: Split, seen: Sequence[str], store: Store, path: str) -> Definition:
    asked = _request(dataset, split)
    definition = replace(_make(dataset, split, seen), own=_own(dataset, split, seen))
    history: list[Json] = []
    if store.exists(path):
        replaced = store.read_json(path)
        if Definition.from_json(replaced["definition"]) == definition and replaced["asked"] == asked:
            return definition  # a job that says redefine every week retires nothing by it
        history = [*replaced.pop("history"), replaced]
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    value = {"asked": asked, "definition": definition.to_json(), "made": made, "history": history}
    store.write_json(path, value)
    return definition


def _request(dataset: Dataset, split: Split) -> Json:
    """Give all that a user says about the division; two equal requests never conflict."""
    asked: Json = {"by": split.by, "salt": split.salt, "val": split.val, "test": split.test}
    if split.by == "given":
        asked |= {"column": split.column, **({"sides": dict(split.sides)} if split.sides else {})}
    if split.by == "time":
        asked |= {"time": dataset.data.time, "val_from": split.val_from, "test_from": split.test_from}
    else:
        asked |= {"group": dataset.data.group, "key": list(dataset.data.key)}
    return asked


def _difference(these: Json, those: Json) -> str:
    named = [f"{name}: {value}" for name, value in these.items() if those.get(name, ...) != value]
    return "{" + ", ".join(named) + "}"


def _refuse_unreadable(definition: Definition, dataset: Dataset, job_name: str) -> None:
    if definition.hash_version != HASH_VERSION:
        raise DataError(
            f"the recorded split uses hash {definition.hash_version}, this fmray knows {HASH_VERSION}. "
            "Use the fmray that made it, or set split.redefine: true.",
            "split",
        )
    if gone := [name for name in definition.reads() if name not in dataset.schema.names]:
        raise DataError(
            f"column '{gone[0]}' decides which side a row is on and is gone from the data. "
            f"{nearest(gone[0], dataset.schema.names)} Bring it back, or set split.redefine: true. "
            f"If another job is called '{job_name}' too, give this one a name: of its own.",
            "split",
        )


def _make(dataset: Dataset, split: Split, seen: Sequence[str]) -> Definition:
    if split.val + split.test >= 1:
        raise SpecError(
            f"val {split.val:g} and test {split.test:g} leave nothing to train on. Make their sum < 1.", "split"
        )
    if split.by == "time":
        return _by_time(dataset, split)
    if split.by == "given":
        return _by_column(dataset, split, seen)
    if split.by == "group" and dataset.data.group is None:
        raise SpecError("'group' needs a column. Set data.group.", "split.by")
    return Definition(
        "hash", _hashed(dataset, seen), column="", val=split.val, test=split.test, cuts=(), salt=split.salt
    )


def _hashed(dataset: Dataset, seen: Sequence[str], but: Sequence[str] = ()) -> tuple[str, ...]:
    """Name what makes rows belong together: the group, else the key, else all that a model may see."""
    data = dataset.data
    if data.group is not None:
        return (data.group,)
    if data.key:
        return tuple(sorted(data.key))
    left_out = {*data.target, *data.ignore, data.time, data.weight, data.references, *but} - set(seen)
    columns = tuple(sorted(name for name in dataset.schema.names if name not in left_out))
    if not columns:
        raise SpecError(f"no column is left to divide rows by in {dataset.schema.names}. Set data.key.", "split.by")
    return columns


def _by_column(dataset: Dataset, split: Split, seen: Sequence[str]) -> Definition:
    if split.column is None:
        raise SpecError("'given' needs the column that says train, val or test. Set split.column.", "split.by")
    if split.column not in dataset.schema.names:
        hint = nearest(split.column, dataset.schema.names)
        raise SpecError(f"column '{split.column}' is not in the data. {hint}", "split.column")
    counts: Counter[str | None] = Counter()
    for item in work_items(dataset):
        found = _spelled(read_item(dataset, item, [split.column]).column(0)).value_counts().to_pylist()
        counts.update({entry["values"]: entry["counts"] for entry in found})
    meant = Definition("given", (), split.column, val=0.0, test=0.0, cuts=(), salt=0, sides=_meant(split, counts))
    _refuse_sides(meant, counts)
    sides = {meant.side_of[value] for value in counts if value is not None}
    if missing := [name for name, side in (("train", TRAIN), ("test", TEST)) if side not in sides]:
        raise DataError(f"column '{split.column}' names no {missing[0]} rows: {dict(counts)}.", "split.column")
    val = 0.0 if VAL in sides else split.val
    columns = _hashed(dataset, seen, but=[split.column])
    return replace(meant, columns=columns, val=val, salt=split.salt)


def _meant(split: Split, counts: Collection[str | None]) -> tuple[tuple[str, str], ...]:
    """Give the sides that the job gives to values, as these are spelled in the data.

    Raises:
        SpecError: If there is no such value.
    """
    meant = {value.strip().lower(): side for value, side in split.sides.items()}
    for value in meant:
        if value not in counts:
            known = [name for name in counts if name is not None]
            raise SpecError(f"no row has '{value}' in '{split.column}'. {nearest(value, known)}", "split.sides")
    return tuple(sorted(meant.items()))


def _spelled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(column.type):
        raise SpecError(f"the column holds {column.type}. Accepted: train, val or test in each row.", "split.column")
    return pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))


def _refuse_sides(definition: Definition, counts: Counter[str | None]) -> None:
    known = definition.side_of
    if strange := {value: count for value, count in counts.most_common() if value not in known}:
        named = [(repr(value) if value is not None else "no value", count) for value, count in strange.items()]
        shown = ", ".join(f"{value} in {count:,} rows" for value, count in named[:10])
        more = f" and {len(named) - 10:,} other values" if len(named) > 10 else ""
        text = f"column '{definition.column}' has {shown}{more}. Accepted: {', '.join(known)}"
        raise DataError(f"{text}; split.sides gives a side to others.", "split.column")


def _by_time(dataset: Dataset, split: Split) -> Definition:
    column = dataset.data.time
    if column is None:
        raise SpecError("'time' needs a column. Set data.time.", "split.by")
    kind = dataset.schema.field(column).type
    if split.val_from is not None and split.test_from is not None:
        cuts = [_moment(split.val_from, kind, "split.val_from"), _moment(split.test_from, kind, "split.test_from")]
    else:
        cuts = _cuts(np.sort(_all_times(dataset, column)), split, kind)
    if not cuts[0] < cuts[1]:
        raise SpecError(f"val begins at {cuts[0]} and test at {cuts[1]}. Validation comes before test.", "split")
    return Definition("time", (), column=column, val=split.val, test=split.test, cuts=tuple(cuts), salt=split.salt)


def _all_times(dataset: Dataset, column: str) -> np.ndarray:
    stride = -(-dataset.num_rows // EXACT_ROWS)
    parts = []
    first = 0
    for item in work_items(dataset):
        values, valid = _ticks(read_item(dataset, item, [column]).column(0))
        kept = np.arange(-first % stride, item.num_rows, stride)
        parts.append(values[kept][valid[kept]])
        first += item.num_rows
    return np.concatenate(parts)


def _cuts(times: np.ndarray, split: Split, kind: pa.DataType) -> list[int | float]:
    """Find where val and test begin among sorted times, so that their shares are nearest the ones asked for."""
    end = len(times)
    if split.test_from is not None:
        test = _moment(split.test_from, kind, "split.test_from")
        end = int(np.searchsorted(times, test))
    else:
        test = _nearest_cut(times, len(times) - split.test * len(times))
        end = int(np.searchsorted(times, test))
    if split.val_from is not None:
        return [_moment(split.val_from, kind, "split.val_from"), test]
    return [_nearest_cut(times[:end], end - split.val * len(times)), test]


def _nearest_cut(times: np.ndarray, wanted: float) -> int | float:
    """Give the distinct time before which the number of rows is nearest the wanted one, and not zero."""
    values, starts = np.unique(times, return_index=True)
    if len(values) < 2:
        text = f"{len(times):,} rows have a time, of {len(values)} distinct values, which cannot be divided in two"
        raise DataError(f"{text}. Fill in more times, or set split.by: hash.", "data.time")
    cut: int | float = values[1:][np.argmin(np.abs(starts[1:] - wanted))].item()
    return cut


def _moment(text: str, kind: pa.DataType, where: str) -> int | float:
    try:
        if not pa.types.is_temporal(kind):
            return int(text) if text.strip().lstrip("+-").isdigit() else float(text)
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise SpecError(
            f"{text!r} is no point in the time column, which holds {kind}. Accepted: 2024-01-31.", where
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    return (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)


def _ticks(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Give times as microseconds or plain numbers, and which of them are there."""
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
    elif pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    values = column.fill_null(0).to_numpy()
    return values, column.is_valid().to_numpy() & (values == values)


def assign(definition: Definition, table: pa.Table, null_values: NullValues = ()) -> np.ndarray:
    """Give each row its side.

    Args:
        null_values: Beside nulls, what says that a row has no group.

    Shapes:
        returns: (num_rows,), int8: 0 train, 1 val, 2 test, 3 on none, because its time is missing.

    Raises:
        DataError: If the given column says something else than train, val or test.
    """
    if definition.by == "time":
        values, valid = _ticks(table.column(definition.column))
        sides = np.searchsorted(np.asarray(definition.cuts), values, side="right")
        return np.where(valid, sides, EXCLUDED).astype(np.int8)
    if definition.by == "given":
        return _given(definition, table, null_values)
    place = _place(definition, table, null_values)
    # Test comes first, so that another share of val leaves the test set as it was.
    sides = np.where(place < definition.test, TEST, np.where(place < definition.test + definition.val, VAL, TRAIN))
    return sides.astype(np.int8)


def _given(definition: Definition, table: pa.Table, null_values: NullValues) -> np.ndarray:
    spelled = _spelled(table.column(definition.column)).combine_chunks().dictionary_encode()
    spelled = spelled.combine_chunks() if isinstance(spelled, pa.ChunkedArray) else spelled
    levels = spelled.dictionary.to_pylist()
    known = definition.side_of
    if spelled.null_count or not set(levels) <= set(known):
        _refuse_sides(definition, Counter(spelled.to_pylist()))
    sides: np.ndarray = np.array([known[level] for level in levels], np.int8)[spelled.indices.to_numpy()]
    if definition.val:
        sides[(sides == TRAIN) & (_place(definition, table, null_values) < definition.val)] = VAL
    return sides


def _place(definition: Definition, table: pa.Table, null_values: NullValues) -> np.ndarray:
    (words,) = row_hashes(table, [definition.columns], derive(definition.salt, "split"), num_words=1)
    if definition.own and (own := lacking(table, definition.columns, null_values)).any():
        (others,) = row_hashes(table, [definition.own], derive(definition.salt, "split"), num_words=1)
        words[own] = others[own]
    return uniform(words)
