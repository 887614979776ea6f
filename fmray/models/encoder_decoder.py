"""Generate a text from another one, by a Transformer: an encoder reads the source, a causal decoder attends to it.

Padding of the source is masked out of attention; that of the target stands behind its tokens, where nothing looks.
Shape legend: B rows, S tokens of the longest source, L of the longest target, V ids of the target, H numbers per token,
A heads, E numbers per head.
"""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmray.errors import SpecError
from fmray.models import layers
from fmray.models.cache import Past, Seen, SourceCache
from fmray.models.decoder import Layer, draw
from fmray.models.encoder import chosen_block, seen
from fmray.schema import DECODED, Schema
from fmray.spec.components import models as declared


class EncoderDecoder(nn.Module):
    """Map a source and each token of a target, with those before it, to an output per id of the target.

    Layers normalise what they read and add to it. Places are told by rotation, so texts may be of any length; the
    outputs are products with the embeddings of the target's ids.

    Args:
        schema, num_outputs: Fix V, which must be the number of the target's ids.
        params: As `fmray.spec.components.models.EncoderDecoder` declares them.

    Raises:
        SpecError: If there are several sources, and none is named, or a shared table does not fit both.

    Shapes:
        inputs: ids of the source (B, S) and `<source>_lengths` (B,); ids before each token of the target (B, L).
        returns: (B, L, V).

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Xiong et al., "On Layer Normalization in the
    Transformer Architecture", ICML 2020 (pre-norm); Su et al., "RoFormer", 2021 (rotation); Press & Wolf, "Using the
    Output Embedding to Improve Language Models", EACL 2017 (tied embeddings).
    """

    reads: ClassVar[tuple[str, ...]] = declared.EncoderDecoder.reads
    needs: ClassVar[tuple[str, ...]] = declared.EncoderDecoder.needs

    def __init__(
        self, schema: Schema, num_outputs: int, params: declared.EncoderDecoder = declared.EncoderDecoder()
    ) -> None:
        super().__init__()
        self.source = chosen_block(schema, params.block, "encoder_decoder")
        self.target = next(block.name for block in schema.blocks.values() if block.kind == DECODED)
        num_ids = schema.blocks[self.source].width
        if params.shared_embeddings and num_ids != num_outputs:
            text = f"{self.source} has {num_ids:,} ids and {self.target} {num_outputs:,}. Tokenize both by one step."
            raise SpecError(text, "model.encoder_decoder.shared_embeddings")
        self.embedding = nn.Embedding(num_outputs, params.width)
        self.source_embedding = self.embedding if params.shared_embeddings else nn.Embedding(num_ids, params.width)
        self.encoder = nn.ModuleList(Layer(params) for _ in range(params.depth))
        self.decoder = nn.ModuleList(CrossLayer(params) for _ in range(params.depth))
        self.norms = nn.ModuleList([nn.LayerNorm(params.width), nn.LayerNorm(params.width)])
        self.dropouts = nn.ModuleList([layers.Dropout(params.dropout), layers.Dropout(params.dropout)])
        draw(self, params.depth)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Give the outputs."""
        source_BSH, seen_B11S = self._encoded(inputs[self.source], inputs[f"{self.source}_lengths"])
        h = self.dropouts[1](self.embedding(inputs[self.target]))
        for layer in self.decoder:
            h = layer(h, _cross(layer).attend_to(source_BSH), seen_B11S)
        return F.linear(self.norms[1](h), self.embedding.weight)

    def encode(self, ids: Tensor, lengths: Tensor) -> SourceCache:
        """Read sources, and give a cache for their targets, of which nothing has been read.

        Shapes:
            ids: (B, S), padding of any kind behind the tokens.
            lengths: (B,), of the sources.
        """
        source_BSH, seen_B11S = self._encoded(ids, lengths)
        return SourceCache([_cross(layer).attend_to(source_BSH) for layer in self.decoder], seen_B11S)

    def follow(self, ids: Tensor, lengths: Tensor, cache: SourceCache) -> Tensor:
        """Read more tokens of each target, and give the outputs at the last one; see `fmray.models.decoder.Decoder`.

        Shapes:
            ids: (B, N).
            lengths: (B,), new tokens of each row, at least 1.
            returns: (B, V).
        """
        h = self.dropouts[1](self.embedding(ids))
        pasts = cache.pasts(lengths, ids.shape[1])
        for layer, source, past in zip(self.decoder, cache.sources, pasts, strict=True):
            h = layer(h, source, cache.seen_B11S, past)
        last = h[torch.arange(len(h), device=h.device), lengths - 1]
        return F.linear(self.norms[1](last), self.embedding.weight)

    def _encoded(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Give what stands at each token of the source (B, S, H), and which places hold one."""
        seen_B11S = seen(ids, lengths)[:, None, None]
        h = self.dropouts[0](self.source_embedding(ids))
        for layer in self.encoder:
            h = layer(h, seen_B11S)
        return self.norms[0](h), seen_B11S


class CrossLayer(Layer):
    """Add self-attention, attention to the source, and hidden units, to what stands at each token (B, L, H).

    Args:
        params: Width, heads and dropout.
    """

    def __init__(self, params: declared.EncoderDecoder) -> None:
        super().__init__(params)
        width = params.width
        self.source_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.source = nn.Linear(width, 2 * width)
        self.source_output = nn.Linear(width, width)
        self.source_dropout = layers.Dropout(params.dropout)

    def attend_to(self, source_BSH: Tensor) -> Seen:
        """Give the keys and values of the source, (B, A, S, E) each."""
        keys, values = self.source(source_BSH).unflatten(-1, (2, self.heads, -1)).permute((2, 0, 3, 1, 4))
        return Seen(keys, values)

    def forward(  # type: ignore[override]  # it attends to a source besides
        self, h: Tensor, source: Seen, seen_B11S: Tensor, past: Past | None = None
    ) -> Tensor:
        """Give what stands at each token then.

        Args:
            source: As `attend_to` gives it.
            seen_B11S: Whether a place of the source is looked at, at least one of a row.
            past: What was read of the rows before; tokens go on where their rows ended.
        """
        h = h + self.dropouts[0](self.output(self._attention(self.norms[0](h), None, past)))
        query = self.query(self.source_norm(h)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, *source.pair, attn_mask=seen_B11S)
        h = h + self.source_dropout(self.source_output(found.transpose(1, 2).flatten(2)))
        added: Tensor = h + self.dropouts[1](self.shrink(F.gelu(self.grow(self.norms[1](h)))))
        return added


def _cross(layer: nn.Module) -> CrossLayer:
    """Give a layer of the decoder as what it is, which lists of modules do not say."""
    return cast(CrossLayer, layer)
