"""Read `name` or `{name: {params}}`: how a job file picks code by name.

Ranges (`{uniform: [0, 1]}`) look alike; they stand only where a number, string or list is expected, and DISTRIBUTIONS
is kept disjoint from every other table of names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DISTRIBUTIONS = ("uniform", "log_uniform", "int", "log_int", "choice")


@dataclass(frozen=True)
class Ref:
    """Name a piece of code and the parameters it gets."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, value: object) -> "Ref":
        """Read `name` or `{name: {params}}`.

        Raises:
            ValueError: If the value is neither.
        """
        match value:
            case Ref():
                return value
            case str():
                return cls(value)
            case Mapping() if len(value) == 1:
                ((name, params),) = value.items()
                if isinstance(name, str) and (params is None or isinstance(params, Mapping)):
                    return cls(name, dict(params or {}))
        raise ValueError(f"{value!r} is neither a name nor {{name: {{parameter: value}}}}")

    def to_json(self) -> object:
        """Give the reference as a job file would spell it."""
        return {self.name: dict(self.params)} if self.params else self.name


def is_range(value: object) -> bool:
    """Tell a search range from a plain value."""
    return isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in DISTRIBUTIONS
