"""Count every look at a test set before it happens.

The ledger of a test set belongs to its rows, not to a run: two jobs with the same test rows share it. Entries are
chained by hash and the newest is written down apart, so an entry that is changed, removed or cut off is noticed.
"""

import datetime
import getpass
import os
import socket

from fmray.errors import DataError
from fmray.records import Json
from fmray.store import Store, fingerprint

FIRST = "0" * 32


class Ledger:
    """Keep the looks at test sets in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def look(self, test_identity: str, run_id: str, purpose: str, subject: str) -> int:
        """Write down that a test set is about to be looked at, and say the how many-th look it is.

        A run that was killed between this entry and its scores, and continues with the very same predictions, has not
        looked twice: its first entry counts.

        Args:
            test_identity: Of the test rows.
            run_id, purpose: Who looks, and what for.
            subject: Digest of what will be scored.

        Raises:
            DataError: If the ledger has been tampered with.
        """
        path = self._path(test_identity)
        with self._store.lease(path):
            entries = self.verify(test_identity)
            for entry in entries:
                if entry["run"] == run_id and entry["subject"] == subject:
                    return int(entry["look"])
            entry = {
                "look": len(entries) + 1,
                "run": run_id,
                "purpose": purpose,
                "subject": subject,
                "who": who(),
                "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                "previous": entries[-1]["hash"] if entries else FIRST,
            }
            entry["hash"] = fingerprint(entry)
            self._store.append(path, entry)
            self._store.write_json(self._head(test_identity), {"look": entry["look"], "hash": entry["hash"]})
            return len(entries) + 1

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
        entries, previous = self.looks(test_identity), FIRST
        for number, entry in enumerate(entries, start=1):
            body = {name: value for name, value in entry.items() if name != "hash"}
            if (
                entry.get("look") != number
                or entry.get("previous") != previous
                or entry.get("hash") != fingerprint(body)
            ):
                raise DataError(
                    f"{self._path(test_identity)}: entry {number} is not as it was written, or one before it is gone. "
                    "Restore the file; scores of this test set prove nothing without it."
                )
            previous = entry["hash"]
        head = self._head(test_identity)
        newest: Json = self._store.read_json(head) if self._store.exists(head) else {"look": 0, "hash": FIRST}
        known = [FIRST, *(entry["hash"] for entry in entries)]
        if newest["look"] >= len(known) or known[newest["look"]] != newest["hash"]:
            raise DataError(f"{self._path(test_identity)}: look {newest['look']} is gone. Restore the file.")
        return entries

    def _path(self, test_identity: str) -> str:
        return self._store.path("ledger", f"{test_identity}.jsonl")

    def _head(self, test_identity: str) -> str:
        return self._store.path("ledger", f"{test_identity}.head.json")


def who() -> str:
    """Name the person and machine behind this process."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
