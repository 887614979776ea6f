"""Let a member begin with the tensors of a trained one, in place of random ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fmray.errors import SpecError
from fmray.registry import nearest
from fmray.schema import Schema
from fmray.train.artefacts import TENSORS, read_tensors
from fmray.train.layout import ModuleLayout
from fmray.train.population import Blueprint

WHERE = "train.warm_start"
MOST_NAMES = 20


@dataclass(frozen=True)
class Start:
    """Name the tensors that a member begins with.

    Args:
        member: Whose they are, in its own run.
        tensor_hash: Of them.
        root: Folder they lie in; where it is decides nothing.
        part: Only those whose names begin so are taken, "encoder" or "encoder."; empty for all.
        where: Key of the job that asks for them.
    """

    member: int
    tensor_hash: str
    root: str = field(compare=False)
    part: str = ""
    where: str = field(default=WHERE, compare=False)

    def module(self, blueprint: Blueprint, schema: Schema, num_outputs: int) -> nn.Module:
        """Build a member's module with these tensors; others are drawn as they would be without them.

        Raises:
            SpecError: If they are not of its names and shapes.
            DataError: If they are missing or damaged.
        """
        module = blueprint.module(schema, num_outputs)
        layout = ModuleLayout.of(module)
        tensors = self._taken(layout.with_aliases(self.tensors()))
        ours = {name: _described(tensor) for name, tensor in self._taken(module.state_dict()).items()}
        theirs = {name: _described(tensor) for name, tensor in tensors.items()}
        if not ours:
            known = list(dict.fromkeys(name.rpartition(".")[0] or name for name in module.state_dict()))
            raise SpecError(
                f"the model has no tensor that begins with '{self.part}'. {nearest(self.part, known)}", self.where
            )
        if ours != theirs:
            apart = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            shown = ", ".join(f"{name} {theirs.get(name, 'none')} -> {ours.get(name, 'none')}" for name in apart[:5])
            more = f" and {len(apart) - 5} more" if len(apart) > 5 else ""
            raise SpecError(f"the model has other tensors than member {self.member}: {shown}{more}.", self.where)
        module.load_state_dict(tensors, strict=not self.part)
        return module

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors there are.

        Raises:
            DataError: If they are missing or damaged.
        """
        return read_tensors(f"{self.root}/{TENSORS}", self.tensor_hash, self.member)

    def _taken(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        part = self.part.removesuffix(".")
        return {name: value for name, value in tensors.items() if not part or f"{name}.".startswith(f"{part}.")}

    def described(self, module: nn.Module) -> tuple[list[str], list[str]]:
        """Name the tensors of a module that come from here, and those that are drawn."""
        names = module.state_dict()
        taken = self._taken(names)
        return list(taken), [name for name in names if name not in taken]


def listed(names: Sequence[str]) -> str:
    """Name tensors in a sentence, the first of them where they are many."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more or "none"


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}" + (f" {tensor.dtype}" if tensor.dtype != torch.float32 else "")
