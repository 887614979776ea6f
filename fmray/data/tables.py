"""Read a Delta table by its log, and refuse tables whose folder tells rows that were deleted from those that were not.

The files of such a table are more than its rows: a folder read file by file brings back what was deleted.
"""

import contextlib
import os
import posixpath
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fmray.data.partitions import Pairs
from fmray.errors import DataError
from fmray.store import redact

DELTA, HUDI, ICEBERG = "_delta_log", ".hoodie", "metadata"
READ_FEATURES = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"})
"""Features of Delta that change nothing about how a file of rows is read."""


@dataclass(frozen=True)
class DeltaFile:
    """Name a file that belongs to the newest version of a table.

    Args:
        name: Relative to the table's folder.
        pairs: Its partition columns and values.
    """

    name: str
    pairs: Pairs


@dataclass(frozen=True)
class Delta:
    """Describe the newest version of a table.

    Args:
        types: Types of the partition columns.
    """

    version: int
    files: tuple[DeltaFile, ...]
    types: dict[str, pa.DataType]


def refuse_tables(opened: AbstractFileSystem, root: str, path: str, *, is_whole: bool) -> bool:
    """Refuse Iceberg and Hudi tables and parts of Delta tables; tell whether the folder is a whole Delta table.

    Args:
        root: Folder that is read.
        path: As the job gives it.
        is_whole: Whether the folder is read as such, not a file or a pattern in it.

    Raises:
        DataError: If it is part of a table that only its log can tell apart.
    """
    shown = redact(path)
    folder = root
    is_top = True
    while True:
        names = _names(opened, folder)
        if DELTA in names:
            if is_top and is_whole:
                return True
            raise DataError(
                f"'{shown}' is a part of the Delta table '{folder}', whose {DELTA} says which files count. "
                "Give the folder of the table.", "data.path",
            )  # fmt: skip
        _refuse_others(opened, folder, names, shown)
        inside = "=" in posixpath.basename(folder) or (is_top and posixpath.basename(folder) == "data")
        if not inside or posixpath.dirname(folder) in ("", "/", folder):
            return False
        folder = posixpath.dirname(folder)
        is_top = False


def _refuse_others(opened: AbstractFileSystem, folder: str, names: set[str], shown: str) -> None:
    if HUDI in names or ".hoodie_partition_metadata" in names:
        raise DataError(
            f"'{shown}' is a Hudi table ({HUDI}). Export its newest snapshot as Parquet files.", "data.path"
        )
    if ICEBERG in names:
        beside = _names(opened, posixpath.join(folder, ICEBERG))
        if any(name.endswith(".metadata.json") for name in beside):
            raise DataError(
                f"'{shown}' is an Iceberg table ({ICEBERG}/*.metadata.json). "
                "Export its current snapshot as Parquet files.",
                "data.path",
            )


def _names(opened: AbstractFileSystem, folder: str) -> set[str]:
    if isinstance(opened, LocalFileSystem):
        try:
            return set(os.listdir(folder))
        except OSError:
            return set()
    with contextlib.suppress(OSError, FileNotFoundError):
        return {posixpath.basename(name.rstrip("/")) for name in opened.ls(folder, detail=False)}
    return set()


def refuse_nested(names: list[str], path: str) -> None:
    """Refuse a folder with tables somewhere below it.

    Args:
        names: Of folders and left-out entries, relative to the folder.
    """
    for name in sorted(names):
        parts = name.split("/")
        is_iceberg = ICEBERG in parts and name.endswith(".metadata.json")
        found = ICEBERG if is_iceberg else next((part for part in parts if part in (DELTA, HUDI)), "")
        if found:
            kind = {DELTA: "Delta", HUDI: "Hudi", ICEBERG: "Iceberg"}[found]
            raise DataError(
                f"'{redact(path)}' holds a {kind} table below it: '{name}'. Give the folder of one table.", "data.path"
            )


def read_delta(uri: str) -> Delta:
    """Read which files make up the newest version of a Delta table.

    Raises:
        DataError: If `deltalake` is not installed, the log is damaged, or the table uses what is not read.
    """
    where = f"'{redact(uri)}' is a Delta table ({DELTA})"
    try:
        import deltalake
    except ImportError as error:
        raise DataError(f"{where}. Install fmray[delta], which reads its log.", "data.path") from error
    options = {"AWS_ALLOW_HTTP": "true"} if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://") else None
    try:
        table = deltalake.DeltaTable(uri, storage_options=options)
        features = set(table.protocol().reader_features or ())
        columns = list(table.metadata().partition_columns)
        configuration = table.metadata().configuration or {}
        actions: Any = pa.table(table.get_add_actions(flatten=True))
    except Exception as error:  # the errors of `deltalake` share no base class that it publishes
        said = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(f"{where} whose log cannot be read: {said}. Repair the table.", "data.path") from error
    if configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if strange := sorted(features - READ_FEATURES):
        raise DataError(
            f"{where} that uses {', '.join(strange)}. Rewrite it without (for deletion vectors: REORG TABLE ... "
            "APPLY (PURGE) and drop the feature), or export it as Parquet files.", "data.path",
        )  # fmt: skip
    return Delta(int(table.version()), _files(actions, columns, where), _types(actions, columns))


def _types(actions: Any, columns: list[str]) -> dict[str, pa.DataType]:
    return {name: actions.schema.field(f"partition.{name}").type for name in columns}


def _files(actions: Any, columns: list[str], where: str) -> tuple[DeltaFile, ...]:
    names = [unquote(path) for path in actions.column("path").to_pylist()]
    if odd := next((name for name in names if "://" in name or name.startswith("/")), ""):
        raise DataError(f"{where} with files elsewhere: '{odd}'. Copy the table whole.", "data.path")
    values = [actions.column(f"partition.{name}").cast(pa.string()).to_pylist() for name in columns]
    rows = zip(*values, strict=True) if columns else [()] * len(names)
    return tuple(DeltaFile(name, tuple(zip(columns, row, strict=True))) for name, row in zip(names, rows, strict=True))
