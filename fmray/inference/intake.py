"""Find the files of rows that a model shall predict, and refuse those it cannot read before any row is.

Targets need not be there; every column the model reads, and the key, must be, in every file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa

from fmray.data.evolve import Schemas, normal, unify
from fmray.data.files import File, find_files, machine, pairs_above, read_footers
from fmray.data.partitions import Pairs, schemas_with
from fmray.data.scan import SAMPLE, SAMPLES, Dataset, identity_of
from fmray.errors import DataError, SpecError
from fmray.inference.rows import accepted
from fmray.schema import Column
from fmray.store import fingerprint
from fmray.train.saved import Saved

WHERE = "DATA"
SHOWN, MOST_NAMES = 3, 20


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
        files, schemas, _ = read_footers(listing, verify=saved.data.verify == "full")
        known = {field.name: field.type for field in saved.types}
        # A model that learned from all partitions may be given the folder of one.
        above = tuple((name, value) for name, value in pairs_above(listing.root) if name in known)
        files = [replace(file, partition=(*_others(above, file), *file.partition)) for file in files]
        paths = [file.path for file in files]
        pairs = [file.partition for file in files]
        schemas, said = schemas_with(pairs, paths, schemas, known)
        schema = _schema(files, schemas, saved, inputs)
    except (DataError, SpecError) as error:
        raise type(error)(error.message, WHERE) from error
    identity = fingerprint([identity_of(file, saved.data) for file in files], str(schema), above)
    return Dataset(
        data=replace(saved.data, path=path),
        files=tuple(files),
        schema=schema,
        num_rows=sum(file.num_rows for file in files),
        fingerprint=identity,
        root=listing.root,
        notes=(*listing.notes, *said),
        machine=machine(),
    )


def same_rows(files: Sequence[File]) -> str:
    """Name rows by what the footers of their files say, wherever and whenever the files were copied."""
    return fingerprint([[file.path, file.size, file.row_groups, file.version.rpartition("-")[2]] for file in files])


def _others(above: Pairs, file: File) -> Pairs:
    """Give the columns that the root names and the file's own folders do not."""
    inner = dict(file.partition)
    return tuple((name, value) for name, value in above if name not in inner)


def _schema(files: Sequence[File], schemas: Sequence[pa.Schema], saved: Saved, inputs: Sequence[Column]) -> pa.Schema:
    needed = {column.name: column for column in inputs}
    names = list(dict.fromkeys([*needed, *saved.data.key]))
    told: dict[pa.Schema, list[str]] = {}
    for file, schema in zip(files, schemas, strict=True):
        if file.num_rows:  # writers type the columns of an empty table at random, so files without rows have no say
            told.setdefault(schema, []).append(file.path)
    for name in names:
        role = "the model reads it" if name in needed else "it is data.key of the model"
        _refuse_absent(name, told, role, may_lack=saved.data.schema == "union" and name in needed)
    for column in needed.values():
        _refuse_other_kind(column, told, saved.types.field(column.name).type, saved.data.time_zone)
    kinds: dict[pa.Schema, list[str]] = {}
    for schema, paths in told.items():
        kept = [field for field in schema if field.name in saved.types.names]
        plain = [(field.name, normal(field.type, saved.data.time_zone)) for field in kept]
        kinds.setdefault(pa.schema(plain), []).extend(paths)
    if not kinds:
        return pa.schema([saved.types.field(name) for name in names])
    beside = [name for name in saved.types.names if name not in names]
    return unify(kinds, union=True, required={}, ignore=beside, time_zone=saved.data.time_zone)


def _refuse_absent(name: str, told: Schemas, role: str, may_lack: bool) -> None:
    """Refuse files that lack a column; a model of `data.schema: union` reads it as missing where only some do."""
    lacking = {path: schema.names for schema, paths in told.items() if name not in schema.names for path in paths}
    if lacking and not (may_lack and any(name in schema.names for schema in told)):
        first = min(lacking)
        held = ", ".join(lacking[first][:MOST_NAMES])
        raise DataError(f"column '{name}' is missing from {_some(lacking)}, and {role}. {first} has: {held}. Add it.")


def _refuse_other_kind(column: Column, told: Schemas, trained: pa.DataType, time_zone: str | None) -> None:
    wrong: dict[str, list[str]] = {}
    for schema, paths in told.items():
        for kind in [field.type for field in schema if field.name == column.name]:
            if accepted(kind, trained, column, time_zone) is None:
                wrong.setdefault(str(kind), []).extend(paths)
    if wrong:
        held = " and ".join(f"{kind} in {_some(paths)}" for kind, paths in wrong.items())
        raise DataError(f"column '{column.name}' holds {held}, where training rows held {trained}. Convert it.")


def _some(paths: Iterable[str]) -> str:
    names = sorted(paths)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more files" if len(names) > SHOWN else "")
