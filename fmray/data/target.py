"""Find out what is predicted: objective, classes in order, mean and scale; and encode it.

Classes are ordered by value and learned from training rows only. Spellings are mapped only as the job says; variants
that look like slips are shown, never merged. A class is spelled once, and `class_values` gives its value back.
"""

import datetime
import decimal
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fmray.catalogue import OF_NUMBERS, TASKS
from fmray.data import moments
from fmray.data.arrow_frames import plain, without
from fmray.data.evolve import UUID
from fmray.data.scan import Dataset, read_item, work_items
from fmray.data.text_numbers import NULL_WORDS
from fmray.errors import DataError, SpecError
from fmray.records import Target
from fmray.registry import nearest
from fmray.spec.ref import Ref
from fmray.spec.sections import Data

FEW_LEVELS = 20
ROWS_PER_LEVEL = 5
"""Rows that whole numbers stored as floats have per level on average where they are classes."""
SHORT_DIGITS = 15
"""Decimals of up to so many digits are spelled alike as floats."""
MOST_DIGITS = 38
MOST_CLASSES = 10_000
SHOWN = 5
Partial = dict[str, Any]


def decide(dataset: Dataset, data: Data, task: Ref) -> Ref:
    """Choose the objective where the job says "auto", from the target's type and its first rows.

    Raises:
        SpecError: If the type leaves it open, or contradicts the task that was named or the parameters given.
    """
    if ":" in task.name:
        return task
    for name in data.target:
        kind = dataset.schema.field(name).type
        if pa.types.is_time(kind) or pa.types.is_duration(kind) or pa.types.is_null(kind):
            text = "Accepted: numbers, text, dates, true and false."
            raise SpecError(f"column '{name}' holds {kind}. {text}", "data.target")
    numeric = [name for name in data.target if is_number(dataset.schema.field(name).type)]
    if task.name in OF_NUMBERS and len(numeric) < len(data.target):
        other = next(name for name in data.target if name not in numeric)
        kind = dataset.schema.field(other).type
        raise SpecError(f"{task.name} needs numbers, column '{other}' holds {kind}. Set task: classification.", "task")
    if task.name == "classification" and len(data.target) > 1:
        raise SpecError(f"classification takes one target, given {', '.join(data.target)}. Name one.", "data.target")
    if task.name == "auto":
        task = Ref("regression" if len(data.target) > 1 else _by_type(dataset, data.target[0]), task.params)
        _refuse_foreign(task)
    if task.name in OF_NUMBERS and data.labels:
        raise SpecError(f"labels {dict(data.labels)} go with classification, and this is {task.name}.", "data.labels")
    if task.name in OF_NUMBERS and data.sample:
        raise SpecError(f"rows are sampled by class, and this is {task.name}. Leave it out.", "data.sample")
    return task


def _refuse_foreign(task: Ref) -> None:
    """Refuse parameters of the other task, which "auto" had to let pass."""
    declared = TASKS.params(task.name)
    for name in task.params:
        if name not in declared.model_fields:
            raise SpecError(f"the target calls for {task.name}, which has no '{name}'. Leave it out.", "task.auto")
    for name, message in declared.problems(task.params):
        raise SpecError(f"the target calls for {task.name}. {message}", f"task.auto.{name}")


def _by_type(dataset: Dataset, name: str) -> str:
    kind = dataset.schema.field(name).type
    if _is_label(kind):
        return "classification"
    item = work_items(dataset)[0]
    found = pl.Series(plain(read_item(dataset, item, [name]).column(0)))
    levels = found.n_unique()
    if not pa.types.is_integer(kind) and is_number(kind):
        return "classification" if _are_labels(found) else "regression"
    if levels <= FEW_LEVELS:
        return "classification"
    what, meant = ("integer", "task: regression or task: classification")
    if not is_number(kind):
        what = str(kind)
        meant = "task: classification, or name another target"
    raise SpecError(
        f"{what} target '{name}' has {levels} levels in the first {item.num_rows} rows. Say which is meant: {meant}.",
        "task",
    )


def _are_labels(floats: pl.Series) -> bool:
    """Tell few whole numbers, each of them repeated, which were made floats by a missing one or by a writer."""
    known = floats.fill_nan(None).drop_nulls()
    levels = known.unique()
    few = 2 <= len(levels) <= FEW_LEVELS and len(known) >= ROWS_PER_LEVEL * len(levels)
    return few and bool((levels == levels.floor()).all())


def _is_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_string(kind) or kind == UUID)


