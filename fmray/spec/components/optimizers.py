"""Declare the parameters of optimizers; defaults are those of torch, but for the learning rate of sgd."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from fmray.spec.components.base import Flag, Params, Real, Share, conflict

Rate = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
RATE = "Learning rate."
DECAY = "L2 penalty on the parameters."
EPS = "Added to the denominator for numerical stability."


PACKABLE = ("lr", "weight_decay")
"""What members of a pack may differ in, whatever the optimizer: its update is linear in lr."""


class Optimizer(Params):
    """Hold what every optimizer takes."""

    packable: ClassVar[tuple[str, ...]] = PACKABLE

    lr: Rate = Field(0.001, description=RATE)
    weight_decay: NotNegative = Field(0.0, description=DECAY)


class Adadelta(Optimizer):
    """Scale steps by running averages of squared gradients and squared steps."""

    lr: Rate = Field(1.0, description=RATE)
    rho: Share = Field(0.9, description="Decay of the running average of squared gradients.")
    eps: NotNegative = Field(1e-6, description=EPS)


class Adagrad(Optimizer):
    """Scale steps by the sum of squared gradients."""

    lr: Rate = Field(0.01, description=RATE)
    lr_decay: NotNegative = Field(0.0, description="Decay of the learning rate per step.")
    initial_accumulator_value: NotNegative = Field(0.0, description="Start of the sum of squared gradients.")
    eps: NotNegative = Field(1e-10, description=EPS)


class Adam(Optimizer):
    """Scale steps by running averages of gradients and squared gradients."""

    betas: Annotated[Sequence[Annotated[Real, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        (0.9, 0.999), description="Decay of the running averages of gradients and of squared gradients."
    )
    eps: NotNegative = Field(1e-8, description=EPS)
    amsgrad: Flag = Field(False, description="Divide by the largest average of squared gradients so far.")


class Adamw(Adam):
    """Adam with weight decay decoupled from the gradient."""

    weight_decay: NotNegative = Field(0.01, description="Share of the parameters subtracted per step, times lr.")


class Rmsprop(Optimizer):
    """Scale steps by a running average of squared gradients."""

    lr: Rate = Field(0.01, description=RATE)
    alpha: NotNegative = Field(0.99, description="Decay of the running average of squared gradients.")
    eps: NotNegative = Field(1e-8, description=EPS)
    momentum: NotNegative = Field(0.0, description="Momentum factor.")
    centered: Flag = Field(False, description="Divide by an estimate of the variance of the gradient.")


class Sgd(Optimizer):
    """Step against the gradient, with momentum if asked for."""

    lr: Rate = Field(0.01, description=RATE)
    momentum: NotNegative = Field(0.0, description="Momentum factor.")
    dampening: Real = Field(0.0, description="Dampening of momentum.")
    nesterov: Flag = Field(False, description="Nesterov momentum; needs a momentum above zero and no dampening.")

    @model_validator(mode="after")
    def _nesterov(self) -> Self:
        if self.nesterov and (not self.momentum or self.dampening):
            text = "true needs a momentum above zero and no dampening. Give momentum, e.g. 0.9."
            raise conflict("nesterov", text)
        return self
