"""Predict something for each token of a row, from the tokens around it or from itself alone.

Shape legend: K members, B rows, L tokens of the longest row, V ids, E numbers per embedding, H units, O outputs.
"""

import itertools
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from fmray.models import layers
from fmray.schema import DECODED, Schema
from fmray.spec.components import models as declared

BOUND = 0.5


class TokenLinear(nn.Module):
    """Map each token by one affine map of its ids: a weight per id of each block of tokens, and output.

    Where a text is generated, the tokens are those of it alone: what is foretold is the next one.

    Shapes:
        inputs: per block of tokens ids (B, L).
        returns: (K, B, L, O).
    """

    reads: ClassVar[tuple[str, ...]] = declared.TokenLinear.reads
    needs: ClassVar[tuple[str, ...]] = declared.TokenLinear.needs
    packable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, schema: Schema, num_outputs: int) -> None:
        super().__init__()
        decoded = [block.name for block in schema.blocks.values() if block.kind == DECODED]
        self.blocks = decoded or token_blocks(schema)
        self.bias_K11O = nn.Parameter(torch.zeros(1, 1, 1, num_outputs))
        self.weights = nn.ModuleList(
            layers.Embedding(schema.blocks[name].width, num_outputs, 1e-3) for name in self.blocks
        )

    def forward(self, **inputs: Tensor) -> Tensor:
        """Give the outputs of every member."""
        outputs: Tensor = self.bias_K11O
        for name, weight in zip(self.blocks, self.weights, strict=True):
            outputs = outputs + weight(inputs[name])
        return outputs


class Tagger(nn.Module):
    """Map windows of tokens by layers of affine maps, each of which sees neighbours as the layer before left them.

    The embeddings of a token, one per block of tokens, stand side by side. A layer maps a token with its `reach`
    neighbours on either side, so `depth` layers see depth * reach tokens each way; where widths agree it adds to its
    input. Beyond the ends of a row, and in its padding, there are zeros.

    Args:
        schema, num_outputs: Fix V and O.
        params: As `fmray.spec.components.models.Tagger` declares them.

    Shapes:
        inputs: per block of tokens ids (B, L) and `<name>_lengths` (B,).
        returns: (K, B, L, O).

    Source: Collobert et al., "Natural Language Processing (Almost) from Scratch", JMLR 12, 2011.
    """

    reads: ClassVar[tuple[str, ...]] = declared.Tagger.reads
    needs: ClassVar[tuple[str, ...]] = declared.Tagger.needs
    packable: ClassVar[tuple[str, ...]] = declared.Tagger.packable

    def __init__(self, schema: Schema, num_outputs: int, params: declared.Tagger = declared.Tagger()) -> None:
        super().__init__()
        self.blocks = token_blocks(schema)
        self.reach = params.reach
        self.embeddings = nn.ModuleList(
            layers.Embedding(schema.blocks[name].width, params.embedding, BOUND) for name in self.blocks
        )
        widths = [params.embedding * len(self.blocks), *[params.width] * params.depth]
        self.hidden = nn.ModuleList(
            layers.Linear(before * (2 * params.reach + 1), after) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(layers.LayerNorm(params.width) for _ in range(params.depth))
        self.dropouts = nn.ModuleList(layers.Dropout(params.dropout) for _ in range(params.depth + 1))
        self.output = layers.Linear(params.width, num_outputs)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Give the outputs of every member."""
        there = mask_of(inputs, self.blocks[0])
        h = torch.cat([embed(inputs[name]) for name, embed in zip(self.blocks, self.embeddings, strict=True)], -1)
        h = self.dropouts[0](h) * there
        for layer, norm, dropout in zip(self.hidden, self.norms, self.dropouts[1:], strict=True):
            made = dropout(_by_token(norm, _by_token(layer, _windows(h, self.reach))).relu())
            h = (h + made if h.shape[-1] == made.shape[-1] else made) * there
        return _by_token(self.output, h)


def token_blocks(schema: Schema) -> list[str]:
    """Name the blocks of tokens."""
    return [block.name for block in schema.blocks.values() if block.kind == "tokens"]


def mask_of(inputs: Mapping[str, Tensor], block: str) -> Tensor:
    """Give 1 for each token of a row and 0 for its padding (B, L, 1)."""
    places = torch.arange(inputs[block].shape[1], device=inputs[block].device)
    return (places < inputs[f"{block}_lengths"][:, None]).float()[..., None]


def _windows(h: Tensor, reach: int) -> Tensor:
    """Lay each token and its neighbours side by side: (..., L, E) -> (..., L, (2 reach + 1) E)."""
    padded = nn.functional.pad(h, (0, 0, reach, reach))
    length = h.shape[-2]
    return torch.cat([padded[..., start : start + length, :] for start in range(2 * reach + 1)], -1)


def _by_token(layer: nn.Module, h: Tensor) -> Tensor:
    """Call a layer of rows (.., B, H) on tokens (.., B, L, H)."""
    made: Tensor = layer(h.flatten(-3, -2))
    return made.reshape(*made.shape[:-2], *h.shape[-3:-1], made.shape[-1])
