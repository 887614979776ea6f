"""Generate points by one stack of affine maps, and tell them from real ones by another.

Noise is a hash: of the row's inputs, and while training of a key that is another one at every step. So what a row gets
does not depend on the batch, on who trains beside it, or on how often a training was interrupted.
Shape legend: K members, B rows, D inputs, Z noise, T numbers of a point.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fmray.models import layers
from fmray.schema import Schema
from fmray.spec.components.models import GanPoints as Declared

_FACTORS = (-2048144789, -1028477387)  # odd; murmur3
_UNIT = -1640531527  # odd; Weyl


class GanPoints(nn.Module):
    """Hold a generator and a discriminator, for every member at once; both see the inputs.

    Args:
        schema, num_outputs: Fix D and T.
        params: Width and depth of both networks, and Z.

    Shapes:
        x: (B, D).
        keys: (B,), int32; what noise is drawn by while training.
        points: (B, T) shared by all members, or (K, B, T).
        returns: (K, B, T) points, or (K, B, 1) scores of `points`.
    """

    packable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, schema: Schema, num_outputs: int, params: Declared = Declared()) -> None:
        super().__init__()
        self.num_noise = params.noise
        self.generator = _network(schema.width + params.noise, num_outputs, params)
        self.discriminator = _network(schema.width + num_outputs, 1, params)

    def forward(self, x: Tensor, keys: Tensor | None = None, points: Tensor | None = None) -> Tensor:
        """Generate points, or score those that are given."""
        if points is None:
            made: Tensor = self.generator(torch.cat([x, noise_of(x, keys, self.num_noise)], 1))
            return made
        if points.dim() == 3:
            x = x.expand(len(points), -1, -1)
        score: Tensor = self.discriminator(torch.cat([x, points], -1))
        return score


def noise_of(x: Tensor, keys: Tensor | None, num: int) -> Tensor:
    """Draw numbers for rows, uniform in [-1, 1), by hashing their inputs and keys.

    Shapes:
        x: (B, D), float32.
        keys: (B,), int32.
        returns: (B, num).
    """
    hashed = torch.zeros(len(x), dtype=torch.int32, device=x.device) if keys is None else keys.clone()
    for column in x.float().contiguous().view(torch.int32).unbind(1):
        hashed = _mixed(hashed ^ column)
    places = torch.arange(1, num + 1, dtype=torch.int32, device=x.device) * _UNIT
    return _mixed(hashed[:, None] ^ places) * 2.0**-31


def _mixed(x: Tensor) -> Tensor:
    for shift, factor in zip((16, 13), _FACTORS, strict=True):
        x = (x ^ (x >> shift).bitwise_and_((1 << (32 - shift)) - 1)) * factor
    return x ^ (x >> 16).bitwise_and_((1 << 16) - 1)


def _network(num_inputs: int, num_outputs: int, params: Declared) -> nn.Sequential:
    stack: list[nn.Module] = []
    width = num_inputs
    for _ in range(params.depth):
        stack += [layers.Linear(width, params.width), nn.SiLU()]
        width = params.width
    return nn.Sequential(*stack, layers.Linear(width, num_outputs))
