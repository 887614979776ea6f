"""Predict any number of labels per row: none, one or several, from lists of text, whole numbers or booleans.

In the lanes a row is one byte per label, so labels are meant to be tens to a few hundred. A row whose list is missing
has no target; an empty list is a row without labels. What is decided about a row, and not its probabilities alone,
stands in tables of predictions, since thresholds are chosen per model.
Shape legend: N rows, C labels.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from fmray import moments
from fmray.errors import DataError
from fmray.records import Json, Split, Target
from fmray.spec.sections import Data
from fmray.targets.classes import about_missing, variants
from fmray.targets.codec import Decisions, Partial
from fmray.targets.one_column import fixed_lists
from fmray.targets.per_row import OneTargetPerRow
from fmray.targets.wording import lacking_classes, rare_classes

MOST_LABELS = 1000
HALF = 0.5
"""Probability above which a label is predicted where no threshold was chosen."""
SHARED, PER_LABEL = "shared", "per_label"
Rule = str | float
"""What the task says of thresholds: SHARED or PER_LABEL, to be chosen on validation, or the number itself."""
UNKNOWN = 255
"""Stands in the first column of a row with a label that no training row has."""
THRESHOLDS = "thresholds"
"""Entry of the parameters of an ensemble: a threshold per label."""
SHOWN = 5
COUNTED = ("rows", "empty", "missing", "repeated")
"""Training rows that are counted: all, and those without a label, with a missing one, with one more than once."""


class Labels(OneTargetPerRow):
    """Encode labels by a 0 or 1 each; see `fmray.targets.codec.Codec`."""

    kind: ClassVar[str] = "labels"
    as_numbers: ClassVar[bool] = False
    noun: ClassVar[str] = "label"
    names_classes: ClassVar[bool] = False
    error: ClassVar[str] = "brier"
    settles: ClassVar[bool] = True

    def __init__(self, target: Target) -> None:
        self.target = target
        self.num_outputs = len(target.classes)
        self.columns = ("p", "decided")
        self.metrics = ("f1_micro", "f1_macro", "subset_accuracy", "hamming_loss")
        self.figures = ("labels",)

    @classmethod
    def summarise(cls, frame: pl.DataFrame, data: Data) -> Partial:
        """Count the rows of each label, and of each number of labels.

        Raises:
            DataError: If there are too many labels.
        """
        given = frame.to_series().drop_nulls()
        series = given.list.drop_nulls()
        once = series.list.unique()
        counts = once.list.explode().drop_nulls().alias("level").value_counts(name="rows")
        _refuse_many(len(counts), data)
        return {
            "labels": dict(zip(counts[:, 0].to_list(), counts[:, 1].to_list(), strict=True)),
            "rows": len(series),
            "empty": int((series.list.len() == 0).sum()),
            "missing": int((given.list.len() > series.list.len()).sum()),
            "repeated": int((series.list.len() > once.list.len()).sum()),
        }

    @classmethod
    def merge(cls, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        labels: Partial = dict(Counter(one["labels"]) + Counter(other["labels"]))
        return {"labels": labels, **{name: one[name] + other[name] for name in COUNTED}}

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Learn the labels, ordered by value.

        Raises:
            DataError: If there are not two labels, or too many.
        """
        counts = partial["labels"]
        _refuse_many(len(counts), data)
        if len(counts) < 2:
            what = f"one label in training rows, '{moments.spell(next(iter(counts)))}'" if counts else "no label at all"
            text = f"'{data.target[0]}' has {what}. Give two or more."
            raise DataError(f"{text} One label is a class: make it a column of true and false.", "data.target")
        levels = sorted(counts)
        classes = tuple(moments.spell(level) for level in levels)
        numbers = tuple(counts[level] for level in levels)
        note = (
            f"'{data.target[0]}' holds lists of {len(levels)} labels, {sum(numbers) / partial['rows']:.3g} per row on "
            f"average; {partial['empty']:,} of {partial['rows']:,} training rows have none"
        )
        notes = [note]
        if partial["missing"]:
            notes.append(f"{partial['missing']:,} training rows list a null as a label, which is no label")
        if partial["repeated"]:
            notes.append(f"{partial['repeated']:,} training rows list a label more than once, which counts once")
        return Target(data.target, "labels", classes, counts=numbers, rows=partial["rows"]), (
            *notes,
            *variants(classes),
            *about_missing([level for level in levels if isinstance(level, str)], counts, cls.noun),
        )

    @classmethod
    def held(cls, frame: pl.DataFrame) -> Json:
        """Count the rows of each label."""
        series = frame.to_series().drop_nulls()
        counts = series.list.unique().list.explode().drop_nulls().alias("level").value_counts(name="rows")
        counts = counts.sort("level").head(MOST_LABELS)
        return {"counts": dict(zip(map(moments.spell, counts[:, 0].to_list()), counts[:, 1].to_list(), strict=True))}

    @classmethod
    def rows_per_class(cls, target: np.ndarray) -> np.ndarray:
        """Count the rows of each label that occurs."""
        counts = target.sum(0, dtype=np.int64)
        return np.asarray(counts[counts > 0])

    @classmethod
    def columns_of(cls, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give probabilities, and 1 for the labels of each row."""
        return outputs, target.astype(np.float64)

    @classmethod
    def scale_of(cls, target: np.ndarray) -> np.ndarray:
        """Give 1: errors are of probabilities."""
        return np.ones(1)

    def encode(self, frame: pl.DataFrame) -> np.ndarray:
        """Give (N, C), uint8; the first column is UNKNOWN where a label is none of training rows."""
        series = frame.to_series().list.drop_nulls()  # a null in a list is no label
        lengths = series.list.len().fill_null(0).to_numpy().astype(np.int64)
        row = np.repeat(np.arange(len(series)), lengths)
        values = series.filter((series.list.len() > 0).fill_null(False)).list.explode()
        levels = values.unique().drop_nulls()
        place = {name: place for place, name in enumerate(self.target.classes)}
        codes = [place.get(moments.spell(level), -1) for level in levels.to_list()]
        code = values.replace_strict(levels, codes, default=-1, return_dtype=pl.Int64).to_numpy()
        encoded = np.zeros((len(series), self.num_outputs), np.uint8)
        encoded[row[code >= 0], code[code >= 0]] = 1
        encoded[row[code < 0], 0] = UNKNOWN
        return encoded

    def unknown(self, encoded: np.ndarray) -> np.ndarray:
        """Tell which rows have a label that training rows lack."""
        return np.asarray(encoded[:, 0] == UNKNOWN)

    def for_training(self, encoded: np.ndarray) -> np.ndarray:
        """Give 0 and 1 as the loss takes them (N, C), float32."""
        return encoded.astype(np.float32)

    def constant(self) -> np.ndarray:
        """Answer with the training share of each label."""
        return np.asarray(self.target.counts) / self.target.rows

    def settle(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None, params: Json) -> Json:
        """Choose thresholds on some rows, validation's: what is predicted then has the highest F1 there.

        Args:
            params: Of the task. Its `thresholds` are "shared": one, of the highest micro-F1; "per_label": one for each
                label, of its own highest F1; or a number.
        """
        rule = rule_of(params)
        w = np.ones(len(target)) if weight is None else np.asarray(weight, np.float64)
        match rule:
            case "shared":
                rows = np.repeat(w, self.num_outputs)
                found = [best_threshold(output.ravel(), target.ravel(), rows)] * self.num_outputs
            case "per_label":
                found = [best_threshold(p, truth, w) for p, truth in zip(output.T, target.T, strict=True)]
            case _:
                found = [float(rule)] * self.num_outputs
        return {THRESHOLDS: found}

    def table_columns(self, output: np.ndarray, settings: Json) -> dict[str, pa.Array]:
        """Give probabilities and what is decided, a list of C each."""
        decided = self._decided(output, settings)
        return {
            "p": fixed_lists(output),
            "decided": fixed_lists(decided),
        }

    def target_columns(self, target: np.ndarray) -> dict[str, pa.Array]:
        """Give the true labels, a list of C."""
        return {"target": fixed_lists(target)}

    def fits(self, settings: Json) -> bool:
        """Tell whether there is a threshold per label."""
        found = settings.get(THRESHOLDS)
        if not isinstance(found, list) or len(found) != self.num_outputs:
            return False
        return all(isinstance(one, float) and 0 <= one <= 1 for one in found)

    def about_settings(self, settings: Json) -> str:
        """Say which thresholds were chosen."""
        found = settings[THRESHOLDS]
        named = [f"'{name}' {t:.3g}" for name, t in zip(self.target.classes, found, strict=True)]
        if len(set(found)) == 1:
            shown = f"{found[0]:.3g}"
        else:
            shown = ", ".join(named[:SHOWN]) + (f" and {len(named) - SHOWN} more" if len(named) > SHOWN else "")
        return f"a label is predicted above a probability of {shown}; task.multi_label.thresholds says how it is chosen"

    def counts(self, target: np.ndarray) -> np.ndarray:
        """Count the rows of each label."""
        return np.asarray(target.sum(0, dtype=np.int64))

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """Give the probabilities without what is decided."""
        return output[:, : self.num_outputs]

    def decisions(self, output: np.ndarray, target: np.ndarray) -> Decisions:
        """Say which labels are predicted."""
        p = self.probabilities(output)
        surest_N = p.max(1)
        return Decisions(
            surest=float(surest_N.max()),
            sureness=float(surest_N.sum(dtype=np.float64)),
            said=self.counts(split_output(output, target)),
            actual=self.counts(target),
        )

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up a row with each label that the side holds, and one without."""
        names = self.target.classes
        present = [place for place, name in enumerate(names) if held["counts"].get(name, 0)]
        truth = np.zeros((min(held["rows"], len(present) + 1), len(names)), np.uint8)
        truth[np.arange(len(truth)), present[: len(truth)] + [0] * (len(truth) - len(present))] = 1
        truth[len(present) :] = 0
        return 0.1 + 0.8 * truth, truth

    def lack(self, held: Mapping[str, Json], split: Split, weighted: bool) -> str:
        """Name the labels that the side has no row of."""
        return lacking_classes(self.target, held, split, self.noun, weighted=weighted)

    def few(self, held: Mapping[str, Json]) -> list[str]:
        """Say which labels have next to no rows in validation or test."""
        return rare_classes(self.target, held, self.noun)

    def merge_cure(self) -> str:
        """Say that labels can be mapped to others."""
        return "map rare labels to one with data.labels, "

    def describe(self) -> str:
        """Give the training rows of each label."""
        pairs = zip(self.target.classes, self.target.counts, strict=True)
        return ", ".join(f"{name} {count:,}" for name, count in pairs) + f" of {self.target.rows:,}"

    def outline(self) -> str:
        """Say how many labels there are."""
        return f"{self.num_outputs} labels"

    def names_for_people(self) -> tuple[str, ...]:
        """Name `prediction`, a list of labels, and `p_<label>` for each label."""
        return ("prediction", *(f"p_{name}" for name in self.target.classes))

    def columns_for_people(
        self, said: np.ndarray, is_null: np.ndarray, values: pa.Array, settings: Json
    ) -> list[pa.Array]:
        """Give the labels above their threshold as a list, and all probabilities."""
        mask = is_null if is_null.any() else None
        decided = self._decided(said, settings).astype(bool) & ~is_null[:, None]
        row, label = np.nonzero(decided)
        ends = np.r_[0, np.cumsum(np.bincount(row, minlength=len(said)))].astype(np.int32)
        offsets = pa.array(ends, mask=None if mask is None else np.r_[mask, False])
        lists = pa.ListArray.from_arrays(offsets, values.take(pa.array(label)))
        return [lists, *(pa.array(column, mask=mask) for column in said.T)]

    def as_in_tables(self, said: np.ndarray, settings: Json) -> np.ndarray:
        """Give probabilities with what is decided behind them (N, 2 C)."""
        return np.concatenate([said, self._decided(said, settings)], 1)

    def as_ours(self, output: np.ndarray, theirs: Target) -> np.ndarray:
        """Lay probabilities out in these labels; one that the other model does not know has no chance."""
        laid = np.zeros((len(output), 2 * self.num_outputs))
        for place, name in enumerate(self.target.classes):
            if name in theirs.classes:
                there = theirs.classes.index(name)
                laid[:, place] = output[:, there]
                laid[:, self.num_outputs + place] = output[:, len(theirs.classes) + there]
        return laid

    def misfits(self) -> dict[str, bool]:
        """Check that there are labels, each once, and counts of them."""
        target = self.target
        return {
            "target.classes do not fit its kind": len(target.classes) > 1,
            "target.classes names a class twice": len(set(target.classes)) == len(target.classes),
            "target.positive is no class": target.positive == -1,
            "target.counts do not fit its classes": len(target.counts) == len(target.classes),
            "target.rows are fewer than its counts": target.rows >= max(target.counts, default=0),
        }

    def _decided(self, output: np.ndarray, settings: Json) -> np.ndarray:
        """Give 1 where a label is predicted (N, C), uint8."""
        return np.asarray(output > np.asarray(settings.get(THRESHOLDS, HALF)), np.uint8)


def rule_of(params: Mapping[str, Any]) -> Rule:
    """Say how thresholds are chosen by the parameters of a task."""
    found: Rule = params.get(THRESHOLDS, SHARED)
    return found


def fixed(rule: Rule) -> float:
    """Give the number of a rule, one half where that is still to be chosen."""
    return HALF if isinstance(rule, str) else float(rule)


def split_output(output: np.ndarray, target: np.ndarray, threshold: float = HALF) -> np.ndarray:
    """Give what is decided (N, C), uint8: as it stands behind the probabilities, else by a threshold.

    Shapes:
        output: (N, C) probabilities, or (N, 2 C) with 0 or 1 per label behind them; target: (N, C).
    """
    num_labels = target.shape[1]
    if output.shape[1] == num_labels:
        return np.asarray(output > threshold, np.uint8)
    return np.asarray(output[:, num_labels:], np.uint8)


def best_threshold(p: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """Give the threshold above which predicting gives the highest F1, in the middle between two probabilities.

    Of equal ones the highest is taken. Without a positive there is no F1, and the threshold is one half.

    Shapes:
        p, truth, weight: (n,).
    """
    positives = weight[truth > 0].sum()
    if not positives > 0:
        return HALF
    order = np.argsort(-p, kind="stable")
    score = p[order]
    last = np.flatnonzero(np.r_[score[1:] != score[:-1], True])  # rows of one probability are predicted together
    hits = np.cumsum(weight[order] * (truth[order] > 0))[last]
    said = np.cumsum(weight[order])[last]
    best = int(np.argmax(2 * hits / (said + positives)))
    here = score[last[best]]
    below = score[last[best + 1]] if best + 1 < len(last) else 0.0
    return float((here + below) / 2)


def _refuse_many(number: int, data: Data) -> None:
    if number > MOST_LABELS:
        raise DataError(
            f"'{data.target[0]}' has {number} labels in training rows, {MOST_LABELS} are the most. "
            "Map rare ones to one with data.labels.",
            "data.target",
        )
