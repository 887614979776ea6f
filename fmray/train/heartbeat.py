"""Know whether a training gets on, and show where it stands if it does not.

Every step and every part of an evaluation is a beat of this process, whichever thread makes it. Who watches, here or
from elsewhere, compares the beats it saw last with those there are now.
"""

import faulthandler
import math
import os
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from fmray.events import Report, Stacks
from fmray.failures import HANG, WAITED
from fmray.train.failures import failure

LEAST_SECONDS, MEDIANS = 600.0, 50.0
"""Without a word from the job, a training hangs when nobody made a step for so long, and for so many median steps."""
Asked = Literal["auto", "none"] | float
_beats = [0]


def beat() -> None:
    """Say that this process gets on."""
    _beats[0] += 1


def beats() -> int:
    """Count how often it said so."""
    return _beats[0]


@dataclass
class Stillness:
    """Judge whether what is watched hangs, from the beats that are seen now and then.

    Args:
        asked: The job's `run.hang_seconds`.
    """

    asked: Asked
    _seen: int = -1
    _since: float = 0.0
    _gaps: deque[float] = field(default_factory=lambda: deque(maxlen=999))

    @property
    def limit_seconds(self) -> float:
        """Give the time without a beat from which on it hangs."""
        if self.asked == "none":
            return math.inf
        if self.asked != "auto":
            return float(self.asked)
        return max(LEAST_SECONDS, MEDIANS * statistics.median(self._gaps)) if self._gaps else LEAST_SECONDS

    def still_seconds(self, seen: int, now: float) -> float:
        """Take note of the beats seen, and give the time since the last new one."""
        if seen != self._seen:
            if self._seen >= 0:
                self._gaps.append(now - self._since)  # a step, or the time between two looks if that is longer
            self._seen = seen
            self._since = now
        return now - self._since


def look_seconds(asked: Asked) -> float:
    """Give the time between two looks: a hang is found within half as long again as was asked."""
    return 5.0 if isinstance(asked, str) else min(5.0, asked / 4)


def stacks_here() -> str:
    """Give the stacks of all threads of this process."""
    with tempfile.TemporaryFile("w+b") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


@contextmanager
def watched_here(asked: Asked, report: Report) -> Iterator[None]:
    """Say where this process stands if it hangs, for the length of a `with` block; it cannot start itself again."""
    if asked == "none":
        yield
        return
    ended = threading.Event()
    still = Stillness(asked)

    def watch() -> None:
        told, number = -1, 0
        while not ended.wait(look_seconds(asked)):
            now = beats()
            seconds = still.still_seconds(now, time.monotonic())
            if seconds > still.limit_seconds and now != told:
                told = now
                number = number + 1
                folder = f"stacks/{os.getpid()}-{number}"
                report(Stacks(f"{folder}/rank-0.txt", stacks_here()))
                text = f"no step was made for {seconds:.0f} s (run.hang_seconds: {asked}); this process waits on"
                report(failure(HANG, text, WAITED, number, rank=0, stacks=folder))

    with beside("fmray-watch", watch, ended):
        yield


@contextmanager
def beside(name: str, act: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    """Run a function in a thread for as long as the block lasts; it returns once `ended` is set."""
    thread = threading.Thread(target=act, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
