"""Declare the parameters of steps, those that prepare rows and those that change them while training."""

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fmray.spec.components.base import Columns, Flag, Image, Params, Real, Share, Text, Whole, conflict

Form = Literal[
    "auto",
    "decimal_point",
    "decimal_comma",
    "year_month_day",
    "day_month_year",
    "month_day_year",
    "day_name_year",
    "name_day_year",
    "day_month_yy",
    "month_day_yy",
]
Part = Literal["year", "month", "day", "weekday", "hour", "minute"]
ALL_NUMBERS = "Numbers; all of them by default."
ALL_TEXT = "Text or numbers; all text by default."
TEXTS = "Text; with several columns, each becomes a block of its own."
BLOCK = "Model input that holds it, by default {}; of several columns, _ and the column's name follow."
WordPart = Annotated[Text, Field(pattern=r"^(pieces|whole|shape|(prefix|suffix)[1-9])$")]
RESERVED = ("x", "target", "weight", "group", "row", "rows", "position", "partner")
AN_IMAGE = "Channels, height and width of a row; by default a square of 1 or 3 channels."


def _refuse_block(block: str | None) -> None:
    """Refuse a block that cannot be called so: models take it by its name."""
    if block is not None and (not re.fullmatch("[a-z][a-z0-9]*", block) or block in RESERVED):
        text = f"{block!r}. Accepted: small letters and digits, a letter first, and not {', '.join(RESERVED)}."
        raise conflict("block", text)


class Auto(Params):
    """Standardise numbers, encode levels and times, leave out what cannot help."""

    keep: Columns = Field((), description="Columns that are used even if they look like row ids, or are free text.")


