"""Find Parquet files wherever they lie and read their footers, each version of a file once.

A file's version changes whenever its bytes may have: time of modification or etag, and a digest of the footer. An edit
that keeps size, time and every statistic of the footer is seen by the mark (etag, or inode and the time of the last
change, which nobody can set) and by the digest of the contents, which is taken of small data sets, or where asked for.
"""

import difflib
import hashlib
import os
import platform
import posixpath
import re
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from fmray.data.folders import (
    NUM_THREADS,
    SUFFIXES,
    Contents,
    Entry,
    describe_special,
    keep_shards,
    list_local,
    list_remote,
    read_head,
    spell_left_out,
)
from fmray.data.kinds import ENCRYPTED, PLAIN, kind_of
from fmray.data.partitions import Pairs, pairs_of
from fmray.data.tables import read_delta, refuse_nested, refuse_tables
from fmray.errors import DataError, FmrayError, SpecError
from fmray.store import redact

TAIL_BYTES = 1 << 16  # holds almost every footer, so that a remote file costs one request
INT96_UNIT = "us"  # nanoseconds, which these times are stored in, end with the year 2262; 9999-12-31 is often written
CHUNK_BYTES = 8 << 20
HASHED_BYTES = 32 << 20
"""Local data sets up to this size are told by their contents; reading them takes less than a tenth of a second."""
MAGIC = "*?["
REMEMBERED = ("path", "size", "num_rows", "version", "mark", "content")
REMEMBERED_LISTS = ("row_groups", "group_bytes")
"""What is kept of a file beside its schema; its partition follows from the path."""


@dataclass(frozen=True)
class File:
    """Describe one Parquet file from its footer.

    Args:
        path: Relative to the data set's root.
        size: Bytes.
        num_rows: Rows.
        row_groups: Rows per row group.
        version: Changes when the bytes change: time of modification or etag, and a digest of the footer.
        group_bytes: Uncompressed bytes per row group.
        mark: Beside the version, what tells these bytes from any other here; empty where the filesystem gives nothing.
        content: Digest of all bytes; empty where it was not taken.
        partition: Columns that folders of the path name, with their values.
    """

    path: str
    size: int
    num_rows: int
    row_groups: tuple[int, ...]
    version: str
    group_bytes: tuple[int, ...] = ()
    mark: str = ""
    content: str = ""
    partition: Pairs = ()


@dataclass(frozen=True)
class Found:
    """Name a file that lies somewhere, before its footer is read.

    Args:
        path: As the filesystem knows it.
        name: Relative to the root.
        size: Bytes.
        modified: Time of modification or etag, as text.
        stamp: All the filesystem says that may betray a change; the cache's key.
        mark: As `File.mark`.
        pairs: As `File.partition`.
    """

    path: str
    name: str
    size: int
    modified: str
    stamp: str
    mark: str
    pairs: Pairs = ()


@dataclass(frozen=True)
class Listing:
    """Name the files behind `data.path`, sorted by name.

    Args:
        root: Absolute folder or URI that names are relative to.
        files: What was found there.
        notes: What a person should know: what was left out, and why.
        types: Of partition columns, where a table's log tells them.
        by_log: Whether the log of a table says which files count.
    """

    root: str
    files: tuple[Found, ...]
    notes: tuple[str, ...] = ()
    types: Mapping[str, pa.DataType] = field(default_factory=dict)
    by_log: bool = False


def filesystem(path: str) -> tuple[AbstractFileSystem, str]:
    """Open the filesystem of a path or URI, and give the path as it knows it.

    Raises:
        SpecError: If no installed package answers to the URI's scheme.
    """
    try:
        opened, inner = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        hint = "Install fmray[s3]." if path.startswith("s3") else "Accepted: a path, or a URI that fsspec knows."
        raise SpecError(f"{redact(path)!r} cannot be opened: {error}. {hint}", "data.path") from error
    return opened, inner


