"""Hold what there is to know of a run, and read what lies in its directory.

Nothing is judged here. What cannot be read is said as an error beside what can, so a store that hangs or a file that is
damaged is evidence, not an end.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from typing import Any, Generic, TypeVar

from fmray.errors import DataError, FmrayError
from fmray.events import Driver, Event, Failure, Workers, from_json
from fmray.records import Json
from fmray.report.contents import refuse_older
from fmray.store import Store
from fmray.store.files import machine
from fmray.store.lease import age_seconds, newest_holder
from fmray.store.places import files_of

READ_SECONDS, LOOK_SECONDS = 10.0, 25.0
"""How long the directory of a run may take to be read, and each other look to answer."""
PROBE_BYTES = 4 << 20
"""Written to the store and read back, unless less than `SPARE_BYTES` are free."""
SPARE_BYTES = 64 << 20
LOG_LINES, MOST_RANKS = 400, 64
T = TypeVar("T", bound=Event)
Answer = Json
"""{"value"}, or {"error": why there is none}."""


@dataclass(frozen=True)
class Line:
    """Hold one line of a file with its place, "file:number"."""

    place: str
    text: str


E = TypeVar("E", bound=Event, covariant=True)


@dataclass(frozen=True)
class Seen(Generic[E]):
    """Hold an event of a run.

    Args:
        place: "file:number" of its line.
        time: When it was written, Unix time.
        event: What it says.
    """

    place: str
    time: float
    event: E


@dataclass(frozen=True)
class Evidence:
    """Hold what is known of a run when somebody asks.

    Args:
        name: As it was asked for.
        now: Seconds since 1970.
        root: Its directory; "" where it has none yet.
        status: "finished", "failed", "running", "interrupted", or "unknown" where there is no directory.
        run: What run.json says.
        holder: Who holds, or held, its lease: {"name", "age", "released", "gone"}; empty if nobody did.
        events: Of events.jsonl.
        log, printed: Lines of driver.log, and of what the submission printed.
        gates: Of the finished run.
        traces: Path in the directory -> stacks or traceback that the last failure left there.
        stacks: [{"rank", "name", "frames": innermost first, "still": equal a second later} or {..., "error"}].
        disk: {"value": {"path", "free", "total"}} of the store, where it is local.
        storage: {"value": seconds it took to write `PROBE_BYTES` and read them back}.
        attempt: The submission, as the cluster knows it; empty without one.
        cluster: See `cluster.look`; {"error"} where it does not answer, empty where none is known.
        error: Why the directory cannot be read.
    """

    name: str
    now: float
    root: str = ""
    status: str = "unknown"
    run: Json = field(default_factory=dict)
    holder: Json = field(default_factory=dict)
    events: Sequence[Seen[Event]] = ()
    log: Sequence[Line] = ()
    printed: Sequence[Line] = ()
    gates: Sequence[Json] = ()
    traces: Mapping[str, str] = field(default_factory=dict)
    stacks: Sequence[Json] = ()
    disk: Answer = field(default_factory=dict)
    storage: Answer = field(default_factory=dict)
    attempt: Json = field(default_factory=dict)
    cluster: Json = field(default_factory=dict)
    error: str = ""

    def of(self, kind: type[T]) -> list[Seen[T]]:
        """Give the events of a kind, of the process that carried the run last."""
        starts = [index for index, seen in enumerate(self.events) if isinstance(seen.event, Driver)]
        return of_class(kind, self.events[starts[-1] if starts else 0 :])


def ask(looks: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Answer]:
    """Look at several things side by side, none for longer than a limit; what hangs is left behind."""
    answers: dict[str, Answer] = {}

    def look(name: str) -> None:
        try:
            answers[name] = {"value": looks[name]()}
        except Exception as error:  # whatever a look raises is what it saw
            answers[name] = {"error": f"{type(error).__name__}: {error}"}

    threads = [threading.Thread(target=look, args=(name,), daemon=True) for name in looks]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {name: answers.get(name, {"error": f"no answer within {seconds:g} s"}) for name in looks}


def read(root: str, store: Store) -> Json:
    """Give what lies in the directory of a run, as fields of `Evidence`.

    Raises:
        DataError: If the run has finished, and its run.json is gone or from before.
    """
    run: Json = {}
    with suppress(DataError):
        found = store.read_json(f"{root}/run.json")
        run = found if isinstance(found, dict) else {}
    status = store.status(root)
    refuse_older(root, store, status)
    gates = store.read_json(f"{root}/gates.json") if store.exists(f"{root}/gates.json") else []
    events = events_of(_text(store, f"{root}/events.jsonl"))
    log = lines_of(_text(store, f"{root}/driver.log"), "driver.log")
    holder = newest_holder(files_of(root), root)
    facts: Json = {}
    if holder is not None:
        age = age_seconds(holder, files_of(root), root)
        facts = {"name": str(holder), "age": age, "released": holder.released, "gone": holder.is_gone()}
        facts["here"] = holder.machine == machine()
    return {
        "status": status,
        "run": run,
        "holder": facts,
        "events": events,
        "log": log[-LOG_LINES:],
        "gates": gates,
        "traces": _traces(store, root, events),
    }


def _traces(store: Store, root: str, events: Sequence[Seen[Event]]) -> dict[str, str]:
    """Read what the last failure left: a file, or a folder with one for each rank."""
    failures = of_class(Failure, events)
    path = (failures[-1].event.stacks if failures else "") or ""
    if not path:
        return {}
    names = [f"{path}/{name}" for name in store.list(f"{root}/{path}")] or [path]
    return {name: _text(store, f"{root}/{name}") for name in names[:MOST_RANKS]}


def lines_of(text: str, file: str) -> list[Line]:
    """Give the lines of a text."""
    return [Line(f"{file}:{number}", line) for number, line in enumerate(text.splitlines(), 1)]


def events_of(text: str) -> list[Seen[Event]]:
    """Give the events of a run; lines that are none are left out, as a torn last one may be."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        with suppress(ValueError, KeyError, TypeError):
            found.append(seen_at(f"events.jsonl:{number}", json.loads(line)))
    return found


