"""Say why a run ended: what failed, what killed it, or that it is done."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from fmray.catalogue import UNWAIVABLE
from fmray.events import Driver, Epoch, Failed, Failure, Workers
from fmray.failures import (
    AGAIN,
    AROUND,
    HANG,
    LEFT_OUT,
    MEMORY,
    STOPPED,
    STORAGE,
    USER,
    WORKER,
    Trouble,
    trouble_in,
    trouble_of,
)
from fmray.records import Json
from fmray.why.evidence import Evidence
from fmray.why.finding import Finding, shorten, spell_seconds, then_again
from fmray.why.waits import hang, own_frame, progress

INSTALLED = "/site-packages/"
BUG_FIX = f"Mend the code that raises it; {AGAIN}"
_FRAME = re.compile(r'File "(.+)", line (\d+), in (.+)')
MEANT = ("SpecError", "DataError", "TrainError", "ClusterError")
"""Errors that fmray raises on purpose, and whose last sentence says what to do."""
_NOISE = re.compile(r'^{"|logging\.cc:|job_manager\.py:')
"""Lines that Ray prints around those of a command, and the answer of the command itself."""
BEGUN_SECONDS = 60.0
"""How long a run may take to name itself."""
MOST_LEFT_OUT = 5
UNSURE = ("bug", "killed worker", "cluster")
GATE_FIX = "Look at the gate in the report, mend the data or the job"
WAIVER = "; or waive it under rigour, with a reason"


def finished(evidence: Evidence) -> Iterator[Finding]:
    """Say what a finished run came to, and which gates it failed."""
    failed = evidence.run.get("failed_gates") or []
    primary = evidence.run.get("primary") or {}
    score = f"{primary['metric']} {primary['value']:.4f}" if primary else "its score is in scores.json"
    seen = [("run.json", f"finished {_when(evidence.run)}, {score}")]
    if failed:
        gates = [gate for gate in evidence.gates if gate.get("gate") in failed and gate.get("status") == "fail"]
        said = [("gates.json", f"{gate['gate']}, {gate['name']}: {gate['text']}") for gate in gates]
        why = said[0][1] if said else ", ".join(failed)
        yield Finding(
            "gate",
            f"it finished, but {len(failed)} rigour gate{'s' * (len(failed) > 1)} failed: {shorten(why)}",
            (*said, *seen),
            GATE_FIX + WAIVER * UNWAIVABLE.keys().isdisjoint(failed),
        )
    else:
        yield Finding(
            "finished",
            f"it finished {_when(evidence.run)}: {score}",
            tuple(seen),
            f"Nothing to do: {evidence.root}/report.html",
        )


def left_out(evidence: Evidence) -> Iterator[Finding]:
    """Tell of members that a run went on without."""
    told = [line for line in evidence.of(Failure) if line.event.action == LEFT_OUT]
    if told:
        seen = [(line.place, shorten(line.event.text)) for line in told[:MOST_LEFT_OUT]]
        more = f"the first of {len(told)}: " if len(told) > 1 else ""
        cause = f"it went on without members whose code or parameters failed; {more}{shorten(told[0].event.text, 200)}"
        at = f" (tracebacks are in {evidence.root}/stacks)" if any(line.event.stacks for line in told) else ""
        fix = f"Correct the code{at}, or leave these values out of the search; then run the job again"
        yield Finding("failed members", cause, tuple(seen), fix)


def failed(evidence: Evidence) -> Iterator[Finding]:
    """Say why a run failed, by what was written down of it and what the cluster saw."""
    failures = evidence.of(Failure)
    ends = evidence.of(Failed)
    text = ends[-1].event.text if ends else evidence.run.get("error", "")
    place = ends[-1].place if ends else "run.json"
    kind = ends[-1].event.kind if ends else ""
    by_class = failures[-1].event.kind if failures and (not ends or failures[-1].event.action == STOPPED) else ""
    found = []
    if by_class == HANG and evidence.stacks:
        found.append(hang(evidence, (failures[-1].place, failures[-1].event.text), "it hung"))
    if by_class == USER and evidence.traces:
        found.append(_raised(evidence))
    seen = [(place, shorten(str(text))), *failures_of(evidence), *progress(evidence)]
    found.append(explain(str(text), kind, by_class=by_class, seen=seen, frames=ends[-1].event.frames if ends else ()))
    kills = list(killed_for_memory(evidence))
    # Ray's last words about a killed worker may be anything; a bug that was seen is one, whatever was killed before
    yield from found + kills if by_class or found[0].kind not in UNSURE else kills + found


def _raised(evidence: Evidence) -> Finding:
    """Name the line of the user's code that raised, from the traceback it left."""
    name, text = next(iter(evidence.traces.items()))
    found = list(_FRAME.finditer(text))
    frames = [f"{file}:{line} in {function}" for file, line, function in (frame.groups() for frame in found)]
    after = text[found[-1].end() if found else 0 :].splitlines()[1 if found else 0 :]
    # lines of code are indented; what follows the error are notes to it
    reason = next((line for line in after if line[:1].strip()), "an error")
    where = f" at {own_frame(frames[::-1])}" if frames else ""
    seen = ((name, shorten(reason)), *(("stack", frame) for frame in frames[-3:]), *progress(evidence))
    return Finding("bug", f"the code raised an error{where}: {shorten(reason, 160)}", seen, BUG_FIX)


