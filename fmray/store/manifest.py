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


def measure(folder: str, names: Sequence[str]) -> dict[str, Json]:
    """Give size and CRC-32 of files, reading them in parallel."""
    files = files_of(folder)

    def one(name: str) -> Json:
        size = crc = 0
        with named_errors(f"{folder}/{name}"), files.open(f"{folder}/{name}") as file:
            while chunk := file.read(_CHUNK_BYTES):
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
        return {"size": size, "crc32": crc}

    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def verify(folder: str, files: Mapping[str, Json]) -> None:
    """Read files back and compare them with what their manifest says.

    Raises:
        DataError: Naming the first file whose size or checksum differs, or that is missing.
    """
    for name, found in measure(folder, list(files)).items():
        _compare(f"{folder}/{name}", found, files[name])


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
        _compare(f"{folder}/{name}", {"size": len(data), "crc32": zlib.crc32(data)}, expected)
    return sealed["manifest"], files


def _compare(path: str, found: Json, expected: Json) -> None:
    for key in ("size", "crc32"):
        if found[key] != expected[key]:
            raise DataError(f"{redact(path)} is damaged: {key} is {found[key]}, its manifest says {expected[key]}.")
