"""Learn which of C labels a row has, each for itself: none, one or several.

Shape legend: K members, B rows, C labels.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from fmray.errors import TrainError
from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.tasks.task import Batch, Losses, Model, Task


class MultiLabel:
    """Minimise binary cross-entropy of every label, averaged over labels.

    Thresholds, above which a label is predicted, are no matter of training: they are chosen on validation once an
    ensemble is chosen. While members train, a label is predicted above one half.

    Args:
        target: What is predicted; its labels fix C.
        members: Parameters of each member.
    """

    phases: ClassVar[tuple[str, ...]] = ("model",)
    packable: ClassVar[tuple[str, ...]] = declared.MultiLabel.packable

    def __init__(self, target: Target, members: Sequence[declared.MultiLabel] = (declared.MultiLabel(),)) -> None:
        self.num_outputs = len(target.classes)

    def loss(self, model: Model, batch: Batch, phase: str) -> Losses:
        """Give each member's loss on each row, in nats per label.

        Raises:
            TrainError: If the model does not give exactly one number per label.
        """
        logits_KBC = model(batch)
        if logits_KBC.shape[1:] != batch.target.shape:
            raise TrainError(
                f"gave outputs of shape {tuple(logits_KBC.shape[1:])} for {len(batch)} rows and {self.num_outputs} "
                f"labels. Give one number per label: {tuple(batch.target.shape)}.",
                "model",
            )
        target_KBC = batch.target.expand_as(logits_KBC)
        loss_KBC = F.binary_cross_entropy_with_logits(logits_KBC.float(), target_KBC, reduction="none")
        return Losses(loss_KBC.mean(-1), batch.weight)

    def predict(self, output: Tensor, batch: Batch) -> Tensor:
        """Turn logits (K, B, C) into a probability per label, which need not sum to 1."""
        return output.double().sigmoid()

    def select(self, keep: Tensor) -> Task:
        """Give the task of the members at these positions, which share it."""
        return self
