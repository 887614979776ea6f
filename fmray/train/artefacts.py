"""Name and verify the files that members leave: tensors of a network, or what an estimator saves."""

import hashlib
from collections.abc import Mapping

import torch
from safetensors.torch import load_file

from fmray.errors import DataError
from fmray.records import TENSORS as NETWORK
from fmray.records import Member
from fmray.store.copies import to_read

TENSORS = "model.safetensors"
FILES: Mapping[str, str] = {NETWORK: TENSORS, "lightgbm": "model.txt"}
"""Kind of artefact -> its file in a member's folder."""
CURE = "Copy the folder again, or remove the record or run that it lies in to have it made again."


def file_of(member: Member) -> str:
    """Name the file that holds a member, relative to its folder."""
    return FILES[member.artefact]


def read_bytes(member: Member) -> bytes:
    """Read the file of an estimator, and make sure that it is the one that was trained.

    Raises:
        DataError: If it is missing or damaged.
    """
    path = f"{member.root}/{file_of(member)}"
    try:
        with to_read(path) as here, open(here, "rb") as file:
            data = file.read()
    except (OSError, DataError) as error:
        raise DataError(f"{path} cannot be read as member {member.index}: {_clause(error)}. {CURE}") from error
    if digest_of(data) != member.tensor_hash:
        raise DataError(f"{path} is damaged: it is not what was trained as member {member.index}. {CURE}")
    return data


def read_tensors(path: str, expected_hash: str, index: int) -> dict[str, torch.Tensor]:
    """Read the tensors of a member, and make sure that they are those that were trained.

    Args:
        expected_hash: As its record says.
        index: Of the member.

    Raises:
        DataError: If they are missing or damaged.
    """
    try:
        with to_read(path) as here:
            tensors: dict[str, torch.Tensor] = load_file(here)
        found = tensor_hash(tensors)
    except Exception as error:  # safetensors raises its own errors, of several kinds
        raise DataError(f"{path} cannot be read as member {index}: {_clause(error)}. {CURE}") from error
    if found != expected_hash:
        raise DataError(f"{path} is damaged: its tensors are not those of member {index}. {CURE}")
    return tensors


def _clause(error: Exception) -> str:
    """Give what an error says, as part of a sentence."""
    return str(error).removesuffix(".")


def digest_of(data: bytes) -> str:
    """Digest a file (SHA-256)."""
    return hashlib.sha256(data).hexdigest()


def tensor_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest tensors by name, type, shape and bits (SHA-256)."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else str(tensor.item()).encode()
        )
    return digest.hexdigest()
