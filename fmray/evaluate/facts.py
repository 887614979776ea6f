"""Sum up what gates ask of a table of predictions, so that no gate needs the table itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmray.evaluate.table import Table
from fmray.targets.codec import Codec


@dataclass(frozen=True)
class Facts:
    """Say what is true of the rows of a table, or of a part of it.

    Args:
        num_rows, num_expected: Rows that were scored, and that were prepared.
        num_other: Rows whose id is not that of the prepared row at their place.
        repeated: Whether an id stands there twice; looked for only among other rows.
        num_infinite: Rows with an output that is not finite.
        low, high: Smallest and largest output per column (C,).
        furthest: How far the probabilities of a row are from a sum of 1, at most; 0 for numbers.
        surest, sureness: Largest probability, and the sum over rows of the largest of each; 0 for numbers.
        hits: Rows whose predicted class is the true one; 0 for numbers.
        said, actual: Rows per predicted and true class (C,); empty for numbers.
    """

    num_rows: int
    num_expected: int
    num_other: int
    repeated: bool
    num_infinite: int
    low: np.ndarray
    high: np.ndarray
    furthest: float
    surest: float
    sureness: float
    hits: int
    said: np.ndarray
    actual: np.ndarray

    @classmethod
    def of(cls, table: Table, expected: np.ndarray, codec: Codec) -> "Facts":
        """Look at some rows, one at least.

        Args:
            expected: Ids of the prepared rows at the same places (n, 2), fewer or more where rows were lost or added.
            codec: Of the target.
        """
        output_NC = codec.probabilities(table.output)
        row_id = table.row_id[codec.opens_row(table.target)]
        common = min(len(row_id), len(expected))
        others = (row_id[:common] != expected[:common]).any(1)
        num_other = int(others.sum()) + len(row_id) - common
        repeated = num_other > 0 and len(np.unique(row_id, axis=0)) < len(row_id)
        decided = codec.decisions(table.output, table.target)
        return cls(
            num_rows=len(row_id),
            num_expected=len(expected),
            num_other=num_other,
            repeated=repeated,
            num_infinite=int((~np.isfinite(output_NC)).any(1).sum()),
            low=output_NC.min(0),
            high=output_NC.max(0),
            furthest=decided.furthest,
            surest=decided.surest,
            sureness=decided.sureness,
            hits=decided.hits,
            said=decided.said,
            actual=decided.actual,
        )

    @classmethod
    def merge(cls, parts: Sequence["Facts"]) -> "Facts":
        """Say what is true of all rows of one part or more."""
        whole: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in _ADDED}
        for name, most in _EXTREMES.items():
            whole[name] = most([getattr(part, name) for part in parts], axis=0)  # none where one is no number
        return cls(**whole, repeated=any(part.repeated for part in parts))


_ADDED = ("num_rows", "num_expected", "num_other", "num_infinite", "sureness", "hits", "said", "actual")
_EXTREMES = {"low": np.min, "high": np.max, "furthest": np.max, "surest": np.max}
