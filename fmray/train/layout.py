"""Say where each tensor of a module lies while it trains, and how it is named where it is kept.

Parameters that train lie side by side in one flat row, which the optimizer, clipping and averages see as a whole.
Parameters that do not train lie with the buffers: nothing that steps, clips, decays or averages the row reaches them,
so they stay equal to the bit. A tensor that a module knows by several names is held, trained and kept once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod

import torch
from torch import Tensor, nn

from fmray.errors import SpecError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """Describe a tensor of a module.

    Args:
        name: The first by which the module knows it.
        kept: It is part of the module's state, as buffers are unless they say otherwise.
    """

    name: str
    shape: Shape
    dtype: torch.dtype
    kept: bool = True

    @property
    def size(self) -> int:
        """Count its numbers."""
        return prod(self.shape)


@dataclass(frozen=True)
class ModuleLayout:
    """Describe the tensors of a module; members that train side by side have equal ones.

    Args:
        trained: Parameters that train, in the order in which they lie in the flat row.
        frozen: Parameters with `requires_grad=False`.
        buffers: Buffers.
        aliases: Further names of tensors -> the first one's, for tied weights.
    """

    trained: tuple[Held, ...]
    frozen: tuple[Held, ...]
    buffers: tuple[Held, ...]
    aliases: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, module: nn.Module) -> "ModuleLayout":
        """Read the layout off a module.

        Raises:
            SpecError: If two parameters share memory, or one that trains holds complex numbers.
        """
        state = module.state_dict().keys()
        parameters = dict(module.named_parameters())
        _refuse_shared(parameters)
        for name, parameter in parameters.items():
            if parameter.requires_grad and parameter.is_complex():
                text = f"{type(module).__name__}.{name} trains and holds {parameter.dtype}. Give real numbers."
                raise SpecError(text, "model")
        held = {name: _held(name, tensor) for name, tensor in parameters.items()}
        return cls(
            trained=tuple(held[name] for name, parameter in parameters.items() if parameter.requires_grad),
            frozen=tuple(held[name] for name, parameter in parameters.items() if not parameter.requires_grad),
            buffers=tuple(_held(name, value, kept=name in state) for name, value in module.named_buffers()),
            aliases=_aliases(module),
        )

    @cached_property
    def dtype(self) -> torch.dtype:
        """Give the type of the flat row: the widest of its parameters, float32 at least.

        Parameters in half precision are rounded from there: their steps would otherwise be lost in the rounding.
        """
        return reduce(torch.promote_types, (one.dtype for one in self.trained), torch.float32)

    @cached_property
    def places(self) -> dict[str, slice]:
        """Say which columns of the flat row hold each parameter that trains."""
        found = {}
        start = 0
        for one in self.trained:
            found[one.name] = slice(start, start + one.size)
            start += one.size
        return found

    @property
    def beside(self) -> tuple[Held, ...]:
        """List what lies beside the flat row: frozen parameters and buffers."""
        return (*self.frozen, *self.buffers)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Give the shape of every parameter."""
        return {one.name: one.shape for one in (*self.trained, *self.frozen)}

    @property
    def num_parameters(self) -> int:
        """Count the numbers in parameters, tied ones once."""
        return sum(one.size for one in (*self.trained, *self.frozen))

    def row(self, module: nn.Module) -> Tensor:
        """Lay the parameters of a module that train side by side (P,)."""
        parameters = dict(module.named_parameters())
        parts = [parameters[one.name].detach().reshape(-1).to(self.dtype) for one in self.trained]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=self.dtype)

    def tensors(self, row: Tensor, beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name the tensors of one member that are kept, each in its own type.

        Args:
            row: Its parameters (P,).
            beside: Its frozen parameters and buffers.
        """
        trained = {
            one.name: row[self.places[one.name]].reshape(one.shape).to(one.dtype).contiguous() for one in self.trained
        }
        return trained | {one.name: beside[one.name].contiguous() for one in self.beside if one.kept}

    def with_aliases(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors by all names that a module has for them, as `load_state_dict` asks for."""
        return {**tensors, **{other: tensors[first] for other, first in self.aliases if first in tensors}}


def _held(name: str, tensor: Tensor, *, kept: bool = True) -> Held:
    return Held(name, tuple(tensor.shape), tensor.dtype, kept)


def _aliases(module: nn.Module) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for named in (module.named_parameters, module.named_buffers):
        first: dict[int, str] = {}
        for name, tensor in named(remove_duplicate=False):
            if first.setdefault(id(tensor), name) != name:
                found.append((name, first[id(tensor)]))
    return tuple(found)


def _refuse_shared(parameters: Mapping[str, Tensor]) -> None:
    """Refuse parameters that are two to torch and one in memory: apart in the flat row, they would come apart."""
    first: dict[int, str] = {}
    for name, parameter in parameters.items():
        place = parameter.data_ptr()  # 0 where there is no memory yet
        if place and parameter.numel() and (known := first.setdefault(place, name)) != name:
            raise SpecError(f"{known} and {name} share memory. Assign one nn.Parameter to both.", "model")
