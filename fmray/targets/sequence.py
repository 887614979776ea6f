"""Predict a text that is generated from others, as a translation is, token by token.

While it trains, and wherever members are compared, a model is scored on the tokens of the true text, each given those
before it, as a language model is. Texts are generated once a model has been chosen; what they have in common with the
true ones is counted row by row, so that scores of texts are functions of sums as well.
In tables of predictions an entry is a token: its probability and, at the first token of a row for which text was
generated, the counts of `fmray.metrics.sequences`, which are 0 elsewhere.
Shape legend: N rows, T tokens of all rows, V ids.
"""

import importlib.util
from typing import ClassVar

import numpy as np
import pyarrow as pa

from fmray.errors import SpecError
from fmray.ragged import Ragged
from fmray.records import Json, Target
from fmray.spec.sections import Data
from fmray.targets.codec import Partial
from fmray.targets.next_token import NextToken

REFERENCES = "references"
"""Column of the lanes with the bytes of the texts that a generated one is compared with."""
BETWEEN = "\0"
"""Stands between two of them."""
NUM_COUNTS = 14


class Sequence(NextToken):
    """Encode the text as ids, its end included; see `fmray.targets.codec.Codec`."""

    kind: ClassVar[str] = "sequence"
    noun: ClassVar[str] = "text"
    generates: ClassVar[bool] = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.columns = ("scored",)
        self.metrics = ("nats_per_token", "nats_per_character", "bleu", "chrf")

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Give the target; how often each token occurs is counted once there are tokens.

        Raises:
            SpecError: If what counts n-grams is not installed.
        """
        if importlib.util.find_spec("sacrebleu") is None:
            raise SpecError("generated texts are scored by the package sacrebleu. Install fmray[text].", "task")
        return Target(data.target, cls.kind, rows=partial["texts"]), ()

    @classmethod
    def opens_row(cls, target: np.ndarray) -> np.ndarray:
        """Tell which tokens are the first of their text (T,), bool."""
        return np.asarray(target[:, -1] == 0)

    def for_training(self, encoded: Ragged) -> Ragged:
        """Give the ids."""
        own = encoded.compact()
        return Ragged(own.values[:, 0], own.starts, own.lengths)

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """Give the probability of each token (T, 1)."""
        return output[:, :1]

    def table_columns(self, output: Ragged, settings: Json) -> dict[str, pa.Array]:
        """Give a list per row of what is known of each token."""
        return {"scored": output.to_arrow()}

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up a row of two tokens, for which text of six words was generated, all of them right."""
        output = np.zeros((2, 1 + NUM_COUNTS))
        output[:, 0] = [0.25, 0.5]
        output[0, 1:] = [6, 6, 6, 5, 4, 3, 9, 9, 9, 8, 7, 6, 5, 4]
        return output, np.array([[2, 14, 0], [0, 0, 1]])

    def outline(self) -> str:
        """Say how many ids there are."""
        return f"a text of {self.num_outputs:,} tokens' kinds" if self.num_outputs else "a text"

    def names_for_people(self) -> tuple[str, ...]:
        """Name `prediction`, the generated text."""
        return ("prediction",)

    def columns_for_people(self, said: Ragged, is_null: np.ndarray, values: pa.Array, settings: Json) -> list[pa.Array]:
        """Give the generated text of each row, of which `said` holds the bytes."""
        return [pa.array(said.to_texts(), pa.string(), mask=is_null)]
