"""The decoder and the encoder written out in plain torch, one text at a time, from their tensors by name."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


def logits(tensors: Mapping[str, Tensor], ids: Tensor, heads: int) -> Tensor:
    """Give an output per id for each token (L, V) of one text (L,), in float64."""
    return hidden(tensors, ids, heads, causal=True) @ tensors["embedding.weight"].double().T


def hidden(tensors: Mapping[str, Tensor], ids: Tensor, heads: int, *, causal: bool) -> Tensor:
    """Give what stands at each token (L, H) of one text (L,) behind the last norm, in float64.

    Args:
        causal: A token sees itself and those before it, rather than all.
    """
    own = {name: tensor.double() for name, tensor in tensors.items()}

    def affine(name: str, x: Tensor) -> Tensor:
        return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

    def normal(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"])

    h = own["embedding.weight"][ids]
    for depth in range(sum(name.endswith("attend.weight") for name in own)):
        layer = f"layers.{depth}"
        query, key, value = affine(f"{layer}.attend", normal(f"{layer}.norms.0", h)).chunk(3, -1)
        seen = torch.cat(
            [_head(*(part.chunk(heads, -1)[head] for part in (query, key, value)), causal) for head in range(heads)],
            -1,
        )
        h = h + affine(f"{layer}.output", seen)
        h = h + affine(f"{layer}.shrink", F.gelu(affine(f"{layer}.grow", normal(f"{layer}.norms.1", h))))
    return normal("norm", h)


def _head(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Average values of a head by how products of rotated queries and keys weigh the tokens that are seen."""
    scores = (_turned(query).conj() @ _turned(key).T).real / math.sqrt(query.shape[-1])
    ahead = torch.ones_like(scores).triu(1).bool() & causal
    return scores.masked_fill(ahead, -math.inf).softmax(-1) @ value


def _turned(x: Tensor) -> Tensor:
    """Turn pairs of numbers, as complex ones, by angles that grow with the place (L, E / 2)."""
    half = x.shape[-1] // 2
    angle = torch.arange(len(x))[:, None] / 10_000 ** (torch.arange(half) / half)
    return torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle).to(torch.complex128)
