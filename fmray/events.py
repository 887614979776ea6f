"""Define everything that a run reports: one frozen class per event, and its form as JSON.

Whoever does something reports an event; the console, the journal, MLflow and `fmray why` read the same classes. The
JSON form is that of `events.jsonl`: names of its keys never change, so runs of earlier versions are read.
Events travel between processes, so they hold plain values only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


OPTIONAL = {"optional": True}
"""Marks a field that is left out of JSON where it has its default."""


@dataclass(frozen=True)
class Event:
    """Say what happened. Subclasses are the events there are."""

    event: ClassVar[str] = ""


Report = Callable[[Event], None]
"""Gets every event."""


def ignore(event: Event) -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Place:
    """Say which pack of which trial an event is about.

    Args:
        role: What its members are for: "member", "finalist" or "baseline".
        trial, trials: Number of the trial, and how many there are.
        pack, packs: Number of the pack in its trial, and how many there are.
    """

    role: str = "member"
    trial: int = 0
    trials: int = 1
    pack: int = 0
    packs: int = 1

    @property
    def key(self) -> tuple[str, int, int]:
        """Tell the packs of a run apart, however many there are."""
        return self.role, self.trial, self.pack


@dataclass(frozen=True)
class SearchStanding:
    """Say how a whole search stands.

    Args:
        best: Best score so far.
        members, alive, waiting: How many there are in all, train now, and are still to come.
        epochs, expected: Epochs of members that were trained, and that are likely to be.
        rungs: Packs that have passed each rung.
        packs: Packs that have begun.
    """

    best: float | None
    members: int
    alive: int
    waiting: int
    epochs: int
    expected: int
    rungs: Sequence[int]
    packs: int
    seconds_left: float


@dataclass(frozen=True)
class Stage(Event):
    """A stage of the run begins."""

    event: ClassVar[str] = "stage"
    name: str = field(metadata={"key": "stage"})
    text: str


@dataclass(frozen=True)
class Note(Event):
    """Something was decided for the user, or is worth knowing.

    Args:
        about: What training waits for: "node" or "ingest"; "" for any other note.
    """

    event: ClassVar[str] = "note"
    text: str
    about: str = field(default="", metadata=OPTIONAL)


@dataclass(frozen=True)
class RunOpened(Event):
    """A run has its name and its directory."""

    event: ClassVar[str] = "run"
    id: str
    root: str


@dataclass(frozen=True)
class Driver(Event):
    """A process has taken over the run.

    Args:
        places: That process, as `train.stacks.here` gives it.
        ray: The cluster it is connected to.
    """

    event: ClassVar[str] = "driver"
    places: Sequence[dict[str, Any]] = ()
    ray: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Workers(Event):
    """Workers have begun to train.

    Args:
        trial: That they train; None where all train the same.
        places: Their processes, as `train.stacks.here` gives them.
    """

    event: ClassVar[str] = "workers"
    places: Sequence[dict[str, Any]] = ()
    trial: int | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Record(Event):
    """The run uses a record of the store; reported before the record is made."""

    event: ClassVar[str] = "record"
    kind: str
    fingerprint: str


@dataclass(frozen=True)
class Progress(Event):
    """Some items of a stage are done; shown and not kept."""

    event: ClassVar[str] = "progress"
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class PackStarted(Event):
    """A pack begins from nothing; whatever was reported of it before is void."""

    event: ClassVar[str] = "pack"
    place: Place = Place()


@dataclass(frozen=True)
class Resumed(Event):
    """A pack continues from a checkpoint; what was reported of its later epochs is void.

    Args:
        same: "exact", "same batches" or "changed (...)": how its steps compare with those of an uninterrupted run.
        changed: What is different here from where the checkpoint was written.
    """

    event: ClassVar[str] = "resumed"
    epoch: int
    step: int
    same: str = field(metadata={"key": "class"})
    place: Place = Place()
    changed: str = field(default="", metadata=OPTIONAL)


@dataclass(frozen=True)
class Epoch(Event):
    """A pack has finished an epoch.

    Args:
        epoch, epochs: How many are finished, and how many it trains at most.
        seconds: That the epoch took.
        spent: Seconds of them that were spent on waiting for rows, and on checkpoints.
        primary: Name of the primary metric.
        best: Best score of a member on validation; None if nobody has one.
        members, alive: How many began, and how many still train.
        search: How the whole search stands, if there is one.
    """

    event: ClassVar[str] = "epoch"
    epoch: int = 0
    epochs: int = 0
    rows_per_second: int = 0
    seconds: float = 0.0
    spent: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float = 0.0
    primary: str = ""
    best: float | None = None
    members: int = 0
    alive: int = 0
    place: Place = Place()
    search: SearchStanding | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Exploit(Event):
    """A member of population based training continues from the state of another.

    Args:
        source: Whose state it is.
        params: Its own from now on.
        lineage: Of its weights, this step last.
    """

    event: ClassVar[str] = "exploit"
    member: int
    epoch: int
    source: int = field(metadata={"key": "from"})
    params: Mapping[str, Any]
    lineage: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Failure(Event):
    """Something failed, and something was done about it.

    Args:
        kind: See `fmray.failures`.
        action: What was done; see there.
        counted: Whether `run.max_failures` counts it.
        attempt: Number of the failure.
        rank, node: The worker it hit first, and where that was.
        stacks: Where in the run's directory a traceback or the stacks of all workers lie.
    """

    event: ClassVar[str] = "failure"
    kind: str = field(metadata={"key": "class"})
    text: str
    action: str
    counted: bool
    attempt: int = 1
    rank: int | None = None
    node: str | None = None
    stacks: str | None = None


@dataclass(frozen=True)
class Stacks(Event):
    """Stacks or a traceback, to be kept as a file of the run's directory."""

    event: ClassVar[str] = "stacks"
    path: str
    text: str


