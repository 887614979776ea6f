"""Learn which of C classes a row belongs to; binary is C = 2.

Shape legend: K members, B rows, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fmray.errors import SpecError, TrainError
from fmray.records import Target
from fmray.tasks.task import Batch, Losses, Model, Task, per_member

ClassWeights = str | Mapping[str, float] | None


class Classification:
    """Minimise cross-entropy, with label smoothing and class weights per member.

    Args:
        target: What is predicted; its classes fix C.
        members: One mapping of parameters per member: `label_smoothing` in [0, 1), `class_weights` as None,
            "balanced" (n / (C n_c), over the rows in the lanes of train) or a mapping class -> weight.

    Where training rows were sampled by class, the loss is that of the sampled rows, and predictions are shifted back to
    the true shares of the classes. Class weights are not: they say that errors cost differently.

    Raises:
        SpecError: If a parameter is unknown or out of range, or a class weight names no class.

    Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016 (label smoothing); Saerens et al.,
    "Adjusting the outputs of a classifier to new a priori probabilities", Neural Computation 14, 2002 (shift).
    """

    phases: ClassVar[tuple[str, ...]] = ("model",)
    packable: ClassVar[tuple[str, ...]] = ("label_smoothing", "class_weights")

    def __init__(self, target: Target, members: Sequence[Mapping[str, Any]] = ({},)) -> None:
        self.num_outputs = len(target.classes)
        smoothing = [float(params.get("label_smoothing", 0.0)) for params in members]
        weights = [class_weights(target, params.get("class_weights")) for params in members]
        for value in smoothing:
            if not 0 <= value < 1:
                raise SpecError(f"task.classification.label_smoothing: {value:g}. Give a number in [0, 1).")
        self.smoothing_K1 = per_member(smoothing) if any(smoothing) else None
        self.weight_KC = None if all(w is None for w in weights) else _stack(weights, self.num_outputs)
        self.shift_C = prior_shift(target)

    def loss(self, model: Model, batch: Batch, phase: str) -> Losses:
        """Give each member's cross-entropy on each row, in nats.

        Raises:
            TrainError: If the model does not give exactly one number per class.
        """
        logits_KBC = model(batch)
        expected = (len(batch), self.num_outputs)
        if tuple(logits_KBC.shape[1:]) != expected:
            raise TrainError(
                f"model: gave outputs of shape {tuple(logits_KBC.shape[1:])} for {expected[0]} rows and "
                f"{expected[1]} classes. Give one number per class: {expected}."
            )
        log_p_KBC = logits_KBC.float().log_softmax(-1)
        target_KB1 = batch.target.expand(len(log_p_KBC), -1)[:, :, None]
        nll_KB = -log_p_KBC.gather(-1, target_KB1).squeeze(-1)
        if self.smoothing_K1 is not None:
            smoothing = self.smoothing_K1.to(nll_KB.device)
            nll_KB = (1 - smoothing) * nll_KB - smoothing * log_p_KBC.mean(-1)
        return Losses(nll_KB, self._weight(batch))

    def predict(self, output: Tensor) -> Tensor:
        """Turn logits (K, B, C) into probabilities, as of rows in which classes have their true shares."""
        logits_KBC = output.double()
        if self.shift_C is not None:
            logits_KBC = logits_KBC + self.shift_C.to(output.device)
        return logits_KBC.softmax(-1)

    def select(self, keep: Tensor) -> Task:
        """Give the task of the members at these positions."""
        chosen = object.__new__(Classification)
        chosen.num_outputs, chosen.shift_C = self.num_outputs, self.shift_C
        chosen.smoothing_K1 = None if self.smoothing_K1 is None else self.smoothing_K1[keep]
        chosen.weight_KC = None if self.weight_KC is None else self.weight_KC[keep]
        return chosen

    def _weight(self, batch: Batch) -> Tensor | None:
        if self.weight_KC is None:
            return batch.weight
        weight_KB = self.weight_KC.to(batch.target.device)[:, batch.target]
        return weight_KB if batch.weight is None else weight_KB * batch.weight


def prior_shift(target: Target) -> Tensor | None:
    """Give what to add to logits learned from sampled rows: log(n_c / m_c) of n_c true rows and m_c sampled ones.

    Shares differ from counts by one factor for all classes, which softmax does not see.

    Shapes:
        returns: (C,), float64; None where rows were not sampled.
    """
    if not target.sampled:
        return None
    counts, sampled = (torch.tensor(numbers, dtype=torch.float64) for numbers in (target.counts, target.sampled))
    return (counts / sampled).log()


def class_weights(target: Target, wanted: ClassWeights) -> list[float] | None:
    """Give a weight per class, in class order, or None where all count the same.

    Raises:
        SpecError: If `wanted` is neither None, "balanced" nor a mapping over known classes.
    """
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = target.sampled or target.counts
        return [sum(counts) / (len(counts) * count) for count in counts]
    if isinstance(wanted, Mapping):
        named = {str(name): float(weight) for name, weight in wanted.items()}
        unknown = sorted(set(named) - set(target.classes))
        if unknown or any(weight <= 0 for weight in named.values()):
            raise SpecError(
                f"task.classification.class_weights: {dict(wanted)}. Give positive weights for classes among "
                f"{', '.join(target.classes)}."
            )
        return [named.get(name, 1.0) for name in target.classes]
    raise SpecError(f"task.classification.class_weights: {wanted!r}. Give null, balanced or {{class: weight}}.")


def _stack(weights: Sequence[list[float] | None], num_classes: int) -> Tensor:
    return torch.tensor([[1.0] * num_classes if row is None else row for row in weights])
