"""Let a member begin with the tensors of a trained one, in place of random ones."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fmray.errors import SpecError
from fmray.schema import Schema
from fmray.train.artefacts import TENSORS, read_tensors
from fmray.train.layout import ModuleLayout
from fmray.train.population import Blueprint

WHERE = "train.warm_start"


@dataclass(frozen=True)
class Start:
    """Name the tensors that a member begins with.

    Args:
        member: Whose they are, in its own run.
        tensor_hash: Of them.
        root: Folder they lie in; where it is decides nothing.
    """

    member: int
    tensor_hash: str
    root: str = field(compare=False)

    def module(self, blueprint: Blueprint, schema: Schema, num_outputs: int) -> nn.Module:
        """Build a member's module with these tensors.

        Raises:
            SpecError: If they are not of its names and shapes.
            DataError: If they are missing or damaged.
        """
        module = blueprint.module(schema, num_outputs)
        tensors = read_tensors(f"{self.root}/{TENSORS}", self.tensor_hash, self.member)
        layout = ModuleLayout.of(module)
        ours = {name: _described(tensor) for name, tensor in module.state_dict().items()}
        theirs = {name: _described(tensor) for name, tensor in layout.with_aliases(tensors).items()}
        if ours != theirs:
            apart = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            shown = ", ".join(f"{name} {theirs.get(name, 'none')} -> {ours.get(name, 'none')}" for name in apart[:5])
            more = f" and {len(apart) - 5} more" if len(apart) > 5 else ""
            raise SpecError(f"the model has other tensors than member {self.member}: {shown}{more}.", WHERE)
        module.load_state_dict(layout.with_aliases(tensors))
        return module


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}" + (f" {tensor.dtype}" if tensor.dtype != torch.float32 else "")
