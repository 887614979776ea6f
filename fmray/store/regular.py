"""Open files that somebody else may have put there: regular files of a bounded size only, without ever waiting.

A named pipe would be waited for without end, a device read without end; both are refused before a byte is read.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from fmray.errors import DataError
from fmray.store.redaction import redact

MOST_JSON_BYTES = 256 << 20
"""Largest JSON document that is read; fmray writes none that is near it."""
_WORDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path, most_bytes: int | None = None) -> BinaryIO:
    """Open a regular file for reading, without waiting for anybody.

    Raises:
        DataError: If it is a folder, a named pipe, a socket or a device, or larger than `most_bytes`.
        OSError: If it cannot be opened.
    """
    require_regular(path, most_bytes)
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115, the caller closes it
    try:
        _refuse(os.fstat(file.fileno()), path, most_bytes)  # again: another process may have replaced it
    except BaseException:
        file.close()
        raise
    return file


def require_regular(path: str | Path, most_bytes: int | None = None) -> None:
    """Refuse what is no regular file, for libraries that open paths themselves.

    Raises:
        DataError: As `open_regular` does, or if links lead in a circle.
        OSError: If there is no such file.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(
                f"{redact(str(path))} is a link that leads in a circle. Put the file itself there."
            ) from error
        raise
    _refuse(found, path, most_bytes)


def require_inside(path: str, folder: str) -> None:
    """Refuse a file that a link leads out of the folder it belongs to.

    Raises:
        DataError: If it lies elsewhere, or links lead in a circle.
    """
    home = os.path.realpath(folder)
    if not f"{os.path.realpath(path)}/".startswith(f"{home}/"):
        raise DataError(f"{redact(path)} is a link that leads out of {redact(folder)}. Put the file itself there.")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _refuse(found: os.stat_result, path: str | Path, most_bytes: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        words = _WORDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise DataError(f"{redact(str(path))} is {words}. Accepted: a regular file.")
    if most_bytes is not None and found.st_size > most_bytes:
        text = f"{redact(str(path))} has {found.st_size:,} bytes"
        raise DataError(f"{text}, at most {most_bytes:,} are read. It is damaged, or no file of fmray.")
