"""Ask processes of a run on this machine where they stand, and read what they answer."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fmray.records import Json
from fmray.store.files import machine
from fmray.store.lease import process_start
from fmray.train.stacks import SIGNAL

WAIT_SECONDS, APART_SECONDS = 2.0, 1.0
"""How long a process may take to answer, and the time between the two times it is asked."""
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_RANK = re.compile(r"rank-(\d+)\.txt$")
_CENTRES = ("fmray/train/loop.py", "fmray/tune/trial.py", "fmray/train/", "fmray/workflow.py", "fmray/")
"""What the thread that trains has on its stack, and no other has."""
_ASIDE = ("fmray/store/lease.py", "fmray/train/mailbox.py", "fmray/train/stacks.py", "fmray/track/")


def ask_processes(places: Sequence[Json]) -> list[Json]:
    """Give where the processes at hand stand, twice; those elsewhere are not asked."""
    here = [place for place in places if place["machine"] == machine() and place["stacks"]]
    first = [_answer(place) for place in here]
    time.sleep(APART_SECONDS if here else 0.0)
    return [tell(place, text, _answer(place)) for place, text in zip(here, first, strict=True)]


def tell(place: Json, first: str, second: str) -> Json:
    """Say where a process stood the first time, and whether it still stood there the second."""
    told = {"rank": place["rank"], "name": f"{place['host']}:{place['pid']}"}
    if not first:
        gone = process_start(place["pid"]) != place["started"]
        return told | {"error": "this process is gone" if gone else "it does not answer"}
    frames = frames_of(first)
    return told | {"frames": frames, "still": frames == frames_of(second)}


def told_before(traces: Mapping[str, str]) -> list[Json]:
    """Give where ranks stood when the run itself found that it hangs, from the files it left."""
    return [
        {"rank": int(number[1]), "name": name, "frames": frames_of(text), "still": True}
        for name, text in sorted(traces.items())
        if (number := _RANK.search(name))
    ]


def frames_of(text: str) -> list[str]:
    """Give the stack of the thread that trains, the innermost frame first: "file:line in function"."""
    threads = [
        [f"{file}:{line} in {function}" for file, line, function in _FRAME.findall(part)]
        for part in _THREAD.split(text)[1:]
    ]
    working = [frames for frames in threads if not any(mark in frame for frame in frames for mark in _ASIDE)]
    for centre in _CENTRES:
        if found := [frames for frames in working if any(centre in frame for frame in frames)]:
            return found[-1]  # the thread that was there first is written last
    return []


def _answer(place: Json) -> str:
    """Have a process write its stacks, and give them; "" if it is gone or does not answer."""
    try:
        return _ask(place)
    except OSError:  # it went meanwhile, or belongs to somebody else
        return ""


def _ask(place: Json) -> str:
    path = Path(place["stacks"])
    if process_start(place["pid"]) != place["started"] or not path.exists() or not _listens(place["pid"]):
        return ""  # the signal would end a process that does not listen
    before = path.stat().st_size
    os.kill(place["pid"], SIGNAL)
    size, end = -1, time.monotonic() + WAIT_SECONDS
    while (now := path.stat().st_size) != size or now == before:  # until it grows no more
        if time.monotonic() > end:
            break
        size = now
        time.sleep(0.05)
    with path.open() as file:
        file.seek(before)
        return file.read()


def _listens(pid: int) -> bool:
    """Tell whether a process has asked for the signal, as far as the system says."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # no such system: the file it named has to do
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (SIGNAL - 1) & 1)
