"""Tell a whole record from a damaged or unfinished one: manifests that carry checksums, of themselves and of files.

The manifest is written last, so where there is none there is no record.
"""

import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from fmray.errors import DataError, FmrayError
from fmray.records import Json
from fmray.store.files import MANIFEST, named_errors
from fmray.store.places import files_of
from fmray.store.plain import checksum, read_text, to_plain, write_text
from fmray.store.redaction import redact

_CHUNK_BYTES = 1 << 20
_DATA = "/data-"  # begins the name of the folder that holds the files of a record
_verified: dict[str, tuple[int, ...]] = {}  # local file -> what the system said of it when it was whole


def measure(folder: str, names: Sequence[str]) -> dict[str, Json]:
    """Give size and CRC-32 of files, reading them in parallel."""
    files = files_of(folder)

    def one(name: str) -> Json:
        size = crc = 0
        with named_errors(f"{folder}/{name}"), files.open(f"{folder}/{name}") as file:
            while chunk := file.read(_CHUNK_BYTES):
                size = size + len(chunk)
                crc = zlib.crc32(chunk, crc)
        return {"size": size, "crc32": crc}

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def verify(folder: str, files: Mapping[str, Json]) -> None:
    """Read files back and compare them with what their manifest says.

    Raises:
        DataError: Naming the first file whose size or checksum differs, or that is missing.
    """
    for name, found in measure(folder, list(files)).items():
        compare(f"{folder}/{name}", found, files[name])


def require_whole(paths: Sequence[str]) -> None:
    """Compare files of records with what their manifests say, those that are mapped or read in parts elsewhere.

    A local file is read once in a process, and once more whenever the file system tells of a change. A file outside a
    complete record has no manifest and passes.

    Raises:
        DataError: Naming the file that is missing or damaged.
    """
    for path in paths:
        if (expected := _expected(path)) is None:
            continue
        state = _state_of(path)
        if state is None or _verified.get(path) != state:
            folder, _, name = path.rpartition("/")
            compare(path, measure(folder, [name])[name], expected)
            if state is not None:
                _verified[path] = state


def require_same(path: str, data: bytes) -> None:
    """Compare what was read of a file of a record with what its manifest says, as `require_whole` does.

    Raises:
        DataError: If it is damaged.
    """
    if (expected := _expected(path)) is not None:
        compare(path, {"size": len(data), "crc32": zlib.crc32(data)}, expected)


def _expected(path: str) -> Json | None:
    """Give what the manifest of its record says of a file; None where there is no complete record."""
    record, mark, rest = path.rpartition(_DATA)
    own, _, name = rest.partition("/")
    entries = _entries(record, f"{mark[1:]}{own}") if mark else {}
    if entries and name not in entries:
        raise DataError(f"{redact(path)} is not in the manifest of its record. Remove {redact(record)}.")
    return entries.get(name)


def _entries(record: str, folder: str) -> Mapping[str, Json]:
    """Give the files that a record's manifest lists; none where the record is not complete."""
    if (record, folder) not in _manifests:
        path = f"{record}/{MANIFEST}"
        if not files_of(record).exists(path):
            return {}
        manifest = unseal(files_of(record).read(path), path)
        if manifest.get("folder") != folder:
            return {}
        _manifests[record, folder] = manifest["files"]
    return _manifests[record, folder]


_manifests: dict[tuple[str, str], Mapping[str, Json]] = {}  # a complete record never changes


def _state_of(path: str) -> tuple[int, ...] | None:
    """Give what tells that a local file was touched since; None for a file elsewhere."""
    if "://" in path:
        return None
    with named_errors(path):
        found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def seal(manifest: Json) -> bytes:
    """Give a manifest as bytes that carry their own checksum, without secrets."""
    value: Json = redact({key: to_plain(item, f"manifest.{key}") for key, item in manifest.items()})
    return write_text({**value, "checksum": checksum(value)}, indent=1).encode()


def unseal(data: bytes, path: str) -> Json:
    """Read back what `seal` gave.

    Raises:
        DataError: If it is not what was written.
    """
    try:
        value = read_text(data)
        if isinstance(value, dict) and value.pop("checksum", None) == checksum(value):
            return value
    except (ValueError, RecursionError):
        pass
    raise DataError(f"{redact(path)} is damaged: its checksum does not match. Remove the folder to have it made again.")


def write_atomic_folder(folder: str, files: Mapping[str, bytes], manifest: Json) -> None:
    """Write small files as one: a reader finds all of them, or an incomplete folder.

    Raises:
        DataError: If the disk is full; what was written is removed again.
    """
    disk = files_of(folder)
    if disk.exists(folder):
        disk.remove(folder)
    entries = {name: {"size": len(data), "crc32": zlib.crc32(data)} for name, data in files.items()}
    try:
        for name, data in files.items():
            disk.write(f"{folder}/{name}", data)
        disk.write(f"{folder}/{MANIFEST}", seal({"format": 1, "files": entries, "manifest": manifest}))
    except BaseException:
        with suppress(FmrayError):
            disk.remove(folder)
        raise


def read_atomic_folder(folder: str) -> tuple[Json, dict[str, bytes]]:
    """Read back the manifest and the files that `write_atomic_folder` wrote.

    Raises:
        DataError: If the folder is incomplete or damaged, naming the file.
    """
    disk = files_of(folder)
    sealed = unseal(disk.read(f"{folder}/{MANIFEST}"), f"{folder}/{MANIFEST}")
    files = {}
    for name, expected in sealed["files"].items():
        data = files[name] = disk.read(f"{folder}/{name}")
        compare(f"{folder}/{name}", {"size": len(data), "crc32": zlib.crc32(data)}, expected)
    return sealed["manifest"], files


def compare(path: str, found: Json, expected: Json, said_by: str = "its manifest", cure: str = "") -> None:
    """Make sure that a file has the size and the checksum that were written down.

    Raises:
        DataError: If it has not.
    """
    for key in ("size", "crc32"):
        if found[key] != expected[key]:
            text = f"{redact(path)} is damaged: {key} is {found[key]}, {said_by} says {expected[key]}."
            raise DataError(f"{text} {cure}".rstrip())
