"""Let a member begin with the tensors of a pretrained model.

They are named by their content, so that others under the same path train anew. Once a member has been built, its own
state holds them: neither going on nor predicting reads them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fmray.data.weights import refuse_unfit
from fmray.errors import DataError
from fmray.schema import Schema
from fmray.spec.pretrained import CONTENT, FOLDERS, TENSORS, content_of
from fmray.spec.ref import Ref
from fmray.train.population import Blueprint


@dataclass(frozen=True)
class Pretrained:
    """Name the pretrained tensors that a member begins with.

    Args:
        content: Digest of the model's description and tensors.
        folder: They lie in; where it is decides nothing.
        where: Key of the job that names it.
    """

    content: str
    folder: str = field(compare=False)
    where: str = field(compare=False)

    def module(self, blueprint: Blueprint, schema: Schema, num_outputs: int) -> nn.Module:
        """Build a member's module with these tensors; its head is drawn.

        Raises:
            DataError: If the tensors were changed since the run began, cannot be read, or do not fit.
        """
        module: Any = blueprint.module(schema, num_outputs)
        module.load_pretrained(self.tensors())
        built: nn.Module = module
        return built

    def tensors(self) -> Mapping[str, Tensor]:
        """Read the tensors.

        Raises:
            DataError: If they are missing, damaged, or others than when the run began.
        """
        if content_of(self.folder, self.where) != self.content:
            raise DataError(f"{self.folder} was changed since the run began. Run the job again.", self.where)
        refuse_unfit(f"{self.folder}/{TENSORS}", self.where)
        try:
            found: Mapping[str, Tensor] = load_file(f"{self.folder}/{TENSORS}")
        except SafetensorError as error:
            raise DataError(f"{self.folder}/{TENSORS} cannot be read as safetensors: {error}.", self.where) from error
        return found


def pretrained_of(model: Ref) -> Pretrained | None:
    """Give what members of a model begin with where it names a folder, else None."""
    key = FOLDERS.get(model.name)
    if key is None or CONTENT not in model.params or key not in model.params:
        return None
    return Pretrained(model.params[CONTENT], folder=model.params[key], where=f"model.{model.name}.{key}")
