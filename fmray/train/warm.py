"""Let a member begin with the tensors of a trained one, in place of random ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fmray.errors import SpecError
from fmray.models.layers import Embedding, EmbeddingBag
from fmray.registry import nearest
from fmray.schema import Schema
from fmray.train.artefacts import TENSORS, read_tensors
from fmray.train.layout import ModuleLayout
from fmray.train.population import Blueprint

WHERE = "train.warm_start"
MOST_NAMES = 20
TABLES = (nn.Embedding, Embedding, EmbeddingBag)
RATE = "rate_K11"
"""Ends the name of the buffer of a dropout layer; see `fmray.models.layers.Dropout`."""


@dataclass(frozen=True)
class Start:
    """Name the tensors that a member begins with.

    Args:
        member: Whose they are, in its own run.
        tensor_hash: Of them.
        root: Folder they lie in; where it is decides nothing.
        part: Only those whose names begin so are taken, "encoder" or "encoder.", or one of several; empty for all.
        where: Key of the job that asks for them.
    """

    member: int
    tensor_hash: str
    root: str = field(compare=False)
    part: str | tuple[str, ...] = ""
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
        for part in self.parts:
            if not any(f"{name}.".startswith(part) for name in ours):
                known = list(dict.fromkeys(name.rpartition(".")[0] or name for name in module.state_dict()))
                sought = part.removesuffix(".")
                raise SpecError(
                    f"the model has no tensor that begins with '{sought}'. {nearest(sought, known)}", self.where
                )
        if ours != theirs:
            apart = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            shown = ", ".join(f"{name} {theirs.get(name, 'none')} -> {ours.get(name, 'none')}" for name in apart[:5])
            more = f" and {len(apart) - 5} more" if len(apart) > 5 else ""
            raise SpecError(f"the model has other tensors than member {self.member}: {shown}{more}.", self.where)
        module.load_state_dict(tensors, strict=False)  # names were compared
        return module

    def takes_embeddings(self, module: nn.Module) -> bool:
        """Tell whether tensors that a module would take are tables of a row per id in it."""
        tables = {
            f"{name}.{own}"
            for name, part in module.named_modules()
            if isinstance(part, TABLES)
            for own, _ in part.named_parameters(recurse=False)
        }
        return not tables.isdisjoint(self._taken(module.state_dict()))

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors there are.

        Raises:
            DataError: If they are missing or damaged.
        """
        return read_tensors(f"{self.root}/{TENSORS}", self.tensor_hash, self.member)

    @property
    def parts(self) -> tuple[str, ...]:
        """Beginnings of names that are taken, each of which ends in a dot; none for all."""
        given = (self.part,) if isinstance(self.part, str) else self.part
        return tuple(f"{part.removesuffix('.')}." for part in given if part)

    def _taken(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # how much is dropped is said by the job, not learned
        learned = {name: value for name, value in tensors.items() if not name.endswith(RATE)}
        parts = self.parts
        return {name: value for name, value in learned.items() if not parts or f"{name}.".startswith(parts)}

    def described(self, module: nn.Module) -> tuple[list[str], list[str]]:
        """Name the tensors of a module that come from here, and those that are drawn."""
        names = module.state_dict()
        taken = self._taken(names)
        return list(taken), [name for name in names if name not in taken and not name.endswith(RATE)]


def listed(names: Sequence[str]) -> str:
    """Name tensors in a sentence, the first of them where they are many."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more or "none"


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)}" + (f" {tensor.dtype}" if tensor.dtype != torch.float32 else "")
