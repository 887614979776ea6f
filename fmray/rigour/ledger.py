"""Count every look at a test set before it happens.

The ledger of a test set belongs to its rows, not to a run: two jobs with the same test rows share it. Entries are
chained by hash, the newest is written down apart, and each run that looked remembers its look, so an entry that is
changed, removed or cut off is noticed.
"""

import datetime
import getpass
import os
import socket

from fmray.records import Json
from fmray.rigour.chain import Chain
from fmray.store import Store


class Ledger:
    """Keep the looks at test sets in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def look(self, test_identity: str, run_id: str, purpose: str, subject: str, job: str = "") -> int:
        """Write down that a test set is about to be looked at, and say the how many-th look it is.

        A run that was killed between this entry and its scores, and continues with the very same predictions, has not
        looked twice: its first entry counts.

        Args:
            test_identity: Of the test rows.
            run_id, purpose: Who looks, and what for.
            subject: Digest of what will be scored.
            job: Whose run it is, which then keeps a witness of its look.

        Raises:
            DataError: If the ledger has been tampered with.
        """
        path = self._path(test_identity)
        chain = self._chain(test_identity)
        with self._store.lease(path, covers=[path, chain.head]):
            own = [entry for entry in chain.verify() if entry["run"] == run_id]
            for entry in own:
                if entry["subject"] == subject:
                    if job:  # a kill may have come between the newest entry and its witness
                        chain.bear_witness(own[-1], job, run_id)
                    return int(entry["look"])
            entry = {
                "run": run_id,
                "purpose": purpose,
                "subject": subject,
                "who": who(),
                "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            }
            return int(chain.add(entry, job, run_id)["look"])

    def looks(self, test_identity: str) -> list[Json]:
        """Give the entries of a test set, oldest first; none if nobody has looked."""
        return self._store.events(self._path(test_identity))

    def first_looks(self) -> dict[str, str]:
        """Give the time of the first look of each run at any test set, as ISO text in UTC."""
        found: dict[str, str] = {}
        for name in self._store.list(self._store.path("ledger")):
            if name.endswith(".jsonl"):
                for entry in self._store.events(self._store.path("ledger", name)):
                    found[entry["run"]] = min(entry["when"], found.get(entry["run"], entry["when"]))
        return found

    def verify(self, test_identity: str) -> list[Json]:
        """Give the entries, after making sure that none was changed or removed.

        Raises:
            DataError: Naming the first entry that is not as it was written.
        """
        return self._chain(test_identity).verify()

    def _chain(self, test_identity: str) -> Chain:
        cure = "Scores of this test set prove nothing without it."
        return Chain(self._store, self._path(test_identity), f"ledger-{test_identity}", counter="look", cure=cure)

    def _path(self, test_identity: str) -> str:
        return self._store.path("ledger", f"{test_identity}.jsonl")


def who() -> str:
    """Name the person and machine behind this process."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
