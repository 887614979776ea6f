"""Wait where storage refuses for a while: a share that is away, a server that is asked too much.

A run that has shown that its store works does not end because the store is away for some minutes. Elsewhere, a refusal
is said at once: an address that is wrong will not get right by waiting.
"""

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from fmray.errors import ClusterError
from fmray.events import Failure, Report
from fmray.failures import STORAGE, WAITED
from fmray.store.fences import require_held
from fmray.store.files import Files, is_disk_full
from fmray.store.redaction import redact

TOTAL_SECONDS = 600.0
"""How long one operation is tried in all."""
FIRST_SECONDS, MOST_SECONDS = 0.5, 30.0
"""The first wait, and the longest; each is twice the one before."""
_PASSING = frozenset({
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EPIPE, errno.EAGAIN, errno.EBUSY, errno.EREMOTEIO,
})  # fmt: skip
_WORDS = (
    "SlowDown", "Throttl", "RequestTimeout", "ServiceUnavailable", "InternalError", "reduce your request rate",
    "Could not connect to the endpoint", "Connection was closed", "Connect timeout", "Read timeout",
    "Too Many Requests", "Bad Gateway", "Gateway Timeout",
)  # fmt: skip
T = TypeVar("T")
log = logging.getLogger("fmray")


def is_transient(error: BaseException) -> bool:
    """Tell an error of storage that may pass from one that will not, also where a library has wrapped it."""
    if is_disk_full(error):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    number = error.errno if isinstance(error, OSError) else None
    return number in _PASSING or any(word.lower() in str(error).lower() for word in _WORDS)


@dataclass(frozen=True)
class _Wait:
    report: Report
    alive: Callable[[], None]
    total_seconds: float


_waits: list[_Wait] = []


@contextmanager
def waiting(
    report: Report, alive: Callable[[], None] = lambda: None, total_seconds: float | None = None
) -> Iterator[None]:
    """Wait for storage in this process, for the length of a `with` block, and tell of it once it answers.

    Args:
        report: Gets an event for each operation that had to wait.
        alive: Called at every refusal: who waits for storage does not hang.
        total_seconds: How long one operation is tried in all.
    """
    wait = _Wait(report, alive, TOTAL_SECONDS if total_seconds is None else total_seconds)
    _waits.append(wait)
    try:
        yield
    finally:
        _waits.remove(wait)


class PatientFiles:
    """Do what `Files` does, again and again where the filesystem refuses for a while and the process waits for it.

    Signs of life do not wait: a lease whose holder cannot write is to grow old.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self.can_exclude = files.can_exclude
        self.temporaries = files.temporaries
        self.drop = files.drop
        self.touch = files.touch
        self.touched = files.touched
        self.clock = files.clock

    def read(self, path: str) -> bytes:
        """Give the content of a file."""
        return _patiently(path, lambda again: self._files.read(path))

    def write(self, path: str, data: bytes) -> None:
        """Put a file in place, whole or not at all."""

        def act(again: bool) -> None:
            require_held(path)
            self._files.write(path, data)

        _patiently(path, act)

    def create(self, path: str, data: bytes) -> bool:
        """Put a file in place unless there is one; False if another was first."""

        def act(again: bool) -> bool:
            require_held(path)
            # an attempt that was refused may have come through all the same
            return self._files.create(path, data) or (again and self._files.read(path) == data)

        return _patiently(path, act)

    def append(self, path: str, line: bytes) -> None:
        """Add one line, after cutting a last line that was never finished."""

        def act(again: bool) -> None:
            if not (again and self._files.exists(path) and self._files.read(path).endswith(line)):
                self._files.append(path, line)

        _patiently(path, act)

    def names(self, folder: str) -> list[str]:
        """List what lies in a folder, sorted, without temporary files; nothing if there is no folder."""
        return _patiently(folder, lambda again: self._files.names(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Give every file below a folder by relative path, with its size."""
        return _patiently(folder, lambda again: self._files.sizes(folder))

    def exists(self, path: str) -> bool:
        """Tell whether a file or folder is there."""
        return _patiently(path, lambda again: self._files.exists(path))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all below it, its manifest first."""
        require_held(path)
        _patiently(path, lambda again: self._files.remove(path))

    def make(self, folder: str) -> None:
        """Make a folder, where the filesystem has such things."""
        require_held(folder)
        _patiently(folder, lambda again: self._files.make(folder))

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        return _patiently(path, lambda again: self._files.open(path))

    def put(self, here: str, path: str) -> None:
        """Put a copy of a local file in place, whole or not at all."""

        def act(again: bool) -> None:
            require_held(path)
            self._files.put(here, path)

        _patiently(path, act)

    def sync(self, folder: str, names: Sequence[str]) -> None:
        """Bring files that others wrote to the disk."""
        _patiently(folder, lambda again: self._files.sync(folder, names))


def _patiently(path: str, act: Callable[[bool], T]) -> T:
    """Act until it is not refused, or too long; `act` is told whether it was refused before."""
    began = time.monotonic()
    refusals = 0
    reason = ""
    while True:
        try:
            found = act(refusals > 0)
            break
        except ClusterError as error:
            wait = _waits[-1] if _waits else None
            if wait is None or error.__cause__ is None or not is_transient(error.__cause__):
                raise
            pause = min(FIRST_SECONDS * 2**refusals, MOST_SECONDS) * random.uniform(0.8, 1.2)  # not all at once
            if time.monotonic() + pause - began > wait.total_seconds:
                raise
            refusals = refusals + 1
            reason = redact(str(error.__cause__)) or type(error.__cause__).__name__
            wait.alive()
            log.warning("%s refused (%s), tried again in %.1f s", redact(path), reason, pause)
        time.sleep(pause)
    if refusals and _waits:
        seconds = time.monotonic() - began
        text = f"{redact(path)} was refused {refusals} times in {seconds:.1f} s ({reason}), then went through"
        _waits[-1].report(Failure(STORAGE, text, WAITED, counted=False, attempt=refusals))
    return found
