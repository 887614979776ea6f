"""Learn a class for each token of a row.

Shape legend: K members, B rows, L tokens of the longest row, C tags.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from fmray.errors import SpecError, TrainError
from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.targets.codec import codec_of
from fmray.tasks.task import Batch, Losses, Model, Task, per_member


class Tagging:
    """Minimise cross-entropy, averaged over tokens: a row counts as many times as it has tokens.

    So the loss of a batch is its mean over tokens, on however many workers and however long the padding is.

    Args:
        target: What is predicted; its tags fix C.
        members: Parameters of each member.
    """

    where: ClassVar[str] = "task.tagging"
    phases: ClassVar[tuple[str, ...]] = ("model",)
    packable: ClassVar[tuple[str, ...]] = declared.Tagging.packable

    def __init__(self, target: Target, members: Sequence[declared.Tagging] = (declared.Tagging(),)) -> None:
        self.num_outputs = codec_of(target).num_outputs
        smoothing = [params.label_smoothing for params in members]
        self.smoothing_K11 = per_member(smoothing)[..., None] if any(smoothing) else None

    def loss(self, model: Model, batch: Batch, phase: str) -> Losses:
        """Give each member's mean loss over the tokens of each row, in nats.

        Raises:
            TrainError: If the model does not give one number per token and tag.
        """
        logits_KBLC = model(batch)
        expected = (*batch.target.shape, self.num_outputs)
        if tuple(logits_KBLC.shape[1:]) != expected:
            given = f"gave outputs of shape {tuple(logits_KBLC.shape[1:])} for {len(batch)} rows"
            tokens = f"{batch.target.shape[1]} tokens and {self.num_outputs} classes"
            raise TrainError(f"{given} of {tokens}. Give one number per token and class: {expected}.", "model")
        there_BL = batch.target >= 0
        log_p_KBLC = logits_KBLC.float().log_softmax(-1)
        tag_KBL1 = batch.target.clamp_min(0).expand(len(logits_KBLC), -1, -1)[..., None]
        loss_KBL = -log_p_KBLC.gather(-1, tag_KBL1).squeeze(-1)
        if self.smoothing_K11 is not None:
            smoothing = self.smoothing_K11.to(loss_KBL.device)
            loss_KBL = (1 - smoothing) * loss_KBL - smoothing * log_p_KBLC.mean(-1)
        tokens_B = there_BL.sum(-1)
        mean_KB = loss_KBL.masked_fill(~there_BL, 0.0).sum(-1) / tokens_B.clamp_min(1)
        weight_B = tokens_B.to(mean_KB.dtype)
        return Losses(mean_KB, weight_B if batch.weight is None else weight_B * batch.weight)

    def predict(self, output: Tensor, batch: Batch) -> Tensor:
        """Turn logits (K, B, L, C) into probabilities."""
        return output.double().softmax(-1)

    def objective(self, member: int) -> Mapping[str, Any]:
        """Refuse models that learn from whole blocks of rows.

        Raises:
            SpecError: In any case.
        """
        raise SpecError("predicts something of each token, which networks alone learn. Take one.", self.where)

    def select(self, keep: Tensor) -> Task:
        """Give the task of the members at these positions."""
        chosen = object.__new__(type(self))
        chosen.num_outputs = self.num_outputs
        chosen.smoothing_K11 = None if self.smoothing_K11 is None else self.smoothing_K11[keep]
        return chosen
