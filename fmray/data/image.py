"""Turn encoded images into pixels.

Bytes that are no image never reach the step: whoever reads rows asks `is_image` first and sets the others aside.
"""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from fmray.data.step import Fitted, Partial, Remark, chosen, summed_up
from fmray.data.tabular import array_series
from fmray.errors import DataError
from fmray.records import Json
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared

if TYPE_CHECKING:  # imported by what decodes: few jobs read images
    from PIL import Image

FORMATS = ("PNG", "JPEG")


class DecodeImage:
    """Replace encoded PNG and JPEG images by their pixels: channel after channel, row after row, 0 to 255 each.

    Transparency is dropped, and 16-bit grey levels are cut to their upper 8 bits.

    Args:
        params: As `fmray.spec.components.steps.DecodeImage` declares them.
    """

    def __init__(self, params: declared.DecodeImage) -> None:
        self.columns = params.columns
        self.channels = params.channels
        self.size = (params.size[0], params.size[1])

    def fit(self, frame: pl.DataFrame, schema: Schema) -> Partial:
        """Check the columns; nothing is learned."""
        self._names(schema)

    def merge(self, one: Partial, other: Partial) -> Partial:
        """Give nothing; nothing is learned."""

    def learn(self, partial: Partial, schema: Schema) -> Fitted:
        """Say how wide the images are."""
        names = self._names(schema)
        width = self.channels * self.size[0] * self.size[1]
        columns = (Column(c.name, "bytes", width) if c.name in names else c for c in schema.columns)
        height, length = self.size
        what = (
            f"to {height} x {length} pixels of {'grey' if self.channels == 1 else 'red, green and blue'}, 8 bits each"
        )
        text = f"decode_image brings {{columns}} {what}: transparency and finer levels are left out"
        notes = [Remark(name, text.replace("{columns}", f"'{name}'"), text) for name in names]
        return Fitted({"columns": names}, Schema(tuple(columns)), summed_up(notes))

    def apply(self, frame: pl.DataFrame, state: Json) -> pl.DataFrame:
        """Decode.

        Raises:
            DataError: If bytes are no image.
        """
        return frame.with_columns(array_series(name, self._pixels(frame[name])) for name in state["columns"])

    def _names(self, schema: Schema) -> list[str]:
        return [column.name for column in chosen(self.columns, schema, ("image",), "decode_image")]

    def _pixels(self, values: pl.Series) -> np.ndarray:
        """Decode the images of a column (num_rows, C * H * W), uint8."""
        made = np.empty((len(values), self.channels, *self.size), np.uint8)
        for row, value in enumerate(values):
            try:
                image = _opened(value)
            except ValueError as error:
                text = f"column '{values.name}', row {row} of {len(values)}: {error}"
                raise DataError(f"{text}. Accepted: {', '.join(FORMATS)}.", "steps.decode_image") from error
            made[row] = self._fitted(image)
        return made.reshape(len(values), self.channels * self.size[0] * self.size[1])

    def _fitted(self, image: "Image.Image") -> np.ndarray:
        """Bring an image to the channels and the size asked for (C, H, W)."""
        from PIL import Image

        if image.mode.startswith("I"):  # converted as they are, 16-bit levels would all be cut off at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("L" if self.channels == 1 else "RGB")
        if image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(*self.size, self.channels).transpose(2, 0, 1)


def is_image(value: bytes | None) -> bool:
    """Tell whether bytes are an image that can be decoded to its last pixel."""
    try:
        _opened(value)
    except ValueError:
        return False
    return True


def _opened(value: bytes | None) -> "Image.Image":
    """Decode an image.

    Raises:
        ValueError: If it cannot be done; the message says why.
    """
    from PIL import Image

    if not value:
        raise ValueError("no bytes")
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(value), formats=FORMATS)
            image.load()
    except Exception as error:  # damaged files raise errors of many kinds, struct.error and SyntaxError among them
        raise ValueError(f"{len(value)} bytes are no image: {type(error).__name__}") from error
    return image
