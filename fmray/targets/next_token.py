"""Predict each token of a text from those before it: the text is its own target.

What is scored is the token, as with tags: outputs are the probability of the token that is there (T, 1), and targets
(T, 2) are its id and its place in its window. Whatever is learned of the target is learned of prepared training rows.
Shape legend: T tokens of all rows, V ids.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from fmray.ragged import Ragged
from fmray.records import Json, Split, Target
from fmray.spec.sections import Data
from fmray.targets.codec import Decisions, Partial
from fmray.targets.one_column import OneColumnPerOutput
from fmray.targets.wording import spell_rows

SMALLEST = 1e-12
SHARE_OF_UNSEEN = 1.0
"""Tokens that each id is given beside those counted, so that none is impossible (Laplace)."""


class NextToken(OneColumnPerOutput):
    """Encode the next token by its id; see `fmray.targets.codec.Codec`."""

    kind: ClassVar[str] = "next"
    as_numbers: ClassVar[bool] = False
    noun: ClassVar[str] = "token"
    names_classes: ClassVar[bool] = False
    error: ClassVar[str] = "mse"
    settles: ClassVar[bool] = False
    by_entry: ClassVar[bool] = True
    from_inputs: ClassVar[bool] = True
    linear_model: ClassVar[str] = "token_linear"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.num_outputs = len(target.counts)
        self.columns = ("p",)
        self.metrics: tuple[str, ...] = ("nats_per_token",)
        self.figures = ()

    @classmethod
    def summarise(cls, frame: pl.DataFrame, data: Data) -> Partial:
        """Count the texts."""
        return {"texts": int((~cls.missing(frame)).sum())}

    @classmethod
    def merge(cls, one: Partial, other: Partial) -> Partial:
        """Give the counts of both sets of rows."""
        return {"texts": one["texts"] + other["texts"]}

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Give the target; how often each token occurs is counted once there are tokens."""
        return Target(data.target, "next", rows=partial["texts"]), ()

    @classmethod
    def missing(cls, frame: pl.DataFrame) -> np.ndarray:
        """Tell rows without a text, or with an empty one (N,), bool."""
        return (frame.to_series().str.len_bytes().fill_null(0) == 0).to_numpy()

    @classmethod
    def held(cls, frame: pl.DataFrame) -> Json:
        """Say nothing: any text will do."""
        return {}

    @classmethod
    def rows_per_class(cls, target: np.ndarray) -> np.ndarray:
        """Give none: ids are no classes that must be there."""
        return np.zeros(0, np.int64)

    @classmethod
    def columns_of(cls, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the probability of each token, and 1."""
        return outputs, np.ones((len(target), 1))

    @classmethod
    def scale_of(cls, target: np.ndarray) -> np.ndarray:
        """Give 1: errors are of probabilities."""
        return np.ones(1)

    @classmethod
    def opens_row(cls, target: np.ndarray) -> np.ndarray:
        """Tell which tokens are the first of their window (T,), bool."""
        return np.asarray(target[:, 1] == 0)

    def encode(self, frame: pl.DataFrame) -> np.ndarray:
        """Refuse: tokens are made by steps, see `fmray.data.cut`."""
        raise NotImplementedError

    def unknown(self, encoded: Ragged) -> np.ndarray:
        """Tell that no row holds what cannot be predicted (N,): what is unknown has an id."""
        return np.zeros(len(encoded), bool)

    def for_training(self, encoded: Ragged) -> Ragged:
        """Give the ids."""
        return encoded

    def constant(self) -> np.ndarray:
        """Give the share of each id among training tokens (V,)."""
        counts = np.asarray(self.target.counts, np.float64) + SHARE_OF_UNSEEN
        return np.asarray(counts / counts.sum())

    def constant_for(self, target: np.ndarray) -> np.ndarray:
        """Give the share of each token among training tokens (T, 1)."""
        return np.asarray(self.constant()[target[:, 0], None])

    def table_columns(self, output: Ragged, settings: Json) -> dict[str, pa.Array]:
        """Give a list per window of the probability of each token."""
        return {"p": output.to_arrow()}

    def target_columns(self, target: Ragged) -> dict[str, pa.Array]:
        """Give a list of ids per window."""
        return {"target": target.to_arrow()}

    def counts(self, target: np.ndarray) -> np.ndarray:
        """Give none."""
        return np.zeros(0, np.int64)

    def decisions(self, output: np.ndarray, target: np.ndarray) -> Decisions:
        """Decide nothing."""
        return Decisions()

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up two tokens."""
        return np.array([[0.25], [0.5]]), np.array([[2, 0], [2, 1]])

    def lack(self, held: Mapping[str, Json], split: Split, weighted: bool) -> str:
        """Say how many texts there are."""
        return f"it has {spell_rows(held[split]['rows'])}"

    def few(self, held: Mapping[str, Json]) -> list[str]:
        """Say nothing."""
        return []

    def merge_cure(self) -> str:
        """Say nothing."""
        return ""

    def describe(self) -> str:
        """Give the number of training tokens."""
        return f"{sum(self.target.counts):,} tokens of {self.target.rows:,} texts"

    def outline(self) -> str:
        """Say how many ids there are."""
        return f"the next of {self.num_outputs:,} tokens" if self.num_outputs else "the next token"

    def names_for_people(self) -> tuple[str, ...]:
        """Name `nats_per_token`, `tokens`, and `p`, a list of the probability of each token given those before."""
        return ("nats_per_token", "tokens", "p")

    def columns_for_people(self, said: Ragged, is_null: np.ndarray, values: pa.Array, settings: Json) -> list[pa.Array]:
        """Give the mean of -ln p over the tokens of each text, their number, and p of each."""
        # Arrow gives the entries of a null row to the row before it, so it must have none
        own = Ragged(said.values, said.starts, np.where(is_null, 0, said.lengths)).compact()
        row = np.repeat(np.arange(len(own)), own.lengths)
        nats = np.bincount(row, -np.log(np.maximum(own.values[:, 0], SMALLEST)), len(own))
        empty = is_null | (own.lengths == 0)
        mean = nats / np.maximum(own.lengths, 1)
        ends = pa.array(np.r_[own.starts, len(own.values)].astype(np.int32), mask=np.r_[is_null, False])
        lists = pa.ListArray.from_arrays(ends, pa.array(own.values[:, 0]))
        return [pa.array(mean, mask=empty), pa.array(own.lengths, mask=is_null), lists]

    def as_ours(self, output: np.ndarray, theirs: Target) -> np.ndarray:
        """Give the probabilities as they are."""
        return output

    def misfits(self) -> dict[str, bool]:
        """Check that there are no classes, but tokens."""
        target = self.target
        return {
            "target.classes do not fit its kind": not target.classes,
            "target.counts do not fit its kind": len(target.counts) > 1,
            "target.positive is no class": target.positive == -1,
        }