def find_files(path: str, folder: str) -> Listing:
    """List the Parquet files of a file, a folder (recursively), a table of Delta Lake or a glob.

    A path that exists is what it names, whatever signs are in it; only then `*`, `?` and `[` are a pattern.

    Raises:
        DataError: If there are none, or the storage does not answer.
    """
    if "://" not in path:
        path = os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
    opened, inner = filesystem(path)
    inner = inner.rstrip("/") or inner
    opened.invalidate_cache()  # a listing remembered from before would hide an edit
    try:
        return _listing(opened, inner, path)
    except FmrayError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"nothing lies at '{redact(path)}'. {_neighbour(opened, inner)}", "data.path") from error
    except Exception as error:
        if "://" not in path and not isinstance(error, OSError):
            raise  # a remote storage has errors of its own kinds: no credentials, no such bucket
        said = str(error).rstrip(".") or type(error).__name__
        raise DataError(f"'{redact(path)}' cannot be listed: {redact(said)}.", "data.path") from error


def _listing(opened: AbstractFileSystem, inner: str, path: str) -> Listing:
    is_local = isinstance(opened, LocalFileSystem)
    prefix = _existing(opened, inner)
    if prefix != inner:
        found = _matching(opened, inner, prefix, path)
        root = prefix
        refuse_tables(opened, root, path, is_whole=False)
    elif (entry := _single(opened, inner, path)) is not None:
        root = posixpath.dirname(inner)
        refuse_tables(opened, root, path, is_whole=False)
        found = Contents(files=[entry])
    else:
        root = inner
        if refuse_tables(opened, root, path, is_whole=True):
            return _delta_listing(opened, root, path)
        found = list_local(root) if is_local else list_remote(opened, root)
        keep_shards(opened, found)
        refuse_nested([*found.folders, *(name for names in found.left_out.values() for name in names)], path)
    if not found.files:
        raise DataError(f"'{redact(path)}' {_held(found)}. Accepted: Parquet files, by any name.", "data.path")
    files = sorted((_found(entry, is_local) for entry in found.files), key=lambda file: file.name)
    left_out = spell_left_out((reason, tuple(sorted(names))) for reason, names in sorted(found.left_out.items()))
    return Listing(_uri(opened, root, path), tuple(files), (left_out,) if left_out else ())


def _held(found: Contents) -> str:
    text = spell_left_out((reason, tuple(sorted(names))) for reason, names in sorted(found.left_out.items()))
    return f"holds no Parquet file: {text.partition(': ')[2].partition('. Rename')[0]}" if text else "is empty"


def _existing(opened: AbstractFileSystem, inner: str) -> str:
    """Give the longest part of a path, from its beginning, that is to be taken as it stands."""
    if not any(sign in inner for sign in MAGIC) or _exists(opened, inner):
        return inner
    parts = inner.split("/")
    kept = 0
    for number, part in enumerate(parts[:-1], start=1):
        if any(sign in part for sign in MAGIC) and not _exists(opened, "/".join(parts[:number])):
            break
        kept = number
    return "/".join(parts[:kept]) or "/"


def _exists(opened: AbstractFileSystem, path: str) -> bool:
    if isinstance(opened, LocalFileSystem):
        return os.path.lexists(path)
    try:
        opened.info(path)
    except (FileNotFoundError, ValueError):  # a name that a storage refuses names nothing there
        return False
    return True


