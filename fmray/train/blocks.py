"""Turn columns of the lanes into inputs of a model.

Dense columns pass as they are; pixels are kept as bytes, a quarter of the memory, until they are floats in the batch.
Rows that differ in length stay side by side in memory, and each batch is padded to its own longest row by one gather: a
result must never depend on the padding.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from fmray import pieces
from fmray.ragged import Array, Blocks, Ragged
from fmray.schema import DECODED, PIXEL, Block
from fmray.tasks.task import Batch

MULTIPLE = 8
"""Lengths of padded rows are multiples of it, so that few shapes occur and none is odd."""
MULTIPLE_OF_PAIRS = 2
"""Of rows that hold a source and a target: sentences are so short that padding to 8 would take half of the time."""
NO_TARGET = -1
"""Stands in the padding of targets."""
Held = Union[Tensor, "RaggedTensor"]


class RaggedTensor:
    """Hold rows of different lengths on a device, as `ragged.Ragged` does in memory.

    Shapes:
        values: (T,).
        starts, lengths: (n,), int64.
    """

    def __init__(self, values: Tensor, starts: Tensor, lengths: Tensor) -> None:
        self.values = values
        self.starts = starts
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: slice) -> "RaggedTensor":
        return RaggedTensor(self.values, self.starts[rows], self.lengths[rows])

    def index_select(self, axis: int, rows: Tensor) -> "RaggedTensor":
        """Choose rows; no value is copied."""
        return RaggedTensor(self.values, self.starts.index_select(axis, rows), self.lengths.index_select(axis, rows))

    def to(self, device: torch.device, non_blocking: bool = False) -> "RaggedTensor":
        """Bring the rows to a device; what lies beside them comes along only if it is there already."""
        if self.values.device == device:
            return self
        own = self.padded()
        mask = torch.arange(own.shape[1]) < self.lengths[:, None]
        starts = self.lengths.cumsum(0) - self.lengths
        return RaggedTensor(*(part.to(device, non_blocking=non_blocking) for part in (own[mask], starts, self.lengths)))

    def padded(self, fill: int = 0, multiple: int = MULTIPLE) -> Tensor:
        """Give the rows side by side, filled up to a common length.

        Shapes:
            returns: (n, L), L a multiple, at least one.
        """
        longest = int(self.lengths.max()) if len(self.lengths) else 0
        width = max(multiple, -(-longest // multiple) * multiple)
        if not len(self.values):
            return self.values.new_full((len(self.lengths), width), fill)
        place = torch.arange(width, device=self.values.device)
        at = (self.starts[:, None] + place).clamp_max_(len(self.values) - 1)
        return self.values[at].masked_fill_(place >= self.lengths[:, None], fill)


def joined(parts: Sequence[Any]) -> Any:
    """Give the rows of all parts, one part behind the other."""
    if not isinstance(parts[0], RaggedTensor):
        return torch.cat(list(parts))
    sizes = np.cumsum([0, *(len(part.values) for part in parts[:-1])]).tolist()
    return RaggedTensor(
        torch.cat([part.values for part in parts]),
        torch.cat([part.starts + size for part, size in zip(parts, sizes, strict=True)]),
        torch.cat([part.lengths for part in parts]),
    )


def held(values: Array, device: torch.device | str) -> Any:
    """Bring a column to a device."""
    if not isinstance(values, Ragged):
        return torch.from_numpy(values).to(device)
    own = values.compact()
    return RaggedTensor(*(torch.from_numpy(part).to(device) for part in (own.values, own.starts, own.lengths)))


def inputs_of(tensors: Mapping[str, Any], blocks: Mapping[str, Block]) -> dict[str, Tensor]:
    """Give the inputs of a batch by the names that models take them by.

    Shapes:
        returns: "x" (B, D); per ragged block "<name>" (B, L), "<name>_lengths" (B,), of a bag "<name>_weights" (B, L),
            and of word pieces "<name>_first" (B, L).
    """
    inputs: dict[str, Tensor] = {}
    multiple = multiple_of(blocks)
    for name, block in blocks.items():
        if not block.is_ragged:
            inputs[name] = as_floats(tensors[name])
            continue
        inputs[name] = tensors[name].padded(multiple=multiple)
        if block.kind == "pieces":
            inputs |= _words_of(name, inputs[name])
            continue
        inputs[f"{name}_lengths"] = tensors[name].lengths
        if block.kind == "bag":
            inputs[f"{name}_weights"] = tensors[f"{name}_weights"].padded(multiple=multiple)
    return inputs


def _words_of(name: str, codes_BP: Tensor) -> dict[str, Tensor]:
    """Give how many words rows of word pieces have, and where each begins; padding points anywhere in its row."""
    begins_BP = pieces.begins_word(codes_BP)
    lengths_B = begins_BP.sum(1)
    longest = int(lengths_B.max()) if len(lengths_B) else 0
    width = max(MULTIPLE, -(-longest // MULTIPLE) * MULTIPLE)
    # a stable sort brings the places of words to the front, in their order
    first_BP = (~begins_BP).to(torch.uint8).argsort(dim=1, stable=True)
    return {f"{name}_first": first_BP[:, :width], f"{name}_lengths": lengths_B}


def multiple_of(blocks: Mapping[str, Block]) -> int:
    """Give what lengths of padded rows are multiples of."""
    return MULTIPLE_OF_PAIRS if any(block.kind == DECODED for block in blocks.values()) else MULTIPLE


def as_floats(x: Tensor) -> Tensor:
    """Give the dense block of a batch as models take it: pixels that were kept as bytes in [0, 1]."""
    return x.float().mul_(PIXEL) if x.dtype == torch.uint8 else x


def batch_of_rows(rows: Blocks, blocks: Mapping[str, Block], device: torch.device | str) -> Batch:
    """Give prepared rows as a batch to predict; its targets are those among the rows, or meaningless."""
    tensors = {name: held(values, device) for name, values in rows.arrays.items()}
    has_target = "target" in tensors
    target = tensors["target"].padded(NO_TARGET, multiple_of(blocks)) if has_target else torch.zeros(len(rows))
    return Batch(inputs_of(tensors, blocks), target, None, torch.arange(len(rows)))
