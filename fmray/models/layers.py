"""Hold the layers that compute K members at once, or one member without the member axis.

The population drops the axis at K = 1, which spares the batched kernels: 1.3x at 256 rows. Every mask a member sees
depends on its own seed, the step, the layer and the row's place in the global batch, never on who trains beside it or
on which worker.
Shape legend: K members, B rows, D inputs, H outputs.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fmray.errors import TrainError

_ROW, _UNIT, _MIX_1, _MIX_2 = -1640531527, -2048144789, -2048144789, -1028477387  # odd; Weyl and murmur3 constants
_NARROW, _WIDE = 16, 64
"""Outputs of a member up to which, and of all members from which, members that share inputs are one matrix."""


class Linear(nn.Module):
    """Map inputs by K weight matrices at once.

    Shapes:
        x: (B, D) shared by all members, or (K, B, D).
        returns: (K, B, H).
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(max(num_inputs, 1))
        self.weight_KDH = nn.Parameter(torch.empty(1, num_inputs, num_outputs).uniform_(-bound, bound))
        self.bias_K1H = nn.Parameter(torch.empty(1, 1, num_outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Compute x W + b for every member."""
        weight = self.weight_KDH
        bias = self.bias_K1H
        if weight.dim() == 2:
            return torch.addmm(bias, x, weight)
        if x.dim() == 2 and weight.shape[2] <= _NARROW and len(weight) * weight.shape[2] >= _WIDE:
            return _side_by_side(x, weight, bias)
        return torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight)


def _side_by_side(x_BD: Tensor, weight_KDH: Tensor, bias_K1H: Tensor) -> Tensor:
    """Map inputs that all members share by one matrix, whose columns are the outputs of one member after the other.

    Many products with few columns each are slow: 32 members with 10 outputs took 2.6 times as long.

    Shapes:
        returns: (K, B, H).
    """
    num_members, num_inputs, num_outputs = weight_KDH.shape
    columns = weight_KDH.transpose(0, 1).reshape(num_inputs, num_members * num_outputs)
    output = torch.addmm(bias_K1H.reshape(-1), x_BD, columns)
    return output.view(len(x_BD), num_members, num_outputs).transpose(0, 1)


class EmbeddingBag(nn.Module):
    """Sum the embeddings of each row's ids, each times its weight.

    Padding has the weight 0, so how long it is changes nothing.

    Args:
        num_ids: Ids lie in [0, num_ids).
        width: Numbers per embedding (E).
        bound: Embeddings are initialised uniformly in [-bound, bound].

    Shapes:
        ids: (B, L), shared by all members.
        weights: (B, L).
        returns: (K, B, E).
    """

    def __init__(self, num_ids: int, width: int, bound: float) -> None:
        super().__init__()
        self.weight_KVE = nn.Parameter(torch.empty(1, num_ids, width).uniform_(-bound, bound))

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Give the sums for every member."""
        weight = self.weight_KVE
        if weight.dim() == 2:
            return F.embedding_bag(ids, weight, mode="sum", per_sample_weights=weights.to(weight.dtype))
        # members are one table, one behind the other, and each looks its ids up in its own part of it
        num_members, num_ids, width = weight.shape
        first = torch.arange(num_members, device=ids.device, dtype=ids.dtype)[:, None, None] * num_ids
        sums = F.embedding_bag(
            (ids + first).flatten(0, 1),
            weight.reshape(num_members * num_ids, width),
            mode="sum",
            per_sample_weights=weights.to(weight.dtype).expand(num_members, -1, -1).flatten(0, 1),
        )
        return sums.view(num_members, len(ids), width)


def mean_weights(ids: Tensor, lengths: Tensor) -> Tensor:
    """Give the weights (B, L) under which a sum over a row is the mean over its entries; of none, it is 0."""
    places = torch.arange(ids.shape[1], device=ids.device)
    return (places < lengths[:, None]) / lengths.clamp_min(1)[:, None].float()


class Embedding(nn.Module):
    """Give the embedding of each id.

    Args:
        num_ids: Ids lie in [0, num_ids).
        width: Numbers per embedding (E).
        bound: Embeddings are initialised uniformly in [-bound, bound].

    Shapes:
        ids: (B, L), shared by all members.
        returns: (K, B, L, E).
    """

    def __init__(self, num_ids: int, width: int, bound: float) -> None:
        super().__init__()
        self.weight_KVE = nn.Parameter(torch.empty(1, num_ids, width).uniform_(-bound, bound))

    def forward(self, ids: Tensor) -> Tensor:
        """Look the ids up in the table of every member."""
        weight = self.weight_KVE
        if weight.dim() == 2:
            return F.embedding(ids, weight)
        num_members, num_ids, width = weight.shape
        first = torch.arange(num_members, device=ids.device, dtype=ids.dtype)[:, None, None] * num_ids
        return F.embedding(ids + first, weight.reshape(num_members * num_ids, width))


class LayerNorm(nn.Module):
    """Normalise each row of each member over its units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight_K1H = nn.Parameter(torch.ones(1, 1, width))
        self.bias_K1H = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (K, B, H)."""
        normal = F.layer_norm(x, x.shape[-1:])
        return torch.addcmul(self.bias_K1H, normal, self.weight_K1H)


class Dropout(nn.Module):
    """Drop numbers by a stateless mask, with a rate per member.

    The mask is an integer hash of (row, position in the row) mixed with a key per member, layer and step. It takes
    (B, ...) of any shape, alone and under `vmap`, or (K, B, ...) where members have an axis of their own. Axes that
    were folded into rows, as in (B * T, H), count as positions of the row.

    Args:
        rate: Share of numbers dropped, in [0, 1).
    """

    rate_K11: Tensor  # noqa: N815  # a shape suffix

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer("rate_K11", torch.full((1, 1, 1), float(rate)))
        self.keys = torch.zeros(1, dtype=torch.int32)
        self.enabled = True
        self._row_axis = 0
        self._places: Tensor | None = None
        self._key: tuple[int, ...] = ()
        self._cells: dict[tuple[int, ...], Tensor] = {}

    def set_keys(self, keys: Tensor, places: Tensor, key: tuple[int, ...], row_axis: int = 1) -> None:
        """Fix the masks of the coming step.

        Args:
            keys: One int32 per member, fresh for each (member seed, step, layer).
            places: Places in the global batch of the rows to come (B,), int32.
            key: Equal for equal places, so that what depends on them alone is worked out once.
            row_axis: Axis of the rows to come: 1 behind an axis of members, else 0.
        """
        self.keys = keys
        self._row_axis = row_axis
        self._places = places
        self._key = key

    def forward(self, x: Tensor) -> Tensor:
        """Drop and rescale numbers of (B, ...) or (K, B, ...) while training.

        Raises:
            TrainError: If the row axis has not the rows of the batch.
        """
        if not (self.training and self.enabled):
            return x
        by_member = (-1, *(1,) * (x.dim() - 1))  # without an axis of members there is one
        rate = self.rate_K11.reshape(by_member)
        hashed = self._cell_hash(x) ^ self.keys.reshape(by_member)
        hashed.mul_(_MIX_1).bitwise_xor_(_shift(hashed, 15)).mul_(_MIX_2)  # the upper bits decide, and are mixed now
        last_dropped = (rate.double() * 2**31 - 2**30).to(torch.int32) - 1
        hashed.bitwise_right_shift_(1)
        # `vmap`, under which a member sees a key without axes, knows no `out`
        below = torch.sub(last_dropped, hashed, out=hashed) if self.keys.dim() else last_dropped - hashed
        # all bits are set where a unit is kept, else none; to compare would cost three times as much
        kept = below.bitwise_right_shift_(31)
        mask = kept.bitwise_and_((1 / (1 - rate)).view(torch.int32)).view(torch.float32)
        return (x * mask).to(x.dtype)

    def _cell_hash(self, x: Tensor) -> Tensor:
        """Hash (row, position) of rows of one member, whatever its key."""
        shape = x.shape[self._row_axis :]
        known = (*self._key, *shape)
        if known in self._cells:
            return self._cells[known]
        # outside of a population nobody gives places: then the batch is the global batch
        places = torch.arange(shape[0], dtype=torch.int32) if self._places is None else self._places
        if not len(places) or shape[0] % len(places):
            text = (
                f"Dropout was given {tuple(shape)} for {len(places)} rows. Give tensors whose first axis is the rows."
            )
            raise TrainError(text, "model")
        row = places.to(x.device)[:, None]
        positions = torch.arange(shape.numel() // len(places), dtype=torch.int32, device=x.device)
        cell = (row * _ROW) ^ (positions * _UNIT)
        for shift in (16, 13):
            cell = (cell ^ _shift(cell, shift)) * _MIX_2
        cell = cell.view(shape)
        if len(shape) == 2:  # larger ones would fill the memory
            if len(self._cells) > 8:
                self._cells.clear()
            self._cells[known] = cell
        return cell


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch fills with the sign, which would leave one half of all numbers unused."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)
