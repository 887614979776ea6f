"""Predict by a stack of affine maps, activations and dropout.

Shape legend: K members, B rows, D inputs, H hidden units, O outputs.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from fmray.errors import SpecError
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
    """Map inputs to outputs through `depth` hidden layers, for every member at once.

    Args:
        schema, num_outputs: Fix D and O.
        width: Units per hidden layer (H), or a list with one per layer.
        depth: Number of hidden layers; left out where `width` is a list.
        dropout: Share of hidden units dropped while training; may differ between members of a pack.
        activation: relu, gelu, silu or tanh.
        norm: "layer" normalises each hidden layer before its activation.

    Shapes:
        x: (B, D).
        returns: (K, B, O).

    Raises:
        SpecError: If a parameter is out of its range.
    """

    packable: ClassVar[tuple[str, ...]] = Mlp.packable

    def __init__(
        self,
        schema: Schema,
        num_outputs: int,
        width: int | Sequence[int] = 128,
        depth: int = 2,
        dropout: float = 0.0,
        activation: str = "relu",
        norm: str | None = None,
    ) -> None:
        super().__init__()
        widths = [width] * depth if isinstance(width, int) else list(width)
        if not widths or min(widths) < 1:
            raise SpecError(f"width {width}, depth {depth}. Give at least one layer of one unit.", "model.mlp")
        if not 0 <= dropout < 1:
            raise SpecError(f"{dropout}. Give a number in [0, 1).", "model.mlp.dropout")
        if activation not in ACTIVATIONS:
            raise SpecError(f"'{activation}'. Give one of {', '.join(ACTIVATIONS)}.", "model.mlp.activation")
        if norm not in (None, "layer"):
            raise SpecError(f"'{norm}'. Give layer or null.", "model.mlp.norm")
        hidden: list[nn.Module] = []
        for num_inputs, num_units in zip([schema.width, *widths], widths, strict=False):
            hidden.append(layers.Linear(num_inputs, num_units))
            hidden += [layers.LayerNorm(num_units)] if norm else []
            hidden += [ACTIVATIONS[activation](), layers.Dropout(dropout)]
        self.hidden = nn.Sequential(*hidden)
        self.output = layers.Linear(widths[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give the outputs of every member."""
        outputs: Tensor = self.output(self.hidden(x))
        return outputs
