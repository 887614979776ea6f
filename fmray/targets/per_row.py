"""Say what is true of all targets of which a row has one."""

from typing import Any, ClassVar

import numpy as np
import polars as pl

from fmray.records import Json


class OneTargetPerRow:
    """Hold what codecs of such targets share; see `fmray.targets.codec.Codec`."""

    by_entry: ClassVar[bool] = False
    from_inputs: ClassVar[bool] = False
    linear_model: ClassVar[str] = "linear"
    absent: ClassVar[str] = "null or NaN"

    @classmethod
    def missing(cls, frame: pl.DataFrame) -> np.ndarray:
        """Tell rows in which a target is null (N,), bool."""
        return frame.select(pl.any_horizontal(pl.all().is_null())).to_series().to_numpy()

    def constant(self) -> np.ndarray:
        """Answer without looking at a row (O,)."""
        raise NotImplementedError

    def constant_for(self, target: np.ndarray) -> np.ndarray:
        """Give that answer for each target (N, O)."""
        return np.tile(self.constant(), (len(target), 1))

    def as_in_tables(self, said: Any, settings: Json) -> Any:
        """Give outputs as tables of predictions hold them."""
        return said

    @classmethod
    def true_class(cls, target: np.ndarray) -> np.ndarray:
        """Give the target."""
        return target

    @classmethod
    def opens_row(cls, target: np.ndarray) -> np.ndarray:
        """Tell that each target is a row (N,), bool."""
        return np.ones(len(target), bool)
