"""Carry what happens on workers to the driver, which waits for them."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fmray.events import Event, Report
from fmray.records import Json
from fmray.train.heartbeat import beside

POLL_SECONDS = 0.2


def begin(path: Sequence[str]) -> None:
    """Let a worker find the user's own modules where the driver does, and log what happens."""
    sys.path += [folder for folder in path if folder not in sys.path]
    logging.getLogger("fmray").setLevel(logging.INFO)


class Mailbox:
    """Carry events from workers to the driver, and keep what a worker refused to do; lives in an actor."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._refusal: bytes | None = None
        self._roll: dict[int, dict[int, Json]] = {}
        self._turn = 0

    def put(self, event: Event) -> None:
        """Take an event."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """Give the events since the last call."""
        events = self._events
        self._events = []
        return events

    def refuse(self, error: bytes) -> None:
        """Take the error, pickled, for which a worker will not go on; the first one counts."""
        self._refusal = self._refusal or error

    def refusal(self) -> bytes | None:
        """Give the error, or None."""
        return self._refusal

    def enlist(self, group: int, rank: int, place: Json) -> None:
        """Put a worker on the roll; those of a group of another size are there no more."""
        ranks = self._roll.setdefault(group, {})
        for other in [other for other, there in ranks.items() if there["size"] != place["size"]]:
            del ranks[other]
        self._turn += 1
        ranks[rank] = {**place, "turn": self._turn}

    def beat(self, group: int, rank: int, beats: int) -> None:
        """Take note of how often a worker has got on."""
        if rank in self._roll.get(group, {}):
            self._roll[group][rank]["beats"] = beats

    def leave(self, group: int, rank: int) -> None:
        """Strike a worker that has finished off the roll."""
        self._roll.get(group, {}).pop(rank, None)

    def roll(self) -> dict[int, dict[int, Json]]:
        """Give the workers there are: group -> rank -> what it said of itself."""
        return self._roll

    def dismiss(self, group: int) -> dict[int, Json]:
        """Strike a whole group off the roll, and give who was in it."""
        return self._roll.pop(group, {})


@contextmanager
def every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Act again and again from a thread, since the driver waits for its workers, and once more at the end."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            act()

    with beside("fmray-driver", repeat, ended):
        yield
    act()


def deliver(mailbox: Any, report: Report) -> None:
    """Report what lies in a mailbox."""
    import ray

    for event in ray.get(mailbox.take.remote()):
        report(event)


def placed_here(actor: type) -> Any:
    """Make a class an actor on the driver's node, so that it outlives every other node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(actor)
