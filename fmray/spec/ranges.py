"""Read search ranges, which stand in a job exactly where the value would stand.

A job holds its ranges apart from its values, so everything that knows no search sees plain values: the first of each
range. `Job.at` puts others in their place.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fmray.spec.ref import is_range

Keys = tuple[str | int, ...]
Values = Mapping[Keys, Any]
SEARCHED = ("model", "steps", "task", "train")
"""Sections in which ranges may stand."""
NOT_SEARCHED = (("train", "seed"), ("train", "seeds"), ("train", "folds"), ("train", "order"), ("train", "start"))
"""Keys that say how a training is repeated, not what is trained."""
MOST_OPTIONS = 10_000


@dataclass(frozen=True)
class Range:
    """Describe the values that one parameter may take.

    Args:
        kind: uniform and log_uniform between two numbers, int and log_int between two whole numbers, both included;
            choice among options.
        low, high: Ends; NaN for a choice.
        options: Of a choice.
    """

    kind: str
    low: float = math.nan
    high: float = math.nan
    options: tuple[Any, ...] = ()

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "Range":
        """Read `{kind: [low, high]}` or `{choice: [...]}`.

        Raises:
            ValueError: If it is no such thing; the message says what is accepted.
        """
        ((kind, given),) = value.items()
        if not isinstance(given, list | tuple):
            raise ValueError(f"{given!r} after {kind}. Accepted: a list")
        if kind == "choice":
            if not 2 <= len(given) <= MOST_OPTIONS or any(given.index(option) != i for i, option in enumerate(given)):
                raise ValueError(f"{list(given)!r}. Accepted: a list of at least two different options")
            return cls(kind, options=tuple(given))
        whole = kind in ("int", "log_int")
        if len(given) != 2 or not all(_is_number(end, whole) for end in given) or not given[0] < given[1]:
            numbers = "whole numbers" if whole else "numbers"
            raise ValueError(f"{list(given)!r}. Accepted: [low, high], two {numbers}, the smaller first")
        if kind.startswith("log_") and given[0] <= 0:
            raise ValueError(f"{list(given)!r}. Accepted: two numbers above zero, since it is searched by magnitude")
        return cls(kind, float(given[0]), float(given[1]))

    @property
    def corners(self) -> tuple[Any, ...]:
        """Give values that show whether all fit: every option, or both ends."""
        return self.options or (self._number(self.low), self._number(self.high))

    @property
    def num_values(self) -> float:
        """Count the values; infinite between two numbers that need not be whole."""
        if self.options:
            return len(self.options)
        return self.high - self.low + 1 if self.kind in ("int", "log_int") else math.inf

    def values(self) -> Sequence[Any]:
        """List the values of a finite range."""
        return self.options or range(int(self.low), int(self.high) + 1)

    def at(self, share: float) -> Any:
        """Give the value below which this share of the distribution lies.

        Args:
            share: In [0, 1).
        """
        if self.options:
            return self.options[min(int(share * len(self.options)), len(self.options) - 1)]
        if self.kind == "uniform":
            return self.low + share * (self.high - self.low)
        if self.kind == "log_uniform":
            low = math.log(self.low)
            high = math.log(self.high)
            return min(max(math.exp(low + share * (high - low)), self.low), self.high)
        if self.kind == "int":
            return min(int(self.low + share * (self.high - self.low + 1)), int(self.high))
        # each whole number gets the magnitudes that are rounded to it
        low = math.log(self.low - 0.5)
        high = math.log(self.high + 0.5)
        return min(max(round(math.exp(low + share * (high - low))), int(self.low)), int(self.high))

    def to_json(self) -> dict[str, Any]:
        """Give the range as a job file would spell it."""
        return {self.kind: list(self.options) or [self._number(self.low), self._number(self.high)]}

    def _number(self, end: float) -> float | int:
        return int(end) if self.kind in ("int", "log_int") else end


def _is_number(value: object, whole: bool) -> bool:
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


class MisplacedRangeError(ValueError):
    """A range that cannot be read, or stands where none may; `keys` say where."""

    def __init__(self, message: str, keys: Keys) -> None:
        super().__init__(message)
        self.keys = keys


def take_ranges(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[Keys, Range]]:
    """Part a job as written into plain values, the first of each range in its place, and its ranges.

    Raises:
        MisplacedRangeError: If a range cannot be read or stands where none may.
    """
    if "ranges" in value:
        raise MisplacedRangeError("is no key: a range stands where the value would stand.", ("ranges",))
    plain = dict(value)
    ranges = dict[Keys, Range]()
    for keys, found in _find(value, ()):
        if keys[0] not in SEARCHED or any(keys[: len(barred)] == barred for barred in NOT_SEARCHED):
            text = f"{dict(found)} is a range, and this is not searched. Ranges stand in {', '.join(SEARCHED)}"
            raise MisplacedRangeError(
                f"{text}, not in train.seed, seeds, folds, order and start. Give one value.", keys
            )
        try:
            ranges[keys] = Range.read(found)
        except ValueError as error:
            raise MisplacedRangeError(f"{error}.", keys) from error
    return put(plain, {keys: found.corners[0] for keys, found in ranges.items()}), ranges


def put(value: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Give a job as written with other values in these places; what is not on the way to them is shared."""
    changed = dict(value)
    for keys, new in values.items():
        place: Any = changed
        for key in keys[:-1]:
            inner = place[key]
            place[key] = dict(inner) if isinstance(inner, Mapping) else list(inner)
            place = place[key]
        place[keys[-1]] = new
    return changed


def _find(value: Any, keys: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Give every range and where it stands; what stands in a range's options is none."""
    if is_range(value):
        yield keys, value
        return
    if isinstance(value, Mapping):
        inside = list(value.items())
    else:
        inside = list(enumerate(value)) if isinstance(value, list | tuple) else []
    for key, inner in inside:
        yield from _find(inner, (*keys, key))
