"""Keep what was decided about the champion of a job, one line after the other; none is changed or removed unnoticed.

Who is champion follows from the lines, so a move is one line: it is there or it is not, whenever a process is killed.
"""

import datetime
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fmray.errors import ClusterError, DataError
from fmray.records import Json
from fmray.rigour.chain import Chain
from fmray.rigour.ledger import who
from fmray.store import Lease, Store

FOLDER = "promotions"
CHAMPION, ANCHOR = "champion", "anchor"


@dataclass(frozen=True)
class Standing:
    """Say which runs of a job serve now.

    Args:
        champion: The run in use.
        anchor: The last run that was shown to be better than one before it; losses are counted from it.
        before: Champions and anchors underneath, the oldest first; a rollback brings the last one back.
    """

    champion: str | None = None
    anchor: str | None = None
    before: tuple[tuple[str, str], ...] = ()


class History:
    """Read and continue the history of one job.

    Args:
        job: Name of the job.
    """

    def __init__(self, store: Store, job: str) -> None:
        self.store = store
        self.job = job
        self.folder = store.path(FOLDER, job)
        self._path = f"{self.folder}/log.jsonl"
        cure = "A lost log is an error, not a first promotion: without it the champion and the attempts are unknown."
        self._chain = Chain(store, self._path, "promotions", counter="line", cure=cure, jobs=[job])
        self._lease: Lease | None = None

    def verify(self) -> None:
        """Make sure that no line was changed or removed.

        Raises:
            DataError: Naming what is lost.
        """
        self._chain.verify()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one who decides about this job; waits for another living process."""
        with self.store.lease(self.folder) as lease:
            self._lease = lease
            self.verify()
            try:
                yield
            finally:
                self._lease = None

    def events(self, kind: str = "", **values: Any) -> list[Json]:
        """Give the lines of a kind that have these values, oldest first."""
        return [
            event
            for event in self.store.events(self._path)
            if kind in ("", event["event"]) and all(event.get(name) == value for name, value in values.items())
        ]

    def add(self, kind: str, **values: Any) -> Json:
        """Write a line.

        Raises:
            ClusterError: If this process is not, or no longer, the only one who decides.
        """
        self.require_alone()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        event = {"event": kind, "when": now, "who": who(), **values}
        run = str(values.get("run") or values.get("to") or "")
        return self._chain.add(event, self.job, run)

    def require_alone(self) -> None:
        """Make sure that this process is the only one who decides.

        Raises:
            ClusterError: If it is not, or no longer.
        """
        if self._lease is None:
            raise ClusterError(f"{self.folder}: lines are written under `alone` only.")
        self._lease.check()

    def digest(self, evidence: str) -> str:
        """Give the digest of a file of evidence, named relative to the folder of the history."""
        return hashlib.sha256(self.store.read_bytes(f"{self.folder}/{evidence}")).hexdigest()

    def require_evidence(self, decision: Json | None) -> None:
        """Make sure that what a decision rests on is what it was.

        Raises:
            DataError: If it was changed or removed.
        """
        if decision is None or not decision.get("digest"):  # a decision without looking, or of an earlier version
            return
        if self.digest(decision["evidence"]) != decision["digest"]:
            raise DataError(
                f"{self.folder}/{decision['evidence']} is not what decision {decision['number']} was based on. "
                "Restore the file."
            )

    def move(self, expected: str | None, to: str, anchor: str, why: str, by: str = "") -> bool:
        """Make another run champion, unless the champion is no longer the expected one: then False."""
        if self.standing().champion != expected:
            return False
        self.add("move", **{"from": expected, "to": to, "anchor": anchor, "why": why, "by": by})
        return True

    def standing(self) -> Standing:
        """Give who speaks now."""
        stack: list[tuple[str, str]] = []
        for event in self.events("move"):
            if event["why"] == "rollback":
                stack.pop()
            else:
                stack.append((event["to"], event["anchor"]))
        return Standing(*stack[-1], before=tuple(stack[:-1])) if stack else Standing()


def champion_of(job: str, store: Store) -> str | None:
    """Give the id of the run in use, None if there is none yet.

    Raises:
        DataError: If the log was cut or changed.
    """
    history = History(store, job)
    history.verify()
    return history.standing().champion
