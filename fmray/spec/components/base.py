"""Provide what all parameter classes share: reading values, saying what is accepted, and which may differ in a pack."""

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from fmray.registry import nearest

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True)]
Columns = Text | Sequence[Text]
Share = Annotated[Real, Field(ge=0, le=1)]
Image = Annotated[Sequence[Annotated[Whole, Field(ge=1)]], Field(min_length=3, max_length=3)]

WORDS: dict[Any, str] = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "text",
    type(None): "null",
}
ENDS = ((annotated_types.Ge, "["), (annotated_types.Gt, "("), (annotated_types.Le, "]"), (annotated_types.Lt, ")"))

UNKNOWN, MISSING = "extra_forbidden", "missing"  # as pydantic calls them

Problem = tuple[str, str]
"""Parameter, empty for all of them together, and what is wrong with its value."""


class Params(BaseModel):
    """Hold the parameters of one component.

    A subclass gives each parameter as a field with its type, default, bounds and one line of description. What is
    wrong with several parameters together is raised by a validator through `conflict`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    packable: ClassVar[tuple[str, ...]] = ()
    """Parameters in which members of one pack may differ; any other calls for a pack of its own."""
    reads: ClassVar[tuple[str, ...]] = ("x",)
    """Of a model: kinds of blocks that it reads; one of them must be there."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Of a model: kinds of blocks that it cannot do without."""
    looks_ahead: ClassVar[bool] = False
    """Of a model of tokens: whether what it says of a token depends on those behind it."""
    by_token: ClassVar[bool | None] = False
    """Of a model: whether it gives an output for each token of a row; None for one that gives what the task asks for,
    and is told so by its parameter `per`. Of a task: whether it asks for one."""
    generates: ClassVar[bool] = False
    """Of a task: whether it generates a text from the inputs. Of a model: whether it does so."""
    in_text: ClassVar[bool] = False
    """Of a task: whether targets lie in the text of `data.text`."""
    fills_masks: ClassVar[bool] = False
    """Of a model of tokens: whether it can give outputs for chosen tokens alone, `chosen`. Of a task: whether it hides
    tokens and asks for them."""
    trunk: ClassVar[tuple[str, ...]] = ()
    """Of a model: beginnings of the names of tensors that serve any task; a start takes them from another one."""
    makes: ClassVar[str] = "x"
    """Of a step: kind of block that it makes."""
    keeps_weights: ClassVar[bool] = False
    """Of a step: whether it computes by the weights in its `folder`, which are kept beside what it learns."""

    @classmethod
    def problems(cls, given: Mapping[str, Any]) -> list[Problem]:
        """List what is wrong with values, in the order of the fields; a missing parameter stands under its name."""
        try:
            cls.model_validate(dict(given))
        except ValidationError as error:
            findings = error.errors()
            if any(finding["type"] == UNKNOWN for finding in findings):
                # a parameter that is misspelt and therefore missing is first of all misspelt
                findings = [finding for finding in findings if finding["type"] != MISSING]
            found = dict(_problem(cls, finding, given) for finding in reversed(findings))
            return list(reversed(found.items()))
        return []

    @classmethod
    def accepted(cls, name: str) -> str:
        """Say in words which values a parameter takes: "a number in [0, 1) or null"."""
        info = cls.model_fields[name]
        return _accepted(info.annotation, info.metadata)


def conflict(parameter: str, message: str) -> PydanticCustomError:
    """Make the error for values that do not go together.

    Args:
        parameter: Under which it is shown; empty for all of them together.
    """
    return PydanticCustomError("conflict", "{message}", {"parameter": parameter, "message": message})


def _problem(cls: type[Params], finding: Any, given: Mapping[str, Any]) -> Problem:
    context = finding.get("ctx") or {}
    if finding["type"] == "conflict":
        return context["parameter"], context["message"]
    name = str(finding["loc"][0])
    if finding["type"] == UNKNOWN:
        known = cls.model_fields
        return name, f"is no parameter. {nearest(name, known) if known else 'It takes none.'}"
    if finding["type"] == MISSING:
        return name, f"is missing. Give {cls.accepted(name)}."
    return name, f"{given[name]!r}. Accepted: {cls.accepted(name)}."


def _accepted(annotation: Any, metadata: Sequence[Any]) -> str:
    return " or ".join(dict.fromkeys(_options(annotation, metadata)))


def _options(annotation: Any, metadata: Sequence[Any]) -> Iterator[str]:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Annotated:
        inner, *more = arguments
        yield from _options(inner, [*_flat(more), *metadata])
    elif origin in (typing.Union, types.UnionType):
        for option in arguments:
            yield from _options(option, metadata)
    elif origin is Literal:
        yield from map(str, arguments)
    elif annotation in WORDS:
        interval = _interval(metadata) if annotation in (int, float) else ""
        yield f"{WORDS[annotation]}{interval}{_multiple(metadata)}"
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield "a map"
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        yield f"a list of {_length(metadata)}{_plural(arguments[0])}"
    else:
        raise TypeError(f"a parameter of type {annotation}. Declare numbers, text, true or false, lists and maps.")


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    """Give the bounds themselves, which pydantic packs into fields."""
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item


def _interval(metadata: Sequence[Any]) -> str:
    """Write bounds as an interval: " in [0, 1)"; empty where there are none."""
    low, high = "(-inf", "inf)"
    for item in metadata:
        for kind, bracket in ENDS:
            if isinstance(item, kind):
                if bracket in "[(":
                    low = f"{bracket}{_bound(item):g}"
                else:
                    high = f"{_bound(item):g}{bracket}"
    return "" if (low, high) == ("(-inf", "inf)") else f" in {low}, {high}"


def _multiple(metadata: Sequence[Any]) -> str:
    steps = [item.multiple_of for item in metadata if isinstance(item, annotated_types.MultipleOf)]
    return f", a multiple of {steps[0]}" if steps else ""


def _bound(item: Any) -> float:
    return next(float(getattr(item, name)) for name in ("ge", "gt", "le", "lt") if hasattr(item, name))


def _length(metadata: Sequence[Any]) -> str:
    low = next((item.min_length for item in metadata if isinstance(item, annotated_types.MinLen)), 0)
    high = next((item.max_length for item in metadata if isinstance(item, annotated_types.MaxLen)), math.inf)
    return f"{low} " if low == high else f"at least {low} " if low > 1 else ""


def _plural(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return " or ".join(map(str, typing.get_args(annotation)))
    words = _accepted(annotation, ())
    for one, many in (("a whole number", "whole numbers"), ("a number", "numbers"), ("text", "texts")):
        words = words.replace(one, many)
    return words
