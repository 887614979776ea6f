"""Answer SIGINT and SIGTERM in time, whatever the process is doing.

Python raises KeyboardInterrupt only between two of its instructions, and a long sort in a library is one of them. A
thread hears of signals at once; it ends the process where the main thread has not done so within a grace period.
Whatever is on disk by then is as good as after a kill: a run continues from it.

An exception that is raised while a library is imported may have to pass through the C++ that initialises it, which then
aborts the process. So the main thread is interrupted only once its import is done.

A command that has answered ends as soon as exit handlers have run. Python would take its modules apart first, for
seconds on a busy machine, and by then nobody hears of signals.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from fmray.cli.answer import INTERRUPTED

GRACE_SECONDS = 1.5
GIVE_UP_SECONDS = 1.0
IMPORT_SECONDS = 0.02
"""Time between two looks at whether the main thread still imports."""
_HEARD = (signal.SIGINT, signal.SIGTERM)
_codes: list[int] = []  # the exit code, once it is known
_received: list[int] = []  # signals that end this process


def watch_signals(give_up: Callable[[], None]) -> None:
    """End this process soon after a signal, and at once after a second one.

    Args:
        give_up: Called before the process is ended from outside of its main thread; has a second.
    """
    atexit.register(_leave)  # before any library registers its own, so it runs after them
    heard, written = os.pipe()
    os.set_blocking(written, False)
    for number in _HEARD:
        signal.signal(number, _interrupt)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    # a signal to a forked child must not end its parent
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_watch, args=(heard, give_up), name="signals", daemon=True).start()


def is_signalled() -> bool:
    """Tell whether a signal came that ends this process."""
    return bool(_received)


def end_with(code: int) -> None:
    """Let the process end with an exit code from now on, also when a signal comes."""
    _codes.append(code)
    for number in _HEARD:  # the thread hears it all the same, and ends the process should its exit handlers hang
        signal.signal(number, lambda number, frame: None)


def _leave() -> None:
    if not _codes:  # an error that nobody foresaw, or a call from Python
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_codes[-1])


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    for heard in _HEARD:  # a second one must not break what the first one has begun; the thread hears it all the same
        signal.signal(heard, lambda number, frame: None)
    _raise_unless_importing(number, frame)


def _raise_unless_importing(number: int, frame: FrameType | None) -> None:
    if _is_importing(frame):  # ask again in a moment; an import that takes longer than the thread waits is ended by it
        signal.signal(signal.SIGALRM, _raise_unless_importing)
        signal.setitimer(signal.ITIMER_REAL, IMPORT_SECONDS)
        return
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _watch(heard: int, give_up: Callable[[], None]) -> None:
    _received.append(_wait(heard, None))  # libraries put handlers of their own in place of ours
    _wait(heard, GRACE_SECONDS)
    last = threading.Thread(target=give_up, name="give up", daemon=True)
    last.start()
    last.join(GIVE_UP_SECONDS)
    os._exit(_codes[-1] if _codes else INTERRUPTED)


def _wait(heard: int, seconds: float | None) -> int:
    """Wait for a signal that ends processes, for so long at most; give its number, 0 if none came."""
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([heard], [], [], None if until is None else max(0.0, until - time.monotonic()))
        if not ready:
            return 0
        if ending := [number for number in os.read(heard, 64) if number in _HEARD]:
            return ending[0]
