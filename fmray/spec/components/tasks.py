"""Declare the parameters of tasks."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fmray.spec.components.base import Params, Real, Text, Whole, conflict

Smoothing = Annotated[Real, Field(ge=0, lt=1)]
Weight = Annotated[Real, Field(gt=0)]
Threshold = Annotated[Real, Field(gt=0, lt=1)]
Corner = Annotated[Real, Field(gt=0)]
LOSS = "What training minimises."
SMOOTHING = "Share of the target spread over all classes; goes with cross_entropy."
WEIGHTS = "Weight of each class in the loss; balanced weighs classes by the inverse of their frequency."
THRESHOLDS = (
    "Probability above which a label is predicted: shared by all labels or per_label, chosen on validation for the "
    "highest F1 there, or a number."
)
DELTA = "Corner of the Huber loss, in standard deviations of the target; goes with huber."


class Classification(Params):
    """Predict which class a row belongs to."""

    packable: ClassVar[tuple[str, ...]] = ("label_smoothing", "class_weights")
    target: ClassVar[str] = "class"

    loss: Literal["cross_entropy", "perceptron"] = Field("cross_entropy", description=LOSS)
    label_smoothing: Smoothing = Field(0.0, description=SMOOTHING)
    class_weights: Literal["balanced"] | Mapping[Text, Weight] | None = Field(None, description=WEIGHTS)

    @model_validator(mode="after")
    def _goes_with_the_loss(self) -> Self:
        _refuse_idle(self, "label_smoothing", "cross_entropy")
        return self


class MultiLabel(Params):
    """Predict any number of labels per row, from a column of lists."""

    packable: ClassVar[tuple[str, ...]] = ()
    target: ClassVar[str] = "labels"

    thresholds: Literal["shared", "per_label"] | Threshold = Field("shared", description=THRESHOLDS)


class Tagging(Params):
    """Predict a tag for each token of a row, from a column of lists that are as long as the row has tokens."""

    packable: ClassVar[tuple[str, ...]] = ("label_smoothing",)
    target: ClassVar[str] = "tags"
    by_token: ClassVar[bool] = True

    label_smoothing: Smoothing = Field(0.0, description="Share of the target spread over all tags.")


class SpanExtraction(Tagging):
    """Find typed spans of a text, from a column of lists of them: type, start and end in characters of `data.text`."""

    target: ClassVar[str] = "spans"
    in_text: ClassVar[bool] = True

    label_smoothing: Smoothing = Field(0.0, description="Share of the target spread over all tags of words.")


class LanguageModel(Tagging):
    """Predict each token of a text from those before it; the target is the column of text itself."""

    target: ClassVar[str] = "next"

    label_smoothing: Smoothing = Field(0.0, description="Share of the target spread over all tokens.")
    context: Annotated[Whole, Field(ge=1)] = Field(
        128, description="Tokens of a window; a longer text is cut into several, which stay on its side of the split."
    )


class MaskedLanguageModel(Tagging):
    """Fill in tokens that are hidden, from those on both sides; the target is the column of text itself."""

    target: ClassVar[str] = "masked"
    fills_masks: ClassVar[bool] = True

    label_smoothing: Smoothing = Field(0.0, description="Share of the target spread over all tokens.")
    context: Annotated[Whole, Field(ge=1)] = Field(
        128, description="Tokens of a window; a longer text is cut into several, which stay on its side of the split."
    )
    share: Annotated[Real, Field(gt=0, le=1)] = Field(
        0.15,
        description="Share of the tokens of a window that are chosen, one at least: 8 of 10 are hidden, 1 is "
        "another token, 1 stays.",
    )


class SequenceToSequence(Tagging):
    """Generate a text from another one, as in translation: the target is a column of text that steps tokenize too."""

    target: ClassVar[str] = "sequence"
    generates: ClassVar[bool] = True

    label_smoothing: Smoothing = Field(0.0, description="Share of the target spread over all tokens.")
    beams: Annotated[Whole, Field(ge=1)] = Field(
        1, description="Texts that are followed side by side where text is generated; the one with the best score wins."
    )
    length_penalty: Real = Field(
        1.0, description="The score of a beam is ln of its probability over its tokens to this power."
    )
    max_new_tokens: Annotated[Whole, Field(ge=1)] = Field(
        128, description="Tokens of a generated text, at most; its end is one of them."
    )
    generated_rows: Annotated[Whole, Field(ge=1)] = Field(
        2000, description="Rows of validation, and of test, that text is generated for and scored on; ids choose them."
    )

    @model_validator(mode="after")
    def _goes_with_beams(self) -> Self:
        if self.beams == 1 and self.length_penalty != 1:
            raise conflict("length_penalty", "has no effect with beams: 1, where one text is followed. Give beams.")
        return self


class Regression(Params):
    """Predict numbers."""

    packable: ClassVar[tuple[str, ...]] = ("delta",)
    target: ClassVar[str] = "number"

    loss: Literal["mse", "huber"] = Field("mse", description=LOSS)
    delta: Corner = Field(1.0, description=DELTA)

    @model_validator(mode="after")
    def _goes_with_the_loss(self) -> Self:
        _refuse_idle(self, "delta", "huber")
        return self


class Gan(Params):
    """Generate numbers that are distributed as the target, given the inputs: a generator against a discriminator."""

    target: ClassVar[str] = "number"


class Auto(Params):
    """Predict classes or numbers, by the type of the target."""

    packable: ClassVar[tuple[str, ...]] = (*Classification.packable, *Regression.packable)

    loss: Literal["cross_entropy", "perceptron", "mse", "huber"] | None = Field(None, description=LOSS)
    label_smoothing: Smoothing = Field(0.0, description=SMOOTHING)
    class_weights: Literal["balanced"] | Mapping[Text, Weight] | None = Field(None, description=WEIGHTS)
    delta: Corner = Field(1.0, description=DELTA)

    @model_validator(mode="after")
    def _goes_with_the_loss(self) -> Self:
        if self.loss is not None:
            _refuse_idle(self, "label_smoothing", "cross_entropy")
        _refuse_idle(self, "delta", "huber")
        return self


def _refuse_idle(params: Classification | Regression | Auto, parameter: str, loss: str) -> None:
    """Refuse a parameter that another loss leaves without effect."""
    if parameter in params.model_fields_set and params.loss != loss:
        text = f"has no effect with loss: {params.loss or 'mse'}. It goes with {loss}."
        raise conflict(parameter, text)
