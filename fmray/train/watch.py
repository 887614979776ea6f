"""Watch over workers from the driver: who they are, whether they get on, and what became of them.

Each worker puts itself on the roll of the mailbox, by group and rank. A worker that hangs answers nobody, so the driver
asks its node: a small task there has it write its stacks, and ends it.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from fmray.events import Report, Stacks
from fmray.failures import MEMORY, NODE, WORKER, Kind
from fmray.records import Json
from fmray.train.heartbeat import Asked, Stillness, beats, look_seconds
from fmray.train.mailbox import every
from fmray.train.stacks import SIGNAL, listen

ANSWER_SECONDS = 30.0
"""How long a living node may take to start a small task."""
SETTLE_SECONDS = 90.0
"""How long Ray may take to find out that a node is gone: five looks, of ten seconds each at the most."""
Places = Mapping[int, Json]
"""Rank -> what it said of itself."""


@contextmanager
def on_roll(mailbox: Any, group: int, rank: int, size: int, asked: Asked, room: Any = None) -> Iterator[None]:
    """Put this worker on the roll and have it say how it gets on; one that fails stays there, for the driver to ask.

    Args:
        group: Who trains together.
        room: The placement group of all of them, if it is given up when they fail.
    """
    import ray

    node = ray.get_runtime_context().get_node_id()
    here = {"pid": os.getpid(), "size": size, "room": room}
    said = beats()

    def tell() -> None:
        nonlocal said
        if said != beats():
            said = beats()
            mailbox.beat.remote(group, rank, said)

    place = {**here, "node": node, "stacks": listen(), "oom_kills": oom_kills(), "beats": said}
    ray.get(mailbox.enlist.remote(group, rank, place))
    with every(look_seconds(asked), tell):
        yield
    ray.get(mailbox.leave.remote(group, rank))


@dataclass
class Watch:
    """Find groups of workers that hang: show their stacks, and end them.

    Args:
        mailbox: With the roll.
        asked: The job's `run.hang_seconds`.
        report: Gets the stacks.

    Attributes:
        hung: Group -> a sentence, and where in the run's directory the stacks are.
    """

    mailbox: Any
    asked: Asked
    report: Report
    hung: dict[int, tuple[str, str]] = field(default_factory=dict)
    _still: dict[int, Stillness] = field(default_factory=dict)

    def look(self) -> None:
        """Compare what every group has done with what it had done at the last look."""
        import ray

        for group, places in ray.get(self.mailbox.roll.remote()).items():
            still = self._still.setdefault(group, Stillness(self.asked))
            # processes begin to count anew, so the number of processes is part of what is seen
            seen = sum(place["beats"] + place["turn"] for place in places.values())
            seconds = still.still_seconds(seen, time.monotonic())
            if places and group not in self.hung and seconds > still.limit_seconds:
                self._end(group, places, f"no step was made for {seconds:.0f} s (run.hang_seconds: {self.asked})")

    def take(self, group: int) -> Places:
        """Strike a group whose workers are gone off the roll, and give who they were.

        Ray Train (2.60) keeps the room of a worker killed for its memory reserved for ever: nobody could start again.
        """
        import ray

        found: Places = ray.get(self.mailbox.dismiss.remote(group))
        for room in {place["room"].id.hex(): place["room"] for place in found.values() if place["room"]}.values():
            ray.util.remove_placement_group(room)
        return found

    def forget(self, group: int) -> None:
        """Begin anew with a group."""
        self.hung.pop(group, None)
        self._still.pop(group, None)

    def _end(self, group: int, places: Places, text: str) -> None:
        folder = f"stacks/{os.getpid()}-{group}-{time.time_ns() // 1_000_000}"
        self.hung[group] = text, folder
        for rank, found in _ask(places, _show_stacks, ANSWER_SECONDS).items():
            stacks = found if isinstance(found, str) else f"node {places[rank]['node']} did not answer: {found}\n"
            self.report(Stacks(f"{folder}/rank-{rank}.txt", stacks))
        _ask(places, _kill, ANSWER_SECONDS)


def settle(kind: Kind, rank: int, places: Places) -> tuple[Kind, int, str]:
    """Say what became of workers that died, by asking the nodes they were on.

    Returns:
        What it was, which worker it hit first, and a sentence if there is more to say than Ray does.
    """
    if kind != WORKER or not places:
        return kind, rank, ""
    answers = _ask(places, _bury, SETTLE_SECONDS)
    gone = [one for one, found in answers.items() if isinstance(found, BaseException)]
    if gone:
        lost = ", ".join(map(str, gone))
        return NODE, gone[0], f"node {places[gone[0]]['node']} was lost, with rank {lost} on it"
    if rank in answers and answers[rank] > places[rank]["oom_kills"]:
        return MEMORY, rank, f"rank {rank} was killed by its system, which had run out of memory"
    return WORKER, rank, ""


def oom_kills() -> int:
    """Count the processes that the system of this machine, or container, has killed for want of memory."""
    counts = [0]
    for path, name in (
        ("/proc/vmstat", "oom_kill"),
        ("/sys/fs/cgroup/memory.events", "oom_kill"),
        ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
    ):
        with suppress(OSError, ValueError), open(path) as lines:
            counts += [int(line.split()[1]) for line in lines if line.split()[0] == name]
    return max(counts)


def _ask(places: Places, act: Callable[[Json], Any], seconds: float) -> dict[int, Any]:
    """Have something done on the node of every worker; an error stands for the answer of a node that is gone."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for rank, place in places.items():
        there = NodeAffinitySchedulingStrategy(place["node"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(act)
        asked[rank] = task.remote(place)
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    answers: dict[int, Any] = {}
    for rank, ref in asked.items():
        try:
            answers[rank] = ray.get(ref, timeout=0.1)
        except ray.exceptions.RayError as error:
            answers[rank] = error
    return answers


def _bury(place: Json) -> int:
    """Remove what a dead worker left on its node, and count whom the system has killed there."""
    with suppress(OSError):
        os.unlink(place["stacks"])
    return oom_kills()


def _show_stacks(place: Json) -> str:
    """Have a worker of this node write its stacks, and read them; the interpreter need not be free for it."""
    path = place["stacks"]
    text = ""
    if not path:
        return "it listens to no signal\n"
    with suppress(OSError), open(path, errors="replace") as file:
        file.seek(0, os.SEEK_END)  # it may have been asked before
        os.kill(place["pid"], SIGNAL)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            time.sleep(0.2)
            more = file.read()
            text += more
            if text and not more:
                break
    return text or "it wrote no stacks\n"


def _kill(place: Json) -> None:
    with suppress(ProcessLookupError):
        os.kill(place["pid"], signal.SIGKILL)
    with suppress(OSError):
        os.unlink(place["stacks"])