def is_number(kind: pa.DataType) -> bool:
    """Tell what regression can learn."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def fit_target(table: pa.Table, data: Data, task: str) -> Partial:
    """Summarise the target of training rows: counts of classes, or moments of numbers.

    Raises:
        DataError: If there are too many classes to be classes.
    """
    frame = target_frame(table, data, as_numbers=task in OF_NUMBERS)
    if task in OF_NUMBERS:
        few = {name: _few_levels(frame[name].drop_nulls().unique().to_list()) for name in frame.columns}
        return {"moments": moments.numbers(frame, frame.columns), "few": few}
    counts = frame.to_series().drop_nulls().alias("level").value_counts(name="rows")
    _refuse_many(counts, data)
    return {"counts": dict(zip(counts[:, 0].to_list(), counts[:, 1].to_list(), strict=True))}


def _few_levels(levels: Iterable[float]) -> list[float] | None:
    """Give distinct numbers in order, None where they are many."""
    found = sorted({float(level) for level in levels})
    return found if len(found) <= FEW_LEVELS else None


def _refuse_many(counts: Sized, data: Data) -> None:
    if len(counts) > MOST_CLASSES:
        raise DataError(
            f"'{data.target[0]}' has {len(counts)} classes in training rows, {MOST_CLASSES} are the most. "
            "Set task: regression, or name a target of fewer levels.",
            "data.target",
        )


def merge_target(one: Partial, other: Partial) -> Partial:
    """Give the summary of both sets of rows."""
    if "moments" in one:
        pairs = {name: (mine, other["few"][name]) for name, mine in one["few"].items()}
        few = {n: None if a is None or b is None else _few_levels([*a, *b]) for n, (a, b) in pairs.items()}
        return {"moments": moments.merge(one["moments"], other["moments"]), "few": few}
    return {"counts": dict(Counter(one["counts"]) + Counter(other["counts"]))}


def learn_target(partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
    """Give the target as training rows show it, and what a person should read about it.

    Raises:
        DataError: If there is nothing to tell apart.
        SpecError: If `data.positive` is no class.
    """
    if "moments" in partial:
        found = [partial["moments"][name] for name in data.target]
        scales = tuple(moments.scale(m) for m in found)
        if 0 in scales:
            name = data.target[scales.index(0)]
            raise DataError(
                f"'{name}' is the same number in all training rows. There is nothing to learn.", "data.target"
            )
        told = [note for name in data.target for note in _about_few(name, partial["few"][name])]
        return Target(data.target, "number", mean=tuple(m[1] for m in found), scale=scales), tuple(told)
    counts = partial["counts"]
    _refuse_many(counts, data)
    if len(counts) < 2:
        raise DataError(
            f"'{data.target[0]}' has one class in training rows: {list(counts)}. Give two or more.", "data.target"
        )
    levels = sorted(counts)
    classes = tuple(moments.spell(level) for level in levels)
    numbers = tuple(counts[level] for level in levels)
    positive, notes = _positive(data, classes, numbers, is_boolean=all(isinstance(level, bool) for level in levels))
    guessed = _about_type(data, levels)
    guessed += _about_missing([level for level in levels if isinstance(level, str)], counts)
    return Target(data.target, "class", classes, positive, counts=numbers), (*guessed, *notes, *_variants(classes))


def _about_few(name: str, levels: Sequence[float] | None) -> list[str]:
    """Say that few numbers with fractions are not taken for classes, which nobody need have asked for."""
    if levels is None or all(level.is_integer() for level in levels):
        return []
    shown = ", ".join(map(moments.spell, levels[:SHOWN])) + (" ..." if len(levels) > SHOWN else "")
    return [f"'{name}' holds {len(levels)} numbers ({shown}), predicted as numbers; task: classification as classes"]


def _about_missing(levels: Sequence[str], counts: Mapping[Any, int]) -> tuple[str, ...]:
    """Say that a class may be what somebody wrote where there is no label."""
    return tuple(
        f"class '{level}' ({counts[level]} training rows) may mean that there is no label; "
        f"data.null_values: [{json.dumps(level, ensure_ascii=False)}] says so"
        for level in levels
        if level.strip().lower() in NULL_WORDS
    )


def _about_type(data: Data, levels: Sequence[object]) -> tuple[str, ...]:
    """Say that numbers or dates are classes, which nobody need have asked for."""
    if any(isinstance(level, str | bool) for level in levels):
        return ()
    what = "numbers" if isinstance(levels[0], int | float | decimal.Decimal) else "dates"
    other = "; task: regression predicts a number" if what == "numbers" else ""
    shown = ", ".join(map(moments.spell, levels[:SHOWN])) + (" ..." if len(levels) > SHOWN else "")
    return (f"'{data.target[0]}' holds {len(levels)} {what} ({shown}), which are classes{other}",)


def encode_target(table: pa.Table, target: Target, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Give the target as numbers, and which rows have none.

    Shapes:
        returns: (N,) int64 class indices, -1 for a class that training rows lack, or (N,) or (N, T) float64; (N,) bool.
    """
    frame = target_frame(table, data, as_numbers=target.kind == "number")
    missing = _missing(frame)
    if target.kind == "number":
        values = frame.select(pl.all().cast(pl.Float64).fill_null(0.0)).to_numpy()
        return (values[:, 0] if values.shape[1] == 1 else values), missing
    series = frame.to_series()
    levels = series.unique().drop_nulls()
    place = {name: place for place, name in enumerate(target.classes)}
    codes = [place.get(moments.spell(level), -1) for level in levels.to_list()]
    encoded = series.replace_strict(levels, codes, default=-1, return_dtype=pl.Int64)
    return encoded.to_numpy(), missing


