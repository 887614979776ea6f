"""Describe a data set without reading its rows: files, schema, fingerprint, and the pieces it is read in.

The fingerprint covers every file's path, size, rows and version, so data edited in place is other data. Files and
pieces come in one order, which depends on names and footers only.
"""

import contextlib
import dataclasses
import difflib
import io
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fmray.data.contents import holds_numbers, is_list_of_text, refusal, settle
from fmray.data.evolve import evolve, normal, unify
from fmray.data.files import INT96_UNIT, Cache, File, Listing, filesystem, find_files, machine, read_footers, state_of
from fmray.data.partitions import required_everywhere, schemas_with, with_columns
from fmray.errors import DataError, FmrayError, SpecError
from fmray.registry import Registry
from fmray.spec.sections import Data
from fmray.store import Store, fingerprint

SAMPLES = Registry(
    "sample",
    {
        "breast_cancer": "fmray.data.samples:breast_cancer",
        "diabetes": "fmray.data.samples:diabetes",
        "digits": "fmray.data.samples:digits",
        "iris": "fmray.data.samples:iris",
        "wine": "fmray.data.samples:wine",
    },
)
SAMPLE = "sample:"
ITEM_BYTES = 64 << 20
SHOWN = 20
ITEM_FILES = 512  # opening a file costs as much as reading a few hundred rows


@dataclass(frozen=True)
class Dataset:
    """Describe rows not yet read.

    Args:
        data: The section of the job that asked for it.
        files: In the order of their names.
        schema: What every file is read as; all columns, ignored ones included.
        num_rows: Rows in all files.
        fingerprint: Of paths, sizes, rows, versions and schema.
        root: Folder or URI that file paths are relative to.
        notes: What a person should know about the files: what was left out, what folder names say, and
            what was decided about columns whose type leaves it open.
        machine: On which the files were found.
        fresh: Whether everything is read again, whatever was kept of it.
        by_log: Whether the log of a table, not its folder, says which files count.
    """

    data: Data
    files: tuple[File, ...]
    schema: pa.Schema
    num_rows: int
    fingerprint: str
    root: str = ""
    notes: tuple[str, ...] = ()
    machine: str = ""
    fresh: bool = False
    by_log: bool = False


Piece = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class WorkItem:
    """Name rows that are read together: a file, row groups of a large one, or many tiny ones.

    Args:
        index: Its place among the items.
        pieces: (file, first row group, number of row groups, first row in the file, number of rows).
        num_rows: Rows of all pieces.
    """

    index: int
    pieces: tuple[Piece, ...]
    num_rows: int


def scan(
    data: Data,
    folder: str,
    store: Store | None = None,
    *,
    most_files: int | None = None,
    fresh: bool = False,
    extra_columns: Sequence[tuple[str, str]] = (),
) -> Dataset:
    """Find the files, unify their schemas and check every column the data section names.

    Args:
        folder: Folder of the job file, which a relative `data.path` starts from.
        store: Keeps footers that were read, and sample data; without it samples go to the user's cache.
        most_files: Look at the first so many files only, for a preview.
        fresh: Read every footer again, and have `prepare` read every row again.
        extra_columns: Columns that other sections name, and the keys where they do: reported with the others if they
            are missing.

    Raises:
        DataError: If there are no files or rows, or files are damaged or disagree.
        SpecError: If a named column does not exist or cannot play its part.
    """
    if data.path.startswith(SAMPLE):
        listing = find_files(SAMPLES.find(data.path.removeprefix(SAMPLE))(store), folder)
    else:
        listing = find_files(data.path, folder)
    listing = dataclasses.replace(listing, files=listing.files[:most_files])
    files, schemas = _footers(listing, store, data, fresh)
    names = [file.path for file in files]
    pairs = [file.partition for file in files]
    roles = _roles(data)
    required_everywhere(pairs, names, schemas, roles)
    schemas, said = schemas_with(pairs, names, schemas, listing.types)
    schema = _schema(data, files, schemas=schemas, roles=roles, extra_columns=extra_columns)
    if not sum(file.num_rows for file in files):
        raise DataError(f"'{data.path}' has {len(files)} files and no rows.", "data.path")
    found = Dataset(
        data=data,
        files=tuple(files),
        schema=schema,
        num_rows=sum(file.num_rows for file in files),
        fingerprint="",
        root=listing.root,
        machine=machine(),
        fresh=fresh,
        by_log=listing.by_log,
    )
    settled, decided = settle(schema, data, roles, lambda names: first_rows(found, names))
    identity = fingerprint([identity_of(file, data) for file in files], str(settled))
    notes = (*listing.notes, *said, *decided)
    return dataclasses.replace(found, schema=settled, fingerprint=identity, notes=notes)


