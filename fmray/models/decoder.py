"""Predict the next token by a causal Transformer.

Shape legend: B rows, L tokens of the longest row, V ids, H numbers per token, A heads.
"""

import math
import warnings
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmray.errors import SpecError
from fmray.models import layers
from fmray.models.cache import Cache, Past
from fmray.models.tagger import token_blocks
from fmray.schema import Schema
from fmray.spec.components import models as declared

# Members of a pack attend one after the other on CPUs, which is as fast as together: nobody needs to hear of it.
warnings.filterwarnings("ignore", "There is a performance drop .*_scaled_dot_product", UserWarning)
SPREAD = 0.02
ROTARY_BASE = 10_000.0


class Decoder(nn.Module):
    """Map each token and those before it to an output per id: layers of causal self-attention and hidden units.

    Layers normalise what they read and add to it. Places are told by rotation, so texts may be of any length; the
    outputs are products with the embeddings of the ids.

    Args:
        schema, num_outputs: Fix V, which must be the number of ids.
        params: As `fmray.spec.components.models.Decoder` declares them.

    Raises:
        SpecError: If what is predicted is no id.

    Shapes:
        inputs: ids (B, L) of one block of tokens.
        returns: (B, L, V).

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017; Xiong et al., "On Layer Normalization in the
    Transformer Architecture", ICML 2020 (pre-norm); Su et al., "RoFormer", 2021 (rotation).
    """

    reads: ClassVar[tuple[str, ...]] = declared.Decoder.reads
    needs: ClassVar[tuple[str, ...]] = declared.Decoder.needs

    def __init__(self, schema: Schema, num_outputs: int, params: declared.Decoder = declared.Decoder()) -> None:
        super().__init__()
        self.block = token_blocks(schema)[0]
        if num_outputs != schema.blocks[self.block].width:
            ids = schema.blocks[self.block].width
            text = f"decoder gives an output for each of {ids} ids, and {num_outputs} are asked for. Take tagger."
            raise SpecError(text, "model")
        self.embedding = nn.Embedding(num_outputs, params.width)
        self.layers = nn.ModuleList(Layer(params) for _ in range(params.depth))
        self.norm = nn.LayerNorm(params.width)
        self.dropout = layers.Dropout(params.dropout)
        draw(self, params.depth)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Give the outputs."""
        h = self.dropout(self.embedding(inputs[self.block]))
        for layer in self.layers:
            h = layer(h)
        return F.linear(self.norm(h), self.embedding.weight)

    def new_cache(self, num_rows: int) -> Cache:
        """Give a cache for rows of which nothing has been read."""
        return Cache(len(self.layers), num_rows, self.embedding.weight.device)

    def follow(self, ids: Tensor, lengths: Tensor, cache: Cache) -> Tensor:
        """Read more tokens of each row, and give the outputs at the last one.

        Args:
            cache: What was read of the rows before; it takes up what is new.

        Shapes:
            ids: (B, N), tokens that go on where the row ended; behind its own ones a row has padding of any kind.
            lengths: (B,), new tokens of each row, at least 1.
            returns: (B, V).
        """
        h = self.dropout(self.embedding(ids))
        for layer, past in zip(self.layers, cache.pasts(lengths, ids.shape[1]), strict=True):
            h = layer(h, past=past)
        last = h[torch.arange(len(h), device=h.device), lengths - 1]
        return F.linear(self.norm(last), self.embedding.weight)


class Layer(nn.Module):
    """Add self-attention, then hidden units, to what stands at each token (B, L, H).

    Args:
        params: Width, heads and dropout.
    """

    def __init__(self, params: declared.Decoder | declared.Encoder | declared.EncoderDecoder) -> None:
        super().__init__()
        width = params.width
        self.heads = params.heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attend = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.grow = nn.Linear(width, 4 * width)
        self.shrink = nn.Linear(4 * width, width)
        self.dropouts = nn.ModuleList([layers.Dropout(params.dropout), layers.Dropout(params.dropout)])

    def forward(self, h: Tensor, seen_B11L: Tensor | None = None, past: Past | None = None) -> Tensor:
        """Give what stands at each token then.

        Args:
            seen_B11L: Whether every token sees this one, at least one of a row; None lets each see those before it.
            past: What was read of the rows before; tokens go on where their rows ended.
        """
        h = h + self.dropouts[0](self.output(self._attention(self.norms[0](h), seen_B11L, past)))
        added: Tensor = h + self.dropouts[1](self.shrink(F.gelu(self.grow(self.norms[1](h)))))
        return added

    def _attention(self, h: Tensor, seen_B11L: Tensor | None, past: Past | None) -> Tensor:
        query, key, value = self.attend(h).unflatten(-1, (3, self.heads, -1)).permute((2, 0, 3, 1, 4))
        if past is not None:
            found = past.attend(rotated(query, past.places), rotated(key, past.places), value)
            return found.transpose(1, 2).flatten(2)
        # padding stands behind all tokens of a row: where nothing looks ahead, it needs no mask
        found = F.scaled_dot_product_attention(
            rotated(query), rotated(key), value, attn_mask=seen_B11L, is_causal=seen_B11L is None
        )
        return found.transpose(1, 2).flatten(2)


def draw(module: nn.Module, depth: int) -> None:
    """Draw the parameters of a Transformer anew: what is added to the sum of all layers the smaller, the more add.

    Args:
        depth: Number of layers.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """
    for name, parameter in module.named_parameters():
        if parameter.dim() == 2:
            deep = name.endswith(("output.weight", "shrink.weight"))
            nn.init.normal_(parameter, std=SPREAD / (math.sqrt(2 * depth) if deep else 1))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def rotated(x: Tensor, places: Tensor | None = None) -> Tensor:
    """Rotate pairs of numbers by angles that grow with the place, so that products tell how far apart places are.

    Shapes:
        x, returns: (B, A, L, E), E even.
        places: (B, L), of the tokens; counted from 0 by default.
    """
    half = x.shape[-1] // 2
    speeds = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    if places is None:
        angles = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * speeds
    else:
        angles = places[:, None, :, None].float() * speeds
    cos = angles.cos().to(x.dtype)
    sin = angles.sin().to(x.dtype)
    first = x[..., :half]
    second = x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
