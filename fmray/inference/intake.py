"""Find the files of rows that a model shall speak about, and refuse those it cannot read before any row is.

Targets need not be there; every column the model reads, and the key, must be, in every file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from fmray.data.evolve import normal, unify
from fmray.data.files import File, find_files, read_footers
from fmray.data.scan import SAMPLE, SAMPLES, Dataset
from fmray.errors import DataError, SpecError
from fmray.inference.rows import accepted
from fmray.schema import Column
from fmray.store import fingerprint
from fmray.train.saved import Saved

WHERE = "DATA"
SHOWN = 3


def find_rows(path: str, saved: Saved, inputs: Sequence[Column]) -> Dataset:
    """Describe the rows at a path: a file, folder, glob, URI, or sample data.

    Its schema holds the columns the model reads, the key, and whatever else made up a row in training and is there.

    Raises:
        DataError: If there are no files, they are damaged, or a column is missing or of another kind; it names files.
        SpecError: If no installed package answers to the URI's scheme.
    """
    try:
        found = SAMPLES.find(path.removeprefix(SAMPLE))(None) if path.startswith(SAMPLE) else path
        listing = find_files(found, ".")
        files, schemas, _ = read_footers(listing)
        schema = _schema(files, schemas, saved, inputs)
    except (DataError, SpecError) as error:
        raise type(error)(error.message, WHERE) from error
    identity = fingerprint([[f.path, f.size, f.row_groups, f.version] for f in files], str(schema))
    rows = sum(file.num_rows for file in files)
    return Dataset(replace(saved.data, path=path), tuple(files), schema, rows, identity, listing.root)


def _schema(files: Sequence[File], schemas: Sequence[pa.Schema], saved: Saved, inputs: Sequence[Column]) -> pa.Schema:
    needed = {column.name: column for column in inputs}
    names = list(dict.fromkeys([*needed, *saved.data.key]))
    # Writers type the columns of an empty table at random, so files without rows have no say.
    told = {file.path: schema for file, schema in zip(files, schemas, strict=True) if file.num_rows}
    for name in names:
        role = "the model reads it" if name in needed else "it is data.key of the model"
        _refuse_absent(name, {path: schema.names for path, schema in told.items()}, role)
    for column in needed.values():
        _refuse_other_kind(column, told, saved.types.field(column.name).type)
    kinds: dict[pa.Schema, list[str]] = {}
    for path, schema in told.items():
        kept = [field for field in schema if field.name in saved.types.names]
        kinds.setdefault(pa.schema([(field.name, normal(field.type)) for field in kept]), []).append(path)
    if not kinds:
        return pa.schema([saved.types.field(name) for name in names])
    beside = [name for name in saved.types.names if name not in names]
    return unify(kinds, union=True, required=dict.fromkeys(names, "read by the model"), ignore=beside)


def _refuse_absent(name: str, columns: Mapping[str, Sequence[str]], role: str) -> None:
    lacking = sorted(path for path, names in columns.items() if name not in names)
    if lacking:
        held = ", ".join(columns[lacking[0]][:20])
        raise DataError(
            f"column '{name}' is missing from {_some(lacking)}, and {role}. {lacking[0]} has: {held}. Add it."
        )


def _refuse_other_kind(column: Column, told: Mapping[str, pa.Schema], trained: pa.DataType) -> None:
    wrong: dict[str, list[str]] = {}
    for path, schema in told.items():
        kind = schema.field(column.name).type
        if accepted(kind, trained, column) is None:
            wrong.setdefault(str(kind), []).append(path)
    if wrong:
        held = " and ".join(f"{kind} in {_some(sorted(paths))}" for kind, paths in wrong.items())
        raise DataError(f"column '{column.name}' holds {held}, where training rows held {trained}. Convert it.")


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more files" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