def _footers(listing: Listing, store: Store | None, data: Data, fresh: bool) -> tuple[list[File], list[pa.Schema]]:
    verify = data.verify == "full"
    if store is None:
        return read_footers(listing, verify=verify)[:2]
    path = store.path("scans", f"{fingerprint('footers', listing.root)}.json")
    known: Cache = {}
    if store.exists(path) and not fresh:
        with contextlib.suppress(DataError):  # a damaged cache is read anew
            known = store.read_json(path)
    files, schemas, cache = read_footers(listing, known, verify=verify)
    if cache != known:
        with contextlib.suppress(FmrayError):  # a store that cannot be written remembers nothing
            store.write_json(path, cache)
    return files, schemas


def identity_of(file: File, data: Data) -> list[object]:
    """Give what tells a file from any other: its contents if known, else all that the filesystem says of them."""
    if data.verify == "full":
        return [file.path, file.size, file.row_groups, file.content]
    return [file.path, file.size, file.row_groups, file.version, file.content or file.mark]


def _schema(
    data: Data,
    files: Sequence[File],
    schemas: Sequence[pa.Schema],
    roles: Mapping[str, str],
    extra_columns: Sequence[tuple[str, str]],
) -> pa.Schema:
    # Writers type the columns of an empty table at random, so files without rows have no say.
    any_rows = any(file.num_rows for file in files)
    raw: dict[pa.Schema, list[str]] = {}
    for file, schema in zip(files, schemas, strict=True):
        if file.num_rows or not any_rows:
            raw.setdefault(schema, []).append(file.path)
    kinds: dict[pa.Schema, list[str]] = {}
    for schema, names in raw.items():
        plain = [(field.name, normal(field.type, data.time_zone)) for field in schema]
        kinds.setdefault(pa.schema(plain), []).extend(names)
    known = {name for schema in kinds for name in schema.names}
    place = files[0].path if len(files) == 1 else f"any of {len(files)} files"
    idle = [*((name, "data.ignore") for name in data.ignore), *((name, "data.read_as") for name in data.read_as)]
    refused: list[FmrayError] = []
    elsewhere = [(name, key, "the data") for name, key in extra_columns]
    for name, key, where in [*((name, key, place) for name, key in [*roles.items(), *idle]), *elsewhere]:
        try:
            _refuse_unknown(name, key, known, where)
            if key == "data.ignore" and name in roles:
                raise SpecError(f"column '{name}' is {roles[name]} as well. Take it out of one.", "data.ignore")
        except SpecError as error:
            refused.append(error)
    if refused:
        raise SpecError.join(refused)
    unified = unify(kinds, union=data.schema == "union", required=roles, ignore=data.ignore, time_zone=data.time_zone)
    for field in unified:
        _refuse_type(field, roles.get(field.name, ""), data)
    return unified


def _roles(data: Data) -> dict[str, str]:
    """Map every column with a part to play to the key that gives it."""
    roles = dict.fromkeys(data.key, "data.key")
    for key in ("text", "group", "time", "weight"):
        if name := getattr(data, key):
            roles[name] = f"data.{key}"
    for name in data.target:
        if name in roles:
            raise SpecError(f"column '{name}' is {roles[name]} as well. A target has no second part.", "data.target")
        roles[name] = "data.target"
    return roles


