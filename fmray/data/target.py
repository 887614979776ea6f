"""Find out what is predicted, and read it as the job means it; its codec does the rest.

Spellings are mapped only as the job says. A class is spelled once, and `class_values` gives its value back.
"""

import datetime
import decimal
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fmray import moments
from fmray.catalogue import TASKS
from fmray.data.arrow_frames import plain, without
from fmray.data.contents import is_list_of_text
from fmray.data.evolve import UUID
from fmray.data.scan import Dataset, is_list_of_labels, is_list_of_spans, read_item, work_items
from fmray.errors import DataError, SpecError
from fmray.ragged import Array
from fmray.records import Target
from fmray.registry import nearest
from fmray.spec.ref import Ref
from fmray.spec.sections import Data
from fmray.targets.codec import Partial, codec_for, codec_named, codec_of

FEW_LEVELS = 20
ROWS_PER_LEVEL = 5
"""Rows that whole numbers stored as floats have per level on average where they are classes."""
SHORT_DIGITS = 15
"""Decimals of up to so many digits are spelled alike as floats."""
MOST_DIGITS = 38
OF_LISTS = {"multi_label": "lists of labels", "tagging": "lists of tags"}
"""Task -> what its target column holds."""
SPANS = "spans, a list<struct> of one text and the whole numbers start and end"
KIND = "kind"
"""Entry of a summary of a target that names its codec."""


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
    if task.name in TASKS and codec_for(task.name).from_inputs:
        return _of_text(dataset, data, task)
    if task.name in TASKS and codec_for(task.name).in_text:
        return _of_spans(dataset, data, task)
    for name in data.target:
        if is_list_of_spans(dataset.schema.field(name).type):
            text = f"column '{name}' holds spans, and this is {task.name}"
            raise SpecError(f"{text}. Set task: span_extraction, and data.text: the column they lie in.", "task")
    listed = [name for name in data.target if is_list_of_labels(dataset.schema.field(name).type)]
    if listed or task.name in OF_LISTS:
        return _of_lists(dataset, data, task=task, listed=listed)
    numeric = [name for name in data.target if is_number(dataset.schema.field(name).type)]
    if _is_of_numbers(task) and len(numeric) < len(data.target):
        other = next(name for name in data.target if name not in numeric)
        kind = dataset.schema.field(other).type
        raise SpecError(f"{task.name} needs numbers, column '{other}' holds {kind}. Set task: classification.", "task")
    if task.name == "classification" and len(data.target) > 1:
        raise SpecError(f"classification takes one target, given {', '.join(data.target)}. Name one.", "data.target")
    if task.name == "auto":
        task = Ref("regression" if len(data.target) > 1 else _by_type(dataset, data.target[0]), task.params)
        _refuse_foreign(task)
    if _is_of_numbers(task) and data.labels:
        raise SpecError(f"labels {dict(data.labels)} go with classification, and this is {task.name}.", "data.labels")
    if _is_of_numbers(task) and data.sample:
        raise SpecError(f"rows are sampled by class, and this is {task.name}. Leave it out.", "data.sample")
    return task


def _is_of_numbers(task: Ref) -> bool:
    return task.name in TASKS and codec_for(task.name).kind == codec_for("regression").kind


def _of_text(dataset: Dataset, data: Data, task: Ref) -> Ref:
    """Give the objective of a column of text that is its own target.

    Raises:
        SpecError: If it is another column, or several, or a key of the job goes with classes.
    """
    name = data.target[0]
    kind = dataset.schema.field(name).type
    if len(data.target) > 1 or not pa.types.is_string(kind):
        held = f"column '{name}' holds {kind}" if len(data.target) == 1 else f"given {', '.join(data.target)}"
        raise SpecError(f"{task.name} foretells one column of text, {held}. Name one of text.", "data.target")
    for key in ("sample", "positive", "labels"):
        if getattr(data, key):
            raise SpecError(f"goes with classes, and {task.name} has none. Leave it out.", f"data.{key}")
    if data.references is not None:
        if data.references not in dataset.schema.names:
            text = f"column '{data.references}' is not in the data. {nearest(data.references, dataset.schema.names)}"
            raise SpecError(text, "data.references")
        if not is_list_of_text(kind := dataset.schema.field(data.references).type):
            text = f"column '{data.references}' holds {kind}. Accepted: lists of texts."
            raise SpecError(text, "data.references")
    return task


def _of_lists(dataset: Dataset, data: Data, task: Ref, listed: list[str]) -> Ref:
    """Give the objective of a column of lists: labels of a row, unless the job says that they are tags of its tokens.

    Raises:
        SpecError: If the task is another one, or the column no list, or a key of the job goes with classes.
    """
    name = data.target[0]
    if not listed:
        kind = dataset.schema.field(name).type
        cure = " Split its text into lists first." if pa.types.is_string(kind) else ""
        raise SpecError(f"{task.name} needs {OF_LISTS[task.name]}, column '{name}' holds {kind}.{cure}", "task")
    if task.name not in ("auto", *OF_LISTS):
        text = f"{task.name} takes one value per row, column '{name}' holds lists."
        raise SpecError(f"{text} Set task: multi_label, or task: tagging for a tag per token.", "task")
    task = Ref("multi_label" if task.name == "auto" else task.name, task.params)
    if len(data.target) > 1:
        raise SpecError(f"{task.name} takes one target, given {', '.join(data.target)}. Name one.", "data.target")
    for key in ("sample", "positive"):
        if getattr(data, key) is not None:
            text = f"goes with classification, and rows have {OF_LISTS[task.name]}. Leave it out."
            raise SpecError(text, f"data.{key}")
    _refuse_foreign(task)
    return task


