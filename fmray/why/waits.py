"""Say what a run that has not ended waits for, or that it is fine: how far, how fast, and when it should end."""

import time
from collections.abc import Iterator, Sequence

from fmray.events import Driver, Epoch, Event, Failure, Note, Resumed, Stage, Workers
from fmray.failures import AGAIN, HANG, WAITED
from fmray.records import Json
from fmray.why.evidence import PROBE_BYTES, Evidence, Seen
from fmray.why.finding import FREE_CPUS, NEW_NODE, Finding, shorten, spell_bytes, spell_names, spell_seconds
from fmray.why.room import dead_nodes

STILL_SECONDS, STILL_EPOCHS = 20.0, 5.0
"""A training is silent if no epoch has ended for so long, and for so many times the longest epoch before."""
SILENT_SECONDS = 300.0
"""Silence where no epoch has told how long one takes."""
LATELY = 5
"""Epochs that tell of the present."""
MUCH, SLOW_SECONDS = 0.5, 2.0
"""A share of an epoch, and a time for the probe of the storage, that are worth a word."""
LEAST_FREE = 1 << 30
COLLECTIVE = ("distributed_c10d.py", "fmray/train/group.py")
INGEST = ("fmray/train/ingest.py", "fmray/train/stream.py")
SENT = "_ray_pkg_"
"""Begins the name of the folder that Ray unpacks what was submitted into."""
LIBRARIES = ("site-packages", "/lib/python", "<frozen", "<string>")


def progress(evidence: Evidence) -> list[tuple[str, str]]:
    """Say how far a run is."""
    stages = evidence.of(Stage)
    epochs = evidence.of(Epoch)
    seen = []
    if stages:
        age = spell_seconds(evidence.now - (stages[-1].time or evidence.now))
        since = f"since {age}" if evidence.status == "running" else "was the last one"
        seen.append((stages[-1].place, f"stage {stages[-1].event.name} {since}: {stages[-1].event.text}"))
    if epochs:
        last = epochs[-1].event
        best = "" if last.best is None else f", best {last.primary} {last.best:.4f}"
        seen.append((epochs[-1].place, f"{_far(last)}, {last.rows_per_second:,} rows/s{best}"))
    return seen


def _far(last: Epoch) -> str:
    if last.search is not None:
        return f"{last.search.epochs:,} of about {last.search.expected:,} epochs of the search"
    pack = f", pack {last.place.pack + 1} of {last.place.packs}" if last.place.packs > 1 else ""
    return f"epoch {last.epoch} of {last.epochs}{pack}"


def fine(evidence: Evidence) -> Finding:
    """Say that a run goes on, how fast and until when."""
    epochs = evidence.of(Epoch)
    stages = evidence.of(Stage)
    if not epochs:
        doing = f"stage {stages[-1].event.name}" if stages else "it has just begun"
        return Finding("fine", f"it is running: {doing}", tuple(progress(evidence)), "Nothing to do: wait")
    last = epochs[-1].event
    heard = epochs[-1].time
    left = (last.search or last).seconds_left - (evidence.now - heard)
    if left <= 0 or (stages and stages[-1].time > heard):
        return Finding(
            "fine", f"it is running: {_far(last)}, nearly done", tuple(progress(evidence)), "Nothing to do: wait"
        )
    end = time.strftime("%H:%M:%S", time.localtime(evidence.now + left))
    cause = f"it is running: {_far(last)}, training should end in {spell_seconds(left)}, at {end}"
    return Finding("fine", cause, tuple(progress(evidence)), "Nothing to do: wait")


def lost_node(evidence: Evidence) -> Iterator[Finding]:
    """Say that training waits for a node."""
    notes = [note for note in evidence.of(Note) if note.event.about == "node"]
    if notes and not _moved_since(notes[-1], evidence):
        dead = dead_nodes(evidence)
        seen = [(notes[-1].place, notes[-1].event.text), *dead, *progress(evidence)]
        who = f"{dead[0][0]} died, and " if dead else ""
        yield Finding(
            "dead node", f"it waits for a node: {who}the others do not hold its workers", tuple(seen), NEW_NODE
        )


