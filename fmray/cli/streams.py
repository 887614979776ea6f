"""Let the streams of this process take whatever is written to them, in any encoding, whether or not anybody reads.

A stream that is closed, full or no longer read loses its output and never ends a command. Nothing heavy is imported
here: it comes before signals are heard.
"""

import codecs
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

SPELLED = {"·": "-", "…": "...", "→": "->", "↓": "v", "∞": "inf", "×": "x", "–": "-", "—": "-"}
"""What fmray's own signs become where an encoding lacks them; anything else is escaped."""
ENCODING_ERRORS = "fmray_spelled"


def require_utf8_names() -> None:
    """Start the process again in Python's UTF-8 mode where it could not open a file whose name is not ASCII.

    So it is under `LC_ALL=C PYTHONUTF8=0`. What it prints keeps the encoding that was asked for.
    """
    if sys.getfilesystemencoding() == "ascii" and sys.stdout is not None:
        said = {"PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING", sys.stdout.encoding), "PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | said)


def guard_streams() -> None:
    """Let stdout and stderr take whatever is written, for the rest of the process.

    A closed descriptor is replaced by the null device: the next file to be opened would get its number, and what
    libraries print would land in that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    codecs.register_error(ENCODING_ERRORS, _spell)
    sys.stdout = _guarded(sys.stdout, 1)
    sys.stderr = _guarded(sys.stderr, 2)


def _guarded(stream: TextIO | None, number: int) -> TextIO:
    if stream is not None:
        stream.flush()
    output = _Output(number)
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors=ENCODING_ERRORS,
        line_buffering=number == 2 or output.isatty(),
    )


class _Output(io.RawIOBase):
    """Write to a descriptor for as long as it takes anything, then to the null device."""

    def __init__(self, number: int) -> None:
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        while True:
            try:
                return os.write(self._number, data)
            except BlockingIOError:  # another program made the pipe non-blocking
                select.select([], [self._number], [])
            except OSError as error:
                self._give_up(error)
                return len(data)

    def _give_up(self, error: OSError) -> None:
        # the descriptor itself is redirected, for libraries write to it directly
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._number)
        os.close(nowhere)
        if self._number == 1 and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            print(f"stdout: {error.strerror}; the rest of the output is lost", file=sys.stderr)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    spelled = (SPELLED.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in unknown)
    return "".join(spelled), error.end