def failures_of(evidence: Evidence) -> list[tuple[str, str]]:
    """Give the last failures of a run, those it got over too."""
    return [
        (line.place, shorten(f"{line.event.kind}: {line.event.text} ({line.event.action})"))
        for line in evidence.of(Failure)[-4:]
    ]


def explain(text: str, kind: str, by_class: str, seen: list[tuple[str, str]], frames: Sequence[str] = ()) -> Finding:
    """Name what an error is about.

    Args:
        text: Of the error.
        kind: Name of its class.
        by_class: Of the last failure event; "" if there is none.
        seen: Evidence.
        frames: Of the error with which the run ended, outermost first.
    """
    if kind == "GateError":
        what, fix = halves(text)
        return Finding("gate", what, tuple(seen), then_again(fix))
    trouble = trouble_in(f"{kind}: {text}")
    if trouble is not None and trouble.name in AROUND and (frames or by_class == USER):
        trouble = None
    if by_class not in ("", USER, WORKER) and not (by_class == STORAGE and trouble):
        trouble = trouble_of(by_class) or trouble
    if kind in MEANT and kind != "ClusterError" and (trouble is None or trouble.name == "data"):
        what, fix = halves(text)
        return Finding(trouble.name if trouble else "user error", what, tuple(seen), then_again(fix))
    if trouble is not None:
        return _of_trouble(trouble, kind, text, seen)
    if kind == "ClusterError" and " the last time with: " not in text:
        what, fix = halves(text)
        return Finding("cluster", what, tuple(seen), then_again(fix))
    reason = text.partition(" the last time with: ")[2].partition(". What they finished")[0] or text
    where = f" at {own_frame(frames[::-1])}" if frames else ""
    stack = [("stack", frame) for frame in [f for f in frames if INSTALLED not in f][-3:]]
    return Finding(
        "bug",
        f"the code raised an error{where}: {shorten(reason, 160)}",
        (*seen, *stack),
        BUG_FIX,
    )


def _of_trouble(trouble: Trouble, kind: str, text: str, seen: list[tuple[str, str]]) -> Finding:
    cause = trouble.cause
    fix = trouble.fix
    if trouble.name in ("infeasible resources", "lease", "data", "versions", "full disk"):
        cause = f"{cause}: {shorten(halves(text)[0], 200)}"
        fix = then_again(halves(text)[1]) if kind in MEANT and trouble.name != "full disk" else fix
    return Finding(trouble.name, cause, tuple(seen), fix)


def halves(text: str) -> tuple[str, str]:
    """Cut one of fmray's messages into what was wrong and what to do, which is its last sentence."""
    found, _, fix = text.strip().rstrip(".").rpartition(". ")
    return (found, fix) if found else (fix, "Change it as the message says")


def interrupted(evidence: Evidence) -> Iterator[Finding]:
    """Say why a run stopped without a word of its own."""
    yield from killed_for_memory(evidence)
    yield from of_attempt(evidence)
    holder = evidence.holder
    seen = [*_held(holder), *progress(evidence)]
    again = f"Run the same command again: it continues {_from(evidence)}"
    if not holder:
        yield Finding("stopped", "it was stopped before it began", tuple(seen), again)
    elif holder["released"]:
        yield Finding("stopped", "it was stopped (Ctrl-C, or a signal), and left in order", tuple(seen), again)
    elif holder["gone"]:
        how = "it was killed (kill -9, the kernel's OOM killer), or its machine went down"
        cause = f"its process {holder['name']} is gone without a word: {how}"
        yield Finding("killed", cause, tuple(seen), f"Look for a kill (`dmesg | grep -i oom`). {again}")
    else:
        age = spell_seconds(abs(holder["age"]))
        how = f"has given no sign of life for {age}"
        if holder["age"] < 0:
            how = f"gives no sign of life, and its last one is stamped {age} in the future"
        cause = f"its process {holder['name']} {how}: that machine is down, asleep or cut off"
        yield Finding(
            "dead node", cause, tuple(seen), f"Look at that machine. {again}, and takes over what the dead one holds"
        )


