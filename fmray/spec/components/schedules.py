"""Declare the parameters of learning rate schedules."""

from typing import Annotated

from pydantic import Field

from fmray.spec.components.base import Params, Share, Whole

Epochs = Annotated[Whole, Field(ge=1)]


class Constant(Params):
    """Keep the learning rate."""


class Cosine(Params):
    """Let the learning rate fall along half a cosine."""

    final: Share = Field(0.0, description="Share of the learning rate at the end.")


class Plateau(Params):
    """Multiply a member's learning rate by `factor` when it has not improved for `patience` epochs."""

    patience: Epochs = Field(3, description="Epochs without improvement.")
    factor: Share = Field(0.5, description="Factor of the learning rate.")


class Step(Params):
    """Multiply the learning rate by `factor` every `every` epochs."""

    every: Epochs = Field(10, description="Epochs between two drops.")
    factor: Share = Field(0.1, description="Factor of the learning rate at each drop.")