def _of_spans(dataset: Dataset, data: Data, task: Ref) -> Ref:
    """Give the objective of a column of spans.

    Raises:
        SpecError: If there are several, or it is another column, or the text they lie in is none.
    """
    if len(data.target) > 1:
        raise SpecError(f"{task.name} takes one target, given {', '.join(data.target)}. Name one.", "data.target")
    kind = dataset.schema.field(data.target[0]).type
    if not is_list_of_spans(kind):
        raise SpecError(f"{task.name} needs {SPANS}; column '{data.target[0]}' holds {kind}.", "data.target")
    if data.text is None:
        raise SpecError(f"is missing. Name the column of text that '{data.target[0]}' lies in.", "data.text")
    if not pa.types.is_string(text := dataset.schema.field(data.text).type):
        raise SpecError(f"column '{data.text}' holds {text}. Accepted: text.", "data.text")
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
    """Summarise the target of training rows.

    Raises:
        DataError: If the values cannot be what the task predicts.
    """
    codec = codec_for(task)
    return {**codec.summarise(target_frame(table, data, as_numbers=codec.as_numbers), data), KIND: codec.kind}


def merge_target(one: Partial, other: Partial) -> Partial:
    """Give the summary of both sets of rows."""
    return {**codec_named(one[KIND]).merge(one, other), KIND: one[KIND]}


def learn_target(partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
    """Give the target as training rows show it, and what a person should read about it.

    Raises:
        DataError: If there is nothing to tell apart.
        SpecError: If `data.positive` is no class.
    """
    return codec_named(partial[KIND]).learn(partial, data)


def encode_target(table: pa.Table, target: Target, data: Data) -> tuple[Array, np.ndarray]:
    """Give the target as numbers, as its codec encodes it, and which rows have none.

    Shapes:
        returns: (N,) int64 class indices, -1 for a class that training rows lack, or (N,) or (N, T) float64, or N rows
            of tags; (N,) bool.
    """
    codec = codec_of(target)
    frame = target_frame(table, data, as_numbers=codec.as_numbers)
    return codec.encode(frame), codec.missing(frame)


def unlabelled(table: pa.Table, data: Data, task: str) -> np.ndarray:
    """Tell which rows have no target (N,), bool."""
    return codec_for(task).missing(target_frame(table, data))


def target_frame(table: pa.Table, data: Data, *, as_numbers: bool = False) -> pl.DataFrame:
    """Give the targets as the job means them: spellings mapped, what means "missing" as null; texts they lie in last.

    Args:
        as_numbers: Also long decimals as floats; as classes these would fall together.
    """
    columns = {}
    for name in data.target:
        values = table.column(name)
        if is_list_of_spans(values.type):
            columns[name] = pl.Series(name, values)
            continue
        if is_list_of_labels(values.type):
            columns[name] = _lists_meant(pl.Series(name, values), data)
            continue
        is_long = pa.types.is_decimal(values.type) and values.type.precision > SHORT_DIGITS
        series = pl.Series(name, _exact(values, name) if is_long and not as_numbers else plain(values))
        series = series.fill_nan(None) if series.dtype.is_float() else series
        columns[name] = _values_meant(series, data)
    if data.text:
        columns[data.text] = texts_of(table, data)
    return pl.DataFrame(columns)


def texts_of(table: pa.Table, data: Data) -> pl.Series:
    """Give the texts that targets lie in (N,), what means "missing" as null."""
    return without(pl.Series(data.text, plain(table.column(data.text))), data.null_values)


def faulty(table: pa.Table, data: Data, task: str) -> dict[str, np.ndarray]:
    """Tell which rows have a target that cannot be one, by the reason: (N,), bool each."""
    return codec_for(task).faulty(target_frame(table, data))


def _lists_meant(series: pl.Series, data: Data) -> pl.Series:
    """Give lists with labels as the job means them; what means "missing" is a null in its list."""
    if not data.labels and not data.null_values:
        return series
    levels = series.list.explode().unique().drop_nulls()
    plain_levels = levels if levels.dtype != pl.Categorical else levels.cast(pl.String)
    meant = _values_meant(plain_levels, data)
    return series.list.eval(pl.element().replace_strict(levels, meant, default=None, return_dtype=meant.dtype))


def _values_meant(series: pl.Series, data: Data) -> pl.Series:
    """Give values as the job means them: spellings mapped, what means "missing" as null."""
    if data.labels:
        series = _meant(series if series.dtype == pl.String else without(series, data.null_values), data.labels)
    return without(series, data.null_values)


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
    values = table.column(data.target[0])
    found = pl.Series(values).list.explode() if is_list_of_labels(values.type) else pl.Series(plain(values))
    levels = found.unique().drop_nulls()
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
