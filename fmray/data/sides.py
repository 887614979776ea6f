"""Describe what each side of a split holds, and refuse rows that cannot play their part there, before any training.

Everything is a count or an extreme value per work item, merged on the driver; no row travels.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from fmray import moments
from fmray.data.arrow_frames import NullValues, plain, without
from fmray.data.hashing import row_hash
from fmray.data.target import target_frame
from fmray.errors import DataError
from fmray.records import SPLITS, Json
from fmray.spec.sections import Data
from fmray.targets.codec import codec_for
from fmray.targets.wording import MOST_SHOWN, WORDS


def another_split(by: str, column: str) -> str:
    """Say how rows come to other sides.

    Args:
        by, column: Of the definition of the split.
    """
    if by == "given":
        return f"mark other rows in '{column}'"
    change = "other times or shares" if by == "time" else "other shares or another split.salt"
    return f"divide the rows anew with {change} (and split.redefine: true, as the split of a job is kept)"


def lacking(table: pa.Table, names: Sequence[str], null_values: NullValues) -> np.ndarray:
    """Tell which rows have a value in none of some columns (n,), bool; blank text is none."""
    found = np.ones(len(table), bool)
    for name in names:
        series = pl.Series(name, plain(table.column(name)))
        series = series.fill_nan(None) if series.dtype.is_float() else series
        if series.dtype == pl.String:
            series = series.set((series.str.strip_chars() == "").fill_null(False), None)
        found &= without(series, null_values).is_null().to_numpy()
    return found


def group_hashes(table: pa.Table, data: Data, group: str, ids: np.ndarray) -> np.ndarray:
    """Name the group of each row; with `data.group_nulls: own`, a row without one is named by its own id.

    Args:
        group: The column.

    Shapes:
        ids: (n, 2), uint64.
        returns: (n,), uint64.
    """
    hashes = row_hash(table, [group])[:, 0]
    if data.group_nulls == "refuse":
        return hashes
    return np.where(lacking(table, [group], data.null_values), ids[:, 0], hashes)


def describe(table: pa.Table, sides: np.ndarray, data: Data, task: str) -> Json:
    """Count what is missing and what the target holds, among rows that go on.

    Args:
        sides: (n,), int8: 0 train, 1 val, 2 test, above that none.

    Returns:
        {"groupless", "keyless": rows, "splits": {split: {"rows", and of val and test "counts" per class, or "low" and
        "high" per target column}}}. Only rows of a weight above 0 count for a split.
    """
    used = sides < len(SPLITS)
    lost = {
        name: int((lacking(table, columns, data.null_values) & rows).sum()) if columns else 0
        for name, columns, rows in (
            ("groupless", [data.group] if data.group else [], used),
            ("keyless", list(data.key), np.ones(len(table), bool)),  # a key must be unique even where no label is
        )
    }
    counting = used
    if data.weight:
        counting = used & (table.column(data.weight).cast(pa.float64()).fill_null(0.0).to_numpy() > 0)
    splits: Json = {}
    for side, split in enumerate(SPLITS):
        rows = counting & (sides == side)
        splits[split] = {"rows": int(rows.sum())}
        if split != "train":  # what training rows hold is learned of them anyway
            splits[split] |= codec_for(task).held(target_frame(table.filter(pa.array(rows)), data))
    return {**lost, "splits": splits}


def merge(parts: Sequence[Json]) -> Json:
    """Give the description of the rows of all parts."""
    splits = {split: _merged([part["splits"][split] for part in parts]) for split in SPLITS}
    return {**{name: sum(part[name] for part in parts) for name in ("groupless", "keyless")}, "splits": splits}


def _merged(parts: Sequence[Json]) -> Json:
    found: Json = {"rows": sum(part["rows"] for part in parts)}
    if "counts" in parts[0]:
        total = Counter[str]()
        for part in parts:
            total.update(part["counts"])
        found["counts"] = dict(sorted(total.items()))  # else the record's bytes would go by the order of the items
    for name, best in (("low", min), ("high", max)):
        if name in parts[0]:
            columns = zip(*(part[name] for part in parts), strict=True)
            found[name] = [best((v for v in column if v is not None), default=None) for column in columns]
    return found


def refuse_gaps(found: Json, num_read: int, num_rows: int, data: Data) -> list[str]:
    """Refuse rows that lack their key or group; say what is taken in spite of it.

    Args:
        found: As `merge` gives it.
        num_read, num_rows: All rows, and those that go on.

    Raises:
        DataError: If rows lack what the job names.
    """
    if found["keyless"]:
        raise DataError(
            f"{found['keyless']:,} of {num_read:,} rows have no {' and no '.join(map(repr, data.key))}. "
            "Fill them in, name columns that every row has, or leave data.key out.",
            "data.key",
        )
    if not found["groupless"]:
        return []
    if data.group_nulls == "refuse":
        raise DataError(
            f"{found['groupless']:,} of {num_rows:,} rows have no '{data.group}', and would count as one group. "
            "Fill them in, or set data.group_nulls: own, which makes each of them a group of its own.",
            "data.group",
        )
    text = f"{found['groupless']:,} of {num_rows:,} rows have no '{data.group}': each is a group of its own"
    return [f"{text} (data.group_nulls: own)"]


def refuse_weightless(found: Json, rows: Mapping[str, int], data: Data, cure: str) -> None:
    """Refuse a side of which no row counts.

    Args:
        rows: Number of rows by split.
        cure: How rows come to other sides.

    Raises:
        DataError: If all rows of a side have weight 0.
    """
    for split in SPLITS:
        if rows[split] and not found["splits"][split]["rows"]:
            raise DataError(
                f"all {rows[split]:,} rows of {WORDS[split]} have weight 0 in '{data.weight}'. "
                f"Give some a weight above 0, or {cure}.",
                "data.weight",
            )


def refuse_one_class(counts: Mapping[object, int], found: Json, data: Data, cure: str) -> None:
    """Refuse training rows of one class where other sides hold more.

    Args:
        counts: Training rows per class, as read.
        cure: How rows come to other sides.

    Raises:
        DataError: If that is so.
    """
    here = {moments.spell(level) for level in counts}
    held = {split: found["splits"][split]["counts"] for split in ("val", "test")}
    others = sorted({name for each in held.values() for name in each} - here)
    if len(here) != 1 or not others:
        return
    shown = ", ".join(
        f"'{name}' ({held['val'].get(name, 0):,} in validation, {held['test'].get(name, 0):,} in test)"
        for name in others[:MOST_SHOWN]
    )
    raise DataError(
        f"all training rows are of class '{here.pop()}' of '{data.target[0]}'; they have no row of {shown}. "
        f"Give more rows of it, or {cure}.",
        "data.target",
    )
