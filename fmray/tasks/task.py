"""Define what a task is: the one seam between the loop and the objective.

A task never sees how many members train: outputs carry a leading member axis K, targets do not.
Shape legend: K members, B rows, O outputs, C classes, T targets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from fmray.catalogue import TASKS
from fmray.errors import SpecError
from fmray.records import Target


@dataclass(frozen=True)
class Places:
    """Say where the rows of a batch stand in the global batch, of which this worker may hold a share.

    Args:
        key: Equal for equal places, so that what depends on them alone can be kept.
        values: (B,), int32, ascending.
    """

    key: tuple[int, ...]
    values: Tensor

    @classmethod
    def counted(cls, start: int, stop: int) -> "Places":
        """Give the places from `start` up to `stop`."""
        return cls((start, stop), torch.arange(start, stop, dtype=torch.int32))

    def slice(self, start: int, stop: int) -> "Places":
        """Give the places of some of the rows."""
        return Places((*self.key, start, stop), self.values[start:stop])


@dataclass(frozen=True)
class Batch:
    """Hold the rows of one step, or this worker's share of them.

    Args:
        inputs: Model inputs by name; "x" is the prepared block (B, D).
        target: Class indices (B,), int64, or standardised numbers (B, T), float32, or class indices of tokens (B, L),
            -1 in the padding.
        weight: Row weights (B,), or (K, B) where they differ between members; None where every row counts the same.
        rows: Position of each row in its split's sequence (B,), int64.
        places: Place of each row in the global batch, while training.
        ids: Identity of each row (B, 2), its bits as int64, where something is drawn for rows; copies have their own.
        entity: What rows that stay together share (B,), int64: their group, or what copies of one row share.
        partner: The rows that these are mixed with, where a live step mixes.
        own: Share of each row that is its own once mixed (B,).
        given: What a task of several phases gives the model beside the inputs, by name, rows first or behind an axis of
            members; it belongs to one call.
        keys: What numbers are drawn by for each row (B,), only while a task trains that draws: int32, other ones at
            every step, for one of several phases; int64, other ones in every epoch, for one that hides tokens.
        epoch: The pass over the training rows that it belongs to, from 0.
    """

    inputs: Mapping[str, Tensor]
    target: Tensor
    weight: Tensor | None
    rows: Tensor
    places: Places | None = None
    ids: Tensor | None = None
    entity: Tensor | None = None
    partner: "Batch | None" = None
    own: Tensor | None = None
    given: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Tensor | None = None
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each row (B,), in the first block of them."""
        return next(value for name, value in self.inputs.items() if name.endswith("_lengths"))

    def slice(self, start: int, stop: int) -> "Batch":
        """Give some of the rows, as a view."""

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[start:stop]

        return Batch(
            inputs={name: value[start:stop] for name, value in self.inputs.items()},
            target=self.target[start:stop],
            weight=None if self.weight is None else self.weight[..., start:stop],
            rows=self.rows[start:stop],
            places=self.places and self.places.slice(start, stop),
            ids=cut(self.ids),
            entity=cut(self.entity),
            partner=self.partner and self.partner.slice(start, stop),
            own=cut(self.own),
            keys=cut(self.keys),
            epoch=self.epoch,
        )


Model = Callable[[Batch], Tensor]
"""Batch -> outputs (K, B, O), or (K, B, L, O) of tokens."""


@dataclass(frozen=True)
class Losses:
    """Hold what each member lost on each row, and how much each row counts.

    Shapes:
        loss: (K, B).
        weight: (B,) or (K, B), or None where every row counts the same.
    """

    loss: Tensor
    weight: Tensor | None

    def sums(self) -> tuple[Tensor, Tensor | float]:
        """Sum weighted losses and weights per member; one weight serves all where rows count the same.

        Shapes:
            returns: (K,), (K,) or a number.
        """
        if self.weight is None:
            return self.loss.sum(1), float(self.loss.shape[1])
        weight = self.weight.expand_as(self.loss)
        return (self.loss * weight).sum(1), weight.sum(1)


class Task(Protocol):
    """Turn a batch into losses, and outputs into predictions.

    Attributes:
        phases: Losses stepped in turn per batch; one for all but adversarial tasks. Where there are several, each steps
            the parameters of the model whose names begin with its own, `generator.*`, by an optimizer of its own.
        packable: Parameters that may differ between members of one pack.
        num_outputs: Numbers per row the model must give (O).
    """

    phases: ClassVar[tuple[str, ...]]
    packable: ClassVar[tuple[str, ...]]
    num_outputs: int

    def loss(self, model: Model, batch: Batch, phase: str) -> Losses:
        """Give each member's loss on each row."""
        ...

    def predict(self, output: Tensor, batch: Batch) -> Tensor:
        """Turn outputs (K, B, O) into probabilities (K, B, C) or numbers in target units (K, B, T).

        Outputs of tokens (K, B, L, O) stay so: (K, B, L, C).
        """
        ...

    def select(self, keep: Tensor) -> "Task":
        """Give the task of the members at these positions (n,)."""
        ...


def asked_of(task: Task, batch: Batch) -> Batch:
    """Give a batch as a model is given it: as it is, unless the task changes it by a method `asked`."""
    asked = getattr(task, "asked", None)
    changed: Batch = batch if asked is None else asked(batch)
    return changed


def draws_by_epoch(task: Task) -> bool:
    """Tell whether a task needs other `Batch.keys` in every epoch, that follow from the identities of rows."""
    return bool(getattr(task, "draws_by_epoch", False))


def by_entry(predictions: Tensor, batch: Batch) -> Tensor:
    """Lay predictions of rows of tokens out one token behind the other, without the padding.

    Shapes:
        predictions: (K, B, C), which is returned, or (K, B, L, C).
        returns: (K, T, C), T tokens of all rows.
    """
    if predictions.dim() < 4:
        return predictions
    there = torch.arange(predictions.shape[2], device=predictions.device) < batch.lengths[:, None]
    return predictions[:, there]


def mixed(own: Losses, partner: Losses, share: Tensor) -> Losses:
    """Give the losses of rows that are mixed with partners.

    Shapes:
        share: (B,), of each row that is its own.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    if own.weight is None or partner.weight is None:
        return Losses(share * own.loss + (1 - share) * partner.loss, None)
    ours = share * own.weight
    theirs = (1 - share) * partner.weight
    weight = ours + theirs
    return Losses((ours * own.loss + theirs * partner.loss) / weight.clamp_min(1e-12), weight)


def one_loss(names: Sequence[str], where: str) -> str:
    """Give the loss that all members of a pack have.

    Raises:
        SpecError: If they differ.
    """
    if len(set(names)) != 1:
        given = ", ".join(sorted(set(names)))
        raise SpecError(f"{given} within one pack. Give all members the same loss.", f"{where}.loss")
    return names[0]


def task_of(name: str, target: Target, members: Sequence[Mapping[str, Any]]) -> "Task":
    """Build a task for the members of a pack.

    Args:
        members: Parameters of each.

    Raises:
        SpecError: If the name is not found, or parameters do not fit.
    """
    task: Task = TASKS.find(name)(target, [TASKS.read(name, params) for params in members])
    return task


def per_member(values: list[float]) -> Tensor:
    """Stack one number per member.

    Shapes:
        returns: (K, 1).
    """
    return torch.tensor(values, dtype=torch.float32)[:, None]
