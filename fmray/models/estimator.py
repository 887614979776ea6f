"""Define what an estimator is: a model that learns from whole blocks of rows, round by round, not from batches.

It keeps to numpy and bytes: the task turns its outputs into predictions, the learner counts its rounds and keeps it.
Shape legend: N rows, D inputs, O outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np


@dataclass(frozen=True)
class Table:
    """Hold the rows that an estimator learns from.

    Shapes:
        x: (N, D), float32, finite.
        target: (N,), class indices or numbers.
        weight: (N,), all above 0; None where every row counts the same.
    """

    x: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None


class Estimator(Protocol):
    """Learn from a table in rounds; what a round draws depends on the seed and its number alone.

    So an estimator that was saved after some rounds and loaded again grows on to the same bits.

    Attributes:
        artefact: Kind of file that `save` gives, as a member's record names it.
        rounds_per_epoch: After how many rounds it is scored.
    """

    artefact: ClassVar[str]
    rounds_per_epoch: int

    def start(self, table: Table, threads: int, network: Mapping[str, Any]) -> None:
        """Take the rows of this share; what was loaded before is grown on.

        Args:
            network: Where the other workers of a training are reached; empty where there are none.
        """
        ...

    def grow(self, number: int) -> None:
        """Learn one more round.

        Args:
            number: Of the round, from 0, counted from the very first.
        """
        ...

    def train_loss(self) -> float:
        """Give the weighted mean loss on the rows of this share."""
        ...

    def outputs(self, x: np.ndarray, rounds: int | None = None) -> np.ndarray:
        """Give raw outputs (N, O), float64, of the first so many rounds; of all by default."""
        ...

    @property
    def rounds(self) -> int:
        """Rounds that are in it."""
        ...

    @property
    def num_parameters(self) -> int:
        """Count the numbers that it learned."""
        ...

    def save(self, rounds: int | None = None) -> bytes:
        """Give its first so many rounds as a file that holds nothing that runs."""
        ...

    def load(self, data: bytes, num_features: int) -> None:
        """Become what `save` gave.

        Raises:
            DataError: If it is damaged, or of other inputs or outputs.
        """
        ...

    def close(self) -> None:
        """Let go of the rows and of the other workers; it still predicts."""
        ...
