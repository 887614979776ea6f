"""Put a run's records into the few words that MLflow knows: parameters, tags, points of curves.

Nothing here asks MLflow or anybody else; the same records always give the same entries.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from fmray.events import Epoch, Event, Logged
from fmray.records import Interval, Json, Member, Scores
from fmray.store import Store, redact
from fmray.track.notice import Notice

MOST_NESTED = 100
"""Members of a sweep that get a run of their own; telling of one takes three requests."""
MOST_TEXT = 500
"""Characters of a parameter; what is longer is cut, and says so."""
MOST_WORDS = 4000
"""Characters of a tag that says why something failed."""
MOST_KEYS = 50
"""A map with more keys is told as one parameter."""


@dataclass(frozen=True)
class Point:
    """Hold one value of a curve; `seconds` is Unix time."""

    metric: str
    step: int
    value: float
    seconds: float


@dataclass(frozen=True)
class Entry:
    """Hold what one run of MLflow says.

    Args:
        name: As shown.
        mark: Tells the nested runs of one run apart; "" for the run itself.
        params, tags: As MLflow accepts them.
        points: Of all curves; single numbers are points at step 0.
        status: How it ended, in MLflow's words.
        ended: Unix time.
    """

    name: str
    mark: str
    params: dict[str, str]
    tags: dict[str, str]
    points: tuple[Point, ...]
    status: str
    ended: float


def entries_of(root: str, store: Store, notice: Notice) -> tuple[Entry, ...]:
    """Give the entry of a run that has ended, then those of its members, if it has several.

    A single member's history stands in the entry of the run.
    """
    events = [Logged.from_json(line) for line in store.events(f"{root}/events.jsonl")]
    ended = max((line.time for line in events), default=notice.began)
    progress = progress_of(events)
    run_id = root.rpartition("/")[2]
    params = flat(notice.job)
    if not store.exists(f"{root}/card.json") or store.status(root) != "finished":
        why = store.read_json(f"{root}/run.json").get("error", "")
        tags = {**notice.tags, "fmray.error": cut(redact(why), MOST_WORDS)}
        return (Entry(run_id, "", params=params, tags=tags, points=progress, status="FAILED", ended=ended),)
    card = store.read_json(f"{root}/card.json")
    scores = Scores.from_json(card["scores"])
    when = _clock(events, ended)
    members = [Member.from_json(member) for member in card["members"]]
    chosen = set(card["ensemble"]["members"])
    told = nested_of(members, chosen, scores.higher_is_better) if len(members) > 1 else []
    points = (*progress, *_scores(scores, ended), *_seconds(card["timings"], ended))
    if not told:
        points += _history(members[0], when)
    tags = {**notice.tags, **_findings(card, run_id, len(told), len(members))}
    first = Entry(run_id, "", params=params, tags=tags, points=points, status="FINISHED", ended=ended)
    return (first, *(_member(member, member.index in chosen, scores.primary, when) for member in told))


def nested_of(members: Sequence[Member], chosen: set[int], higher_is_better: bool) -> list[Member]:
    """Choose the members that get a run of their own: those of the ensemble, then the best others."""
    sign = -1 if higher_is_better else 1

    def rank(member: Member) -> tuple[bool, float, int]:
        score = member.val_score
        lost = score is None or math.isnan(score)
        return member.index not in chosen, math.inf if score is None or lost else sign * score, member.index

    return sorted(members, key=rank)[:MOST_NESTED]


def progress_of(lines: Iterable[Logged]) -> tuple[Point, ...]:
    """Give the best score and the members alive after each epoch of any pack, in the order they were trained."""
    points = []
    found = [(line.time, line.event) for line in lines if is_progress(line.event)]
    for step, (seconds, event) in enumerate(found, 1):
        if event.best is not None:
            points.append(Point(plain(f"progress/best_{event.primary}"), step, event.best, seconds))
        points.append(Point("progress/members_alive", step, event.alive, seconds))
    return tuple(points)


def is_progress(event: Event) -> TypeGuard[Epoch]:
    """Tell the end of an epoch of the run's own members from other events."""
    return isinstance(event, Epoch) and event.place.role != "baseline"


def flat(value: object, key: str = "") -> dict[str, str]:
    """Give settings by dotted path, as text; secrets hidden, long ones cut."""
    if isinstance(value, Mapping) and 0 < len(value) <= MOST_KEYS:
        inner = [flat(item, f"{key}.{name}" if key else str(name)) for name, item in redact(dict(value)).items()]
        return {name: text for part in inner for name, text in part.items()}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return {plain(key): cut(text, MOST_TEXT)}


