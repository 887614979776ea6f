"""Say which share of its learning rate a member gets at each step.

A schedule is a pure function of the step; only `Plateau` looks at validation, and what it remembers lies in the loop's
state, so a resumed training goes on as if never interrupted.
"""

import math
from typing import Protocol

from fmray.spec.components import schedules as declared


class Schedule(Protocol):
    """Give the share of the learning rate at a step."""

    def factor(self, step: int, num_steps: int, steps_per_epoch: int) -> float:
        """Give the share, in [0, 1].

        Args:
            step: Global step, from 0.
            num_steps: Steps if every epoch is trained.
            steps_per_epoch: Steps in one epoch.
        """
        ...


class Constant:
    """Keep the learning rate."""

    def factor(self, step: int, num_steps: int, steps_per_epoch: int) -> float:
        """Give 1."""
        return 1.0


class Cosine:
    """Let the learning rate fall along half a cosine to `final` of itself.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """

    def __init__(self, params: declared.Cosine = declared.Cosine()) -> None:
        self.final = params.final

    def factor(self, step: int, num_steps: int, steps_per_epoch: int) -> float:
        """Give the share at this point of the half cosine."""
        done = min(step / max(num_steps, 1), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


class Step:
    """Multiply the learning rate by `factor` every `every` epochs."""

    def __init__(self, params: declared.Step = declared.Step()) -> None:
        self.every = params.every
        self.ratio = params.factor

    def factor(self, step: int, num_steps: int, steps_per_epoch: int) -> float:
        """Give the share after the drops so far."""
        return float(self.ratio ** (step // max(steps_per_epoch, 1) // self.every))


class Plateau:
    """Multiply a member's learning rate by `factor` when it has not improved for `patience` epochs."""

    def __init__(self, params: declared.Plateau = declared.Plateau()) -> None:
        self.patience = params.patience
        self.ratio = params.factor

    def factor(self, step: int, num_steps: int, steps_per_epoch: int) -> float:
        """Give 1; the drops are kept per member in the loop's state."""
        return 1.0


def warmup(step: int, warmup_steps: int) -> float:
    """Give the share of the learning rate while it rises linearly to 1.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017.
    """
    return min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
