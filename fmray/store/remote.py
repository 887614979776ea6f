"""Write through fsspec: object stores put whole objects, other filesystems rename a temporary file.

Only S3 can create exclusively, by a put with `If-None-Match`.
"""

import os
import secrets
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import BinaryIO, cast

import fsspec

from fmray.store.fences import require_held
from fmray.store.files import MANIFEST, TEMPORARY, machine, named_errors

_WHOLE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory"})
_CONDITIONAL_PUTS = frozenset({"s3", "s3a"})


class RemoteFiles:
    """Do it through fsspec; only S3 can create exclusively (a put with If-None-Match)."""

    def __init__(self, fs: fsspec.AbstractFileSystem, protocol: str) -> None:
        self._fs = fs
        self._whole_puts = protocol in _WHOLE_PUTS
        self._conditional_puts = protocol in _CONDITIONAL_PUTS
        self._proven = False
        self._lock = threading.Lock()

    def can_exclude(self, folder: str) -> bool:
        """Try a conditional put once: servers that speak S3 but ignore the condition exist."""
        if self._conditional_puts and not self._proven:
            probe = f"{folder}/{TEMPORARY}{secrets.token_hex(8)}"
            with _errors(folder):
                try:
                    self._conditional_puts = self.create(probe, b"first") and not self.create(probe, b"second")
                finally:
                    self._fs.rm_file(probe)
            self._proven = True
        return self._conditional_puts

    def read(self, path: str) -> bytes:
        """Give the content of a file."""
        with _errors(path):
            return bytes(self._fs.cat_file(path))

    def write(self, path: str, data: bytes) -> None:
        """Put a file in place, whole or not at all."""
        with _errors(path, len(data)):
            if self._whole_puts:
                self._fs.pipe_file(path, data)
                return
            folder = path.rpartition("/")[0]
            temporary = f"{folder}/{TEMPORARY}{machine()}-{os.getpid()}-{secrets.token_hex(4)}"
            self._fs.makedirs(folder, exist_ok=True)
            self._fs.pipe_file(temporary, data)
            self._fs.mv(temporary, path)

    def create(self, path: str, data: bytes) -> bool:
        """Put a file in place unless there is one; False if another was first."""
        if not self._conditional_puts:
            with self._lock:
                if self.exists(path):
                    return False
                self.write(path, data)
                return True
        with _errors(path, len(data)):
            try:
                self._fs.pipe_file(path, data, mode="create")
            except OSError as error:
                if not isinstance(error, FileExistsError) and not _is_conflict(error):
                    raise
                # the library retries a put whose reply was lost: then the object that is there is ours
                return bytes(self._fs.cat_file(path)) == data
        return True

    def append(self, path: str, line: bytes) -> None:
        """Add one line by writing the file anew: objects cannot grow."""
        with self._lock:
            old = self.read(path) if self.exists(path) else b""
            require_held(path)
            self.write(path, old[: old.rfind(b"\n") + 1] + line)

    def names(self, folder: str) -> list[str]:
        """List what lies in a folder, sorted, without temporary files; nothing if there is no folder."""
        with _errors(folder):
            try:
                found = self._fs.ls(folder, detail=False)
            except FileNotFoundError:
                return []
            own = self._fs._strip_protocol(folder).rstrip("/")
            names = {path.rstrip("/").rpartition("/")[2] for path in found if path.rstrip("/") != own}
            return sorted(name for name in names if name and not name.startswith(TEMPORARY))

    def sizes(self, folder: str) -> dict[str, int]:
        """Give every file below a folder by relative path, with its size."""
        with _errors(folder):
            start = len(self._fs._strip_protocol(folder).rstrip("/")) + 1
            found = {path[start:]: int(info["size"]) for path, info in self._fs.find(folder, detail=True).items()}
        return {name: size for name, size in sorted(found.items()) if TEMPORARY not in name}

    def temporaries(self, folder: str) -> list[str]:
        """Give the paths of temporary files below a folder."""
        if self._whole_puts:
            return []
        with _errors(folder):
            start = len(self._fs._strip_protocol(folder).rstrip("/"))
            return [folder + path[start:] for path in self._fs.find(folder) if f"/{TEMPORARY}" in path]

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""
        with _errors(path):
            return bool(self._fs.exists(path))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all below it, its manifest first."""
        with _errors(path), suppress(FileNotFoundError):
            if self._fs.exists(f"{path}/{MANIFEST}"):
                self._fs.rm_file(f"{path}/{MANIFEST}")
            self._fs.rm(path, recursive=True)

    def make(self, folder: str) -> None:
        """Make a folder, where the filesystem has such things."""
        if not self._whole_puts:
            with _errors(folder):
                self._fs.makedirs(folder, exist_ok=True)

    def drop(self, folder: str) -> None:
        """Remove a folder if it is empty; object stores keep no empty ones."""
        if not self._whole_puts:
            with suppress(OSError):
                self._fs.rmdir(folder)

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        with _errors(path):
            return cast(BinaryIO, self._fs.open(path, "rb"))

    def put(self, here: str, path: str) -> None:
        """Put a copy of a local file in place, whole or not at all."""
        with _errors(path, os.path.getsize(here)):
            if self._whole_puts:
                self._fs.put_file(here, path)
                return
            folder, _, name = path.rpartition("/")
            temporary = f"{folder}/{TEMPORARY}{machine()}-{os.getpid()}-{name}"
            self._fs.makedirs(folder, exist_ok=True)
            self._fs.put_file(here, temporary)
            self._fs.mv(temporary, path)

    def sync(self, folder: str, names: Sequence[str]) -> None:
        """Do nothing: what a put has accepted is durable."""

    def touch(self, path: str) -> float | None:
        """Give None: the time of an object changes only when it is written anew."""
        return None

    def touched(self, path: str) -> float | None:
        """Give the time of the last write by the server's clock, in whole seconds."""
        with _errors(path):
            try:
                return float(self._fs.modified(path).timestamp())
            except NotImplementedError:
                return None

    def clock(self, folder: str) -> float | None:
        """Give the time by the server's clock, from a file just written."""
        probe = f"{folder}/{TEMPORARY}{secrets.token_hex(8)}"
        with _errors(probe):
            try:
                self._fs.pipe_file(probe, b"now")
                return self.touched(probe)
            finally:
                self._fs.rm_file(probe)


def _is_conflict(error: OSError) -> bool:
    return any(code in f"{error} {error.__cause__}" for code in ("PreconditionFailed", "ConditionalRequestConflict"))


def _errors(path: str, num_bytes: int = 0) -> AbstractContextManager[None]:
    return named_errors(path, num_bytes, Exception)
