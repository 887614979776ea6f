"""Change training rows anew in every epoch: noise, missing values, moved images, mixtures.

A change is a pure function of seed, epoch, the step's place and the row's id: a row becomes the same alone, in any
batch and order, on any number of workers, and after a resume. Draws are hashes, so no generator has a state to keep.
Shape legend: B rows, D inputs, U units drawn for, C channels, H and W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fmray.catalogue import LIVE
from fmray.data.step import chosen, refuse_below
from fmray.errors import FmrayError, SpecError
from fmray.schema import Kind, Schema, image_shape
from fmray.seeding import derive
from fmray.spec.components import steps as declared
from fmray.spec.ref import Ref
from fmray.tasks.task import Batch

GOLDEN, MIX_1, MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # of splitmix64, as int64
NOISY: tuple[Kind, ...] = ("number", "vector", "bytes", "pixels")
WHOLE: tuple[Kind, ...] = ("one_hot", "hashed")
CELLS = 1 << 16


class LiveStep(Protocol):
    """Change rows while training; built from the job file as `StepClass(schema, **params)`."""

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        """Give changed rows; each depends on its inputs and its key only.

        Shapes:
            x: (B, D), float32.
            keys: (B,), int64, as `row_keys` gives them.
            returns: (B, D).
        """
        ...


class Noise:
    """Add Gaussian noise.

    Args:
        schema: Of the prepared rows.
        params: As `fmray.spec.components.steps.Noise` declares them.

    Raises:
        SpecError: If a column is unknown or of another kind.
    """

    def __init__(self, schema: Schema, params: declared.Noise = declared.Noise()) -> None:
        names = {column.name for column in chosen(params.columns, schema, NOISY, "noise")}
        if not names:
            raise SpecError("no prepared column holds numbers, lists or bytes. Leave the step out.", "steps.noise")
        self.scale = params.scale
        self.places = torch.tensor([i for i, column in enumerate(_owners(schema)) if column in names])

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        """Add to each number."""
        noise = normals(keys, len(self.places)).mul_(self.scale)
        if noise.shape == x.shape:
            return x + noise
        self.places = self.places.to(x.device)
        return x.index_add(1, self.places, noise)


class FeatureDropout:
    """Set columns of a row to 0: a number or indicators as a whole, lists and bytes element by element.

    Args:
        schema: Of the prepared rows.
        params: As `fmray.spec.components.steps.FeatureDropout` declares them.
    """

    def __init__(self, schema: Schema, params: declared.FeatureDropout = declared.FeatureDropout()) -> None:
        self.rate = params.rate
        units = 0
        owners: list[int] = []
        for column in schema.dense:
            own = 1 if column.kind in WHOLE else column.width
            owners += [units] * column.width if own == 1 else range(units, units + own)
            units += own
        self.num_units = units
        self.units = torch.tensor(owners)

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        """Set some columns to 0."""
        lost = uniforms(keys, self.num_units) < self.rate
        if self.num_units != x.shape[1]:
            self.units = self.units.to(x.device)
            lost = lost.index_select(1, self.units)
        return x.masked_fill(lost, 0.0)


class Flip:
    """Mirror images left to right.

    Args:
        schema: Of the prepared rows.
        params: As `fmray.spec.components.steps.Flip` declares them.

    Raises:
        SpecError: If rows are no images of this shape.
    """

    def __init__(self, schema: Schema, params: declared.Flip = declared.Flip()) -> None:
        self.probability = params.probability
        self.image_CHW = image_shape(params.image, schema.width, "steps.flip.image")

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        """Mirror some rows."""
        mirrored = x.view(-1, *self.image_CHW).flip(-1).view(x.shape)
        return torch.where(uniforms(keys, 1) < self.probability, mirrored, x)


class Shift:
    """Move images up to some pixels along each axis; what comes in from outside is 0.

    Args:
        schema: Of the prepared rows.
        params: As `fmray.spec.components.steps.Shift` declares them.

    Raises:
        SpecError: If an image has no pixel left, or rows are no images of this shape.
    """

    def __init__(self, schema: Schema, params: declared.Shift = declared.Shift()) -> None:
        self.image_CHW = image_shape(params.image, schema.width, "steps.shift.image")
        _refuse_far(params.pixels, self.image_CHW, "steps.shift.pixels")
        self.pixels = params.pixels

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        """Move every row."""
        x_BCHW = x.view(-1, *self.image_CHW)
        return _cut(F.pad(x_BCHW, [self.pixels] * 4), keys, self.image_CHW).view(x.shape)


class Crop:
    """Cut images of the same size out of larger ones, made by a border on every side.

    Args:
        schema: Of the prepared rows.
        params: As `fmray.spec.components.steps.Crop` declares them.

    Raises:
        SpecError: If an image has no pixel left, or rows are no images of this shape.

    Source: Lee et al., "Deeply-Supervised Nets", AISTATS 2015; He et al., CVPR 2016, section 4.2.
    """

    def __init__(self, schema: Schema, params: declared.Crop = declared.Crop()) -> None:
        self.image_CHW = image_shape(params.image, schema.width, "steps.crop.image")
        _refuse_far(params.padding, self.image_CHW, "steps.crop.padding")
        self.padding = params.padding
        self.mode = "reflect" if params.fill == "mirror" else "constant"

    def apply(self, x: Tensor, keys: Tensor) -> Tensor:
        """Cut out of every row."""
        larger = F.pad(x.view(-1, *self.image_CHW), [self.padding] * 4, mode=self.mode)
        return _cut(larger, keys, self.image_CHW).view(x.shape)


class Mixup:
    """Say how much of a row is its own where rows and losses are mixed with those of a partner row.

    Args:
        schema: Of the prepared rows.
        params: As `fmray.spec.components.steps.Mixup` declares them.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """

    def __init__(self, schema: Schema, params: declared.Mixup = declared.Mixup()) -> None:
        import scipy.special  # takes half a second, which predicting need not spend

        # interpolated quantiles: exact to one part in CELLS, and far cheaper than inverting the integral per row
        shares = np.linspace(0, 1, CELLS + 1)
        self.quantiles = torch.from_numpy(scipy.special.betaincinv(params.alpha, params.alpha, shares))

    def share(self, keys: Tensor) -> Tensor:
        """Give the share of each row that is its own.

        Shapes:
            keys: (B,), int64.
            returns: (B,), float32 in [0, 1].
        """
        self.quantiles = self.quantiles.to(keys.device)
        bits = _drawn(keys, 1)[:, 0]
        cell = _right(bits, 48)
        rest = _right(bits, 16).bitwise_and_((1 << 32) - 1).double() * 2.0**-32
        return torch.lerp(self.quantiles[cell], self.quantiles[cell + 1], rest).float()


def build_live(refs: Sequence[Ref], schema: Schema) -> tuple[LiveStep | Mixup, ...]:
    """Build the live steps of a job.

    Args:
        schema: Of the prepared rows.

    Raises:
        SpecError: If a step is unknown or refuses its parameters, or if there is more than one mixup.
    """
    steps: list[LiveStep | Mixup] = []
    _refuse_blocks(refs, schema)
    for ref in refs:
        try:
            steps.append(LIVE.build(ref.name, schema, params=ref.params))
        except FmrayError:
            raise
        except TypeError as error:
            raise SpecError(f"{error}. Given: {dict(ref.params)}.", f"steps.{ref.name}") from error
    if sum(isinstance(step, Mixup) for step in steps) > 1:
        raise SpecError(f"mixup stands more than once in {[ref.name for ref in refs]}. Leave one.", "steps")
    return tuple(steps)


def _refuse_blocks(refs: Sequence[Ref], schema: Schema) -> None:
    """Refuse live steps where there is nothing that they change, and a mix of rows that have more than numbers."""
    ragged = [name for name, block in schema.blocks.items() if block.is_ragged]
    for ref in refs if ragged else ():
        where = f"steps.{ref.name}"
        if not schema.dense:
            raise SpecError(f"{ref.name} changes x, and the prepared rows hold only {', '.join(ragged)}.", where)
        if ref.name == "mixup":
            raise SpecError(f"mixup mixes x alone, and the prepared rows hold {', '.join(ragged)} as well.", where)


class Live:
    """Change the rows of batches by all live steps of a job, in their order.

    Args:
        steps: As `build_live` gives them.
        seed: Of all of them.
    """

    def __init__(self, steps: Sequence[LiveStep | Mixup], seed: int) -> None:
        self.steps = tuple(steps)
        self.seed = seed

    def change(self, batch: Batch) -> Batch:
        """Give the batch as it is in its epoch; a mixing step changes rows and their partners up to there."""
        epoch = batch.epoch
        for place, step in enumerate(self.steps):
            if isinstance(step, Mixup):
                batch = self._mix(batch, step, epoch, place)
            else:
                batch = self._apply(batch, step, epoch, place)
        return batch

    def _apply(self, batch: Batch, step: LiveStep, epoch: int, place: int) -> Batch:
        partner = batch.partner
        if partner is not None and batch.own is None:
            partner = self._apply(partner, step, epoch, place)
        changed = step.apply(batch.inputs["x"], self._keys(batch, epoch, place))
        return replace(batch, inputs={**batch.inputs, "x": changed}, partner=partner)

    def _mix(self, batch: Batch, step: Mixup, epoch: int, place: int) -> Batch:
        own = step.share(self._keys(batch, epoch, place))
        others = batch.partner.inputs["x"] if batch.partner is not None else batch.inputs["x"]
        x = torch.lerp(others, batch.inputs["x"], own[:, None])
        return replace(batch, inputs={**batch.inputs, "x": x}, own=own)

    def _keys(self, batch: Batch, epoch: int, place: int) -> Tensor:
        ids = batch.ids if batch.ids is not None else torch.stack([batch.rows, batch.rows], 1)
        return row_keys(ids, self.seed, epoch, place)


def row_keys(row_ids: Tensor, seed: int, epoch: int, place: int) -> Tensor:
    """Give each row its key for one step in one epoch.

    Args:
        row_ids: Identities of rows, their bits read as int64.
        seed: Of all live steps of a training.
        epoch: Counted from 0.
        place: Of the step among the live steps.

    Shapes:
        row_ids: (B, 2), int64.
        returns: (B,), int64.
    """
    return keyed(row_ids, derive(seed, "live", epoch, place))


def keyed(row_ids: Tensor, salt: int | Tensor) -> Tensor:
    """Give each row 64 random bits that follow from its identity and a salt.

    Shapes:
        row_ids: (B, 2), int64; salt: a number, or (K, 1), int64.
        returns: (B,) or (K, B), int64.
    """
    return _mixed((_mixed(row_ids[:, 0] + salt) ^ row_ids[:, 1]) * GOLDEN + salt)


def uniforms(keys: Tensor, num_units: int) -> Tensor:
    """Draw numbers from [0, 1), as many per row as there are units.

    Shapes:
        keys: (B,), int64.
        returns: (B, U), float32.
    """
    return _right(_drawn(keys, num_units), 40).float().mul_(2.0**-24)


def normals(keys: Tensor, num_units: int) -> Tensor:
    """Draw standard normal numbers, as many per row as there are units.

    Shapes:
        keys: (B,), int64.
        returns: (B, U), float32.

    Source: Box and Muller, "A Note on the Generation of Random Normal Deviates", 1958.
    """
    bits = _drawn(keys, (num_units + 1) // 2)  # one draw of 64 bits serves two numbers
    radius = _right(bits, 40).float().add_(0.5).mul_(2.0**-24).log_().mul_(-2).sqrt_()
    angle = _right(bits, 16).bitwise_and_((1 << 24) - 1).float().mul_(2 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :num_units]


def _drawn(keys: Tensor, num_units: int) -> Tensor:
    """Hash each key with each unit's index.

    Shapes:
        keys: (B,), int64.
        returns: (B, U), int64.

    Source: Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (splitmix64).
    """
    steps = torch.arange(1, num_units + 1, device=keys.device).mul_(GOLDEN)
    return _mixed(keys[:, None] + steps)


def _mixed(bits: Tensor) -> Tensor:
    """Mix bits as splitmix64 ends, without a change of what is given; int64 wraps around."""
    bits = (bits ^ _right(bits, 30)).mul_(MIX_1)
    bits = bits.bitwise_xor_(_right(bits, 27)).mul_(MIX_2)
    return bits.bitwise_xor_(_right(bits, 31))


def _right(bits: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros; torch fills with the sign."""
    return (bits >> places).bitwise_and_((1 << (64 - places)) - 1)


def _owners(schema: Schema) -> list[str]:
    """Name the column of every float of the block."""
    return [column.name for column in schema.dense for _ in range(column.width)]


def _refuse_far(pixels: int, image_CHW: tuple[int, int, int], where: str) -> None:
    refuse_below(pixels, 1, where)
    if pixels >= (smaller := min(image_CHW[1:])):
        raise SpecError(f"{pixels} pixels move an image of {list(image_CHW)} out. Give less than {smaller}.", where)


def _cut(larger: Tensor, keys: Tensor, image_CHW: tuple[int, int, int]) -> Tensor:
    """Cut an image out of each larger one, at a place that its key draws.

    Shapes:
        larger: (B, C, H + 2n, W + 2n).
        returns: (B, C, H * W).
    """
    channels, height, width = image_CHW
    start = (uniforms(keys, 2) * (larger.shape[2] - height + 1)).long()
    rows = start[:, :1] + torch.arange(height, device=keys.device)
    columns = start[:, 1:] + torch.arange(width, device=keys.device)
    places = (rows[:, :, None] * larger.shape[3] + columns[:, None, :]).view(len(keys), 1, height * width)
    return larger.flatten(2).gather(2, places.expand(-1, channels, -1))
