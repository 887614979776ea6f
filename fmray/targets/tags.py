"""Predict a class for each entry of a row, as a part of speech for each word: one tag per token, from lists of text.

In the lanes the tags of a row are as many as its tokens. What is scored is the token: outputs are (T, C) and targets
(T, 2), a tag and its place in its row, side by side for all rows; tokens of a row are never independent, so the row is
their group where rows have none (`fmray.ragged.entries_of`). A row with a missing tag has no target.
Shape legend: N rows, T tokens of all rows, C tags.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from fmray import moments
from fmray.errors import DataError
from fmray.ragged import Ragged
from fmray.records import Json, Split, Target
from fmray.spec.sections import Data
from fmray.targets.classes import laid_out, predicted, variants
from fmray.targets.codec import Decisions, Partial
from fmray.targets.one_column import OneColumnPerOutput
from fmray.targets.wording import lacking_classes, rare_classes

MOST_TAGS = 1000
SHOWN = 5
MARK = re.compile(r"[Oo]$|[A-Za-z]-.")
"""Tags of any scheme that marks entities: BIO, BIOES, BILOU, in capitals or not."""
OUTSIDE = "O"
"""Tag of tokens outside of all entities, where tags mark entities."""


class Tags(OneColumnPerOutput):
    """Encode the tag of each token by its index; see `fmray.targets.codec.Codec`."""

    kind: ClassVar[str] = "tags"
    as_numbers: ClassVar[bool] = False
    noun: ClassVar[str] = "tag"
    names_classes: ClassVar[bool] = True
    error: ClassVar[str] = "brier"
    settles: ClassVar[bool] = False
    by_entry: ClassVar[bool] = True
    linear_model: ClassVar[str] = "token_linear"
    absent: ClassVar[str] = "no list, an empty one, or a null in it"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.num_outputs = len(target.classes)
        self.columns = ("p",)
        self.metrics = ENTITY_METRICS if marks_entities(target.classes) else METRICS
        self.figures = ("confusion", *(("entities",) if marks_entities(target.classes) else ()))

    @classmethod
    def summarise(cls, frame: pl.DataFrame, data: Data) -> Partial:
        """Count the tokens of each tag.

        Raises:
            DataError: If there are too many tags.
        """
        lists = frame.to_series().filter(~cls.missing(frame))
        counts = lists.list.explode().alias("level").value_counts(name="tokens")
        _refuse_many(len(counts), data)
        return {
            "tags": dict(zip(counts[:, 0].to_list(), counts[:, 1].to_list(), strict=True)),
            "rows": len(lists),
        }

    @classmethod
    def merge(cls, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        return {"tags": dict(Counter(one["tags"]) + Counter(other["tags"])), "rows": one["rows"] + other["rows"]}

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Learn the tags, ordered by value.

        Raises:
            DataError: If there are not two tags, or too many.
        """
        counts = partial["tags"]
        _refuse_many(len(counts), data)
        if len(counts) < 2:
            raise DataError(
                f"'{data.target[0]}' has {len(counts)} tags in training rows: {list(counts)}. Give two or more.",
                "data.target",
            )
        levels = sorted(counts)
        classes = tuple(moments.spell(level) for level in levels)
        numbers = tuple(counts[level] for level in levels)
        kind = "which mark entities" if marks_entities(classes) else "one per token"
        note = f"'{data.target[0]}' holds {len(levels)} tags, {kind}: {sum(numbers):,} in {partial['rows']:,} rows"
        target = Target(data.target, "tags", classes, counts=numbers, rows=partial["rows"])
        return target, (note, *variants(classes), *_about_other_marks(classes))

    @classmethod
    def missing(cls, frame: pl.DataFrame) -> np.ndarray:
        """Tell rows without a list, with an empty one, or with a missing tag (N,), bool."""
        lists = frame.to_series().list
        return (
            (lists.len().fill_null(0) == 0) | lists.eval(pl.element().is_null()).list.any().fill_null(True)
        ).to_numpy()

    @classmethod
    def held(cls, frame: pl.DataFrame) -> Json:
        """Count the tokens of each tag."""
        lists = frame.to_series().filter(~cls.missing(frame))
        counts = lists.list.explode().alias("level").value_counts(name="tokens").sort("level").head(MOST_TAGS)
        return {"counts": dict(zip(map(moments.spell, counts[:, 0].to_list()), counts[:, 1].to_list(), strict=True))}

    @classmethod
    def rows_per_class(cls, target: np.ndarray) -> np.ndarray:
        """Count the tokens of each tag that occurs."""
        return np.unique(target[:, 0], return_counts=True)[1]

    @classmethod
    def columns_of(cls, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give probabilities, and 1 for the tag of each token."""
        return outputs, np.asarray(np.arange(outputs.shape[2]) == target[:, :1], np.float64)

    @classmethod
    def scale_of(cls, target: np.ndarray) -> np.ndarray:
        """Give 1: errors are of probabilities."""
        return np.ones(1)

    @classmethod
    def true_class(cls, target: np.ndarray) -> np.ndarray:
        """Give the tag of each token (T,)."""
        return target[:, 0]

    @classmethod
    def opens_row(cls, target: np.ndarray) -> np.ndarray:
        """Tell which tokens are the first of their row (T,), bool."""
        return np.asarray(target[:, -1] == 0)

    def encode(self, frame: pl.DataFrame) -> Ragged:
        """Give the index of each tag, int64, -1 for one that training rows lack; rows without tags have none."""
        series = frame.to_series()
        lost = self.missing(frame)
        lengths = np.where(lost, 0, series.list.len().fill_null(0).to_numpy()).astype(np.int64)
        values = series.filter(~lost).list.explode()
        levels = values.unique()
        place = {name: place for place, name in enumerate(self.target.classes)}
        codes = [place.get(moments.spell(level), -1) for level in levels.to_list()]
        encoded = values.replace_strict(levels, codes, default=-1, return_dtype=pl.Int64).to_numpy()
        return Ragged.of_lengths(encoded, lengths)

    def unknown(self, encoded: Ragged) -> np.ndarray:
        """Tell which rows have a tag that training rows lack."""
        own = encoded.compact()
        row = np.repeat(np.arange(len(own)), own.lengths)
        return np.bincount(row[own.values < 0], minlength=len(own)) > 0

    def for_training(self, encoded: Ragged) -> Ragged:
        """Give the indices."""
        return encoded

    def constant(self) -> np.ndarray:
        """Answer with the training shares of the tags."""
        return np.asarray(self.target.counts) / sum(self.target.counts)

    def table_columns(self, output: Any, settings: Json) -> dict[str, pa.Array]:
        """Give a list per row of a list of C probabilities per token."""
        return {"p": output.to_arrow()}

    def target_columns(self, target: Ragged) -> dict[str, pa.Array]:
        """Give a list of tags per row."""
        return {"target": target.to_arrow()}

    def counts(self, target: np.ndarray) -> np.ndarray:
        """Count the tokens of each tag."""
        return np.bincount(target[:, 0], minlength=self.num_outputs)

    def decisions(self, output: np.ndarray, target: np.ndarray) -> Decisions:
        """Say which tags are predicted, and how surely."""
        said = predicted(output)
        surest_T = output.max(1)
        return Decisions(
            furthest=float(np.abs(output.sum(1) - 1).max()),
            surest=float(surest_T.max()),
            sureness=float(surest_T.sum(dtype=np.float64)),
            hits=int((said == target[:, 0]).sum()),
            said=np.bincount(said, minlength=self.num_outputs),
            actual=self.counts(target),
        )

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up a row of one token for each tag that the side holds."""
        names = self.target.classes
        present = [place for place, name in enumerate(names) if held["counts"].get(name, 0)]
        truth = np.stack([np.array(present, np.int64), np.zeros(len(present), np.int64)], 1)
        scores = 1.0 + (np.arange(len(truth))[:, None] + np.arange(len(names))) % max(len(names), 2)
        return scores / scores.sum(1, keepdims=True), truth

    def lack(self, held: Mapping[str, Json], split: Split, weighted: bool) -> str:
        """Name the tags that the side has no token of."""
        return lacking_classes(self.target, held, split, self.noun, weighted=weighted)

    def few(self, held: Mapping[str, Json]) -> list[str]:
        """Say which tags have next to no tokens in validation or test."""
        return rare_classes(self.target, held, self.noun)

    def merge_cure(self) -> str:
        """Say that tags can be mapped to others."""
        return "map rare tags to one with data.labels, "

    def describe(self) -> str:
        """Give the training tokens of each tag."""
        pairs = zip(self.target.classes, self.target.counts, strict=True)
        return ", ".join(f"{name} {count:,}" for name, count in pairs) + f" tokens of {self.target.rows:,} rows"

    def outline(self) -> str:
        """Say how many tags there are."""
        return f"{self.num_outputs} tags"

    def names_for_people(self) -> tuple[str, ...]:
        """Name `prediction`, a list of tags, and `p`, a list of the probability of each of them."""
        return ("prediction", "p")

    def columns_for_people(self, said: Ragged, is_null: np.ndarray, values: pa.Array, settings: Json) -> list[pa.Array]:
        """Give the most probable tag of each token, and all probabilities of each, in the order of the tags."""
        # Arrow gives the entries of a null row to the row before it, so it must have none
        own = Ragged(said.values, said.starts, np.where(is_null, 0, said.lengths)).compact()
        ends = pa.array(np.r_[own.starts, len(own.values)].astype(np.int32), mask=np.r_[is_null, False])
        best = values.take(pa.array(own.values.argmax(1)))
        flat = pa.array(np.ascontiguousarray(own.values).reshape(-1))
        numbers = pa.FixedSizeListArray.from_arrays(flat, self.num_outputs)
        return [pa.ListArray.from_arrays(ends, column) for column in (best, numbers)]

    def as_ours(self, output: np.ndarray, theirs: Target) -> np.ndarray:
        """Lay probabilities out in these tags; one that the other model does not know has no chance."""
        return laid_out(output, self.target, theirs)

    def misfits(self) -> dict[str, bool]:
        """Check that there are tags, each once, and counts of them."""
        target = self.target
        return {
            "target.classes do not fit its kind": len(target.classes) > 1,
            "target.classes names a class twice": len(set(target.classes)) == len(target.classes),
            "target.positive is no class": target.positive == -1,
            "target.counts do not fit its classes": len(target.counts) == len(target.classes),
            "target.rows are more than its counts": target.rows <= sum(target.counts),
        }


METRICS = ("token_accuracy", "token_log_loss")
ENTITY_METRICS = ("entity_f1", *METRICS)


def marks_entities(classes: Sequence[str]) -> bool:
    """Tell tags that mark entities: `O`, and all others begin with `B-` or `I-`."""
    return OUTSIDE in classes and len(classes) > 1 and not unfit_for_entities(classes)


def unfit_for_entities(classes: Sequence[str]) -> list[str]:
    """Give the tags that are none of `O`, `B-TYPE` and `I-TYPE`."""
    return [name for name in classes if name != OUTSIDE and name[:2] not in ("B-", "I-")]


def _about_other_marks(classes: Sequence[str]) -> list[str]:
    """Say which tags keep entities from being scored, where all look as if they marked some."""
    odd = unfit_for_entities(classes)
    if not odd or OUTSIDE not in (name.upper() for name in classes) or not all(MARK.match(name) for name in classes):
        return []
    first = next((name for name in odd if name.upper() != OUTSIDE), odd[0])
    meant = {"S": "B", "U": "B", "E": "I", "L": "I"}.get(first[0].upper(), first[0].upper())
    example = OUTSIDE if first.upper() == OUTSIDE else f"{meant}-{first[2:]}"
    shown = ", ".join(map(repr, odd[:SHOWN])) + (f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else "")
    text = f"entities are scored where all tags are O, B-TYPE or I-TYPE, and {shown} are not"
    return [f'{text}; data.labels can map them, e.g. {{"{first}": {example}}}']


def _refuse_many(number: int, data: Data) -> None:
    if number > MOST_TAGS:
        raise DataError(
            f"'{data.target[0]}' has {number} tags in training rows, {MOST_TAGS} are the most. "
            "Map rare ones to one with data.labels, or name another target.",
            "data.target",
        )
