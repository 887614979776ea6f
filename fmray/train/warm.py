"""Let a member begin with the tensors of a trained one, in place of random ones."""

from dataclasses import dataclass, field

from safetensors.torch import load_file
from torch import nn

from fmray.errors import SpecError
from fmray.schema import Schema
from fmray.store.copies import to_read
from fmray.train.population import Blueprint
from fmray.train.predict import TENSORS

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
        """
        module = blueprint.module(schema, num_outputs)
        with to_read(f"{self.root}/{TENSORS}") as here:
            tensors = load_file(here)
        ours = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        theirs = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if ours != theirs:
            apart = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            shown = ", ".join(f"{name} {theirs.get(name, 'none')} -> {ours.get(name, 'none')}" for name in apart[:5])
            more = f" and {len(apart) - 5} more" if len(apart) > 5 else ""
            raise SpecError(f"the model has other tensors than member {self.member}: {shown}{more}.", WHERE)
        module.load_state_dict(tensors)
        return module
