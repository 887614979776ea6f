"""Lay out targets whose outputs are all there is to a prediction: a column each, nothing to choose on validation."""

from typing import Any

import numpy as np
import pyarrow as pa

from fmray.records import Json
from fmray.targets.per_row import OneTargetPerRow


def fixed_lists(values: np.ndarray) -> pa.Array:
    """Give numbers (N, C) as a column of lists of C."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


class OneColumnPerOutput(OneTargetPerRow):
    """Hold what codecs of such targets share; see `fmray.targets.codec.Codec`."""

    columns: tuple[str, ...]

    def probabilities(self, output: np.ndarray) -> np.ndarray:
        """Give the outputs as columns."""
        return output.reshape(len(output), -1)

    def settle(self, output: np.ndarray, target: np.ndarray, weight: np.ndarray | None, params: Json) -> Json:
        """Choose nothing."""
        return {}

    def fits(self, settings: Json) -> bool:
        """Tell that there is nothing to fit."""
        return True

    def about_settings(self, settings: Json) -> str:
        """Say nothing: there are none."""
        return ""

    def table_columns(self, output: Any, settings: Json) -> dict[str, pa.Array]:
        """Give one column of numbers per output."""
        return {name: pa.array(column) for name, column in zip(self.columns, output.T, strict=True)}
