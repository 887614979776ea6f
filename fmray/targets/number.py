"""Predict numbers: learned with mean and deviation, handed to the loss standardised, given back in their own units."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from fmray import moments
from fmray.errors import DataError
from fmray.records import Json, Split, Target
from fmray.spec.sections import Data
from fmray.targets.codec import Decisions, Partial
from fmray.targets.one_column import OneColumnPerOutput
from fmray.targets.wording import spell_rows

METRICS = ("r2", "rmse", "mae", "mse")
FEW_LEVELS = 20
SHOWN = 5


class Number(OneColumnPerOutput):
    """Encode one number per target column; see `fmray.targets.codec.Codec`."""

    kind: ClassVar[str] = "number"
    as_numbers: ClassVar[bool] = True
    noun: ClassVar[str] = "number"
    names_classes: ClassVar[bool] = False
    error: ClassVar[str] = "mse"
    settles: ClassVar[bool] = False

    def __init__(self, target: Target) -> None:
        self.target = target
        self.num_outputs = len(target.columns)
        self.columns = tuple(f"y_{place}" for place in range(self.num_outputs))
        self.metrics = METRICS
        self.figures = ("residuals",)

    @classmethod
    def summarise(cls, frame: pl.DataFrame, data: Data) -> Partial:
        """Summarise by moments, and by the distinct values where they are few."""
        few = {name: _few_levels(frame[name].drop_nulls().unique().to_list()) for name in frame.columns}
        return {"moments": moments.numbers(frame, frame.columns), "few": few}

    @classmethod
    def merge(cls, one: Partial, other: Partial) -> Partial:
        """Give the summary of both sets of rows."""
        pairs = {name: (mine, other["few"][name]) for name, mine in one["few"].items()}
        few = {n: None if a is None or b is None else _few_levels([*a, *b]) for n, (a, b) in pairs.items()}
        return {"moments": moments.merge(one["moments"], other["moments"]), "few": few}

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Learn mean and deviation of each column.

        Raises:
            DataError: If a column is constant.
        """
        found = [partial["moments"][name] for name in data.target]
        scales = tuple(moments.scale(m) for m in found)
        if 0 in scales:
            name = data.target[scales.index(0)]
            raise DataError(
                f"'{name}' is the same number in all training rows. There is nothing to learn.", "data.target"
            )
        notes = [note for name in data.target for note in _about_few(name, partial["few"][name])]
        return Target(data.target, "number", mean=tuple(m[1] for m in found), scale=scales), tuple(notes)

    @classmethod
    def held(cls, frame: pl.DataFrame) -> Json:
        """Give the smallest and largest number per column."""
        return {"low": [_number(v) for v in frame.min().row(0)], "high": [_number(v) for v in frame.max().row(0)]}

    @classmethod
    def rows_per_class(cls, target: np.ndarray) -> np.ndarray:
        """Give nothing: there are no classes."""
        return np.zeros(0, np.int64)

    @classmethod
    def columns_of(cls, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give outputs and targets as columns."""
        said = outputs[..., None] if outputs.ndim == 2 else outputs
        return said, np.asarray(target.reshape(len(target), -1))

    @classmethod
    def scale_of(cls, target: np.ndarray) -> np.ndarray:
        """Give the standard deviation of each column."""
        return np.asarray(target.reshape(len(target), -1).std(0))

    def encode(self, frame: pl.DataFrame) -> np.ndarray:
        """Give the numbers (N,) or (N, T), float64."""
        values = frame.select(pl.all().cast(pl.Float64).fill_null(0.0)).to_numpy()
        return values[:, 0] if values.shape[1] == 1 else values

    def unknown(self, encoded: np.ndarray) -> np.ndarray:
        """Tell that any number will do."""
        return np.zeros(len(encoded), bool)

    def for_training(self, encoded: np.ndarray) -> np.ndarray:
        """Standardise (N, T), float32."""
        numbers = encoded.reshape(len(encoded), len(self.target.columns)).astype(np.float64)
        return np.asarray(((numbers - self.target.mean) / self.target.scale).astype(np.float32))

    def constant(self) -> np.ndarray:
        """Answer with the training mean."""
        return np.asarray(self.target.mean)

    def counts(self, target: np.ndarray) -> np.ndarray:
        """Give nothing: there are no classes."""
        return np.zeros(0, np.int64)

    def target_columns(self, target: np.ndarray) -> dict[str, pa.Array]:
        """Give what is true."""
        if target.ndim == 2:
            return {f"target_{place}": pa.array(column) for place, column in enumerate(target.T)}
        return {"target": pa.array(target)}

    def decisions(self, output: np.ndarray, target: np.ndarray) -> Decisions:
        """Say that nothing is decided."""
        return Decisions()

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up rows at both ends of the range, predicted a little off."""
        ends = [held["low"], held["high"]][: min(held["rows"], 2)]
        if any(value is None for end in ends for value in end):
            return None
        truth = np.array(ends, np.float64).reshape(len(ends), -1)
        output = truth + np.linspace(0.1, 0.2, max(truth.size, 1))[: truth.size].reshape(truth.shape)
        return (output[:, 0], truth[:, 0]) if len(self.target.columns) == 1 else (output, truth)

    def lack(self, held: Mapping[str, Json], split: Split, weighted: bool) -> str:
        """Name a column that is constant there."""
        own = held[split]
        pairs = zip(self.target.columns, own["low"], own["high"], strict=True)
        same = [name for name, low, high in pairs if low == high]
        if own["rows"] == 1 or not same:
            return f"it has {spell_rows(own['rows'])}"
        value = own["low"][self.target.columns.index(same[0])]
        return f"'{same[0]}' is {value:g} in all of its {spell_rows(own['rows'])}"

    def few(self, held: Mapping[str, Json]) -> list[str]:
        """Say nothing: there are no classes."""
        return []

    def merge_cure(self) -> str:
        """Say nothing: there are no classes."""
        return ""

    def describe(self) -> str:
        """Give mean and deviation per column."""
        pairs = zip(self.target.mean, self.target.scale, strict=True)
        return ", ".join(f"mean {m:.6g}, deviation {s:.6g}" for m, s in pairs)

    def outline(self) -> str:
        """Say nothing: there are no classes."""
        return ""

    def names_for_people(self) -> tuple[str, ...]:
        """Name one `prediction`, or `y_<column>` for each of several."""
        targets = self.target.columns
        return ("prediction",) if len(targets) == 1 else tuple(f"y_{name}" for name in targets)

    def columns_for_people(
        self, said: np.ndarray, is_null: np.ndarray, values: pa.Array, settings: Json
    ) -> list[pa.Array]:
        """Give the numbers."""
        mask = is_null if is_null.any() else None
        return [pa.array(column, mask=mask) for column in said.T]

    def as_ours(self, output: np.ndarray, theirs: Target) -> np.ndarray:
        """Give the numbers as metrics take them: (N,) of one column."""
        return output[:, 0] if output.shape[1] == 1 else output

    def misfits(self) -> dict[str, bool]:
        """Check that mean and scale fit the columns."""
        target = self.target
        return {
            "target.classes do not fit its kind": not target.classes,
            "target.positive is no class": target.positive == -1,
            "target.mean and scale do not fit its columns": len(target.mean)
            == len(target.scale)
            == len(target.columns),
        }


def _few_levels(levels: Iterable[float]) -> list[float] | None:
    """Give distinct numbers in order, None where they are many."""
    found = sorted({float(level) for level in levels})
    return found if len(found) <= FEW_LEVELS else None


def _about_few(name: str, levels: Sequence[float] | None) -> list[str]:
    """Say that few numbers with fractions are not taken for classes, which nobody need have asked for."""
    if levels is None or all(level.is_integer() for level in levels):
        return []
    shown = ", ".join(map(moments.spell, levels[:SHOWN])) + (" ..." if len(levels) > SHOWN else "")
    return [f"'{name}' holds {len(levels)} numbers ({shown}), predicted as numbers; task: classification as classes"]


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]
