"""Predict by a stack of affine maps, activations and dropout.

Shape legend: K members, B rows, D inputs, H hidden units, O outputs.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from fmray.models import layers
from fmray.schema import Schema
from fmray.spec.components.models import Mlp

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """Map inputs to outputs through hidden layers, for every member at once.

    Args:
        schema, num_outputs: Fix D and O.
        params: Width (H), depth, dropout, activation and norm of the hidden layers.

    Shapes:
        x: (B, D).
        returns: (K, B, O).
    """

    packable: ClassVar[tuple[str, ...]] = Mlp.packable

    def __init__(self, schema: Schema, num_outputs: int, params: Mlp = Mlp()) -> None:
        super().__init__()
        widths = [params.width] * params.depth if isinstance(params.width, int) else list(params.width)
        hidden: list[nn.Module] = []
        for num_inputs, num_units in zip([schema.width, *widths], widths, strict=False):
            hidden.append(layers.Linear(num_inputs, num_units))
            hidden += [layers.LayerNorm(num_units)] if params.norm else []
            hidden += [ACTIVATIONS[params.activation](), layers.Dropout(params.dropout)]
        self.hidden = nn.Sequential(*hidden)
        self.output = layers.Linear(widths[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give the outputs of every member."""
        outputs: Tensor = self.output(self.hidden(x))
        return outputs
