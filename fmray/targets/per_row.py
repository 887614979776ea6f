"""Say what is true of all targets of which a row has one."""

from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import pyarrow as pa

from fmray import moments
from fmray.records import Json, Target


class OneTargetPerRow:
    """Hold what codecs of such targets share; see `fmray.targets.codec.Codec`."""

    by_entry: ClassVar[bool] = False
    from_inputs: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    hides: ClassVar[bool] = False
    in_text: ClassVar[bool] = False
    linear_model: ClassVar[str] = "linear"
    absent: ClassVar[str] = "null or NaN"

    target: Target

    @classmethod
    def missing(cls, frame: pl.DataFrame) -> np.ndarray:
        """Tell rows in which a target is null (N,), bool."""
        return frame.select(pl.any_horizontal(pl.all().is_null())).to_series().to_numpy()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name the classes as the data do."""
        return self.target.classes

    @classmethod
    def faulty(cls, frame: pl.DataFrame) -> dict[str, np.ndarray]:
        """Tell rows whose target cannot be one, by the reason: none of what a column of its type holds."""
        return {}

    @classmethod
    def names_in(cls, value: Any) -> list[str]:
        """Name the classes that the target of a row holds."""
        if not isinstance(value, list):
            return [str(value)]
        return list(dict.fromkeys(moments.spell(one) for one in value if one is not None))

    def over(self, texts: pl.Series) -> Self:
        """Give a codec that knows the texts of the rows whose outputs it is given next: this one, which needs none."""
        return self

    def constant(self) -> np.ndarray:
        """Answer without looking at a row (O,)."""
        raise NotImplementedError

    def constant_for(self, target: np.ndarray) -> np.ndarray:
        """Give that answer for each target (N, O)."""
        return np.tile(self.constant(), (len(target), 1))

    def as_in_tables(self, said: Any, settings: Json) -> Any:
        """Give outputs as tables of predictions hold them."""
        return said

    def shown_columns(self, output: Any, target: Any) -> dict[str, pa.Array]:
        """Give columns for whoever reads a table of predictions: none."""
        return {}

    @classmethod
    def true_class(cls, target: np.ndarray) -> np.ndarray:
        """Give the target."""
        return target

    @classmethod
    def opens_row(cls, target: np.ndarray) -> np.ndarray:
        """Tell that each target is a row (N,), bool."""
        return np.ones(len(target), bool)
