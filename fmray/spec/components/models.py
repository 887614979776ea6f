"""Declare the parameters of models."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fmray.spec.components.base import Image, Params, Real, Whole

Units = Annotated[Whole, Field(ge=1)]


class BagOfEmbeddings(Params):
    """Predict text by the mean of its tokens' embeddings, and numbers beside it, through one affine map."""

    reads: ClassVar[tuple[str, ...]] = ("tokens", "x")
    needs: ClassVar[tuple[str, ...]] = ("tokens",)
    packable: ClassVar[tuple[str, ...]] = ("dropout",)

    width: Units = Field(32, description="Numbers per embedding.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the numbers of a mean that are dropped in training."
    )


class Linear(Params):
    """Predict by one affine map: of numbers, of a weighted bag, of the mean over tokens, or of all that are there."""

    reads: ClassVar[tuple[str, ...]] = ("x", "bag", "tokens")


class Logistic(Linear):
    """Predict by one affine map, as logistic regression does."""


class Perceptron(Linear):
    """Predict by one affine map of all inputs that starts at zero, trained by the perceptron's own loss."""


class Mlp(Params):
    """Predict by hidden layers of affine maps, activations and dropout."""

    packable: ClassVar[tuple[str, ...]] = ("dropout",)

    width: Units | Annotated[Sequence[Units], Field(min_length=1)] = Field(
        128, description="Units per hidden layer, or a list with one number per layer."
    )
    depth: Units = Field(2, description="Number of hidden layers; not used where width is a list.")
    dropout: Annotated[Real, Field(ge=0, lt=1)] = Field(0.0, description="Share of hidden units dropped in training.")
    activation: Literal["relu", "gelu", "silu", "tanh"] = Field("relu", description="Between layers.")
    norm: Literal["layer"] | None = Field(None, description="layer normalises each hidden layer before activation.")


class GanPoints(Params):
    """Generate points from noise and inputs, and tell them from real ones: two networks of hidden layers."""

    width: Units = Field(64, description="Units per hidden layer of both.")
    depth: Units = Field(2, description="Number of hidden layers of both.")
    noise: Units = Field(4, description="Random numbers behind each point.")


class Resnet(Params):
    """Predict images by a small residual network with group normalisation."""

    width: Annotated[Whole, Field(ge=4, multiple_of=4)] = Field(
        16, description="Channels after the stem, a multiple of 4; every stage after the first doubles them."
    )
    depth: Units = Field(1, description="Residual blocks per stage.")
    stages: Units = Field(3, description="Number of stages, each at half the resolution.")
    image: Image | None = Field(
        None, description="Channels, height and width of a row; by default a square of 1 or 3 channels."
    )
