"""Describe columns: what they are called, what they hold, how wide they are.

A schema is data only; it travels in records and is equal wherever it is read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fmray.errors import SpecError

Kind = Literal[
    "number", "text", "words", "time", "one_hot", "hashed", "missing", "bytes", "pixels", "vector", "image", "tokens",
    "decoder_tokens", "bag", "pieces",
]  # fmt: skip
BlockKind = Literal["x", "tokens", "decoder_tokens", "bag", "pieces"]
DENSE = "x"
DECODED: Literal["decoder_tokens"] = "decoder_tokens"
RAGGED: dict[str, BlockKind] = {"tokens": "tokens", DECODED: DECODED, "bag": "bag", "pieces": "pieces"}
"""Kinds of columns whose rows differ in length; each is a block of its own, called like its kind or as a step says."""
PIXEL = 1 / 255
"""What one level of a pixel counts."""
TYPICAL_ENTRIES = 64
"""Entries of a ragged row that sizes of slices are worked out by."""
NULL_WORDS = ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", ".")
"""What people write where they have no value, in lower case: missing wherever text is read as numbers or dates."""


@dataclass(frozen=True)
class Column:
    """Describe one column, raw or prepared.

    Args:
        name: As in the data, or as the step that made it calls it.
        kind: What its values mean: "number" standardised or raw, "text" and "time" as read (a step must turn them into
            numbers), "words" a list of texts of any length (a step must turn it into tokens), "one_hot" indicators of
            `classes`, "hashed" buckets, "missing" a 0/1 flag, "bytes" 0-255 each, "pixels" the same, kept as bytes, of
            which models get the 255th part,
            "vector" a fixed-size list of numbers, "image" an encoded image of any length (a step must decode it),
            "tokens" a list of token ids of any length, "decoder_tokens" those of the text that is to be generated,
            "bag" a list of ids of any length with a weight each, "pieces" a list of word pieces as `fmray.pieces` lays
            them out.
        width: Number of floats per row; of tokens, bags and pieces, number of ids: all lie in [0, width).
        classes: Level per float of a one-hot column, in order; the last may be "<other>".
        block: Model input that holds it; "x" holds all dense columns side by side.
    """

    name: str
    kind: Kind
    width: int = 1
    classes: tuple[str, ...] = ()
    block: str = DENSE


@dataclass(frozen=True)
class Block:
    """Describe one model input.

    Args:
        name: By which `forward` takes it.
        kind: "x" dense floats (B, D); "tokens" padded ids (B, L) beside `<name>_lengths` (B,); "decoder_tokens" the
            same, at each token of the target the one before it; "bag" the same as tokens with `<name>_weights` (B, L);
            "pieces" entries of word pieces (B, P) beside `<name>_first` (B, L), the place of each word's first piece,
            and `<name>_lengths` (B,), which counts words.
        width: Number of floats per row (D), or number of ids.
        columns: Names of the columns that it holds.
    """

    name: str
    kind: BlockKind
    width: int
    columns: tuple[str, ...]

    @property
    def is_ragged(self) -> bool:
        """Whether rows differ in length."""
        return self.kind != DENSE

    @property
    def lane_columns(self) -> tuple[str, ...]:
        """Columns of the lanes that hold the block."""
        return (self.name, f"{self.name}_weights") if self.kind == "bag" else (self.name,)


@dataclass(frozen=True)
class Schema:
    """Describe the model's input blocks: the columns of `x` side by side, in order, and a block per ragged column."""

    columns: tuple[Column, ...]

    @property
    def dense(self) -> tuple[Column, ...]:
        """Columns of the block `x`."""
        return tuple(column for column in self.columns if column.block == DENSE)

    @property
    def width(self) -> int:
        """Number of floats per row of the block `x`."""
        return sum(column.width for column in self.dense)

    @property
    def keeps_bytes(self) -> bool:
        """Whether the block `x` is kept as bytes: every dense column holds pixels."""
        return bool(self.dense) and all(column.kind == "pixels" for column in self.dense)

    @property
    def dense_bytes(self) -> int:
        """Bytes of a row of the block `x`."""
        return self.width if self.keeps_bytes else 4 * self.width

    @property
    def blocks(self) -> dict[str, Block]:
        """Give each model input by its name; `x` comes first, and tokens of the target before other ragged ones.

        Raises:
            SpecError: If two ragged columns are in one block.
        """
        found: dict[str, Block] = {}
        if dense := self.dense:
            found[DENSE] = Block(DENSE, "x", self.width, tuple(column.name for column in dense))
        for column in sorted(self.columns, key=lambda column: column.kind != DECODED):
            if column.block == DENSE:
                continue
            if column.block in found:
                both = f"'{found[column.block].columns[0]}' and '{column.name}'"
                raise SpecError(f"{both} are both in block '{column.block}'. Name a block for each.", "steps")
            found[column.block] = Block(column.block, RAGGED[column.kind], column.width, (column.name,))
        return found

    @property
    def lane_columns(self) -> list[str]:
        """Columns of the lanes that hold the inputs of a model."""
        return [name for block in self.blocks.values() for name in block.lane_columns]

    @property
    def typical_bytes(self) -> int:
        """Bytes of a row, where a ragged one is of ordinary length; to work out how many rows to handle at a time."""
        ragged = [block for block in self.blocks.values() if block.is_ragged]
        return max(4, self.dense_bytes + sum(4 * TYPICAL_ENTRIES * len(block.lane_columns) for block in ragged))

    def decoding(self, column: str) -> "Schema":
        """Give the schema in which the tokens of a column are those of the text that is to be generated."""
        return Schema(
            tuple(replace(c, kind=DECODED) if c.name == column and c.kind == "tokens" else c for c in self.columns)
        )

    def feature_names(self) -> list[str]:
        """Name every float of the block `x`, e.g. `age`, `sex=Male`, `pixels[3]`."""
        names: list[str] = []
        for column in self.dense:
            if column.classes:
                names += [f"{column.name}={level}" for level in column.classes]
            elif column.width == 1:
                names.append(column.name)
            else:
                names += [f"{column.name}[{i}]" for i in range(column.width)]
        return names

    def to_json(self) -> list[dict[str, Any]]:
        """Give the columns as plain values."""
        return [_to_json(column) for column in self.columns]

    @classmethod
    def from_json(cls, columns: list[Mapping[str, Any]]) -> "Schema":
        """Read back what `to_json` gave."""
        return cls(tuple(_from_json(column) for column in columns))


def _to_json(column: Column) -> dict[str, Any]:
    values = asdict(column)
    if column.block == DENSE:  # records without other blocks read as they always did
        del values["block"]
    return values


def _from_json(column: Mapping[str, Any]) -> Column:
    block = column.get("block", DENSE)
    return Column(column["name"], column["kind"], column["width"], classes=tuple(column["classes"]), block=block)


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