def stalled(evidence: Evidence) -> Iterator[Finding]:
    """Say that training stands still: rows do not come, or a rank holds up the others."""
    silent, usual = silence(evidence)
    ranks = [stack for stack in evidence.stacks if "frames" in stack]
    at_rows = [
        stack
        for stack in ranks
        if stack["still"] and _in(stack["frames"][:12], INGEST) and not _in(stack["frames"], COLLECTIVE)
    ]
    notes = [note for note in evidence.of(Note) if note.event.about == "ingest" and not _moved_since(note, evidence)]
    if notes or (silent and at_rows):
        seen = [(note.place, note.event.text) for note in notes[-1:]] + _stood(at_rows) + progress(evidence)
        yield Finding("starved ingest", "its workers wait for rows, and none come", tuple(seen), FREE_CPUS)
    elif silent:
        said = f"no epoch has ended for {spell_seconds(silent)}"
        said += f", the longest took {spell_seconds(usual)}" if usual else ""
        yield hang(evidence, ("events.jsonl", said), "it hangs")
    else:
        told = [one for one in evidence.of(Failure) if (one.event.kind, one.event.action) == (HANG, WAITED)]
        if told and not _moved_since(told[-1], evidence):
            yield hang(evidence, (told[-1].place, told[-1].event.text), "it hangs")


def silence(evidence: Evidence) -> tuple[float, float]:
    """Give for how long a training has been silent, 0 if that is nothing to speak of, and how long its epochs took."""
    stages = evidence.of(Stage)
    epochs = evidence.of(Epoch)
    if not stages or stages[-1].event.name not in ("train", "baseline"):
        return 0.0, 0.0
    heard = max(one.time for one in [stages[-1], *epochs, *evidence.of(Resumed), *evidence.of(Workers)])
    age = evidence.now - heard
    longest = max((epoch.event.seconds for epoch in epochs), default=0.0)
    limit = max(STILL_SECONDS, STILL_EPOCHS * longest) if epochs else SILENT_SECONDS
    return (age, longest) if age > limit else (0.0, longest)


def hang(evidence: Evidence, seen: tuple[str, str], hangs: str) -> Finding:
    """Say who holds up whom, from the stacks of all ranks.

    Args:
        seen: What shows that nobody gets on.
        hangs: "it hangs", or "it hung".
    """
    ranks = [stack for stack in evidence.stacks if "frames" in stack]
    gone = [stack for stack in evidence.stacks if "error" in stack]
    waiting = [stack for stack in ranks if stack["still"] and _in(stack["frames"], COLLECTIVE)]
    alone = [stack for stack in ranks if stack not in waiting]
    others = f", and {_ranks(waiting)} wait{'s' * (len(waiting) == 1)} for it" if waiting else ""
    again = f"Stop it, mend that, {AGAIN}"
    if gone and waiting:
        cause = f"{hangs}: {_ranks(gone)} is gone{others}"
        fix = again
    elif alone and (waiting or alone[0]["still"]):
        where = own_frame(alone[0]["frames"])
        cause = f"{hangs}: {_rank(alone[0])} stands in {where}{others}"
        fix = f"Look at {where}: what is called there does not come back. {again}"
    elif waiting:
        cause = f"{hangs}: all ranks wait for each other in a collective"
        fix = f"Look at the network between the nodes (`fmray preflight` adds up a number over it). {again}"
    else:
        cause = f"{hangs}, or is slow: {seen[1]}"
        fix = f"Look at its log; should it hang, stop it, {AGAIN}"
    errors = [(stack["name"], f"{_rank(stack)}: {stack['error']}") for stack in gone]
    return Finding("hang", cause, (seen, *_stood(ranks), *errors, *progress(evidence)), fix)


def slowed(evidence: Evidence) -> Iterator[Finding]:
    """Say what training spends its time with, if it is rows or checkpoints rather than learning."""
    lately = [epoch for epoch in evidence.of(Epoch) if epoch.event.spent and epoch.event.seconds][-LATELY:]
    seconds = sum(epoch.event.seconds for epoch in lately)
    for part, kind, what in (
        ("rows", "starved ingest", "waits for rows"),
        ("checkpoints", "slow storage", "writes checkpoints"),
    ):
        share = sum(epoch.event.spent.get(part, 0.0) for epoch in lately) / seconds if seconds else 0.0
        if share > MUCH and seconds > 1.0:
            seen = [
                (lately[-1].place, f"{share:.0%} of the last {len(lately)} epochs ({spell_seconds(seconds)})"),
                *_storage(evidence),
            ]
            yield Finding(
                kind, f"it is running, but {what} {share:.0%} of the time", (*seen, *progress(evidence)), _FASTER[part]
            )


_FASTER = {
    "rows": "Give reading more: more free CPUs, a larger run.memory so that rows are kept, or run.ingest: map",
    "checkpoints": "Name a faster store with --store, or set a larger run.checkpoint_seconds",
}


