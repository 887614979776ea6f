"""Read a table of predictions into arrays, and make sure that two tables are of the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.errors import DataError
from fmray.ragged import Array, Ragged, entries_of, joined, values_of
from fmray.records import Predictions
from fmray.store.copies import source_of


@dataclass(frozen=True)
class Table:
    """Hold predictions and truth, row by row; of rows with several targets each, target by target.

    Shapes:
        row_id: (N, 2), uint64; output: (N, C), (N,) or (N, T); target: (N,) or (N, T), or (N, 2) as
            `ragged.entries_of` gives it.
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
            target=self.target[rows],
            weight=None if self.weight is None else self.weight[rows],
            group=None if self.group is None else self.group[rows],
            slices={name: codes[rows] for name, codes in self.slices.items()},
        )

    @classmethod
    def join(cls, tables: Sequence["Table"]) -> "Table":
        """Put the rows of one table or more below each other."""

        def joined(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
            found = [array for array in arrays if array is not None]
            return np.concatenate(found) if found else None

        return cls(
            np.concatenate([table.row_id for table in tables]),
            np.concatenate([table.output for table in tables]),
            np.concatenate([table.target for table in tables]),
            joined([table.weight for table in tables]),
            group=joined([table.group for table in tables]),
            slices={name: np.concatenate([table.slices[name] for table in tables]) for name in tables[0].slices},
        )


def read(predictions: Predictions, start: int = 0, stop: int | None = None) -> Table:
    """Read a table of predictions, or its rows from `start` up to `stop`.

    Raises:
        DataError: If the file is missing or damaged.
    """
    try:
        table = _between(pq.ParquetFile(source_of(predictions.path), page_checksum_verification=True), start, stop)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{predictions.path}: {error}. Run the job again to have it made anew.") from error
    names = table.column_names
    ids = table["row_id"].combine_chunks()
    ids = ids if isinstance(ids, pa.FixedSizeBinaryArray) else pa.concat_arrays(ids.chunks)
    slices = [name for name in names if name.startswith("slice_")]
    found = {
        "row_id": np.frombuffer(ids.buffers()[1], np.uint64).reshape(-1, 2)[ids.offset : ids.offset + len(ids)],
        "target": _columns(table, [name for name in names if name.startswith("target")]),
        **{name: table[name].to_numpy() for name in ("weight", "group", *slices) if name in names},
    }
    # of many classes, tables of earlier versions have a column for each
    outputs = [name for name in predictions.outputs if name in names]
    output = _columns(table, outputs or [name for name in names if name.startswith("p_")])
    entries = entries_of(found)
    return Table(
        row_id=entries["row_id"],
        output=values_of(output),
        target=entries["target"],
        weight=entries.get("weight"),
        group=entries.get("group"),
        slices={name.removeprefix("slice_"): entries[name] for name in slices},
    )


def _between(file: pq.ParquetFile, start: int, stop: int | None) -> pa.Table:
    """Read the row groups that hold some rows, and cut them."""
    sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    ends = np.cumsum(sizes)
    stop = file.metadata.num_rows if stop is None else stop
    first, last = (int(place) for place in np.searchsorted(ends, [start, stop - 1], side="right"))
    table = file.read_row_groups(list(range(first, min(last + 1, len(sizes)))))
    return table.slice(start - int(ends[first] - sizes[first]) if first < len(sizes) else 0, stop - start)


def _columns(table: pa.Table, names: list[str]) -> Array:
    if len(names) == 1 and pa.types.is_large_list(table[names[0]].type):
        rows: Ragged = joined([Ragged.from_arrow(chunk) for chunk in table[names[0]].chunks])
        return rows
    if any(pa.types.is_fixed_size_list(table[name].type) for name in names):
        return np.concatenate([_lists(table[name]) for name in names], axis=1)
    columns = [table[name].to_numpy() for name in names]
    if len(columns) == 1 and not names[0].startswith("p_"):
        return np.asarray(columns[0])
    return np.stack(columns, axis=1)


def _lists(column: pa.ChunkedArray) -> np.ndarray:
    """Give a column of lists of one length (N, length)."""
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate(parts or [np.zeros(0)]).reshape(-1, width)


def require_same_rows(one: Table, other: Table, names: str) -> None:
    """Refuse to compare tables of other rows, or of the same rows in another order.

    Raises:
        DataError: If they differ.
    """
    if not np.array_equal(one.row_id, other.row_id):
        raise DataError(
            f"{names}: predictions of {len(one)} and {len(other)} rows are not of the same rows in one order."
        )
