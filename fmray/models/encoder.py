"""Predict rows of tokens, or each of their tokens, by a Transformer in which all tokens of a row see each other.

Padding is masked out of attention and means, so how long it is changes nothing.
Shape legend: B rows, L tokens of the longest row, V ids, H numbers per token, O outputs.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmray.errors import SpecError
from fmray.models import layers
from fmray.models.decoder import Layer, draw
from fmray.models.tagger import token_blocks
from fmray.schema import Schema
from fmray.spec.components import models as declared


class Encoder(nn.Module):
    """Map tokens by layers of self-attention and hidden units, and their mean, or each of them, by one affine map.

    Layers normalise what they read and add to it. Places are told by rotation, so texts may be of any length. Where
    hidden tokens are filled in, the outputs are products with the embeddings of the ids, of chosen tokens alone.

    Args:
        schema, num_outputs: Fix V and O.
        params: As `fmray.spec.components.models.Encoder` declares them.

    Raises:
        SpecError: If there are several blocks of tokens, and none is named.

    Shapes:
        inputs: ids (B, L) of the block and `<block>_lengths` (B,); `chosen` (B, C), places of tokens.
        returns: (B, O), or (B, L, O) per token, or (B, C, O) of those that are chosen.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Xiong et al., "On Layer Normalization in the
    Transformer Architecture", ICML 2020 (pre-norm); Su et al., "RoFormer", 2021 (rotation).
    """

    reads: ClassVar[tuple[str, ...]] = declared.Encoder.reads
    needs: ClassVar[tuple[str, ...]] = declared.Encoder.needs

    def __init__(self, schema: Schema, num_outputs: int, params: declared.Encoder = declared.Encoder()) -> None:
        super().__init__()
        self.block = chosen_block(schema, params.block, "encoder")
        self.per_token = params.per in ("token", "masked")
        self.embedding = nn.Embedding(schema.blocks[self.block].width, params.width)
        self.layers = nn.ModuleList(Layer(params) for _ in range(params.depth))
        self.norm = nn.LayerNorm(params.width)
        self.dropouts = nn.ModuleList([layers.Dropout(params.dropout), layers.Dropout(params.dropout)])
        self.head = (
            TiedHead(params.width, num_outputs) if params.per == "masked" else nn.Linear(params.width, num_outputs)
        )
        draw(self, params.depth)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Give the outputs."""
        ids = inputs[self.block]
        lengths = inputs[f"{self.block}_lengths"]
        seen_B11L = seen(ids, lengths)[:, None, None]
        h = self.dropouts[0](self.embedding(ids))
        for layer in self.layers:
            h = layer(h, seen_B11L)
        h = self.norm(h)
        if not self.per_token:
            h = mean_of_tokens(h, lengths)
        elif "chosen" in inputs:  # of many ids, an output for every token would cost more than all layers
            h = h.gather(1, inputs["chosen"][..., None].expand(-1, -1, h.shape[-1]))
        h = self.dropouts[1](h)
        outputs: Tensor = self.head(h, self.embedding.weight) if isinstance(self.head, TiedHead) else self.head(h)
        return outputs


class TiedHead(nn.Module):
    """Give an output per id: the product of its embedding with what a hidden layer makes of a token, and a bias.

    Args:
        width, num_ids: H and V.

    Source: Devlin et al., "BERT", NAACL 2019; Press & Wolf, "Using the Output Embedding to Improve Language Models",
    EACL 2017 (tied embeddings).
    """

    def __init__(self, width: int, num_ids: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(num_ids))

    def forward(self, h: Tensor, embedding_VH: Tensor) -> Tensor:
        """Map what stands at tokens (..., H) to outputs (..., V)."""
        return F.linear(self.norm(F.gelu(self.hidden(h))), embedding_VH, self.bias)


def chosen_block(schema: Schema, named: str | None, model: str) -> str:
    """Give the block of tokens that a model of one block reads.

    Raises:
        SpecError: If it is not there, or if there are several and none is named.
    """
    known = token_blocks(schema)
    if named is None and len(known) > 1:
        text = f"{model} reads one block of tokens, and there are {', '.join(known)}. Name one."
        raise SpecError(text, f"model.{model}.block")
    if named is not None and named not in known:
        raise SpecError(f"'{named}' is no block of tokens. There is: {', '.join(known)}.", f"model.{model}.block")
    return named or known[0]


def seen(ids: Tensor, lengths: Tensor) -> Tensor:
    """Give whether each place holds a token (B, L); of a row without tokens the first place counts as one.

    Attention over nothing would be 0 / 0.
    """
    places = torch.arange(ids.shape[1], device=ids.device)
    return places < lengths.clamp_min(1)[:, None]


def mean_of_tokens(h: Tensor, lengths: Tensor) -> Tensor:
    """Give the mean over the tokens of each row (B, H); 0 for a row without tokens.

    Shapes:
        h: (B, L, H).
        lengths: (B,).
    """
    weights = layers.mean_weights(h[..., 0], lengths).to(h.dtype)
    return torch.einsum("bl,blh->bh", weights, h)
