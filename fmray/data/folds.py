"""Cut training rows into folds by their identities, so that no order, file or worker moves a row to another one."""

from dataclasses import dataclass

import numpy as np

from fmray.data.canonical import mix
from fmray.seeding import derive

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Fold:
    """Name one of several folds.

    Args:
        number: Which one, from 0.
        num_folds: How many there are.
        salt: Another salt is another cut.
    """

    number: int
    num_folds: int
    salt: int

    @classmethod
    def of(cls, number: int, num_folds: int, seed: int) -> "Fold":
        """Name a fold of a training with this seed."""
        return cls(number, num_folds, derive(seed, "folds"))

    def holds(self, row_id: np.ndarray, group: np.ndarray | None) -> np.ndarray:
        """Say which rows are in this fold (N,), bool; see `folds_of`."""
        return np.asarray(folds_of(row_id, group, self.num_folds, self.salt) == self.number)


def folds_of(row_id: np.ndarray, group: np.ndarray | None, num_folds: int, salt: int) -> np.ndarray:
    """Say which fold each row is in: a function of its group, or its identity where rows are not grouped.

    `train.rowweights.fold_of` says the same of rows on a device.

    Shapes:
        row_id: (N, 2), uint64; group: (N,), uint64.
        returns: (N,), int64, below `num_folds`.
    """
    entity = row_id[:, 0] if group is None else group
    key = np.uint64(salt)
    bits = mix((mix(entity, key) ^ entity) * GOLDEN, key)
    return np.asarray((bits >> np.uint64(1)) & np.uint64((1 << 62) - 1), np.int64) % num_folds
