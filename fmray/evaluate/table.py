"""Read a table of predictions into arrays, and make sure that two tables speak of the same rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.errors import DataError
from fmray.records import Predictions


@dataclass(frozen=True)
class Table:
    """Hold predictions and truth.

    Shapes:
        row_id: (N, 2), uint64; output: (N, C), (N,) or (N, T); target: (N,) or (N, T).
        weight, group: (N,) or None; slices: column -> codes (N,).
    """

    row_id: np.ndarray
    output: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None
    group: np.ndarray | None
    slices: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.row_id)

    def some(self, rows: np.ndarray) -> "Table":
        """Give some of the rows."""
        return Table(
            self.row_id[rows],
            self.output[rows],
            self.target[rows],
            None if self.weight is None else self.weight[rows],
            None if self.group is None else self.group[rows],
            {name: codes[rows] for name, codes in self.slices.items()},
        )


def read(predictions: Predictions) -> Table:
    """Read a table of predictions.

    Raises:
        DataError: If the file is missing or damaged.
    """
    try:
        table = pq.read_table(predictions.path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{predictions.path}: {error}. Run the job again to have it made anew.") from error
    names = table.column_names
    ids = table["row_id"].combine_chunks()
    ids = ids if isinstance(ids, pa.FixedSizeBinaryArray) else pa.concat_arrays(ids.chunks)
    return Table(
        row_id=np.frombuffer(ids.buffers()[1], np.uint64).reshape(-1, 2)[ids.offset : ids.offset + len(ids)],
        output=_columns(table, list(predictions.outputs)),
        target=_columns(table, [name for name in names if name.startswith("target")]),
        weight=table["weight"].to_numpy() if "weight" in names else None,
        group=table["group"].to_numpy() if "group" in names else None,
        slices={name.removeprefix("slice_"): table[name].to_numpy() for name in names if name.startswith("slice_")},
    )


def _columns(table: pa.Table, names: list[str]) -> np.ndarray:
    columns = [table[name].to_numpy() for name in names]
    if len(columns) == 1 and not names[0].startswith("p_"):
        return np.asarray(columns[0])
    return np.stack(columns, axis=1)


def require_same_rows(one: Table, other: Table, names: str) -> None:
    """Refuse to compare tables of other rows, or of the same rows in another order.

    Raises:
        DataError: If they differ.
    """
    if not np.array_equal(one.row_id, other.row_id):
        raise DataError(
            f"{names}: predictions of {len(one)} and {len(other)} rows are not of the same rows in one order."
        )
