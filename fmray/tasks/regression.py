"""Learn numbers. Batches carry standardised targets, predictions come back in target units.

Shape legend: K members, B rows, T targets.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fmray.errors import TrainError
from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.tasks.task import Batch, Losses, Model, Task, one_loss, per_member


class Regression:
    """Minimise squared or Huber error of standardised targets, averaged over targets.

    Args:
        target: What is predicted; its columns fix T.
        members: Parameters of each member: `loss`, equal for all, and `delta` of the Huber loss.

    Raises:
        SpecError: If the loss is unknown, differs between members, or delta is not positive.

    Source: Huber, "Robust Estimation of a Location Parameter", 1964.
    """

    phases: ClassVar[tuple[str, ...]] = ("model",)
    packable: ClassVar[tuple[str, ...]] = declared.Regression.packable

    def __init__(self, target: Target, members: Sequence[declared.Regression] = (declared.Regression(),)) -> None:
        deltas = [params.delta for params in members]
        self.num_outputs = len(target.columns)
        self.name = one_loss([params.loss for params in members], "task.regression")
        self.mean_T = torch.tensor(target.mean, dtype=torch.float64)
        self.scale_T = torch.tensor(target.scale, dtype=torch.float64)
        self.delta_K11 = per_member(deltas)[:, :, None]

    def loss(self, model: Model, batch: Batch, phase: str) -> Losses:
        """Give each member's error on each row, in squared standard deviations of the target.

        Raises:
            TrainError: If outputs and targets do not have exactly the same shape; nothing is broadcast.
        """
        output_KBT = model(batch)
        if output_KBT.shape[1:] != batch.target.shape:
            raise TrainError(
                f"gave outputs of shape {tuple(output_KBT.shape[1:])} for targets of shape "
                f"{tuple(batch.target.shape)}. Give one number per target; shapes are never broadcast.",
                "model",
            )
        target_KBT = batch.target.expand_as(output_KBT)
        if self.name == "mse":
            loss = F.mse_loss(output_KBT, target_KBT, reduction="none")
        else:
            delta = self.delta_K11.to(output_KBT.device)
            size = (output_KBT - target_KBT).abs()
            loss = torch.where(size <= delta, 0.5 * size.square(), delta * (size - 0.5 * delta))
        return Losses(loss.squeeze(-1) if self.num_outputs == 1 else loss.mean(-1), batch.weight)

    def predict(self, output: Tensor, batch: Batch) -> Tensor:
        """Turn outputs (K, B, T) into numbers in target units."""
        return output.double() * self.scale_T.to(output.device) + self.mean_T.to(output.device)

    def objective(self, member: int) -> Mapping[str, Any]:
        """Say what one member minimises, in standard deviations of the target, for a model that does so by itself."""
        return {"loss": self.name, "delta": float(self.delta_K11[member])}

    def select(self, keep: Tensor) -> Task:
        """Give the task of the members at these positions."""
        chosen = object.__new__(Regression)
        chosen.__dict__.update(self.__dict__, delta_K11=self.delta_K11[keep])
        return chosen
