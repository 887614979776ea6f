"""Find Parquet files wherever they lie and read their footers, each version of a file once.

A file's version changes whenever its bytes may have: time of modification or etag, and a digest of the footer. Only an
edit that keeps size, time and every statistic of the footer goes unseen. What is kept of a file's rows goes by its mark
as well, which sees that edit too: by the etag, or the inode and the time of its last change, which nobody can set.
"""

import difflib
import hashlib
import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from fmray.errors import DataError, FmrayError, SpecError
from fmray.store import redact

SUFFIXES = (".parquet", ".parq", ".pq")
TAIL_BYTES = 1 << 16  # holds almost every footer, so that a remote file costs one request
NUM_THREADS = 16
INT96_UNIT = "us"  # nanoseconds, which these times are stored in, end with the year 2262; 9999-12-31 is often written


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
    """

    path: str
    size: int
    num_rows: int
    row_groups: tuple[int, ...]
    version: str
    group_bytes: tuple[int, ...] = ()
    mark: str = ""


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
    """

    path: str
    name: str
    size: int
    modified: str
    stamp: str
    mark: str


@dataclass(frozen=True)
class Listing:
    """Name the files behind `data.path`, sorted by name.

    Args:
        root: Absolute folder or URI that names are relative to.
        files: What was found there.
    """

    root: str
    files: tuple[Found, ...]


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
    """List the Parquet files of a file, a folder (recursively) or a glob.

    Raises:
        DataError: If there are none, or the storage does not answer.
    """
    if "://" not in path:
        path = os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
    opened, inner = filesystem(path)
    inner = inner.rstrip("/") or inner
    opened.invalidate_cache()  # a listing remembered from before would hide an edit
    try:
        infos, root = _infos(opened, inner, path)
    except FmrayError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"nothing lies at '{redact(path)}'. {_neighbour(opened, inner)}", "data.path") from error
    except Exception as error:
        if "://" not in path and not isinstance(error, OSError):
            raise  # a remote storage has errors of its own kinds: no credentials, no such bucket
        said = str(error).rstrip(".") or type(error).__name__
        raise DataError(f"'{redact(path)}' cannot be listed: {redact(said)}.", "data.path") from error
    is_local = isinstance(opened, LocalFileSystem)
    files = [_found(info, posixpath.relpath(info["name"], root), is_local) for info in infos]
    return Listing(_uri(opened, root, path), tuple(sorted(files, key=lambda file: file.name)))


def _infos(opened: AbstractFileSystem, inner: str, path: str) -> tuple[list[dict[str, Any]], str]:
    if any(sign in inner for sign in "*?["):
        infos = [info for info in opened.glob(inner, detail=True).values() if info["type"] == "file"]
        if not infos:
            raise DataError(f"no file matches '{redact(path)}'.", "data.path")
        fixed = inner[: min(inner.index(sign) for sign in "*?[" if sign in inner)]
        return infos, posixpath.dirname(fixed)
    info = opened.info(inner)
    if info["type"] == "file":
        return [info], posixpath.dirname(inner)
    everything = opened.find(inner, detail=True).values()
    infos = [found for found in everything if found["type"] == "file" and _is_visible(found["name"], inner)]
    parquet = [found for found in infos if found["name"].lower().endswith(SUFFIXES)]
    if not parquet:
        others = sorted(posixpath.relpath(found["name"], inner) for found in infos)
        held = f"holds {len(others)} files, e.g. {', '.join(others[:3])}" if others else "is empty"
        raise DataError(f"'{redact(path)}' {held}. Accepted: files whose names end in .parquet.", "data.path")
    return parquet, inner


def _is_visible(path: str, root: str) -> bool:
    # Writers leave _SUCCESS, _metadata, .part.crc and folders of drafts beside the data.
    return not any(part.startswith(("_", ".")) for part in posixpath.relpath(path, root).split("/"))


