"""Describe columns: what they are called, what they hold, how wide they are.

A schema is data only; it travels in records and is equal wherever it is read.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["number", "text", "time", "one_hot", "hashed", "missing", "bytes", "vector"]


@dataclass(frozen=True)
class Column:
    """Describe one column, raw or prepared.

    Args:
        name: As in the data, or as the step that made it calls it.
        kind: What its values mean: "number" standardised or raw, "text" and "time" as read (a step must turn them into
            numbers), "one_hot" indicators of `classes`, "hashed" buckets, "missing" a 0/1 flag, "bytes" 0-255 each,
            "vector" a fixed-size list of numbers.
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
