"""Have processes write their stacks, on this machine or on other nodes: the text of this file is sent there as it is.

It imports nothing of fmray, so it answers also where another one is installed. A process that does not listen to the
signal would be ended by it, so that is looked up first.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from tempfile import gettempdir
from typing import Any

SIGNAL = signal.SIGUSR2
WAIT_SECONDS, APART_SECONDS = 2.0, 1.0
"""How long a process may take to answer, and the time between the two times it is asked."""
NODE_SECONDS = 10.0


def answers(places: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Give what each of these processes writes, now and a little later; "" where it is gone or does not answer."""
    first = [answer(place) for place in places]
    time.sleep(APART_SECONDS)
    return [(text, answer(place)) for place, text in zip(places, first, strict=True)]


def answer(place: dict[str, Any]) -> str:
    """Have a process write its stacks, and give them; "" if it is gone or does not answer."""
    try:
        return _answer(place)
    except OSError:  # it went meanwhile, or belongs to somebody else
        return ""


def lives(place: dict[str, Any]) -> bool:
    """Tell whether a process is the one that it was when it said where its stacks go."""
    try:
        state, *fields = Path(f"/proc/{place['pid']}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return state not in "ZX" and fields[18] == place["started"]


def _answer(place: dict[str, Any]) -> str:
    path = Path(place["stacks"])
    if not lives(place) or not path.exists() or not _listens(place["pid"]):
        return ""
    before = path.stat().st_size
    os.kill(place["pid"], SIGNAL)
    size = -1
    end = time.monotonic() + WAIT_SECONDS
    while (now := path.stat().st_size) != size or now == before:  # until it grows no more
        if time.monotonic() > end:
            break
        size = now
        time.sleep(0.05)
    with path.open() as file:
        file.seek(before)
        return file.read()


def _listens(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next((line for line in status.splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
    return bool(int(caught.split()[1], 16) >> (SIGNAL - 1) & 1)


def main() -> None:
    """Ask the nodes of a cluster, and print what their processes wrote, on one line."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = json.loads(sys.argv[1])
    os.chdir(gettempdir())
    ray.init(log_to_driver=False, logging_level="ERROR")
    refs = {}
    for node in {place["node"] for place in asked["places"]}:
        own = [place for place in asked["places"] if place["node"] == node]
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        refs[ray.remote(num_cpus=0, scheduling_strategy=there)(answers).remote(own)] = own
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=NODE_SECONDS)
    found: list[Any] = []
    for ref, own in refs.items():
        texts = [("", "")] * len(own)
        if ref in done:
            try:
                texts = ray.get(ref)
            except Exception as error:  # a node that is gone is what was looked for
                print(error, file=sys.stderr)
        found += [[place["rank"], *pair] for place, pair in zip(own, texts, strict=True)]
    print(asked["mark"] + json.dumps({"found": found}), flush=True)


if __name__ == "__main__":
    main()
