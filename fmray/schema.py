"""Describe columns: what they are called, what they hold, how wide they are.

A schema is data only; it travels in records and is equal wherever it is read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fmray.errors import SpecError

Kind = Literal["number", "text", "time", "one_hot", "hashed", "missing", "bytes", "vector", "image"]


@dataclass(frozen=True)
class Column:
    """Describe one column, raw or prepared.

    Args:
        name: As in the data, or as the step that made it calls it.
        kind: What its values mean: "number" standardised or raw, "text" and "time" as read (a step must turn them into
            numbers), "one_hot" indicators of `classes`, "hashed" buckets, "missing" a 0/1 flag, "bytes" 0-255 each,
            "vector" a fixed-size list of numbers, "image" an encoded image of any length (a step must decode it).
        width: Number of floats per row.
        classes: Level per float of a one-hot column, in order; the last may be "<other>".
    """

    name: str
    kind: Kind
    width: int = 1
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """Describe the model's input block `x`: columns side by side, in order."""

    columns: tuple[Column, ...]

    @property
    def width(self) -> int:
        """Number of floats per row over all columns."""
        return sum(column.width for column in self.columns)

    def feature_names(self) -> list[str]:
        """Name every float of the block, e.g. `age`, `sex=Male`, `pixels[3]`."""
        names: list[str] = []
        for column in self.columns:
            if column.classes:
                names += [f"{column.name}={level}" for level in column.classes]
            elif column.width == 1:
                names.append(column.name)
            else:
                names += [f"{column.name}[{i}]" for i in range(column.width)]
        return names

    def to_json(self) -> list[dict[str, Any]]:
        """Give the columns as plain values."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_json(cls, columns: list[Mapping[str, Any]]) -> "Schema":
        """Read back what `to_json` gave."""
        return cls(tuple(Column(c["name"], c["kind"], c["width"], tuple(c["classes"])) for c in columns))


def image_shape(image: Sequence[int] | None, width: int, where: str) -> tuple[int, int, int]:
    """Read the block `x` as an image: the shape given, or else a square of 1 or 3 channels.

    Args:
        image: Channels, height, width of the flattened pixels, channel by channel; None infers them.
        width: Floats per row.
        where: Key that an error names.

    Raises:
        SpecError: If the shape is none, or does not hold as many pixels as a row has floats.
    """
    if image is None:
        for channels in (1, 3):
            side = math.isqrt(width // channels)
            if side and channels * side * side == width:
                return channels, side, side
        raise SpecError(
            f"{width} inputs are no square image of 1 or 3 channels. Give [channels, height, width].", where
        )
    if len(image) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in image):
        raise SpecError(f"{list(image)!r}. Accepted: [channels, height, width], whole numbers from 1.", where)
    if math.prod(image) != width:
        given = f"{list(image)!r} has {math.prod(image)} pixels, the prepared rows have {width} inputs"
        raise SpecError(f"{given}. Give the shape of the images, and drop other columns.", where)
    channels, height, side = image
    return channels, height, side
