"""Keep what happens in a run: events, seconds per stage, and a log a person can read.

`events.jsonl` holds the one true course of the run: what a resumed training redoes is cut before it is written again.
"""

import io
import logging
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fmray.errors import ClusterError, FmrayError
from fmray.events import (
    Epoch,
    Event,
    Failed,
    Failure,
    Logged,
    Note,
    PackStarted,
    Place,
    Progress,
    Record,
    Report,
    Resumed,
    Stacks,
    Stage,
)
from fmray.printable import printable
from fmray.records import Json
from fmray.store import Store, redact
from fmray.store.fences import require_held

EVENTS, RUN = "events.jsonl", "run.json"
PASSING = (Progress, Stacks)
"""Events that are shown and not kept, or kept as files of their own."""


class Journal:
    """Write down events and pass them on.

    Args:
        root: Directory of the run.
        report: Also gets every event.
    """

    def __init__(self, root: str, store: Store, report: Report) -> None:
        self.seconds: dict[str, float] = {}
        self._notes: list[str] = []
        self._root = root
        self._path = f"{root}/{EVENTS}"
        self._store = store
        self._report = report
        self._stage = ""
        self._lock = threading.RLock()  # workers are heard, and watched, from threads
        self._packs = {line.event.place.key for line in self._lines() if isinstance(line.event, Epoch)}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case PackStarted():  # from nothing: whatever was written of it was lost before its first checkpoint
                self._cut(event.place, 0)
                return
            case Resumed():
                self._cut(event.place, event.epoch)
            case Epoch():
                self._packs.add(event.place.key)
            case Note():
                self._notes.append(event.text)
            case Record():
                self._list_record([event.kind, event.fingerprint])
            case Stacks():
                self._store.write_bytes(f"{self._root}/{event.path}", redact(event.text).encode())
        if not isinstance(event, PASSING):
            self._store.append(self._path, Logged(round(time.time(), 3), self._stage, event).to_json())
        self._report(event)

    @property
    def notes(self) -> tuple[str, ...]:
        """Give what was said in words, in order."""
        return tuple(self._notes)

    @property
    def at(self) -> str:
        """Name the stage that the run is at."""
        return self._stage

    def failures(self) -> list[Logged]:
        """Give every failure that the run went through, in this process and in those before it."""
        return [line for line in self._lines() if isinstance(line.event, Failure)]

    def note(self, text: str) -> None:
        """Say something in words."""
        self(Note(text))

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        """Mark what happens inside as one stage, and take its time."""
        self._stage = name
        self(Stage(name, text))
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)

    def fail(self, error: Exception) -> None:
        """Write down why the run ended, and of what fmray did not raise on purpose also where."""
        meant = isinstance(error, FmrayError)
        text = str(error) if meant else f"{type(error).__name__}: {error}"
        frames = [] if meant else list(traceback.extract_tb(error.__traceback__))
        where = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        with suppress(FmrayError):  # on a full disk: what is said of that must not hide the reason
            self(Failed(type(error).__name__, text, where))
            self._update({"status": "failed", "time": round(time.time(), 3), "error": text})

    def _list_record(self, record: list[str]) -> None:
        """Say in run.json that the run uses a record, before it is made: garbage collection spares it from then on."""
        records = self._store.read_json(f"{self._root}/{RUN}")["records"]
        if record not in records:
            self._update({"records": [*records, record]})

    def _update(self, facts: Json) -> None:
        path = f"{self._root}/{RUN}"
        self._store.write_json(path, self._store.read_json(path) | facts)

    def _cut(self, place: Place, epoch: int) -> None:
        """Drop the epochs of a pack beyond one, which are about to be trained again."""
        if place.key not in self._packs:
            return

        def keep(line: Json) -> bool:
            event = Logged.from_json(line).event
            return not (isinstance(event, Epoch) and event.place.key == place.key and event.epoch > epoch)

        self._store.rewrite_events(self._path, keep)

    def _lines(self) -> list[Logged]:
        return [Logged.from_json(line) for line in self._store.events(self._path)]


@contextmanager
def log_to(path: str, store: Store) -> Iterator[None]:
    """Copy what fmray logs to a file, without secrets."""
    is_local = "://" not in path
    handler = _Fenced(path) if is_local else logging.StreamHandler(io.StringIO())
    handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("fmray")
    level = log.level
    log.addHandler(handler)
    log.setLevel(min(logging.INFO, log.getEffectiveLevel()))
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()
        if isinstance(handler.stream, io.StringIO):  # objects cannot grow: it is written when the run ends
            with suppress(ClusterError):  # another process has taken over, and the log is its own
                store.write_bytes(path, handler.stream.getvalue().encode())


class _Fenced(logging.FileHandler):
    """Write to a log as long as its run is held."""

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8")
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        try:
            require_held(self._path)
        except FmrayError:
            return
        super().emit(record)


class _Redacting(logging.Formatter):
    """Hide secrets, and keep a message on its line whatever names it holds; a traceback has lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact(super().format(record)), keep="\n")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))