def _found(info: dict[str, Any], name: str, is_local: bool) -> Found:
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    modified = (
        str(etag).strip('"') if etag else str(info.get("mtime") or info.get("LastModified") or info.get("created"))
    )
    stamp = "/".join(str(info.get(part)) for part in ("name", "size", "mtime", "ino", "created")) + f"/{modified}"
    if is_local:
        mark = _local_mark(info["name"])
    elif etag:
        mark = modified
    else:
        mark = "" if modified == "None" else stamp
    return Found(info["name"], name, int(info["size"] or 0), modified, f"{stamp}/{mark}", mark)


def _local_mark(path: str) -> str:
    """Give inode and times of a file; that of its last change is the kernel's own, renaming moves it too."""
    try:
        found = os.stat(path)
    except OSError:  # gone since it was listed, which its footer will say
        return ""
    return f"{found.st_ino}/{found.st_mtime_ns}/{found.st_ctime_ns}"


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


def read_footers(listing: Listing, cache: Cache | None = None) -> tuple[list[File], list[pa.Schema], Cache]:
    """Read the footers in a thread pool, except those whose version the cache knows.

    Returns:
        The files, the schema of each, and the cache to keep.

    Raises:
        DataError: If a file is empty, cut short or not Parquet; it names the files.
    """
    known = _remembered(cache or {})
    new = [found for found in listing.files if found.stamp not in known]
    opened, _ = filesystem(listing.root)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        read = list(pool.map(lambda found: _try_footer(opened, found), new))
    if problems := [outcome for outcome in read if isinstance(outcome, str)]:
        more = f" And {len(problems) - 3} more files." if len(problems) > 3 else ""
        raise DataError(" ".join(problems[:3]) + more, "data.path")
    known |= {found.stamp: outcome for found, outcome in zip(new, read, strict=True) if not isinstance(outcome, str)}
    footers = [known[found.stamp] for found in listing.files]
    return [file for file, _ in footers], [schema for _, schema in footers], _to_remember(listing, footers)


Footer = tuple[File, pa.Schema]


def _try_footer(opened: AbstractFileSystem, found: Found) -> Footer | str:
    try:
        return _footer(opened, found)
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"{found.name}: {error}"


def _footer(opened: AbstractFileSystem, found: Found) -> Footer:
    if found.size == 0:
        raise ValueError("the file is empty (0 bytes). Write it again, or leave it out.")
    tail = opened.cat_file(found.path, start=max(0, found.size - TAIL_BYTES), end=found.size)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != b"PAR1" or not 12 <= length <= found.size:
        kind = "cut short or not Parquet" if found.name.lower().endswith(SUFFIXES) else "not Parquet"
        raise ValueError(f"the file is {kind} ({found.size} bytes, no footer at its end). Write it again.")
    if length > len(tail):
        tail = opened.cat_file(found.path, start=found.size - length, end=found.size)
    parquet = pq.ParquetFile(pa.BufferReader(tail), coerce_int96_timestamp_unit=INT96_UNIT)  # its footer alone is read
    metadata = parquet.metadata
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
    )
    return file, parquet.schema_arrow.remove_metadata()


def _to_remember(listing: Listing, footers: Iterable[Footer]) -> Cache:
    schemas: dict[bytes, int] = {}
    files = []
    for found, (file, schema) in zip(listing.files, footers, strict=True):
        number = schemas.setdefault(schema.serialize().to_pybytes(), len(schemas))
        files.append({"stamp": found.stamp, "schema": number, **asdict(file)})
    return {"schemas": [schema.hex() for schema in schemas], "files": files}


def _remembered(cache: Cache) -> dict[str, Footer]:
    try:
        schemas = [pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text))) for text in cache["schemas"]]
        return {entry["stamp"]: (_file(entry), schemas[entry["schema"]]) for entry in cache["files"]}
    except (KeyError, IndexError, TypeError, ValueError, pa.ArrowException):
        return {}  # a damaged cache costs a second reading, never a wrong answer


def _file(entry: dict[str, Any]) -> File:
    whole = {name: tuple(entry[name]) for name in ("row_groups", "group_bytes")}
    return File(**{**{name: entry[name] for name in ("path", "size", "num_rows", "version", "mark")}, **whole})
