"""Bring a module of one's own: any nn.Module built from the schema of the prepared rows and the number of outputs."""

import torch
from torch import Tensor, nn

from fmray.schema import Schema


class Net(nn.Module):
    """Add a linear path to a small network, so that it starts no worse than a linear model.

    Shapes:
        x: (B, D), the prepared columns side by side.
        returns: (B, O).
    """

    def __init__(self, schema: Schema, num_outputs: int, width: int = 32) -> None:
        super().__init__()
        self.straight = nn.Linear(schema.width, num_outputs)
        self.first = nn.Linear(schema.width, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give one number per output."""
        return self.straight(x) + self.last(torch.tanh(self.norm(self.first(x))))
