"""Define what a model is: an `nn.Module` built from a schema, the number of outputs and parameters.

Any `nn.Module` class `Net(schema, num_outputs, **params)` whose `forward` takes the inputs by name (`x`: (B, D)) and
gives (B, O) is a model. A *population-native* one also computes many members at once.
"""

from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from fmray.schema import Schema


class Model(Protocol):
    """Build a module for one member."""

    def __call__(self, schema: Schema, num_outputs: int, **params: Any) -> nn.Module:
        """Give a freshly initialised module, drawing from torch's global generator."""
        ...


@runtime_checkable
class PopulationNative(Protocol):
    """Mark a module whose parameters and buffers all carry a leading member axis.

    Members are built one by one (leading axis 1) and stacked along it; `forward` maps x (B, D) to (K, B, O).

    Attributes:
        packable: Parameters that may differ between members of one pack.
    """

    packable: ClassVar[tuple[str, ...]]

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (B, D) to the outputs of every member (K, B, O)."""
        ...