def _matching(opened: AbstractFileSystem, inner: str, prefix: str, path: str) -> Contents:
    """Find the files that a pattern names; folders that it names are read where it names no file."""
    pattern = inner.removeprefix(prefix).lstrip("/")
    is_local = isinstance(opened, LocalFileSystem)
    matches = re.compile(glob_translate(pattern)).match
    asks_hidden = any(part.startswith(("_", ".")) for part in pattern.split("/"))
    if is_local and not os.path.isdir(prefix):
        raise DataError(f"no file matches '{redact(path)}'.", "data.path")
    listed = list_local(prefix, asks_hidden) if is_local else list_remote(opened, prefix, asks_hidden)
    kept = [entry for entry in listed.files if matches(entry.name)]
    left_out = {reason: [n for n in names if matches(n)] for reason, names in listed.left_out.items()}
    if not kept:
        kept = [entry for entry in listed.files if any(matches(above) for above in _folders_of(entry.name))]
    found = Contents(files=kept, left_out=left_out)
    keep_shards(opened, found)
    if not found.files:
        raise DataError(f"no file matches '{redact(path)}'.", "data.path")
    return found


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


def _single(opened: AbstractFileSystem, inner: str, path: str) -> Entry | None:
    """Describe a path that is a file; None for a folder."""
    if isinstance(opened, LocalFileSystem):
        known = os.stat(inner)
        if stat.S_ISDIR(known.st_mode):
            return None
        if not stat.S_ISREG(known.st_mode):
            kind = describe_special(known.st_mode)
            raise DataError(f"'{redact(path)}' is a {kind}. Accepted: a file, a folder or a pattern.", "data.path")
        return Entry(inner, posixpath.basename(inner), known.st_size, stat=known)
    info = opened.info(inner)
    if info["type"] != "file":
        return None
    return Entry(info["name"], posixpath.basename(inner), int(info["size"] or 0), info)


def _delta_listing(opened: AbstractFileSystem, root: str, path: str) -> Listing:
    uri = _uri(opened, root, path)
    table = read_delta(uri)
    is_local = isinstance(opened, LocalFileSystem)

    def describe(name: str) -> Entry:
        place = posixpath.join(root, name)
        try:
            entry = _single(opened, place, place)
        except FileNotFoundError:
            entry = None
        if entry is None:
            raise DataError(f"{name}: the table's log (_delta_log) names this file, which is gone.", "data.path")
        return replace(entry, name=name)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        entries = list(pool.map(describe, (file.name for file in table.files)))
    files = [
        replace(_found(entry, is_local), pairs=file.pairs) for entry, file in zip(entries, table.files, strict=True)
    ]
    if not files:
        raise DataError(f"the Delta table '{redact(path)}' has no rows.", "data.path")
    counted = f"{len(files)} files of version {table.version} are read, others are not"
    note = f"data.path is a Delta table, read by its log: {counted}"
    return Listing(uri, tuple(sorted(files, key=lambda file: file.name)), (note,), table.types, by_log=True)


def pairs_above(root: str) -> Pairs:
    """Give the columns that the last folders of a root name itself, as `data/region=north`."""
    parts = root.rstrip("/").split("/")
    first = len(parts)
    while first and "=" in parts[first - 1]:
        first -= 1
    return pairs_of("/".join([*parts[first:], ""]))


def _found(entry: Entry, is_local: bool) -> Found:
    info = entry.info
    known = entry.stat
    if is_local and known is not None:
        modified = str(known.st_mtime)
        mark = _local_mark(known)
        stamp = f"{entry.path}/{entry.size}/{mark}"
        return Found(
            entry.path,
            entry.name,
            size=entry.size,
            modified=modified,
            stamp=stamp,
            mark=mark,
            pairs=pairs_of(entry.name),
        )
    modified = _modified(info)
    stamp = "/".join(str(info.get(part)) for part in ("name", "size", "mtime", "ino", "created")) + f"/{modified}"
    mark = _remote_mark(info)
    return Found(
        entry.path,
        entry.name,
        size=entry.size,
        modified=modified,
        stamp=f"{stamp}/{mark}",
        mark=mark,
        pairs=pairs_of(entry.name),
    )


def _etag(info: Mapping[str, Any]) -> str:
    return str(info.get("ETag") or info.get("etag") or info.get("md5Hash") or "").strip('"')


