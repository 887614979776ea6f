"""Write to a local disk, each file whole and durable: temporary file, fsync, rename, fsync of the folder."""

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import BinaryIO

from fmray.store.fences import require_held
from fmray.store.files import MANIFEST, TEMPORARY, machine, named_errors
from fmray.store.regular import open_regular


class LocalFiles:
    """Do it with system calls, each as durable as the disk allows."""

    def can_exclude(self, folder: str) -> bool:
        """Give True: a link to a name that exists fails."""
        return True

    def read(self, path: str) -> bytes:
        """Give the content of a file."""
        with named_errors(path), open_regular(path) as file:
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        """Put a file in place, whole or not at all."""
        with named_errors(path, len(data)), self._temporary(path, data) as temporary:
            require_held(path)  # again: bringing it to the disk may have taken long
            os.replace(temporary, path)
            _sync_folder(os.path.dirname(path))

    def create(self, path: str, data: bytes) -> bool:
        """Put a file in place unless there is one; False if another was first."""
        with named_errors(path, len(data)), self._temporary(path, data) as temporary:
            require_held(path)
            try:
                os.link(temporary, path)
            except FileExistsError:
                # over NFS the reply to a link that worked can be lost: the count of names tells
                return os.stat(temporary).st_nlink == 2
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                return _create_in_place(path, data)  # a filesystem without hard links
            _sync_folder(os.path.dirname(path))
            return True

    def append(self, path: str, line: bytes) -> None:
        """Add one line, after cutting a last line that was never finished."""
        with named_errors(path, len(line)):
            if not os.path.exists(path):
                require_held(path)
            self.make(os.path.dirname(path))
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                require_held(path)
                size = _cut_torn_line(descriptor)
                try:
                    _write_all(descriptor, line)
                    _flush(descriptor)
                except BaseException:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)

    def names(self, folder: str) -> list[str]:
        """List what lies in a folder, sorted, without temporary files; nothing if there is no folder."""
        with named_errors(folder), suppress(FileNotFoundError, NotADirectoryError):
            return sorted(name for name in os.listdir(folder) if not name.startswith(TEMPORARY))
        return []

    def sizes(self, folder: str) -> dict[str, int]:
        """Give every file below a folder by relative path, with its size."""
        found = {}
        with named_errors(folder):
            for parent, _, names in os.walk(folder):
                for name in names:
                    if not name.startswith(TEMPORARY):
                        path = os.path.join(parent, name)
                        found[os.path.relpath(path, folder)] = os.stat(path).st_size
        return dict(sorted(found.items()))

    def temporaries(self, folder: str) -> list[str]:
        """Give the paths of temporary files below a folder."""
        with named_errors(folder):
            return [
                os.path.join(parent, name)
                for parent, _, names in os.walk(folder)
                for name in names
                if name.startswith(TEMPORARY)
            ]

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""
        return os.path.lexists(path)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all below it, its manifest first."""
        with named_errors(path), suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                return
            # without its manifest a record is incomplete, so a kill from here on leaves nothing that looks whole
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(path, MANIFEST))
            shutil.rmtree(path, ignore_errors=True)
            if os.path.lexists(path):
                shutil.rmtree(path)

    def make(self, folder: str) -> None:
        """Make a folder and bring its name to the disk."""
        if not os.path.isdir(folder):
            parent = os.path.dirname(folder)
            self.make(parent)
            with named_errors(folder):
                with suppress(FileExistsError):
                    os.mkdir(folder)
                _sync_folder(parent)

    def drop(self, folder: str) -> None:
        """Remove a folder if it is empty."""
        with suppress(OSError):
            os.rmdir(folder)

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        with named_errors(path):
            return open_regular(path)

    def put(self, here: str, path: str) -> None:
        """Put a copy of a local file in place, whole or not at all."""
        partial = os.path.join(os.path.dirname(path), f"{TEMPORARY}{machine()}-{os.getpid()}-{secrets.token_hex(4)}")
        with named_errors(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                shutil.copyfile(here, partial)
                require_held(path)
                os.replace(partial, path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(partial)

    def sync(self, folder: str, names: Sequence[str]) -> None:
        """Bring files that others wrote to the disk."""
        with named_errors(folder):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda name: _sync(os.path.join(folder, name)), names))
            for parent in {os.path.dirname(os.path.join(folder, name)) for name in names} | {folder}:
                _sync_folder(parent)
            _sync_folder(os.path.dirname(folder))

    def touch(self, path: str) -> float | None:
        """Renew the time of a file and give it; needs no space on the disk."""
        with named_errors(path):
            os.utime(path)
            return os.stat(path).st_mtime

    def touched(self, path: str) -> float | None:
        """Give the time of the last touch."""
        with named_errors(path):
            return os.stat(path).st_mtime

    def clock(self, folder: str) -> float | None:
        """Give the time by the clock of the filesystem, which over NFS is the server's."""
        probe = os.path.join(folder, f"{TEMPORARY}{machine()}-{os.getpid()}-{secrets.token_hex(4)}")
        with named_errors(probe):
            try:
                os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
                return os.stat(probe).st_mtime
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(probe)

    def _open_new(self, path: str) -> int:
        for _ in range(10):
            self.make(os.path.dirname(path))
            with suppress(FileNotFoundError):  # garbage collection may remove the folder while it is empty
                return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        raise FileNotFoundError(path)

    @contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[str]:
        folder = os.path.dirname(path)
        temporary = os.path.join(folder, f"{TEMPORARY}{machine()}-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            descriptor = self._open_new(temporary)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


_flush = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _create_in_place(path: str, data: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _cut_torn_line(descriptor: int) -> int:
    size = end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 4096)
        if (newline := os.pread(descriptor, end - start, start).rfind(b"\n")) >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)
    return end


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    try:
        _sync(folder)
    except OSError as error:
        # a folder one may write to but not read, or a filesystem whose folders need no fsync
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise
