"""Weigh training rows for each member of a pack: bootstrap samples, folds held out, weights from a file.

Bootstrap and folds are pure functions of a seed and the row, so a member learns from the same rows alone, in any pack,
in any order and on any number of workers.
Shape legend: K members, B rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmray.data.scratch import load
from fmray.errors import DataError, TrainError
from fmray.tasks.task import Batch
from fmray.train.live import keyed

KEYS = frozenset({"bootstrap", "fold", "of", "salt", "weights"})
MOST_COPIES = 20
"""A row is drawn more often than this once in 1e19 times."""


class RowWeights:
    """Multiply the weights of rows by what each row counts for each member.

    Args:
        members: Per member, any of {"bootstrap": seed} (how often a sample with replacement holds the row: Poisson(1)),
            {"fold": k, "of": n, "salt": s} (0 for rows in fold k, else 1) and {"weights": path} (a `.npy` file with one
            number per position of the training sequence, which every worker sees); their product counts.

    Raises:
        TrainError: If a member says anything else.

    Source: Oza & Russell, "Online Bagging and Boosting", AISTATS 2001 (Poisson bootstrap).
    """

    def __init__(self, members: Sequence[Mapping[str, Any]]) -> None:
        self._members = list(members)
        for rows in members:
            if unknown := sorted(rows.keys() - KEYS):
                raise TrainError(f"{unknown}. Accepted: {', '.join(sorted(KEYS))}.", "plan.rows")

    def select(self, keep: Tensor) -> "RowWeights":
        """Give the weights of the members at these positions."""
        return RowWeights([self._members[place] for place in keep.tolist()])

    def weigh(self, batch: Batch) -> Batch:
        """Give the batch with weights (K, B); as it is where all rows count the same for all members.

        Raises:
            TrainError: If weights follow from identities that the batch does not carry.
            DataError: If a file of weights is missing or too short.
        """
        if not any(self._members):
            return batch
        weight_KB = self._weights(batch)
        if batch.weight is not None:
            weight_KB = weight_KB * batch.weight
        partner = None if batch.partner is None else self.weigh(batch.partner)
        return replace(batch, weight=weight_KB, partner=partner)

    def _weights(self, batch: Batch) -> Tensor:
        weight_KB = torch.ones(len(self._members), len(batch), device=batch.target.device)
        if drawn := self._who("bootstrap"):
            salts = [self._members[place]["bootstrap"] for place in drawn]
            weight_KB[drawn] *= bootstrap_weights(_known(batch.ids), salts)
        folds: dict[tuple[int, int], Tensor] = {}  # members of one configuration share their folds
        for place in self._who("fold"):
            rows = self._members[place]
            key = rows["of"], rows["salt"]
            if key not in folds:
                folds[key] = fold_of(_known(batch.entity), *key)
            weight_KB[place] *= folds[key] != rows["fold"]
        for place in self._who("weights"):
            weight_KB[place] *= _from_file(self._members[place]["weights"], batch.rows).to(weight_KB.device)
        return weight_KB

    def _who(self, key: str) -> list[int]:
        return [place for place, rows in enumerate(self._members) if key in rows]


def bootstrap_weights(ids: Tensor, seeds: Sequence[int]) -> Tensor:
    """Say how often a sample with replacement holds each row: Poisson(1), by its inverse distribution function.

    Shapes:
        ids: (B, 2), int64.
        returns: (K, B), float32, one line per seed.
    """
    bits_KB = keyed(ids, torch.tensor(seeds, device=ids.device)[:, None])
    uniform_KB = (bits_KB >> 11).bitwise_and_((1 << 53) - 1).double() * 2.0**-53
    shares = [math.exp(-1) / math.factorial(copies) for copies in range(MOST_COPIES)]
    edges = torch.tensor(shares, dtype=torch.float64, device=ids.device).cumsum(0)
    return torch.searchsorted(edges, uniform_KB, right=True).float()


def fold_of(entity: Tensor, num_folds: int, salt: int) -> Tensor:
    """Say which fold each row is in: a function of its group, or its identity where rows are not grouped.

    `data.folds.folds_of` says the same of columns of the lanes.

    Shapes:
        entity: (B,), int64, as `Batch.entity`.
        returns: (B,), int64, below `num_folds`.
    """
    bits = keyed(torch.stack([entity, entity], 1), salt)
    return (bits >> 1).bitwise_and_((1 << 62) - 1).remainder(num_folds)


def _known(identities: Tensor | None) -> Tensor:
    if identities is None:
        raise TrainError(
            "weights follow from row identities, which were not read. Ask for identified rows.", "plan.rows"
        )
    return identities


def _from_file(path: str, rows: Tensor) -> Tensor:
    values = _opened(path)
    if len(rows) and int(rows.max()) >= len(values):
        raise DataError(f"{path} has {len(values)} weights, and row {int(rows.max())} asks for one. Write it anew.")
    return torch.from_numpy(np.asarray(values[rows.cpu().numpy()], np.float32))


@lru_cache(maxsize=16)
def _opened(path: str) -> np.ndarray:
    try:
        return load(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as weights of rows: {error}.") from error