def _refuse_unknown(name: str, key: str, known: Collection[str], place: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        names = sorted(known)
        listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        raise SpecError(f"column '{name}' is not in {place}.{hint} It has: {listed}.", key)


def _refuse_type(field: pa.Field, role: str, data: Data) -> None:
    kind = field.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if role == "data.weight" and not numeric:
        raise SpecError(f"column '{field.name}' holds {kind}. Accepted: numbers.", role)
    if role == "data.time" and not (numeric or pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise SpecError(f"column '{field.name}' holds {kind}. Accepted: timestamp, date or a number.", role)
    if role == "data.target" and (is_list_of_labels(kind) or is_list_of_spans(kind)):
        return
    if not role and is_list_of_text(kind):
        return  # whether a step reads it is known where steps are
    if role and pa.types.is_nested(kind):
        lists = ""
        if role == "data.target":
            lists = (
                ", a list<string> of any length, of labels or tags, or a list<struct> of spans: one text, the type, "
            )
            lists += "and the whole numbers start and end"
        raise SpecError(f"column '{field.name}' holds {kind}. Accepted: one value per row{lists}.", role)
    if field.name not in data.ignore and pa.types.is_nested(kind) and not holds_numbers(kind):
        raise SpecError(refusal(field.name, kind), "data.path")


def is_list_of_labels(kind: pa.DataType) -> bool:
    """Tell lists of text, whole numbers or booleans, which a multi-label target holds."""
    if not pa.types.is_list(kind) and not pa.types.is_large_list(kind):
        return False
    inner = kind.value_type
    if pa.types.is_dictionary(inner):
        inner = inner.value_type
    fits = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(fit(inner) for fit in fits)


def is_list_of_spans(kind: pa.DataType) -> bool:
    """Tell lists of structs of one text, the type of a span, and of whole numbers called `start` and `end`."""
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    ends = [fields.pop(name, pa.null()) for name in ("start", "end")]
    whole = all(pa.types.is_integer(end) for end in ends)
    return whole and len(fields) == 1 and all(pa.types.is_string(other) for other in fields.values())


def is_vector(kind: pa.DataType) -> bool:
    """Tell lists of one length of numbers, which steps can read, from other nested types."""
    if not pa.types.is_fixed_size_list(kind):
        return False
    inner = kind.value_type
    return bool(pa.types.is_integer(inner) or pa.types.is_floating(inner) or is_vector(inner))


def work_items(dataset: Dataset, *, target_bytes: int = ITEM_BYTES) -> list[WorkItem]:
    """Cut the data set into pieces of at most about the same uncompressed size, in row order.

    A row group is never cut. Nothing but the footers and `target_bytes` decides; where a file comes or goes, items
    beyond its neighbours stay what they were.
    """
    items: list[WorkItem] = []
    pieces: list[Piece] = []
    held = 0
    for piece, num_bytes in _row_groups(dataset.files):
        opens_file = not pieces or pieces[-1][0] != piece[0]
        is_full = held + num_bytes > target_bytes or (opens_file and len(pieces) == ITEM_FILES)
        if pieces and (is_full or (opens_file and _ends_item(dataset.files[pieces[-1][0]], target_bytes))):
            items.append(_item(len(items), pieces))
            pieces = []
            held = 0
        if pieces and pieces[-1][0] == piece[0]:
            file, first, groups, row, rows = pieces.pop()
            piece = (file, first, groups + 1, row, rows + piece[4])
        pieces.append(piece)
        held += num_bytes
    return [*items, _item(len(items), pieces)] if pieces else items


def _ends_item(file: File, target_bytes: int) -> bool:
    """Tell whether no item goes on beyond a file: by its footer, with a chance of twice the share of an item it fills.

    Cuts that only counted bytes would all move when an early file goes.
    """
    drawn = int(file.version.rpartition("-")[2], 16) / 2.0**64
    return drawn * target_bytes < 2 * sum(file.group_bytes)


def _row_groups(files: Sequence[File]) -> Iterator[tuple[Piece, int]]:
    for number, file in enumerate(files):
        row = 0
        for group, (rows, num_bytes) in enumerate(zip(file.row_groups, file.group_bytes, strict=True)):
            if rows:
                yield (number, group, 1, row, rows), num_bytes
            row += rows


def _item(index: int, pieces: Sequence[Piece]) -> WorkItem:
    return WorkItem(index, tuple(pieces), sum(piece[4] for piece in pieces))


def read_item(dataset: Dataset, item: WorkItem, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows of a work item, as the data set's schema says.

    Args:
        columns: In the order wanted; all of them if unsaid.

    Raises:
        DataError: If a file is damaged or no longer the one that was scanned; it names file and row group.
    """
    names = dataset.schema.names if columns is None else list(columns)
    zone = dataset.data.time_zone
    schema = pa.schema([dataset.schema.field(name) for name in names])
    opened, root = filesystem(dataset.root)
    here = machine() == dataset.machine
    return pa.concat_tables(
        [
            _read_piece(
                dataset.files[piece[0]], piece, schema=schema, opened=opened, root=root, time_zone=zone, here=here
            )
            for piece in item.pieces
        ]
    )


FIRST_FILES, FIRST_ROWS = 4, 1024


def first_rows(dataset: Dataset, columns: Sequence[str]) -> pa.Table:
    """Read the first rows of the first few files that have any, as the data set's schema says.

    Raises:
        DataError: If a file is damaged.
    """
    schema = pa.schema([dataset.schema.field(name) for name in columns])
    opened, root = filesystem(dataset.root)
    tables = []
    for file in [file for file in dataset.files if file.num_rows][:FIRST_FILES]:
        try:
            with _open(opened, posixpath.join(root, file.path)) as parquet:
                held = parquet.schema_arrow
                ours = [name for name in held.names if name in columns]
                if _views(held, ours):
                    rows = _read_as_lists(
                        parquet, _first_groups(file), columns=ours, opened=opened, path=posixpath.join(root, file.path)
                    )
                else:
                    rows = pa.Table.from_batches([next(parquet.iter_batches(FIRST_ROWS, columns=ours))])
                rows = with_columns(rows.slice(0, FIRST_ROWS), file.partition, schema, file.path)
                tables.append(evolve(rows, schema, dataset.data.time_zone))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file.path}: {error}. Write the file again, or leave it out.") from error
    return pa.concat_tables(tables)


def _read_piece(
    file: File,
    piece: Piece,
    schema: pa.Schema,
    opened: AbstractFileSystem,
    root: str,
    time_zone: str | None,
    *,
    here: bool,
) -> pa.Table:
    _, first, num_groups, _, num_rows = piece
    path = posixpath.join(root, file.path)
    try:
        before = state_of(opened, path)
        # Another machine may read a copy of its own, which has other inodes and times.
        tells = here if isinstance(opened, LocalFileSystem) else file.version.startswith(f"{file.mark}-")
        if before[0] != file.size or (tells and before[1] != file.mark):
            raise DataError(f"{file.path}: the file has changed since it was scanned. Run again.")
        with _open(opened, path) as parquet:
            held = parquet.schema_arrow
            wanted = set(schema.names)
            ours = [name for name in held.names if name in wanted]
            groups = range(first, first + num_groups)
            try:
                if _views(held, ours):
                    raise OSError("Arrow writes views of lists and cannot read them")
                table = _read_groups(parquet, groups, ours)
            except OSError:
                table = _read_as_lists(parquet, groups, columns=ours, opened=opened, path=path)
        if state_of(opened, path) != before:
            raise DataError(f"{file.path}: the file changed while it was read. Run again.")
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file.path}: {error}. Write the file again, or leave it out.") from error
    if table.num_rows != num_rows:
        raise DataError(f"{file.path}: {table.num_rows} rows where the scan saw {num_rows}. Run again.")
    table = with_columns(table, file.partition, schema, file.path)
    try:
        return evolve(table, schema, time_zone)
    except pa.ArrowException as error:
        raise DataError(f"{file.path}: {error}. Convert the column in one of the files.") from error


def _open(opened: AbstractFileSystem, path: str, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    # Arrow maps a local file itself; through a Python file object it reads at half the speed.
    if isinstance(opened, LocalFileSystem):
        return pq.ParquetFile(path, metadata=footer, memory_map=True, coerce_int96_timestamp_unit=INT96_UNIT)
    source = opened.open(path, "rb")
    return pq.ParquetFile(source, metadata=footer, pre_buffer=True, coerce_int96_timestamp_unit=INT96_UNIT)


def _read_as_lists(
    parquet: pq.ParquetFile, groups: Iterable[int], columns: Sequence[str], opened: AbstractFileSystem, path: str
) -> pa.Table:
    """Read row groups with lists that Arrow wrote and refuses to read: missing ones of a fixed size, and views.

    Without the schema that Arrow left in the footer these columns are lists of any length, as Parquet holds them.

    Raises:
        OSError: If the reason is another one.
    """
    schema = parquet.schema_arrow
    lists = [name for name in columns if _holds_lists(schema.field(name).type)]
    held = io.BytesIO()
    parquet.metadata.write_metadata_file(held)
    footer = pq.read_metadata(io.BytesIO(held.getvalue().replace(b"ARROW:schema", b"ARROW:hidden")))
    table = _read_groups(parquet, groups, [name for name in columns if name not in lists])
    with _open(opened, path, footer) as plain:
        for name, column in zip(lists, _read_groups(plain, groups, lists).columns, strict=True):
            table = table.append_column(name, column)
    return table


def _holds_lists(kind: pa.DataType) -> bool:
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return bool(pa.types.is_nested(storage))


def _views(schema: pa.Schema, columns: Sequence[str]) -> list[str]:
    """Name the columns that hold views of lists."""
    wanted = set(columns)
    tests = (pa.types.is_list_view, pa.types.is_large_list_view)
    return [field.name for field in schema if field.name in wanted and any(fits(field.type) for fits in tests)]


def _first_groups(file: File) -> list[int]:
    return [next(number for number, rows in enumerate(file.row_groups) if rows)]


def _read_groups(parquet: pq.ParquetFile, groups: Iterable[int], columns: Sequence[str]) -> pa.Table:
    try:
        return parquet.read_row_groups(list(groups), columns=columns)
    except (OSError, pa.ArrowException):
        for group in groups:
            try:
                parquet.read_row_groups([group], columns=columns)
            except (OSError, pa.ArrowException) as error:
                raise OSError(f"row group {group} cannot be read: {error}") from error
        raise