def of_attempt(evidence: Evidence) -> Iterator[Finding]:
    """Say what the cluster knows of a submission that ended, or has not begun."""
    attempt = evidence.attempt
    if not attempt:
        return
    name = attempt["submission_id"]
    message = attempt.get("message") or ""
    seen = [("cluster", shorten(f"{name}: {attempt['status'].lower()}. {message}")), *_last_words(evidence)]
    match attempt["status"]:
        case "PENDING":
            age = spell_seconds(evidence.now - attempt["started"]) if attempt["started"] else "a moment"
            reason = "Ray prepares its environment, or has no room for its driver"
            cause = f"it was submitted {age} ago and has not begun: {reason}"
            yield Finding(
                "not begun",
                cause,
                tuple(seen),
                "Wait a minute; then look at `ray status` and at the dashboard's job page",
            )
        case "STOPPED":
            fix = f"Submit the job again: it continues {_from(evidence)}"
            yield Finding("stopped", f"its submission {name} was stopped (`fmray stop`)", tuple(seen), fix)
        case "FAILED" if evidence.status != "failed":
            error = _answer(evidence)
            text = f"{error['where']}: {error['message']}" if error.get("where") else error.get("message", "")
            text = text or "\n".join([message, *(text for _, text in _last_words(evidence))])
            yield explain(text, error.get("kind", ""), "", seen)
        case "RUNNING" if not evidence.run and attempt["seconds"] < BEGUN_SECONDS:
            fix = f"Nothing to do: wait (`fmray logs {name} --follow`)"
            yield Finding("fine", "it has just begun: it looks at the data", tuple(seen), fix)
        case "RUNNING" | "SUCCEEDED" if not evidence.run:
            stands = "runs" if attempt["status"] == "RUNNING" else "has finished"
            cause = f"it {stands}, and its store {attempt['store']} is not seen from here"
            yield Finding("fine", cause, tuple(seen), f"Ask where its store is seen, or look at `fmray logs {name}`")


def killed_for_memory(evidence: Evidence) -> Iterator[Finding]:
    """Name the processes of a run that Ray killed because a node ran out of memory."""
    events = [seen.event for seen in evidence.events]
    places = [place for event in events if isinstance(event, Driver | Workers) for place in event.places]
    mine = {(place["node"], place["pid"]) for place in places}
    since = min((line.time for line in evidence.of(Driver)), default=0.0)
    kills = [d for d in evidence.cluster.get("deaths", []) if d["kind"] == "NODE_OUT_OF_MEMORY" and d["time"] >= since]
    kills = [death for death in kills if (death["node"], death["pid"]) in mine]
    trouble = trouble_of(MEMORY)
    if kills and trouble is not None:
        nodes = {node["id"]: node["name"] for node in evidence.cluster["nodes"]}
        seen = [
            (f"node {nodes.get(d['node'], d['node'][:6])}", shorten(f"process {d['pid']}: {d['text']}", 260))
            for d in kills[-3:]
        ]
        yield Finding("memory", trouble.cause, (*seen, *progress(evidence)), trouble.fix)


def _answer(evidence: Evidence) -> Json:
    """Give the error with which the command of a submission ended, as it said itself."""
    for line in reversed(evidence.printed):
        if line.text.startswith('{"'):
            try:
                told: Any = json.loads(line.text)
                return dict(told.get("error") or {})
            except (ValueError, TypeError, AttributeError):
                continue
    return {}


def _last_words(evidence: Evidence) -> list[tuple[str, str]]:
    words = [line for line in evidence.printed if line.text.strip() and not _NOISE.search(line.text)]
    return [(line.place, shorten(line.text)) for line in words[-3:]]


def _held(holder: Json) -> list[tuple[str, str]]:
    if not holder:
        return []
    how = "let go in order" if holder["released"] else "its process is gone" if holder["gone"] else "never let go"
    return [("lease", f"held by {holder['name']}, last sign of life {spell_seconds(holder['age'])} ago; {how}")]


def _from(evidence: Evidence) -> str:
    epochs = evidence.of(Epoch)
    if not epochs:
        return "where it stopped"
    return f"from its last checkpoint, at epoch {epochs[-1].event.epoch} or a little before"


def _when(run: Json) -> str:
    return time.strftime("on %Y-%m-%d at %H:%M", time.localtime(run["time"])) if run.get("time") else ""
