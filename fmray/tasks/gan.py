"""Generate numbers distributed as the target, by a generator that a discriminator cannot tell from the rows.

Shape legend: K members, B rows, D inputs, T targets.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fmray.errors import TrainError
from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.tasks.task import Batch, Losses, Model, Task


class Gan:
    """Minimise the non-saturating losses of a discriminator and a generator in turn.

    The model is asked three things, by what it is given beside its inputs: `keys` gives points (B, T), standardised as
    targets are; `points` gives a score (B, 1), high for real ones; nothing gives the points that it predicts.

    Args:
        target: What is generated; its columns fix T.
        members: Parameters of each member, of which there are none.

    Source: Goodfellow et al., "Generative Adversarial Nets", 2014.
    """

    phases: ClassVar[tuple[str, ...]] = ("discriminator", "generator")
    packable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, target: Target, members: Sequence[declared.Gan] = (declared.Gan(),)) -> None:
        self.num_outputs = len(target.columns)
        self.mean_T = torch.tensor(target.mean, dtype=torch.float64)
        self.scale_T = torch.tensor(target.scale, dtype=torch.float64)

    def loss(self, model: Model, batch: Batch, phase: str) -> Losses:
        """Give each member's loss on each row: what the network of this phase loses to the other one."""
        drawn = {} if batch.keys is None else {"keys": batch.keys}

        def score(points: Tensor) -> Tensor:
            return model(replace(batch, given={"points": points}))[..., 0]

        if phase == "generator":
            return Losses(F.softplus(-score(self._generated(model, batch, drawn))), batch.weight)
        with torch.no_grad():  # the discriminator learns from points, not from how they are made
            points = self._generated(model, batch, drawn)
        target = batch.target if batch.target.dim() == 2 else batch.target[:, None]
        return Losses(F.softplus(-score(target)) + F.softplus(score(points)), batch.weight)

    def predict(self, output: Tensor, batch: Batch) -> Tensor:
        """Turn points (K, B, T) into target units."""
        return output.double() * self.scale_T.to(output.device) + self.mean_T.to(output.device)

    def select(self, keep: Tensor) -> Task:
        """Give the task of the members at these positions: it is the same for all."""
        return self

    def _generated(self, model: Model, batch: Batch, drawn: dict[str, Tensor]) -> Tensor:
        points_KBT = model(replace(batch, given=drawn))
        if points_KBT.shape[-1] != self.num_outputs:
            given = tuple(points_KBT.shape[1:])
            raise TrainError(f"generated {given} for targets of {self.num_outputs} numbers.", "model")
        return points_KBT[0] if len(points_KBT) == 1 else points_KBT  # one member has no axis of members
