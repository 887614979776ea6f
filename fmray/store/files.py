"""Say what a store needs of a filesystem, and in which words it complains.

A reader sees all of a file or none of it. Every path is absolute, or a URI.
"""

import errno
import functools
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO, Protocol

from fmray.errors import ClusterError, DataError, FmrayError
from fmray.store.redaction import redact

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
NO_MEMORY = "memory does not suffice. Free some, or raise the limit (`ulimit -v`, or that of the container)."
_NO_MEMORY = ("cannot allocate memory", "can't allocate memory", "can't start new thread", "failed to map segment")
_NO_FILE = frozenset({errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG})
"""What a system answers where the thing itself is wrong: a folder for a file, links in a circle, a socket."""


class Files(Protocol):
    """Do to files what a store needs; every implementation passes one contract suite."""

    def can_exclude(self, folder: str) -> bool:
        """Tell whether `create` lets one process through when several try, by trying it if need be."""

    def read(self, path: str) -> bytes:
        """Give the content of a file."""

    def write(self, path: str, data: bytes) -> None:
        """Put a file in place, whole or not at all."""

    def create(self, path: str, data: bytes) -> bool:
        """Put a file in place unless there is one; False if another was first."""

    def append(self, path: str, line: bytes) -> None:
        """Add one line, after cutting a last line that was never finished."""

    def names(self, folder: str) -> list[str]:
        """List what lies in a folder, sorted, without temporary files; nothing if there is no folder."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Give every file below a folder by relative path, with its size."""

    def temporaries(self, folder: str) -> list[str]:
        """Give the paths of temporary files below a folder."""

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all below it, its manifest first."""

    def make(self, folder: str) -> None:
        """Make a folder, where the filesystem has such things."""

    def drop(self, folder: str) -> None:
        """Remove a folder if it is empty."""

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""

    def put(self, here: str, path: str) -> None:
        """Put a copy of a local file in place, whole or not at all."""

    def sync(self, folder: str, names: Sequence[str]) -> None:
        """Bring files that others wrote to the disk."""

    def touch(self, path: str) -> float | None:
        """Renew the time of a file and give it; None if the filesystem keeps none that can be trusted."""

    def touched(self, path: str) -> float | None:
        """Give the time of the last touch or write; None if the filesystem keeps none that can be trusted."""

    def clock(self, folder: str) -> float | None:
        """Give the time by the clock that `touched` goes by; None if the filesystem has none."""


@functools.cache
def machine() -> str:
    """Name the machine on which process ids mean the same: host, boot and process namespace."""
    marks = [socket.gethostname()]
    with suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            marks.append(file.read().strip())
        marks.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("\0".join(marks).encode(), digest_size=4).hexdigest()


@contextmanager
def named_errors(path: str, num_bytes: int = 0, kind: type[Exception] = OSError) -> Iterator[None]:
    """Say in fmray's words what a filesystem refused, naming the path.

    Args:
        path: What is read or written.
        num_bytes: How much is written.
        kind: Errors that are the filesystem's; libraries of remote ones raise their own.

    Raises:
        DataError: If the disk is full, the file is not there, or it is a folder, a socket or a link in a circle.
        ClusterError: If memory does not suffice, or for any other refusal.
    """
    try:
        yield
    except FmrayError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{redact(path)} is missing. It was removed, or never written.") from error
    except MemoryError as error:
        raise ClusterError(f"{redact(path)} cannot be read: {NO_MEMORY}") from error
    except kind as error:
        if is_short_of_memory(error):
            raise ClusterError(f"{redact(path)} cannot be opened: {NO_MEMORY}") from error
        if isinstance(error, OSError) and error.errno in _NO_FILE:
            raise DataError(f"{redact(path)} is no file that can be read: {error.strerror}. Remove it.") from error
        if is_disk_full(error):
            raise DataError(
                f"disk is full: {num_bytes:,} bytes did not fit at {redact(path)}. Free space or choose another store."
            ) from error
        reason = redact(str(error)) or type(error).__name__
        raise ClusterError(f"{redact(path)}: the filesystem refused: {reason}. Check rights and address.") from error


def is_short_of_memory(error: BaseException) -> bool:
    """Tell that the system gave no memory, or no room for addresses, whatever library asked for it."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return any(words in str(error).lower() for words in _NO_MEMORY)


def is_disk_full(error: BaseException) -> bool:
    """Tell a full disk or quota from other errors, also where a library has wrapped it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)))
