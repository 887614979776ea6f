"""Define what a codec is: everything that fmray asks about a target and that depends on its kind.

No other file asks for the kind. A codec is torch-free: what a model learns from encoded targets is the task's business.
Shape legend: N rows, or entries of rows that have several targets each, C classes or labels, T target columns, O
outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from fmray.catalogue import TARGETS, TASKS
from fmray.ragged import Array
from fmray.records import Json, Split, Target
from fmray.spec.sections import Data

Partial = dict[str, Any]
"""What some training rows say of the target; adds up over work items."""


@dataclass(frozen=True)
class Decisions:
    """Say what a model decides on some rows, as gates ask for it.

    Args:
        furthest: How far the probabilities of a row are from a sum of 1, at most; 0 where they need not sum to 1.
        surest, sureness: Largest probability, and the sum over rows of the largest of each; 0 for numbers.
        hits: Rows whose predicted class is the true one; 0 where there is no one class.
        said, actual: Rows per predicted and true class or label (C,); empty for numbers.
    """

    furthest: float = 0.0
    surest: float = 0.0
    sureness: float = 0.0
    hits: int = 0
    said: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    actual: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


class Learning(Protocol):
    """Learn a target from training rows, before there is one.

    Attributes:
        kind: As `Target.kind` names it.
        as_numbers: Whether long decimals are read as floats.
        noun: What one value is, for messages.
        names_classes: Whether a prediction names one of several classes, so that members can vote.
        settles: Whether `settle` has something to choose.
        error: What an ensemble's squared error is called: "brier" of probabilities, "mse" of numbers.
        by_entry: Whether a row has a target for each of its entries, as a tag for each token. Its targets are ragged in
            the lanes; what is scored is the entry, see `fmray.ragged.entries_of`.
        from_inputs: Whether targets are made of prepared inputs, as the next token is of a text.
        generates: Whether the target is a text that is generated from the inputs, which new rows lack.
        hides: Whether the task hides entries of training rows, which it chooses by their identities.
        in_text: Whether targets lie in the text of `data.text`, which frames then hold last.
        linear_model: The model of the baseline "linear".
        absent: How a row may come to have no target, in words.
    """

    kind: ClassVar[str]
    as_numbers: ClassVar[bool]
    noun: ClassVar[str]
    names_classes: ClassVar[bool]
    error: ClassVar[str]
    settles: ClassVar[bool]
    by_entry: ClassVar[bool]
    from_inputs: ClassVar[bool]
    generates: ClassVar[bool]
    hides: ClassVar[bool]
    in_text: ClassVar[bool]
    linear_model: ClassVar[str]
    absent: ClassVar[str]

    @classmethod
    def missing(cls, frame: pl.DataFrame) -> np.ndarray:
        """Tell which rows have no target (N,), bool."""
        ...

    @classmethod
    def faulty(cls, frame: pl.DataFrame) -> dict[str, np.ndarray]:
        """Tell which rows have a target that cannot be one, by the reason: (N,), bool each; they are set aside."""
        ...

    @classmethod
    def names_in(cls, value: Any) -> list[str]:
        """Name the classes that the target of a row holds, as Python reads it."""
        ...

    @classmethod
    def true_class(cls, target: np.ndarray) -> np.ndarray:
        """Give the class of what is scored (N,), where there is one."""
        ...

    @classmethod
    def opens_row(cls, target: np.ndarray) -> np.ndarray:
        """Tell which of what is scored is the first of its row (N,), bool."""
        ...

    @classmethod
    def summarise(cls, frame: pl.DataFrame, data: Data) -> Partial:
        """Summarise the target of training rows.

        Raises:
            DataError: If the values cannot be of this kind.
        """
        ...

    @classmethod
    def merge(cls, one: Partial, other: Partial) -> Partial:
        """Give the summary of both sets of rows."""
        ...

    @classmethod
    def learn(cls, partial: Partial, data: Data) -> tuple[Target, tuple[str, ...]]:
        """Give the target as training rows show it, and what a person should read about it.

        Raises:
            DataError: If there is nothing to tell apart.
            SpecError: If the job names a class that there is not.
        """
        ...

    @classmethod
    def held(cls, frame: pl.DataFrame) -> Json:
        """Describe the targets of a side of the split; see `Prepared.held`."""
        ...

    @classmethod
    def rows_per_class(cls, target: np.ndarray) -> np.ndarray:
        """Count the rows of each class that occurs; empty for numbers."""
        ...

    @classmethod
    def columns_of(cls, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give what members said (M, N, O) and what is true (N, O), both as numbers whose distance is an error.

        Shapes:
            outputs: (M, N), (M, N, C) or (M, N, T); target: as in the lanes.
        """
        ...

    @classmethod
    def scale_of(cls, target: np.ndarray) -> np.ndarray:
        """Give what an error is measured in, per column (T,), or (1,) where that is the same for all."""
        ...