class Clip(Params):
    """Clip numbers at given bounds, or at quantiles of training rows."""

    columns: Columns | None = Field(None, description=ALL_NUMBERS)
    low: Real | None = Field(None, description="Lower bound.")
    high: Real | None = Field(None, description="Upper bound.")
    quantile: Annotated[Real, Field(gt=0.5, lt=1)] | None = Field(
        None, description="Upper share, e.g. 0.999; the lower bound is at 1 - quantile."
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if (self.quantile is None) == (self.low is None and self.high is None):
            text = f"low {self.low}, high {self.high}, quantile {self.quantile}. Give bounds or a quantile."
            raise conflict("", text)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise conflict("", f"low {self.low:g} is above high {self.high:g}. Give the lower bound first.")
        return self


class Copy(Params):
    """Repeat a column under another name, so that steps can read it in several ways."""

    columns: Text = Field(description="A column of any kind.")
    name: Text = Field(description="What its copy is called.")


class DateParts(Params):
    """Turn times into numbers."""

    columns: Columns | None = Field(None, description="Times; all of them by default.")
    parts: Annotated[Sequence[Part], Field(min_length=1)] = Field(
        ("year", "month", "weekday", "hour"), description="Parts of a time that become columns; Monday is weekday 1."
    )
    cyclic: Flag = Field(True, description="Encode periodic parts as sine and cosine, so December is next to January.")


class DecodeImage(Params):
    """Replace encoded PNG and JPEG images by their pixels."""

    columns: Columns = Field(description="Binary columns, a whole file in each value.")
    size: Annotated[Sequence[Annotated[Whole, Field(ge=1)]], Field(min_length=2, max_length=2)] = Field(
        description="Height and width; images of another size are resized, bilinearly."
    )
    channels: Literal[1, 3] = Field(3, description="1 for grey levels, 3 for red, green and blue.")


class Drop(Params):
    """Leave columns out."""

    columns: Columns = Field(description="Columns of any kind.")


class Embed(Params):
    """Turn text into numbers by a pretrained encoder that is not trained any further."""

    keeps_weights: ClassVar[bool] = True

    columns: Columns = Field(description="Text; each column becomes numbers of its own.")
    folder: Text = Field(
        description="Holds config.json, tokenizer.json and model.safetensors; or package:NAME for the model inside an "
        "installed package; or the name of a model in the local cache of the hub."
    )
    content: Text | None = Field(None, description="SHA-256 of these files; fmray says it when a run begins.")
    pool: Literal["mean", "first"] = Field(
        "mean", description="What a text becomes: the mean of its tokens' vectors, or the first token's."
    )
    max_tokens: Annotated[Whole, Field(ge=3)] = Field(
        256, description="Tokens of a text that are read, special ones included."
    )


class Hashing(Params):
    """Hash each level into one of `buckets` indicators."""

    columns: Columns | None = Field(None, description=ALL_TEXT)
    buckets: Annotated[Whole, Field(ge=1)] = Field(256, description="Number of buckets; missing values are in none.")


class Impute(Params):
    """Fill missing values with what training rows suggest."""

    columns: Columns | None = Field(
        None,
        description="By default all numbers for mean, median and a number as constant; all text for a text as "
        "constant; both for most_frequent.",
    )
    by: Literal["mean", "median", "most_frequent", "constant"] = Field("mean", description="What fills the gap.")
    value: Real | Text | None = Field(None, description="The constant; goes with by: constant.")
    flag: Flag = Field(False, description="Add a 0/1 column `<name>_missing` for each.")

    @model_validator(mode="after")
    def _constant(self) -> Self:
        if (self.value is None) == (self.by == "constant"):
            text = f"by '{self.by}' with value {self.value!r}. A value goes with by: constant, and only there."
            raise conflict("", text)
        return self


class MinMax(Params):
    """Scale numbers to [0, 1] by the range of training rows; values outside are clipped."""

    columns: Columns | None = Field(None, description=ALL_NUMBERS)


class OneHot(Params):
    """Give each level of a column an indicator of its own, in order of value."""

    columns: Columns | None = Field(None, description=ALL_TEXT)
    max_levels: Annotated[Whole, Field(ge=1)] = Field(100, description="Levels kept, the most frequent ones.")
    other: Flag = Field(True, description="Let the rest, and unseen levels, share one indicator.")


class Parse(Params):
    """Read text columns as numbers or dates; a value that does not follow the form is missing."""

    columns: Columns = Field(description="Text.")
    form: Form = Field(
        "auto",
        description="How values are written: decimal_point (1,234.5), decimal_comma (1.234,5), year_month_day "
        "(2024-01-31), day_month_year (31.01.2024), month_day_year (01/31/2024), day_name_year (31 Jan 2024), "
        "name_day_year (Jan 31, 2024), day_month_yy (31/01/24) or month_day_yy (01/31/24), with years from 1969 to "
        "2068; auto takes the first of them by which most training values can be read.",
    )


class Quantile(Params):
    """Replace numbers by their rank among training rows."""

    columns: Columns | None = Field(None, description=ALL_NUMBERS)
    levels: Annotated[Whole, Field(ge=2)] = Field(100, description="Quantiles kept; values between are interpolated.")
    to: Literal["uniform", "normal"] = Field(
        "uniform", description="Distribution of the ranks; normal is cut off at 5.2 standard deviations."
    )


class RobustScale(Params):
    """Subtract the median and divide by the distance between two quantiles."""

    columns: Columns | None = Field(None, description=ALL_NUMBERS)
    low: Share = Field(0.25, description="Share of rows below the lower quantile.")
    high: Share = Field(0.75, description="Share of rows below the upper quantile.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise conflict("", f"low {self.low:g} and high {self.high:g}. Give 0 <= low < high <= 1.")
        return self


class Standardise(Params):
    """Scale columns to mean 0 and standard deviation 1; lists and bytes element by element."""

    columns: Columns | None = Field(None, description="Numbers, lists or bytes; all of them by default.")


class Tfidf(Params):
    """Turn text into a bag of hashed word or character n-grams, weighted by how rare each is in training rows."""

    makes: ClassVar[str] = "bag"

    columns: Columns = Field(description=TEXTS)
    of: Literal["words", "characters"] = Field("words", description="What n-grams are made of.")
    shortest: Annotated[Whole, Field(ge=1)] = Field(1, description="Least n of the n-grams.")
    longest: Annotated[Whole, Field(ge=1, le=8)] = Field(2, description="Largest n of the n-grams.")
    buckets: Annotated[Whole, Field(ge=2, le=1 << 24)] = Field(
        1 << 16, description="Ids that n-grams are hashed into; those of one id count as one."
    )
    marks: Flag = Field(False, description="Count each sign that is neither letter, digit nor space as a word.")
    lowercase: Flag = Field(True, description="Read capital letters as small ones.")
    sublinear: Flag = Field(True, description="Count an n-gram that a row has n times as 1 + log n.")
    block: Text | None = Field(None, description=BLOCK.format("bag"))

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _refuse_block(self.block)
        if self.marks and self.of == "characters":
            raise conflict("marks", "has no effect with of: characters, which are all counted. It goes with words.")
        if self.shortest > self.longest:
            raise conflict("", f"shortest {self.shortest} and longest {self.longest}. Give shortest <= longest.")
        return self


BYTE_IDS = 258
"""Ids of bytes, of padding and of what is unknown."""


class Tokenize(Params):
    """Turn text into token ids, by a vocabulary learned from training rows, or by that of a pretrained model."""

    makes: ClassVar[str] = "tokens"

    columns: Columns = Field(description=TEXTS)
    kind: Literal["words", "bpe", "byte_bpe", "characters", "bytes"] = Field(
        "bpe",
        description="words and marks; pieces of words, by byte-pair encoding; the same of bytes, as GPT-2, which lacks "
        "nothing and joins the spaces of an indent; characters; bytes.",
    )
    vocabulary: Annotated[Whole, Field(ge=3)] = Field(
        8000, description="Most ids, with 0 for padding and 1 for what is unknown; bytes have 258."
    )
    max_tokens: Annotated[Whole, Field(ge=1)] = Field(256, description="Tokens of a text that are kept, the first.")
    lowercase: Flag = Field(True, description="Read capital letters as small ones.")
    sample: Annotated[Whole, Field(ge=1)] = Field(
        50_000, description="Different training texts that the vocabulary is learned from; a hash chooses them."
    )
    pretrained: Text | None = Field(
        None,
        description="Folder of a run, whose vocabulary is taken; or with the tokenizer.json of a pretrained model, "
        "named as for model hf: ids are its own, special tokens included, which max_tokens counts and never cuts.",
    )
    content: Text | None = Field(None, description="SHA-256 of that file; fmray says it when a run begins.")
    block: Text | None = Field(None, description=BLOCK.format("tokens"))

    @model_validator(mode="after")
    def _named(self) -> Self:
        _refuse_block(self.block)
        if self.pretrained is not None:
            for name in ("kind", "vocabulary", "lowercase"):
                if name in self.model_fields_set:
                    raise conflict(name, "has no effect beside pretrained, whose tokenizer says it. Leave it out.")
        if self.kind == "byte_bpe" and self.vocabulary < BYTE_IDS:
            raise conflict("vocabulary", f"{self.vocabulary} is less than the {BYTE_IDS} ids of bytes. Give more.")
        return self


class TokenizeWords(Params):
    """Turn lists of words, or the words of texts, into token ids, one per word, by what training rows hold."""

    makes: ClassVar[str] = "tokens"

    columns: Columns = Field(
        description="Lists of words, or text, whose words are runs of letters, runs of digits and other single signs; "
        "with several columns, each becomes blocks of its own."
    )
    parts: Annotated[Sequence[WordPart], Field(min_length=1)] = Field(
        ("whole",),
        description="Of a word, each a block of its own: whole, shape (Xx of Paris), prefixN and suffixN of N letters; "
        "and pieces, those of `pretrained`.",
    )
    pretrained: Text | None = Field(
        None,
        description="Folder with the tokenizer.json of a pretrained model, named as for model hf; goes with pieces.",
    )
    max_tokens: Annotated[Whole, Field(ge=1)] = Field(
        256,
        description="Pieces that are read together, special tokens included; a row that has more is read in windows, "
        "which end between words. Goes with pieces.",
    )
    content: Text | None = Field(None, description="SHA-256 of that file; fmray says it when a run begins.")
    vocabulary: Annotated[Whole, Field(ge=3)] = Field(
        20_000, description="Most ids of a part, with 0 for padding and 1 for what is unknown."
    )
    min_count: Annotated[Whole, Field(ge=1)] = Field(
        2, description="Times that training rows must hold a part for it to have an id of its own."
    )
    lowercase: Flag = Field(True, description="Read capital letters as small ones, but in shapes.")
    beside: Columns = Field(
        (), description="Text, or lists of words, whose value in a row, as a whole, is one more id of each word there."
    )
    block: Text | None = Field(None, description=BLOCK.format("tokens"))

    @model_validator(mode="after")
    def _named(self) -> Self:
        _refuse_block(self.block)
        if len(set(self.parts)) < len(self.parts):
            raise conflict("parts", f"{list(self.parts)} names a part twice. Name each once.")
        if (self.pretrained is None) == ("pieces" in self.parts):
            text = f"{list(self.parts)} with pretrained {self.pretrained!r}. Pieces go with pretrained: FOLDER."
            raise conflict("parts", text)
        if self.pretrained is None and "max_tokens" in self.model_fields_set:
            raise conflict("max_tokens", "has no effect without pieces. Leave it out.")
        columns, beside = (
            (names,) if isinstance(names, str) else tuple(names) for names in (self.columns, self.beside)
        )
        if beside and len(columns) > 1:
            text = f"{list(beside)} stands beside the words of one column, and {list(columns)} are given. Name one."
            raise conflict("beside", text)
        if both := [name for name in beside if name in columns]:
            raise conflict("beside", f"'{both[0]}' is split into words as well. Name another column.")
        return self


class Crop(Params):
    """Crop images of the same size out of images padded on every side, while training."""

    padding: Annotated[Whole, Field(ge=1)] = Field(4, description="Pixels added on every side.")
    fill: Literal["zero", "mirror"] = Field("zero", description="What the padding holds.")
    image: Image | None = Field(None, description=AN_IMAGE)


class FeatureDropout(Params):
    """Set columns of a row to 0 while training."""

    rate: Annotated[Real, Field(ge=0, lt=1)] = Field(0.1, description="Share of columns that a row loses.")


class Flip(Params):
    """Mirror images left to right while training."""

    probability: Share = Field(0.5, description="Share of rows mirrored.")
    image: Image | None = Field(None, description=AN_IMAGE)


class Mixup(Params):
    """Mix rows and losses with those of a partner row while training."""

    alpha: Annotated[Real, Field(gt=0)] = Field(0.2, description="Shares are Beta(alpha, alpha); 1 is uniform.")


class Noise(Params):
    """Add Gaussian noise while training."""

    scale: Annotated[Real, Field(gt=0)] = Field(0.1, description="Standard deviation, in units of prepared columns.")
    columns: Columns | None = Field(None, description="Numbers, lists or bytes; all of them by default.")


class Shift(Params):
    """Move images by some pixels along each axis while training; what comes in from outside is 0."""

    pixels: Annotated[Whole, Field(ge=1)] = Field(2, description="Farthest move along each axis.")
    image: Image | None = Field(None, description=AN_IMAGE)
