"""Predict by one weight per input and output.

That is linear regression, logistic regression under cross-entropy, and a perceptron under its own loss.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from fmray.models import layers
from fmray.schema import Schema
from fmray.spec.components import models as declared


class Linear(nn.Module):
    """Map inputs to outputs by one affine map per member.

    Of a weighted bag the map has a weight per id; of tokens as well, where each counts with its share of the row.

    Shapes:
        x: (B, D).
        bags: per ragged block ids (B, L), `<name>_lengths` (B,), and of a bag `<name>_weights` (B, L).
        returns: (K, B, O).
    """

    reads: ClassVar[tuple[str, ...]] = declared.Linear.reads
    packable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, schema: Schema, num_outputs: int) -> None:
        super().__init__()
        ragged = [block for block in schema.blocks.values() if block.is_ragged]
        if schema.width:
            self.output = layers.Linear(schema.width, num_outputs)
        else:
            self.bias_K1O = nn.Parameter(torch.zeros(1, 1, num_outputs))
        self.bags = [block.name for block in ragged]
        if ragged:
            self.weights = nn.ModuleList(
                layers.EmbeddingBag(block.width, num_outputs, 1 / math.sqrt(block.width)) for block in ragged
            )

    def forward(self, x: Tensor | None = None, **bags: Tensor) -> Tensor:
        """Give the outputs of every member."""
        outputs: Tensor = self.bias_K1O if x is None else self.output(x)
        for place, name in enumerate(self.bags):
            given = bags.get(f"{name}_weights")
            if given is None:
                given = layers.mean_weights(bags[name], bags[f"{name}_lengths"])
            outputs = outputs + self.weights[place](bags[name], given)
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
