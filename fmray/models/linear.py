"""Predict by one weight per input and output: linear regression, or logistic regression under cross-entropy."""

from typing import ClassVar

from torch import Tensor, nn

from fmray.models import layers
from fmray.schema import Schema


class Linear(nn.Module):
    """Map inputs to outputs by one affine map per member.

    Shapes:
        x: (B, D).
        returns: (K, B, O).
    """

    packable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, schema: Schema, num_outputs: int) -> None:
        super().__init__()
        self.output = layers.Linear(schema.width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give the outputs of every member."""
        outputs: Tensor = self.output(x)
        return outputs
