"""Fill in tokens of a text that are hidden: the text is its own target.

What is scored is the token: outputs (T, 2) are the probability of the one that was there and whether it is the
likeliest of all, and targets (T, 2) are its id, -1 where it was not asked for, and its place in its window. In training
rows every token has its id, and the task chooses others in every epoch.
Shape legend: T tokens of all rows, V ids.
"""

from typing import ClassVar

import numpy as np
import pyarrow as pa

from fmray.ragged import Ragged
from fmray.records import Json, Target
from fmray.spec.sections import Data
from fmray.targets.codec import Partial
from fmray.targets.next_token import SMALLEST, NextToken

MASK = 0
"""Input in place of a hidden token: the id of padding, which no token has and no model attends to."""
SPECIAL = 2
"""Ids below it stand for no token of a text."""
NOT_ASKED = -1
"""Target of a token that was not chosen."""
HIDDEN, CHANGED = 0.8, 0.9
"""Of the chosen tokens, those drawn below the first number are hidden, below the second they are another token."""


class MaskedToken(NextToken):
    """Encode a hidden token by its id; see `fmray.targets.codec.Codec`."""

    kind: ClassVar[str] = "masked"
    noun: ClassVar[str] = "hidden token"
    hides: ClassVar[bool] = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.metrics = ("nats_per_masked_token", "masked_token_accuracy")

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Give the target; how often each token occurs is counted once there are tokens."""
        return Target(data.target, cls.kind, rows=partial["texts"]), ()

    @classmethod
    def columns_of(cls, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the probability of each token, 1 where it was not asked for, and 1."""
        return np.where(target[:, 0] < 0, 1.0, outputs[..., 0])[..., None], np.ones((len(target), 1))

    def constant_for(self, target: np.ndarray) -> np.ndarray:
        """Give the share of each token among training tokens, and whether it is the most frequent one (T, 2)."""
        shares = self.constant()
        ids = np.maximum(target[:, 0], 0)
        return np.stack([shares[ids], ids == shares.argmax()], axis=1)

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up two tokens."""
        return np.array([[0.25, 0.0], [0.5, 1.0]]), np.array([[2, 0], [2, 1]])

    def outline(self) -> str:
        """Say how many ids there are."""
        return f"hidden ones of {self.num_outputs:,} tokens" if self.num_outputs else "hidden tokens"

    def names_for_people(self) -> tuple[str, ...]:
        """Name `nats_per_masked_token`, `masked_tokens`, and `p`, the probability of each token, null if not asked."""
        return ("nats_per_masked_token", "masked_tokens", "p")

    def columns_for_people(self, said: Ragged, is_null: np.ndarray, values: pa.Array, settings: Json) -> list[pa.Array]:
        """Give the mean of -ln p over the tokens of each text that were asked for, their number, and p of each."""
        # Arrow gives the entries of a null row to the row before it, so it must have none
        own = Ragged(said.values, said.starts, np.where(is_null, 0, said.lengths)).compact()
        p = own.values[:, 0]
        row = np.repeat(np.arange(len(own)), own.lengths)
        asked = p > 0
        number = np.bincount(row[asked], minlength=len(own))
        nats = np.bincount(row[asked], -np.log(np.maximum(p[asked], SMALLEST)), len(own))
        ends = pa.array(np.r_[own.starts, len(p)].astype(np.int32), mask=np.r_[is_null, False])
        lists = pa.ListArray.from_arrays(ends, pa.array(p, mask=~asked))
        mean = nats / np.maximum(number, 1)
        return [pa.array(mean, mask=is_null | (number == 0)), pa.array(number, mask=is_null), lists]