@dataclass(frozen=True)
class Failed(Event):
    """The run has ended with an error.

    Args:
        kind: Name of the error's class.
        frames: Of an error that fmray did not raise on purpose, outermost first.
    """

    event: ClassVar[str] = "failed"
    kind: str
    text: str
    frames: Sequence[str] = ()


@dataclass(frozen=True)
class Promotion(Event):
    """It was decided whether the run becomes champion; fields are those of `promote.Outcome`."""

    event: ClassVar[str] = "promotion"
    job: str
    run: str
    verdict: str
    champion: str | None
    text: str
    evidence: Mapping[str, Any]
    notes: Sequence[str]


@dataclass(frozen=True)
class Unknown(Event):
    """An event of another version, as it was written."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Logged:
    """Hold one line of `events.jsonl`.

    Args:
        time: When it was written, Unix time.
        stage: Of the run at that time.
        event: What it says.
    """

    time: float
    stage: str
    event: Event

    def to_json(self) -> dict[str, Any]:
        """Give the line as plain values."""
        return {"time": self.time, "stage": self.stage, **to_json(self.event)}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Logged":
        """Read what `to_json` gave, of this version or another."""
        return cls(line.get("time", 0.0), line.get("stage", ""), from_json(line))


KINDS: dict[str, type[Event]] = {
    kind.event: kind
    for kind in (
        Stage, Note, RunOpened, Driver, Workers, Record, Progress, PackStarted, Resumed, Epoch, Exploit, Failure,
        Stacks, Failed, Promotion,
    )
}  # fmt: skip
"""Name of an event in JSON -> its class."""


def to_json(event: Event) -> dict[str, Any]:
    """Give an event as plain values: {"event": its name, ...}."""
    if isinstance(event, Unknown):
        return {"event": event.name, **event.values}
    found: dict[str, Any] = {"event": event.event}
    for one in fields(event):
        value = getattr(event, one.name)
        if isinstance(value, Place):
            found |= vars(value)
        elif not (one.metadata.get("optional") and value == one.default):
            found[one.metadata.get("key", one.name)] = dict(vars(value)) if isinstance(value, SearchStanding) else value
    return found


def from_json(value: Mapping[str, Any]) -> Event:
    """Read what `to_json` gave, of this version or another: keys it does not know are left out.

    Raises:
        KeyError: If a key is missing that was always written.
    """
    kind = KINDS.get(value["event"])
    if kind is None:
        return Unknown(value["event"], {name: item for name, item in value.items() if name != "event"})
    given: dict[str, Any] = {}
    for one in fields(kind):
        key = one.metadata.get("key", one.name)
        if one.name == "place":
            given["place"] = _part(Place, value)
        elif key in value:
            is_standing = key == "search" and value[key] is not None
            given[one.name] = _part(SearchStanding, value[key]) if is_standing else value[key]
        elif one.default is MISSING and one.default_factory is MISSING:
            raise KeyError(key)
    return kind(**given)


def _part(kind: type[T], value: Mapping[str, Any]) -> T:
    return kind(**{one.name: value[one.name] for one in fields(kind) if one.name in value})  # type: ignore[arg-type]