def storage(evidence: Evidence) -> Iterator[Finding]:
    """Say that the store is full, does not answer, or is slow."""
    disk = evidence.disk.get("value", {})
    probe = evidence.storage
    seen = (*_disk(disk), *_storage(evidence))
    if disk and disk["free"] < LEAST_FREE:
        how = "full" if disk["free"] < PROBE_BYTES else "nearly full"
        left = f"{spell_bytes(disk['free'])} of {spell_bytes(disk['total'])} are free"
        cause = f"the disk of its store is {how}: {left}"
        yield Finding(
            "full disk",
            cause,
            seen,
            f"Free space (`fmray gc` removes what no run needs), or name another store with --store; {AGAIN}",
        )
    if "error" in probe or "error" in evidence.disk:
        error = probe.get("error") or evidence.disk["error"]
        yield Finding(
            "storage",
            f"its store cannot be written and read: {shorten(error, 160)}",
            seen,
            f"Mend the disk or mount, {AGAIN}",
        )
    elif probe and probe["value"] > SLOW_SECONDS:
        cause = (
            f"its store is slow: {spell_bytes(PROBE_BYTES)} written and read back take {spell_seconds(probe['value'])}"
        )
        yield Finding(
            "slow storage", cause, seen, "Name a faster store with --store, or set a larger run.checkpoint_seconds"
        )


def _disk(disk: Json) -> list[tuple[str, str]]:
    return [(disk["path"], f"{spell_bytes(disk['free'])} of {spell_bytes(disk['total'])} are free")] if disk else []


def _storage(evidence: Evidence) -> list[tuple[str, str]]:
    probe = evidence.storage
    if "value" not in probe:
        return []
    return [("store", f"{spell_bytes(PROBE_BYTES)} written and read back in {spell_seconds(probe['value'])}")]


def locked(evidence: Evidence) -> Iterator[Finding]:
    """Say that a run waits for what another process makes."""
    if not evidence.log or " waiting for " not in evidence.log[-1].text:
        return
    last = evidence.log[-1]
    cause = f"it waits for another process: {last.text.partition(' waiting for ')[2]}"
    yield Finding(
        "lease", cause, ((last.place, last.text), *progress(evidence)), "Wait until that process ends, or stop it"
    )


def skewed(evidence: Evidence) -> Iterator[Finding]:
    """Name versions that differ between the processes of a run."""
    named = [(seen.place, seen.event.places) for seen in evidence.of(Driver)]
    named += [(seen.place, seen.event.places) for seen in evidence.of(Workers)]
    places = [(where, place) for where, several in named for place in several]
    for package in ("python", "torch", "fmray"):
        held: dict[str, set[str]] = {}
        for _, place in places:
            held.setdefault(place["versions"][package], set()).add(place["host"])
        if len(held) > 1:
            said = "; ".join(f"{version[:12]} on {spell_names(sorted(hosts))}" for version, hosts in held.items())
            yield Finding(
                "versions",
                f"its processes run different versions of {package}: {said}",
                tuple({where: (where, "names the processes") for where, _ in places}.values()),
                "Start all nodes from one image, or submit with --with-fmray",
            )


def _moved_since(event: Seen[Event], evidence: Evidence) -> bool:
    return any(one.time > event.time for one in [*evidence.of(Epoch), *evidence.of(Resumed)])


def _stood(stacks: Sequence[Json]) -> list[tuple[str, str]]:
    ordered = sorted(stacks, key=lambda stack: stack["rank"] or 0)[:16]
    return [(stack["name"], f"{_rank(stack)} stands in {_at(stack['frames'])}") for stack in ordered]


def _at(frames: Sequence[str]) -> str:
    own = own_frame(frames)
    innermost = _short(frames[0]) if frames else ""
    return own if own == innermost else f"{own}, innermost {innermost}"


def own_frame(frames: Sequence[str]) -> str:
    """Give the innermost frame that is no library's: the user's own, or fmray's."""
    own = [frame for frame in frames if not any(mark in frame for mark in LIBRARIES) or "/fmray/" in frame]
    return _short((own or list(frames) or ["an unknown place"])[0])


def _short(frame: str) -> str:
    """Give "folder/file:line in function" of a frame."""
    path, _, rest = frame.partition(":")
    names = [name for name in path.split("/")[-2:] if not name.startswith(SENT)]
    return ":".join(filter(None, ["/".join(names), rest]))


def _in(frames: Sequence[str], marks: Sequence[str]) -> bool:
    return any(mark in frame for frame in frames for mark in marks)


def _rank(stack: Json) -> str:
    return "the process" if stack["rank"] is None else f"rank {stack['rank']}"


def _ranks(stacks: Sequence[Json]) -> str:
    numbers = [str(stack["rank"]) for stack in stacks]
    return f"rank{'s' if len(numbers) > 1 else ''} {spell_names(numbers)}"
