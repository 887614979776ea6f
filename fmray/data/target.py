"""Find out what is predicted: objective, classes in order, mean and scale; and encode it.

Classes are ordered by value and learned from training rows only. Spellings are mapped only as the job says; variants
that look like slips are shown, never merged.
"""

from collections import Counter
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fmray.data import moments
from fmray.data.raw import without
from fmray.data.scan import Dataset, read_item, work_items
from fmray.errors import DataError, SpecError
from fmray.records import Target
from fmray.registry import nearest
from fmray.spec.check import TASK_PARAMS
from fmray.spec.params import refusal
from fmray.spec.ref import Ref
from fmray.spec.sections import Data

FEW_LEVELS = 20
MOST_CLASSES = 10_000
Partial = dict[str, Any]


def decide(dataset: Dataset, data: Data, task: Ref) -> Ref:
    """Choose the objective where the job says "auto", from the target's type and its first rows.

    Raises:
        SpecError: If the type leaves it open, or contradicts the task that was named or the parameters given.
    """
    if ":" in task.name:
        return task
    for name in data.target:
        if pa.types.is_temporal(kind := dataset.schema.field(name).type) or pa.types.is_null(kind):
            raise SpecError(f"column '{name}' holds {kind}. Accepted: numbers, text, true and false.", "data.target")
    numeric = [name for name in data.target if not _is_label(dataset.schema.field(name).type)]
    if task.name == "regression" and len(numeric) < len(data.target):
        other = next(name for name in data.target if name not in numeric)
        kind = dataset.schema.field(other).type
        raise SpecError(f"regression needs numbers, column '{other}' holds {kind}. Set task: classification.", "task")
    if task.name == "classification" and len(data.target) > 1:
        raise SpecError(f"classification takes one target, given {', '.join(data.target)}. Name one.", "data.target")
    if task.name == "auto":
        task = Ref("regression" if len(data.target) > 1 else _by_type(dataset, data.target[0]), task.params)
        _refuse_foreign(task)
    if task.name == "regression" and data.labels:
        raise SpecError(f"labels {dict(data.labels)} go with classification, and this is regression.", "data.labels")
    if task.name == "regression" and data.sample:
        raise SpecError("rows are sampled by class, and this is regression. Leave it out.", "data.sample")
    return task


def _refuse_foreign(task: Ref) -> None:
    """Refuse parameters of the other task, which "auto" had to let pass."""
    known = TASK_PARAMS[task.name]
    for name, given in task.params.items():
        if name not in known:
            raise SpecError(f"the target calls for {task.name}, which has no '{name}'. Leave it out.", "task.auto")
        if message := refusal(name, given, known[name], limited=True):
            raise SpecError(f"the target calls for {task.name}. {message}", f"task.auto.{name}")


def _by_type(dataset: Dataset, name: str) -> str:
    kind = dataset.schema.field(name).type
    if _is_label(kind):
        return "classification"
    if not pa.types.is_integer(kind):
        return "regression"
    item = work_items(dataset)[0]
    levels = pl.Series(read_item(dataset, item, [name]).column(0)).n_unique()
    if levels <= FEW_LEVELS:
        return "classification"
    raise SpecError(
        f"integer target '{name}' has {levels} levels in the first {item.num_rows} rows. "
        "Say which is meant: task: regression or task: classification.",
        "task",
    )


def _is_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind))


def fit_target(table: pa.Table, data: Data, task: str) -> Partial:
    """Summarise the target of training rows: counts of classes, or moments of numbers.

    Raises:
        DataError: If there are too many classes to be classes.
    """
    frame = target_frame(table, data)
    if task == "regression":
        return {"moments": moments.numbers(frame, frame.columns)}
    counts = frame.to_series().drop_nulls().alias("level").value_counts(name="rows")
    _refuse_many(counts, data)
    return {"counts": dict(zip(counts[:, 0].to_list(), counts[:, 1].to_list(), strict=True))}


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
        return {"moments": moments.merge(one["moments"], other["moments"])}
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
        return Target(data.target, "number", mean=tuple(m[1] for m in found), scale=scales), ()
    counts = partial["counts"]
    _refuse_many(counts, data)
    if len(counts) < 2:
        raise DataError(
            f"'{data.target[0]}' has one class in training rows: {list(counts)}. Give two or more.", "data.target"
        )
    levels = sorted(counts)
    classes = tuple(moments.spell(level) for level in levels)
    numbers = tuple(counts[level] for level in levels)
    positive, notes = _positive(data, classes, numbers)
    return Target(data.target, "class", classes, positive, counts=numbers), (*notes, *_variants(classes))


def encode_target(table: pa.Table, target: Target, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Give the target as numbers, and which rows have none.

    Shapes:
        returns: (N,) int64 class indices, -1 for a class that training rows lack, or (N,) or (N, T) float64; (N,) bool.
    """
    frame = target_frame(table, data)
    missing = _missing(frame)
    if target.kind == "number":
        values = frame.select(pl.all().cast(pl.Float64).fill_null(0.0)).to_numpy()
        return (values[:, 0] if values.shape[1] == 1 else values), missing
    series = frame.to_series()
    levels, place = series.unique().drop_nulls(), {name: place for place, name in enumerate(target.classes)}
    codes = [place.get(moments.spell(level), -1) for level in levels.to_list()]
    encoded = series.replace_strict(levels, codes, default=-1, return_dtype=pl.Int64)
    return encoded.to_numpy(), missing


def unlabelled(table: pa.Table, data: Data) -> np.ndarray:
    """Tell which rows have no target (N,), bool."""
    return _missing(target_frame(table, data))


def _missing(frame: pl.DataFrame) -> np.ndarray:
    return frame.select(pl.any_horizontal(pl.all().is_null())).to_series().to_numpy()


def target_frame(table: pa.Table, data: Data) -> pl.DataFrame:
    """Give the targets as the job means them: spellings mapped, what means "missing" as null."""
    columns = []
    for name in data.target:
        values = table.column(name)
        series = pl.Series(name, values.cast(pa.float64()) if pa.types.is_decimal(values.type) else values)
        series = series.fill_nan(None) if series.dtype.is_float() else series
        if data.labels:
            series = _meant(series if series.dtype == pl.String else without(series, data.null_values), data.labels)
        columns.append(without(series, data.null_values))
    return pl.DataFrame(columns)


def _meant(series: pl.Series, labels: Mapping[str, str]) -> pl.Series:
    levels = series.unique().drop_nulls()
    names = [labels.get(moments.spell(level), moments.spell(level)) for level in levels.to_list()]
    return series.replace_strict(levels, names, default=None, return_dtype=pl.String)


def labels_seen(table: pa.Table, data: Data) -> frozenset[str]:
    """Give the spellings of `data.labels` that occur in these rows."""
    if not data.labels:
        return frozenset()
    levels = pl.Series(table.column(data.target[0])).unique().drop_nulls()
    return frozenset(map(moments.spell, levels.to_list())) & frozenset(data.labels)


def _positive(data: Data, classes: tuple[str, ...], counts: tuple[int, ...]) -> tuple[int, tuple[str, ...]]:
    if data.positive is not None:
        name = moments.spell(data.positive)
        if len(classes) != 2:
            raise SpecError(f"{name!r} given, but there are {len(classes)} classes. Leave it out.", "data.positive")
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