def seen_at(place: str, line: Json) -> Seen[Event]:
    """Read a line of events.jsonl.

    Raises:
        KeyError, TypeError: If it is no event.
    """
    return Seen(place, line["time"], from_json(line))


def of_class(kind: type[T], events: Sequence[Seen[Event]]) -> list[Seen[T]]:
    """Give the events of a kind."""
    return [Seen(seen.place, seen.time, seen.event) for seen in events if isinstance(seen.event, kind)]


def places_of(events: Sequence[Seen[Event]]) -> list[Json]:
    """Give the processes that train, as the newest events name them: the workers if there are any."""
    found: dict[object, list[Json]] = {}
    for seen in events:
        if isinstance(seen.event, Driver):
            found = {"driver": list(seen.event.places)}
        elif isinstance(seen.event, Workers):
            found[seen.event.trial] = list(seen.event.places)
    workers = [place for key, places in found.items() if key != "driver" for place in places]
    return workers or found.get("driver", [])


def disk_of(store: str) -> Json:
    """Give what is free where a local store lies."""
    usage = disk_usage(store)
    return {"path": store, "free": usage.free, "total": usage.total}


def time_storage(store: Store) -> float:
    """Give the seconds it takes to write a file into the store and to read it back."""
    path = store.path(f".fmray-why-{secrets.token_hex(4)}")
    data = secrets.token_bytes(PROBE_BYTES)
    started = time.monotonic()
    try:
        store.write_bytes(path, data)
        if store.read_bytes(path) != data:
            raise DataError(f"{path} does not read back as it was written. Look at this disk.")
        return round(time.monotonic() - started, 3)
    finally:
        with suppress(FmrayError):
            store.remove(path)


def is_local(store: Store) -> bool:
    """Tell a store on a path from one at a URI."""
    return "://" not in store.root and Path(store.root).is_dir()


def _text(store: Store, path: str) -> str:
    return store.read_bytes(path).decode(errors="replace") if store.exists(path) else ""