def _modified(info: Mapping[str, Any]) -> str:
    return _etag(info) or str(info.get("mtime") or info.get("LastModified") or info.get("created"))


def _remote_mark(info: Mapping[str, Any]) -> str:
    if etag := _etag(info):
        return etag
    modified = _modified(info)
    return "" if modified == "None" else f"{info.get('size')}/{modified}"


def _local_mark(known: os.stat_result) -> str:
    """Give inode and times of a file; that of its last change is the kernel's own, renaming moves it too."""
    return f"{known.st_ino}/{known.st_mtime_ns}/{known.st_ctime_ns}"


def state_of(opened: AbstractFileSystem, path: str) -> tuple[int, str]:
    """Give the size and the mark that a file has now; without an etag, listings spell times in ways of their own."""
    if isinstance(opened, LocalFileSystem):
        known = os.stat(path)
        return known.st_size, _local_mark(known)
    info = opened.info(path)
    return int(info["size"] or 0), _remote_mark(info)


def machine() -> str:
    """Name this machine: marks of local files are compared only where they were taken."""
    return platform.node()


def _uri(opened: AbstractFileSystem, root: str, path: str) -> str:
    return opened.unstrip_protocol(root) if "://" in path else root


def _neighbour(opened: AbstractFileSystem, inner: str) -> str:
    parent = posixpath.dirname(inner)
    try:
        names = [posixpath.basename(name.rstrip("/")) for name in opened.ls(parent, detail=False)]
    except OSError:
        return f"Its folder '{parent}' does not exist either."
    close = difflib.get_close_matches(posixpath.basename(inner), names, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"'{parent}' holds {len(names)} entries."


Cache = dict[str, Any]


def read_footers(
    listing: Listing, cache: Cache | None = None, *, verify: bool = False
) -> tuple[list[File], list[pa.Schema], Cache]:
    """Read the footers in a thread pool, except those whose version the cache knows.

    Args:
        verify: Take the digest of all contents, whatever the cache knows.

    Returns:
        The files, the schema of each, and the cache to keep.

    Raises:
        DataError: If a file is empty, cut short, encrypted or not Parquet; it names the files.
    """
    known = _remembered(cache or {})
    opened, _ = filesystem(listing.root)
    # An etag tells contents by itself.
    is_small = isinstance(opened, LocalFileSystem) and sum(found.size for found in listing.files) <= HASHED_BYTES

    def read(found: Found) -> Footer | str:
        before = known.get(found.stamp)
        try:
            file, schema = before or _footer(opened, found)
            if (verify and before) or ((verify or is_small) and not file.content):
                file = replace(file, content=_content(opened, found))
        except PermissionError as error:
            return f"{found.name}: the file cannot be read: {error.strerror or error}."
        except (OSError, ValueError, pa.ArrowException) as error:
            return f"{found.name}: {error}"
        content = file.content if verify or is_small else ""  # what decides must not depend on what was once known
        return replace(file, path=found.name, content=content, partition=found.pairs), schema

    new = [f for f in listing.files if verify or f.stamp not in known or (is_small and not known[f.stamp][0].content)]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        done = dict(zip((f.stamp for f in new), pool.map(read, new), strict=True))
    if problems := [outcome for outcome in done.values() if isinstance(outcome, str)]:
        more = f" And {len(problems) - 3} more files." if len(problems) > 3 else ""
        raise DataError(" ".join(problems[:3]) + more, "data.path")
    footers = []
    for found in listing.files:
        outcome = done.get(found.stamp) or read(found)
        if not isinstance(outcome, str):
            footers.append(outcome)
    return [file for file, _ in footers], [schema for _, schema in footers], _to_remember(listing, footers)


def _content(opened: AbstractFileSystem, found: Found) -> str:
    starts = range(0, found.size, CHUNK_BYTES)
    return _digest(opened.cat_file(found.path, start=n, end=min(found.size, n + CHUNK_BYTES)) for n in starts)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


Footer = tuple[File, pa.Schema]


def _footer(opened: AbstractFileSystem, found: Found) -> Footer:
    if found.size == 0:
        raise ValueError("the file is empty (0 bytes). Write it again, or leave it out.")
    tail = opened.cat_file(found.path, start=max(0, found.size - TAIL_BYTES), end=found.size)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != b"PAR1" or not 12 <= length <= found.size:
        raise ValueError(_no_parquet(opened, found, tail))
    if length > len(tail):
        tail = opened.cat_file(found.path, start=found.size - length, end=found.size)
    parquet = pq.ParquetFile(pa.BufferReader(tail), coerce_int96_timestamp_unit=INT96_UNIT)  # its footer alone is read
    metadata = parquet.metadata
    if metadata.serialized_size + 8 != length:
        # A plain footer of encrypted columns is signed, which makes it longer. Arrow ends the whole process when such
        # a column is looked at, so this must be seen first.
        raise ValueError("the file has encrypted columns. Decrypt it, or leave it out.")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    digest = hashlib.blake2b(tail[-length:], digest_size=8).hexdigest()
    file = File(
        path=found.name,
        size=found.size,
        num_rows=metadata.num_rows,
        row_groups=tuple(group.num_rows for group in groups),
        version=f"{found.modified}-{digest}",
        group_bytes=tuple(group.total_byte_size for group in groups),
        mark=found.mark,
        content=_digest([tail]) if len(tail) == found.size else "",  # then the file need not be opened again
    )
    return file, parquet.schema_arrow.remove_metadata()


def _no_parquet(opened: AbstractFileSystem, found: Found, tail: bytes) -> str:
    head = read_head(opened, found.path, found.size)
    if tail[-4:] == ENCRYPTED or head[:4] == ENCRYPTED:
        return "the file is encrypted (its footer begins with PARE). Decrypt it, or leave it out."
    begins = head[:4] == PLAIN[: len(head[:4])]
    kind, _, cure = kind_of(head).partition("; ")
    cure = cure or "leave it out"
    if kind and not begins and tail[-4:] != PLAIN:
        return f"the file is {kind}, not Parquet. {cure[:1].upper()}{cure[1:]}."
    likely = (
        "cut short or not Parquet" if found.name.lower().endswith(SUFFIXES) or head[:4] == b"PAR1" else "not Parquet"
    )
    return f"the file is {likely} ({found.size} bytes, no footer at its end). Write it again."


def _to_remember(listing: Listing, footers: Iterable[Footer]) -> Cache:
    schemas: dict[bytes, int] = {}
    numbers: dict[int, int] = {}  # by object: most files share one
    files = []
    for found, (file, schema) in zip(listing.files, footers, strict=True):
        if id(schema) not in numbers:
            numbers[id(schema)] = schemas.setdefault(schema.serialize().to_pybytes(), len(schemas))
        number = numbers[id(schema)]
        entry = {name: getattr(file, name) for name in REMEMBERED}
        lists = {name: list(getattr(file, name)) for name in REMEMBERED_LISTS}  # as JSON has it: equal once read back
        files.append({"stamp": found.stamp, "schema": number, **entry, **lists})
    return {"schemas": [schema.hex() for schema in schemas], "files": files}


def _remembered(cache: Cache) -> dict[str, Footer]:
    try:
        schemas = [pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text))) for text in cache["schemas"]]
        return {entry["stamp"]: (_file(entry), schemas[entry["schema"]]) for entry in cache["files"]}
    except (KeyError, IndexError, TypeError, ValueError, pa.ArrowException):
        return {}  # a damaged cache costs a second reading, never a wrong answer


def _file(entry: dict[str, Any]) -> File:
    lists: dict[str, Any] = {name: tuple(entry[name]) for name in REMEMBERED_LISTS}
    return File(**{name: entry[name] for name in REMEMBERED}, **lists)
