"""Write down what became of every tick, in one order that all schedulers of a store share.

    <root>/schedules/<job>/log/<number>.json   one decision, and the state after it
    <root>/schedules/<job>/head.json           the number of the newest entry
    <root>/schedules/<job>/lease-<fence>.json  the scheduler that decides

Entry n + 1 is created exclusively by whoever has read entry n, so no two schedulers ever decide from the same state.
Each holds the state after it, so the newest is all one must read to go on. The head is written after the entry, so a
process killed in between leaves it one behind; an entry that it knows and that is gone would let a tick be decided
twice, and is an error.
"""

import secrets
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Literal

from fmray.errors import DataError
from fmray.records import Json
from fmray.schedule.ticks import stamp
from fmray.store import Lease, Store

Event = Literal["begun", "started", "continued", "queued", "finished", "failed", "skipped"]


@dataclass(frozen=True)
class Decision:
    """Say what became of a tick.

    Args:
        event: "begun" opens the book, "continued" starts the run of a scheduler that died once more.
        tick: Which one.
        reason: In words; empty where there is nothing to explain.
        first, count: Of several ticks that shared one fate, the first, and how many there were.
        run_id, run_dir: What the run made, once it has ended.
    """

    event: Event
    tick: str
    reason: str = ""
    first: str = ""
    count: int = 1
    run_id: str = ""
    run_dir: str = ""


@dataclass(frozen=True)
class State:
    """Hold all that the next decision depends on.

    Args:
        last: Newest tick that was decided, or when the book was opened.
        running: Tick whose run goes on, "" for none.
        data: Fingerprint of the data when that run was started, "" if nobody asked.
        seen: That of the last finished run.
        queue: Ticks that wait for it to end.
        month, num_runs: Runs started for ticks of the newest month that had any.
    """

    last: str
    running: str = ""
    data: str = ""
    seen: str = ""
    queue: tuple[str, ...] = ()
    month: str = ""
    num_runs: int = 0


@dataclass(frozen=True)
class Entry:
    """Stand in the book.

    Args:
        number: Its place.
        when: When it was written.
        decision: What was decided.
        state: After it.
    """

    number: int
    when: str
    decision: Decision
    state: State = field(repr=False)

    @classmethod
    def from_json(cls, number: int, value: Json) -> "Entry":
        """Read back what was written."""
        state = State(**{**value["state"], "queue": tuple(value["state"]["queue"])})
        return cls(number, value["when"], Decision(**value["decision"]), state)


class Book:
    """Keep the decisions of one job; `newest` is the last one read or written, number 0 if there is none.

    Args:
        store: Where it lies.
        job: Name of the job.
    """

    def __init__(self, store: Store, job: str) -> None:
        self._store = store
        self._root = store.path("schedules", job)
        self._head = f"{self._root}/head.json"
        self._token = secrets.token_hex(8)
        self.newest = Entry(0, "", Decision("begun", ""), State(""))

    def open(self, now: datetime) -> Entry:
        """Read the newest entry; where there is none, begin the book: earlier ticks are nobody's.

        Raises:
            ClusterError: If the store cannot tell which of two schedulers was first.
            DataError: If an entry was removed.
        """
        numbers = self._known_numbers()
        if not numbers:
            self.newest = Entry(0, "", Decision("begun", ""), State(""))
            self.write(Decision("begun", stamp(now)), State(stamp(now)), now)  # or another just has
            numbers = self._numbers()
        self.newest = self._read(numbers[-1])
        return self.newest

    def write(self, decision: Decision, state: State, now: datetime) -> bool:
        """Add a decision made from the newest entry; False if another scheduler was first."""
        entry = Entry(self.newest.number + 1, stamp(now), decision, state)
        # the token tells two schedulers apart that decide the same at the same time
        value = {"when": entry.when, "by": self._token, "decision": asdict(decision), "state": asdict(state)}
        if not self._store.create_json(self._path(entry.number), value):
            return False
        self.newest = entry
        self._store.write_json(self._head, {"number": entry.number})
        return True

    def entries(self, count: int) -> Sequence[Entry]:
        """Give the newest entries, oldest first; none if the job never had a scheduler.

        Raises:
            DataError: If one was removed.
        """
        return [self._read(number) for number in self._known_numbers()[-count:]]

    def lease(self) -> AbstractContextManager[Lease]:
        """Be the one scheduler that decides.

        Raises:
            ClusterError: On entering, if another living one does.
        """
        return self._store.lease(self._root, wait_seconds=0)

    def _known_numbers(self) -> list[int]:
        """Give the numbers of all entries, after making sure that none is missing."""
        # the head first: what it knows must be there, also while another scheduler writes
        newest = int(self._store.read_json(self._head)["number"]) if self._store.exists(self._head) else 0
        numbers = self._numbers()
        if newest and newest not in numbers:
            raise DataError(
                f"{self._path(newest)} is gone, and {self._head} knows it. Restore it: without it, ticks would be "
                "decided a second time."
            )
        if _missing(numbers):  # or written while the folder was listed
            numbers = self._numbers()
        if missing := _missing(numbers):
            raise DataError(
                f"{self._path(min(missing))} is gone, and there are newer entries. Restore it, or delete "
                f"{self._root} to begin the schedule anew."
            )
        return numbers

    def _numbers(self) -> list[int]:
        return [int(name.removesuffix(".json")) for name in self._store.list(f"{self._root}/log")]

    def _read(self, number: int) -> Entry:
        return Entry.from_json(number, self._store.read_json(self._path(number)))

    def _path(self, number: int) -> str:
        return f"{self._root}/log/{number:08d}.json"


def _missing(numbers: Sequence[int]) -> set[int]:
    """Return the numbers of entries that are not there, though newer ones are."""
    return set(range(1, len(numbers) + 1)).difference(numbers)
