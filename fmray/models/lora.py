"""Let layers learn by small matrices beside their frozen weights.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QUERY_VALUE = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "query_proj", "value_proj", "q", "v")
"""Names that models of transformers give to the query and the value of attention."""


class LoraLinear(nn.Module):
    """Add the product of two small matrices to a linear layer that stays as it is; the product is 0 at first.

    Args:
        linear: The layer, D numbers to H.
        rank: R.
        alpha: The product counts alpha / rank times, so that a learning rate does for any rank.

    Shapes:
        x: (..., D).
        returns: (..., H).
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scale = alpha / rank
        self.down_RD = nn.Parameter(torch.empty(rank, linear.in_features))
        self.up_HR = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down_RD, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """Weight that stays as it is; some models ask a layer for its type."""
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer and what is added to it."""
        added: Tensor = self.linear(x) + self.scale * F.linear(F.linear(x, self.down_RD), self.up_HR)
        return added

    def merged(self) -> nn.Linear:
        """Give one linear layer that computes the same."""
        linear = self.linear
        one = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
        with torch.no_grad():
            one.weight.copy_(linear.weight + self.scale * self.up_HR @ self.down_RD)
            if linear.bias is not None:
                one.bias.copy_(linear.bias)
        return one


def add_lora(module: nn.Module, rank: int, alpha: float, names: tuple[str, ...] = ()) -> list[str]:
    """Replace linear layers by ones that learn beside their weights, and name them.

    Args:
        names: Last parts of the names of layers that are replaced; empty for all linear layers.
    """
    found = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and (not names or name.rpartition(".")[2] in names)
    ]
    for name in found:
        home, _, attribute = name.rpartition(".")
        parent = module.get_submodule(home)
        setattr(parent, attribute, LoraLinear(getattr(parent, attribute), rank, alpha))
    return found
