"""Ask the processes of a run where they stand, at hand or through their cluster, and read what they answer."""

import base64
import json
import re
import shlex
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fmray.records import Json
from fmray.store.files import machine
from fmray.why import remote

Ask = Callable[[str, str, float], Json]
"""(command, mark, seconds) -> the JSON that a cluster prints behind the mark."""
MARK, SECONDS = "fmray-why ", 20.0
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_RANK = re.compile(r"rank-(\d+)\.txt$")
_CENTRES = ("fmray/train/loop.py", "fmray/tune/train_trials.py", "fmray/train/", "fmray/workflow.py", "fmray/")
"""What the thread that trains has on its stack, and no other has."""
_ASIDE = ("fmray/store/lease.py", "fmray/train/mailbox.py", "fmray/train/stacks.py", "fmray/track/")


def ask_processes(places: Sequence[Json], ask: Ask | None = None) -> list[Json]:
    """Give where processes stand, twice: those at hand, and those on other nodes if a cluster can be asked."""
    listening = [place for place in places if place["stacks"]]
    here = [place for place in listening if place["machine"] == machine()]
    told = [_tell(place, *texts) for place, texts in zip(here, remote.answers(here), strict=True)] if here else []
    far = [place for place in listening if place not in here and place["node"]]
    return told + (ask_elsewhere(far, ask) if far and ask is not None else [])


def ask_elsewhere(places: Sequence[Json], ask: Ask) -> list[Json]:
    """Give where workers on the nodes of a cluster stand."""
    code = base64.b64encode(zlib.compress(Path(remote.__file__).read_bytes(), 9)).decode()
    load = f"import base64, zlib; exec(zlib.decompress(base64.b64decode('{code}')))"
    asked = json.dumps({"places": list(places), "mark": MARK})
    found = ask(shlex.join(["python", "-c", load, asked]), MARK, SECONDS)["found"]
    by_rank = {place["rank"]: place for place in places}
    return [_tell(by_rank[rank], first, second) for rank, first, second in found]


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


def _tell(place: Json, first: str, second: str) -> Json:
    told = {"rank": place["rank"], "name": f"{place['host']}:{place['pid']}"}
    if not first:
        gone = place["machine"] == machine() and not remote.lives(place)
        return told | {"error": "this process is gone" if gone else "it does not answer"}
    frames = frames_of(first)
    return told | {"frames": frames, "still": frames == frames_of(second)}