def cut(text: str, most: int) -> str:
    """Shorten a text, and say so in it."""
    notice = f"… (cut, {len(text):,} characters)"
    return text if len(text) <= most else text[: most - len(notice)] + notice


def plain(name: str) -> str:
    """Spell a name with the characters MLflow takes; one that had others, or is long, gets a digest to stay unique."""
    spelled = re.sub(r"[^\w.\- :/]", "_", name)[:230]
    if spelled == name and not re.search(r"(^|/)(\.*)(/|$)", name):
        return name
    spelled = re.sub(r"(^|/)\.*(?=/|$)", r"\1_", spelled)
    return f"{spelled}-{hashlib.blake2b(name.encode(), digest_size=3).hexdigest()}"


def _member(member: Member, speaks: bool, primary: str, when: "_Clock") -> Entry:
    name = f"{member.role}-{member.index:05d}"
    facts = {**flat({"model": {member.model["name"]: member.model["params"]}}), **flat(member.params)}
    points = _history(member, when)
    ended = when(member, member.epochs)
    if member.val_score is not None:
        points += (Point(plain(f"best/{primary}"), member.best_epoch, member.val_score, ended),)
    tags = {
        "fmray.status": member.status,
        "fmray.speaks": "yes" if speaks else "no",
        "fmray.best_epoch": str(member.best_epoch),
        "fmray.tensor_hash": member.tensor_hash,
        "fmray.reason": member.reason,
    }
    facts["seed"] = str(member.seed)
    return Entry(
        name,
        name,
        params=facts,
        tags=tags,
        points=points,
        status="FAILED" if member.status == "failed" else "FINISHED",
        ended=ended,
    )


def _history(member: Member, when: "_Clock") -> tuple[Point, ...]:
    return tuple(
        Point(plain(entry["metric"]), entry["epoch"], entry["value"], when(member, entry["epoch"]))
        for entry in member.history
    )


class _Clock:
    """Tell when a member ended an epoch, as far as the run itself saw it."""

    def __init__(self, seen: Mapping[tuple[str, int, int], float], otherwise: float) -> None:
        self._seen = seen
        self._otherwise = otherwise

    def __call__(self, member: Member, epoch: int) -> float:
        return self._seen.get((member.role, member.pack, epoch), self._otherwise)


def _clock(lines: Iterable[Logged], otherwise: float) -> _Clock:
    seen = [(line.time, line.event) for line in lines if isinstance(line.event, Epoch)]
    return _Clock({(one.place.role, one.place.pack, one.epoch): seconds for seconds, one in seen}, otherwise)


def _scores(scores: Scores, ended: float) -> tuple[Point, ...]:
    tables = {"test": scores.test, "val": scores.val, "gain": scores.paired}
    tables |= {f"baseline/{name}": metrics for name, metrics in scores.baselines.items()}
    numbers = [
        (f"{table}/{name}{end}", value)
        for table, metrics in tables.items()
        for name, interval in metrics.items()
        for end, value in _ends(interval)
    ]
    numbers.append(("looks", scores.looks))
    return tuple(Point(plain(name), 0, value, ended) for name, value in numbers)


def _ends(interval: Interval) -> list[tuple[str, float]]:
    ends = [("/low", interval.low), ("/high", interval.high)]
    return [("", interval.value), *(end for end in ends if not math.isnan(end[1]))]


def _seconds(timings: Mapping[str, float], ended: float) -> tuple[Point, ...]:
    return tuple(Point(f"seconds/{stage}", 0, seconds, ended) for stage, seconds in timings.items())


def _findings(card: Json, run_id: str, num_nested: int, num_members: int) -> dict[str, str]:
    prepared = card["prepared"]
    gates = card["gates"]
    failed = [gate["gate"] for gate in gates if gate["status"] == "fail"]
    says = f"Run {run_id}. Its page is report.html, among the artefacts."
    if num_nested < num_members and num_members > 1:
        says += (
            f" Of {num_members:,} members, the {num_nested} of the ensemble or that are best have runs of their own;"
        )
        says += " members.parquet and history.parquet hold all."
    return {
        "mlflow.note.content": says,
        "fmray.error": "",
        "fmray.prepared": prepared["fingerprint"],
        "fmray.test_identity": prepared["test_identity"],
        "fmray.ensemble": card["ensemble"]["name"],
        "fmray.failed_gates": ", ".join(failed) or "none",
        "fmray.looks": str(card["scores"]["looks"]),
    }