def unlabelled(table: pa.Table, data: Data) -> np.ndarray:
    """Tell which rows have no target (N,), bool."""
    return _missing(target_frame(table, data))


def _missing(frame: pl.DataFrame) -> np.ndarray:
    return frame.select(pl.any_horizontal(pl.all().is_null())).to_series().to_numpy()


def target_frame(table: pa.Table, data: Data, *, as_numbers: bool = False) -> pl.DataFrame:
    """Give the targets as the job means them: spellings mapped, what means "missing" as null.

    Args:
        as_numbers: Also long decimals as floats; as classes these would fall together.
    """
    columns = {}
    for name in data.target:
        values = table.column(name)
        is_long = pa.types.is_decimal(values.type) and values.type.precision > SHORT_DIGITS
        series = pl.Series(name, _exact(values, name) if is_long and not as_numbers else plain(values))
        series = series.fill_nan(None) if series.dtype.is_float() else series
        if data.labels:
            series = _meant(series if series.dtype == pl.String else without(series, data.null_values), data.labels)
        columns[name] = without(series, data.null_values)
    return pl.DataFrame(columns)


def _exact(decimals: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        return decimals.cast(pa.decimal128(MOST_DIGITS, decimals.type.scale))
    except (ValueError, pa.ArrowException) as error:
        text = f"column '{name}' holds decimals of more than {MOST_DIGITS} digits. Use fewer, or text, for classes."
        raise DataError(text, "data.target") from error


def _meant(series: pl.Series, labels: Mapping[str, str]) -> pl.Series:
    levels = series.unique().drop_nulls()
    names = [labels.get(moments.spell(level), moments.spell(level)) for level in levels.to_list()]
    return series.replace_strict(levels, names, default=None, return_dtype=pl.String)


def labels_seen(table: pa.Table, data: Data) -> frozenset[str]:
    """Give the spellings of `data.labels` that occur in these rows."""
    if not data.labels:
        return frozenset()
    levels = pl.Series(plain(table.column(data.target[0]))).unique().drop_nulls()
    return frozenset(map(moments.spell, levels.to_list())) & frozenset(data.labels)


def class_values(target: Target, data: Data, kind: pa.DataType) -> pa.Array:
    """Give the classes as values of the target column, which predictions then equal without a cast.

    Args:
        kind: Type of the column in training. Where `data.labels` says what is meant, classes are text.

    Shapes:
        returns: (num_classes,), in class order.
    """
    names = pa.array(target.classes, pa.string())
    read = next((found for fits, found in _FROM_TEXT if fits(kind)), None)
    if data.labels or read is None:
        return names
    try:
        values = pa.array([read(name) for name in target.classes], kind.storage_type if kind == UUID else kind)
        return pa.ExtensionArray.from_storage(UUID, values) if kind == UUID else values
    except (ValueError, ArithmeticError, pa.ArrowException):
        return names  # of a model that an earlier fmray wrote, which spelled some types in its own way


_FROM_TEXT: tuple[tuple[Callable[[pa.DataType], bool], Callable[[str], Any]], ...] = (
    (pa.types.is_boolean, {"True": True, "False": False}.__getitem__),
    (pa.types.is_integer, int),
    (pa.types.is_floating, float),
    (pa.types.is_decimal, decimal.Decimal),
    (pa.types.is_date, datetime.date.fromisoformat),
    (pa.types.is_timestamp, datetime.datetime.fromisoformat),
    (pa.types.is_binary, str.encode),
    (UUID.equals, lambda name: uuid.UUID(name).bytes),
)


def _positive(
    data: Data, classes: tuple[str, ...], counts: tuple[int, ...], *, is_boolean: bool
) -> tuple[int, tuple[str, ...]]:
    if data.positive is not None:
        name = moments.spell(data.positive)
        if len(classes) != 2:
            raise SpecError(f"{name!r} given, but there are {len(classes)} classes. Leave it out.", "data.positive")
        if name not in classes and is_boolean:
            text = f"{name!r} is no class: the label holds true and false. Accepted: true, false."
            raise SpecError(text, "data.positive")
        if name not in classes:
            raise SpecError(f"{name!r} is no class. {nearest(name, classes)}", "data.positive")
        return classes.index(name), ()
    if len(classes) != 2:
        return -1, ()
    rarer = 0 if counts[0] < counts[1] else 1
    return rarer, (f"positive class: '{classes[rarer]}', the rarer one; set data.positive to say otherwise",)


def _variants(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Show classes that differ in case, spaces or a trailing dot only."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.strip().rstrip(".").casefold(), []).append(name)
    return tuple(
        f"classes {', '.join(map(repr, names))} look like spellings of one; data.labels can map them"
        for names in alike.values()
        if len(names) > 1
    )
