"""Predict one of several classes, which are ordered by value and learned from training rows only.

Variants that look like slips are shown, never merged. A class is spelled once; see `moments.spell`.
"""

import decimal
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from fmray import moments
from fmray.errors import DataError, SpecError
from fmray.records import Json, Split, Target
from fmray.registry import nearest
from fmray.schema import NULL_WORDS
from fmray.spec.sections import Data
from fmray.targets.codec import Decisions, Partial
from fmray.targets.one_column import OneColumnPerOutput, fixed_lists
from fmray.targets.wording import lacking_classes, rare_classes

MOST_CLASSES = 10_000
MANY_CLASSES = 256
"""Classes from which on tables hold one list of probabilities per row in place of a column for each."""
NUM_TOP = 10
"""Classes that predictions of so many name, the most probable ones."""
SHOWN = 5


class Class(OneColumnPerOutput):
    """Encode a class by its index; see `fmray.targets.codec.Codec`."""

    kind: ClassVar[str] = "class"
    as_numbers: ClassVar[bool] = False
    noun: ClassVar[str] = "class"
    names_classes: ClassVar[bool] = True
    error: ClassVar[str] = "brier"
    settles: ClassVar[bool] = False

    def __init__(self, target: Target) -> None:
        self.target = target
        self.num_outputs = len(target.classes)
        self.has_many = self.num_outputs > MANY_CLASSES
        self.columns = ("p",) if self.has_many else tuple(f"p_{place}" for place in range(self.num_outputs))
        self.is_binary = self.num_outputs == 2
        self.metrics = BINARY_METRICS if self.is_binary else METRICS
        self.figures = ("confusion", "calibration", *(("roc",) if self.is_binary else ()))

    @classmethod
    def summarise(cls, frame: pl.DataFrame, data: Data) -> Partial:
        """Count the rows of each class.

        Raises:
            DataError: If there are too many classes to be classes.
        """
        counts = frame.to_series().drop_nulls().alias("level").value_counts(name="rows")
        _refuse_many(counts, data)
        return {"counts": dict(zip(counts[:, 0].to_list(), counts[:, 1].to_list(), strict=True))}

    @classmethod
    def merge(cls, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        return {"counts": dict(Counter(one["counts"]) + Counter(other["counts"]))}

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Learn the classes, and which of two is the positive one.

        Raises:
            DataError: If there are not two classes, or too many.
            SpecError: If `data.positive` is no class.
        """
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
        guessed += about_missing([level for level in levels if isinstance(level, str)], counts, cls.noun)
        return Target(data.target, "class", classes, positive, counts=numbers), (*guessed, *notes, *variants(classes))

    @classmethod
    def held(cls, frame: pl.DataFrame) -> Json:
        """Count the rows of each class."""
        counts = (
            frame.to_series().drop_nulls().alias("level").value_counts(name="rows").sort("level").head(MOST_CLASSES)
        )
        return {"counts": dict(zip(map(moments.spell, counts[:, 0].to_list()), counts[:, 1].to_list(), strict=True))}

    @classmethod
    def rows_per_class(cls, target: np.ndarray) -> np.ndarray:
        """Count the rows of each class that occurs."""
        return np.unique(target, return_counts=True)[1]

    @classmethod
    def columns_of(cls, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give probabilities, and 1 for the class of each row."""
        return outputs, np.asarray(np.arange(outputs.shape[2]) == np.asarray(target)[:, None], np.float64)

    @classmethod
    def scale_of(cls, target: np.ndarray) -> np.ndarray:
        """Give 1: errors are of probabilities."""
        return np.ones(1)

    def encode(self, frame: pl.DataFrame) -> np.ndarray:
        """Give class indices (N,), int64, -1 for a class that training rows lack."""
        series = frame.to_series()
        levels = series.unique().drop_nulls()
        place = {name: place for place, name in enumerate(self.target.classes)}
        codes = [place.get(moments.spell(level), -1) for level in levels.to_list()]
        return series.replace_strict(levels, codes, default=-1, return_dtype=pl.Int64).to_numpy()

    def unknown(self, encoded: np.ndarray) -> np.ndarray:
        """Tell which rows are of a class that training rows lack."""
        return np.asarray(encoded < 0)

    def for_training(self, encoded: np.ndarray) -> np.ndarray:
        """Give the class indices."""
        return encoded

    def constant(self) -> np.ndarray:
        """Answer with the training shares of the classes."""
        return np.asarray(self.target.counts) / sum(self.target.counts)

    def counts(self, target: np.ndarray) -> np.ndarray:
        """Count the rows of each class."""
        return np.bincount(target, minlength=self.num_outputs)

    def table_columns(self, output: Any, settings: Json) -> dict[str, pa.Array]:
        """Give one column per class, or one list of all where there are many."""
        return {"p": fixed_lists(output)} if self.has_many else super().table_columns(output, settings)

    def target_columns(self, target: np.ndarray) -> dict[str, pa.Array]:
        """Give what is true."""
        return {"target": pa.array(target)}

    def decisions(self, output: np.ndarray, target: np.ndarray) -> Decisions:
        """Say which classes are predicted, and how surely; only the true ones where outputs are not one per class."""
        if output.ndim != 2 or output.shape[1] != self.num_outputs:
            return Decisions(said=np.zeros(self.num_outputs, np.int64), actual=self.counts(target))
        said = predicted(output)
        surest_N = output.max(1)
        return Decisions(
            furthest=float(np.abs(output.sum(1) - 1).max()),
            surest=float(surest_N.max()),
            sureness=float(surest_N.sum(dtype=np.float64)),
            hits=int((said == target).sum()),
            said=self.counts(said),
            actual=self.counts(target),
        )

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up two rows of each class that the side holds."""
        names = self.target.classes
        present = [place for place, name in enumerate(names) for _ in range(min(held["counts"].get(name, 0), 2))]
        truth: np.ndarray = np.array(present, np.int64)
        # every class is ahead somewhere, so no metric lacks an answer that some predictions would give it
        scores = 1.0 + (np.arange(len(truth))[:, None] + np.arange(len(names))) % max(len(names), 2)
        return scores / scores.sum(1, keepdims=True), truth

    def lack(self, held: Mapping[str, Json], split: Split, weighted: bool) -> str:
        """Name the classes that the side has no row of."""
        return lacking_classes(self.target, held, split, self.noun, weighted=weighted)

    def few(self, held: Mapping[str, Json]) -> list[str]:
        """Say which classes have next to no rows in validation or test."""
        return rare_classes(self.target, held, self.noun)

    def merge_cure(self) -> str:
        """Say that one of more than two can be mapped to another."""
        return "" if self.is_binary else "map rare classes to one with data.labels, "

    def describe(self) -> str:
        """Give the training rows of each class."""
        pairs = zip(self.target.classes, self.target.counts, strict=True)
        return ", ".join(f"{name} {count:,}" for name, count in pairs)

    def outline(self) -> str:
        """Say how many classes there are, and which of two is the positive one."""
        positive = f", positive '{self.target.classes[self.target.positive]}'" if self.target.positive >= 0 else ""
        return f"{len(self.target.classes)} classes{positive}"

    def names_for_people(self) -> tuple[str, ...]:
        """Name `prediction`, and `p_<class>` for each class; of many classes `top` and `p_top`."""
        if self.has_many:
            return ("prediction", "top", "p_top")
        return ("prediction", *(f"p_{name}" for name in self.target.classes))

    def columns_for_people(
        self, said: np.ndarray, is_null: np.ndarray, values: pa.Array, settings: Json
    ) -> list[pa.Array]:
        """Give the most probable class as a value of the target column, and all probabilities.

        Of many classes, give the ten most probable ones and their probabilities, the highest first.
        """
        mask = is_null if is_null.any() else None
        best = pa.array(said.argmax(1).astype(np.int32), mask=mask)
        if not self.has_many:
            return [values.take(best), *(pa.array(column, mask=mask) for column in said.T)]
        top = top_of(said, NUM_TOP)
        lists = (values.take(pa.array(top.reshape(-1))), pa.array(np.take_along_axis(said, top, 1).reshape(-1)))
        null = None if mask is None else pa.array(mask)
        return [values.take(best), *(pa.FixedSizeListArray.from_arrays(part, NUM_TOP, mask=null) for part in lists)]

    def as_ours(self, output: np.ndarray, theirs: Target) -> np.ndarray:
        """Lay probabilities out in these classes; one that the other model does not know has no chance."""
        return laid_out(output, self.target, theirs)

    def misfits(self) -> dict[str, bool]:
        """Check that there are classes, each once, and counts of them."""
        target = self.target
        return {
            "target.classes do not fit its kind": len(target.classes) > 1,
            "target.classes names a class twice": len(set(target.classes)) == len(target.classes),
            "target.positive is no class": target.positive < len(target.classes) or target.positive == -1,
            "target.counts do not fit its classes": len(target.counts) == len(target.classes),
        }


BINARY_METRICS = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1_macro", "precision_macro",
                  "recall_macro", "log_loss", "brier")  # fmt: skip
METRICS = ("accuracy", "balanced_accuracy", "f1_macro", "precision_macro", "recall_macro", "roc_auc",
           "average_precision", "log_loss", "brier")  # fmt: skip


def predicted(output: np.ndarray) -> np.ndarray:
    """Give the most probable class of each row (N,); the first one where several are."""
    if output.shape[1] == 2:  # several times faster than argmax
        return np.asarray(output[:, 1] > output[:, 0], np.int64)
    return np.asarray(output.argmax(1))


def laid_out(output: np.ndarray, ours: Target, theirs: Target) -> np.ndarray:
    """Lay the probabilities of a model of other classes out in ours (N, C); a class that it does not know has none."""
    laid = np.zeros((len(output), len(ours.classes)))
    for place, name in enumerate(ours.classes):
        if name in theirs.classes:
            laid[:, place] = output[:, theirs.classes.index(name)]
    return laid


def top_of(output: np.ndarray, number: int) -> np.ndarray:
    """Give the classes with the largest outputs of each row (N, number), the largest first, of equal ones the first."""
    some = np.argpartition(-output, number - 1, axis=1)[:, :number]
    least = np.take_along_axis(output, some, 1).min(1, keepdims=True)
    # among equals argpartition takes any: rank all that are not below the least taken
    ranked = np.where(output >= least, output, -np.inf)
    return np.argsort(-ranked, axis=1, kind="stable")[:, :number]


def variants(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Show classes that differ in case, spaces, a trailing dot or the Unicode form of their letters only."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).strip().rstrip(".").casefold()
        alike.setdefault(plain, []).append(name)
    return tuple(
        f"classes {_told_apart(names)} look like spellings of one; data.labels can map them"
        for names in alike.values()
        if len(names) > 1
    )


def _told_apart(names: Sequence[str]) -> str:
    """Quote names; those that look the same on a screen are spelled by their code points."""
    same = len({unicodedata.normalize("NFKC", name) for name in names}) < len(names)
    return ", ".join(map(ascii if same else repr, names))


def _refuse_many(counts: Sized, data: Data) -> None:
    if len(counts) > MOST_CLASSES:
        raise DataError(
            f"'{data.target[0]}' has {len(counts)} classes in training rows, {MOST_CLASSES} are the most. "
            "Set task: regression, or name a target of fewer levels.",
            "data.target",
        )


def about_missing(levels: Sequence[str], counts: Mapping[Any, int], noun: str) -> tuple[str, ...]:
    """Say that a class may be what somebody wrote where there is no label."""
    return tuple(
        f"{noun} '{level}' ({counts[level]} training rows) may mean that there is no label; "
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
