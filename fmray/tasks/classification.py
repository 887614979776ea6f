"""Learn which of C classes a row belongs to; binary is C = 2.

Shape legend: K members, B rows, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fmray.errors import SpecError, TrainError
from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.tasks.task import Batch, Losses, Model, Task, one_loss, per_member

ClassWeights = str | Mapping[str, float] | None
WHERE = "task.classification"
PLAIN = declared.Classification()
FEW_CLASSES = 16


class Classification:
    """Minimise cross-entropy, or what the perceptron minimises, with class weights per member.

    Predictions are the softmax of the outputs. Under the perceptron's loss they rank the classes of a row and decide
    as the perceptron does, but are no calibrated probabilities: scores have no unit, and a lead of 40 is certainty.

    Args:
        target: What is predicted; its classes fix C.
        members: Parameters of each member: `loss`, equal for all, `label_smoothing`, and `class_weights`; "balanced"
            is n / (C n_c), over the rows in the lanes of train.

    Where training rows were sampled by class, the loss is that of the sampled rows, and predictions are shifted back to
    the true shares of the classes. Class weights are not: they say that errors cost differently.

    Raises:
        SpecError: If a parameter is out of range, the loss differs between members or takes no smoothing, or a class
            weight names no class.

    Source: Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016 (label smoothing); Saerens et al.,
    "Adjusting the outputs of a classifier to new a priori probabilities", Neural Computation 14, 2002 (shift).
    """

    phases: ClassVar[tuple[str, ...]] = ("model",)
    packable: ClassVar[tuple[str, ...]] = declared.Classification.packable

    def __init__(self, target: Target, members: Sequence[declared.Classification] = (PLAIN,)) -> None:
        self.num_outputs = len(target.classes)
        self.name = one_loss([params.loss for params in members], WHERE)
        smoothing = [params.label_smoothing for params in members]
        weights = [class_weights(target, params.class_weights) for params in members]
        self.smoothing_K1 = per_member(smoothing) if any(smoothing) else None
        self.weight_KC = None if all(w is None for w in weights) else _stack(weights, self.num_outputs)
        self.shift_C = prior_shift(target)

    def loss(self, model: Model, batch: Batch, phase: str) -> Losses:
        """Give each member's loss on each row: cross-entropy in nats, or the lead of the best wrong class.

        Raises:
            TrainError: If the model does not give exactly one number per class.
        """
        logits_KBC = model(batch)
        expected = (len(batch), self.num_outputs)
        if tuple(logits_KBC.shape[1:]) != expected:
            raise TrainError(
                f"gave outputs of shape {tuple(logits_KBC.shape[1:])} for {expected[0]} rows and "
                f"{expected[1]} classes. Give one number per class: {expected}.",
                "model",
            )
        target_KB1 = batch.target.expand(len(logits_KBC), -1)[:, :, None]
        if self.name == "perceptron":
            return Losses(perceptron_loss(logits_KBC.float(), target_KB1), self._weight(batch))
        log_p_KBC = log_softmax(logits_KBC.float())
        nll_KB = -log_p_KBC.gather(-1, target_KB1).squeeze(-1)
        if self.smoothing_K1 is not None:
            smoothing = self.smoothing_K1.to(nll_KB.device)
            nll_KB = (1 - smoothing) * nll_KB - smoothing * log_p_KBC.mean(-1)
        return Losses(nll_KB, self._weight(batch))

    def predict(self, output: Tensor, batch: Batch) -> Tensor:
        """Turn logits (K, B, C) into probabilities, as of rows in which classes have their true shares.

        A perceptron's sum to 1 as well, but rank only.
        """
        logits_KBC = output.double()
        if self.shift_C is not None:
            logits_KBC = logits_KBC + self.shift_C.to(output.device)
        return logits_KBC.softmax(-1)

    def objective(self, member: int) -> Mapping[str, Any]:
        """Say what one member minimises, for a model that does so by itself; rows weigh as `loss` says."""
        smoothing = 0.0 if self.smoothing_K1 is None else float(self.smoothing_K1[member])
        return {"loss": self.name, "classes": self.num_outputs, "label_smoothing": smoothing}

    def select(self, keep: Tensor) -> Task:
        """Give the task of the members at these positions."""
        chosen = object.__new__(Classification)
        chosen.num_outputs = self.num_outputs
        chosen.name = self.name
        chosen.shift_C = self.shift_C
        chosen.smoothing_K1 = None if self.smoothing_K1 is None else self.smoothing_K1[keep]
        chosen.weight_KC = None if self.weight_KC is None else self.weight_KC[keep]
        return chosen

    def _weight(self, batch: Batch) -> Tensor | None:
        if self.weight_KC is None:
            return batch.weight
        weight_KB = self.weight_KC.to(batch.target.device)[:, batch.target]
        return weight_KB if batch.weight is None else weight_KB * batch.weight


def log_softmax(logits_KBC: Tensor) -> Tensor:
    """Give log probabilities (K, B, C).

    On a CPU torch takes row by row where a row has fewer numbers than it takes at once: over laid-out classes it is two
    to six times as fast.
    """
    if logits_KBC.shape[-1] >= FEW_CLASSES or logits_KBC.device.type != "cpu":
        return logits_KBC.log_softmax(-1)
    return logits_KBC.transpose(1, 2).contiguous().log_softmax(1).transpose(1, 2)


def perceptron_loss(scores_KBC: Tensor, target_KB1: Tensor) -> Tensor:
    """Give how far the best wrong class lies ahead of the right one, 0 where it lies behind.

    The gradient is +1 at that class and -1 at the right one wherever the right one is not strictly ahead, so a step of
    sgd with lr 1 on one row is the perceptron's rule: w_right += x, w_guess -= x. A tie is a mistake, or weights of
    zero would call the first class right; of several wrong classes with the same score the first is the guess.

    Shapes:
        scores_KBC: (K, B, C).
        target_KB1: (K, B, 1), class indices.
        returns: (K, B).

    Source: Crammer & Singer, "Ultraconservative Online Algorithms for Multiclass Problems", 2003, whose error set
    holds ties too; with two classes, Duda & Hart, "Pattern Classification and Scene Analysis", 1973.
    """
    guess_KB1 = scores_KBC.detach().scatter(-1, target_KB1, -torch.inf).argmax(-1, keepdim=True)
    lead_KB = (scores_KBC.gather(-1, guess_KB1) - scores_KBC.gather(-1, target_KB1)).squeeze(-1)
    return torch.where(lead_KB < 0, torch.zeros_like(lead_KB), lead_KB)  # not clamp: its gradient at 0 is not promised


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
                f"{dict(wanted)}. Give positive weights for classes among {', '.join(target.classes)}.",
                f"{WHERE}.class_weights",
            )
        return [named.get(name, 1.0) for name in target.classes]
    raise SpecError(f"{wanted!r}. Give null, balanced or {{class: weight}}.", f"{WHERE}.class_weights")


def _stack(weights: Sequence[list[float] | None], num_classes: int) -> Tensor:
    return torch.tensor([[1.0] * num_classes if row is None else row for row in weights])
