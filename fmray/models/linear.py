"""Predict by one weight per input and output.

That is linear regression, logistic regression under cross-entropy, and a perceptron under its own loss.
"""

from typing import ClassVar

import torch
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


class Perceptron(Linear):
    """Map inputs to scores by one affine map per member that starts at zero, whatever the seed.

    The classical training is `{classification: {loss: perceptron}}` by `sgd` with lr 1 and batches of one row.

    Source: Rosenblatt, "The Perceptron: A Probabilistic Model for Information Storage and Organization", 1958.
    """

    def __init__(self, schema: Schema, num_outputs: int) -> None:
        super().__init__(schema, num_outputs)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