class Codec(Learning, Protocol):
    """Encode a target that is known, and describe it.

    Attributes:
        num_outputs: Numbers per row that a model gives (O).
        columns: Names of the columns in a table of predictions that hold outputs, and what is decided.
        metrics: Names of the metrics that fit, the default primary one first.
        figures: Names of the figures of a report; see `fmray.evaluate.figures`.
    """

    target: Target
    num_outputs: int
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    figures: tuple[str, ...]

    def __init__(self, target: Target) -> None: ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name the classes, labels or types as the data do; empty for numbers."""
        ...

    def encode(self, frame: pl.DataFrame) -> Array:
        """Give the target of rows as the lanes hold it; rows without one are encoded as anything."""
        ...

    def unknown(self, encoded: Any) -> np.ndarray:
        """Tell which rows hold a class that no training row has (N,), bool."""
        ...

    def for_training(self, encoded: Any) -> Array:
        """Give what batches carry, from what the lanes hold."""
        ...

    def constant(self) -> np.ndarray:
        """Answer without looking at a row (O,): what any model must beat."""
        ...

    def constant_for(self, target: np.ndarray) -> np.ndarray:
        """Give that answer for each of these targets (N, O), as models' outputs are given."""
        ...

    def settle(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None, params: Json) -> Json:
        """Choose on validation what turns outputs into decisions; it joins the parameters of the ensemble.

        Args:
            output: (N, O), of the ensemble on the rows.
            params: Of the task.
        """
        ...

    def fits(self, settings: Json) -> bool:
        """Tell whether the parameters of an ensemble, read from a file, hold what `settle` gives."""
        ...

    def about_settings(self, settings: Json) -> str:
        """Say in words what `settle` chose."""
        ...

    def table_columns(self, output: Any, settings: Json) -> dict[str, pa.Array]:
        """Give the columns of a table of predictions, typed, under the names in `columns`.

        Args:
            output: (N, O), or a `Ragged` of (T, O) where rows have several targets.
            settings: Parameters of the ensemble.
        """
        ...

    def shown_columns(self, output: Any, target: Any) -> dict[str, pa.Array]:
        """Give columns of a table of predictions for whoever reads it, beside those that say all there is.

        Args:
            output, target: As `table_columns` and `target_columns` take them.
        """
        ...

    def target_columns(self, target: Any) -> dict[str, pa.Array]:
        """Give what is true as columns whose names begin with "target"."""
        ...

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """Give what a model gave, as columns (N, O), out of what tables of predictions hold."""
        ...

    def counts(self, target: np.ndarray) -> np.ndarray:
        """Count the rows of each class (C,), those of none included; empty for numbers."""
        ...

    def decisions(self, output: np.ndarray, target: np.ndarray) -> Decisions:
        """Say what is decided on some rows, one at least."""
        ...

    def made_up(self, held: Json) -> tuple[np.ndarray, np.ndarray] | None:
        """Make up a few rows like those that a side holds, and predictions of them: output and target.

        None where it is not known what the side holds.
        """
        ...

    def lack(self, held: Mapping[str, Json], split: Split, weighted: bool) -> str:
        """Say in words what a side lacks, on which a metric is not defined."""
        ...

    def few(self, held: Mapping[str, Json]) -> list[str]:
        """Say which classes have next to no rows in validation or test."""
        ...

    def merge_cure(self) -> str:
        """Say how rare classes can be made fewer; "" where they cannot."""
        ...

    def describe(self) -> str:
        """Describe the target as training rows show it, in one line."""
        ...

    def outline(self) -> str:
        """Say how many classes there are; "" for numbers."""
        ...

    def names_for_people(self) -> tuple[str, ...]:
        """Name the columns of predictions on new rows."""
        ...

    def over(self, texts: pl.Series) -> "Codec":
        """Give a codec that knows the texts (N,) of the rows whose outputs it is given next; see `in_text`."""
        ...

    def columns_for_people(self, said: Any, is_null: np.ndarray, values: pa.Array, settings: Json) -> list[pa.Array]:
        """Give the columns of predictions on new rows, null where a row has none.

        Args:
            said: As `table_columns` takes it.
            values: The classes, in the type that the files hold; see `fmray.data.target.class_values`.
            settings: Of the ensemble.
        """
        ...

    def as_in_tables(self, said: Any, settings: Json) -> Any:
        """Give outputs, as models give them, as tables of predictions hold them: with what is decided behind them."""
        ...

    def as_ours(self, output: np.ndarray, theirs: Target) -> np.ndarray:
        """Lay the outputs (N, O) of a model of another target of this kind out in these classes."""
        ...

    def misfits(self) -> dict[str, bool]:
        """Give, for each way in which a record can contradict itself, whether it does not."""
        ...


def codec_named(kind: str) -> type[Codec]:
    """Give the class of codecs for a kind of target."""
    found: type[Codec] = TARGETS.find(kind)
    return found


def codec_of(target: Target) -> Codec:
    """Give the codec of a target."""
    return codec_named(target.kind)(target)


def codec_for(task: str) -> type[Codec]:
    """Give the class of codecs that a task is for; a task of the user's own is for classes."""
    return codec_named(TASKS.params(task).target if task in TASKS else "class")
