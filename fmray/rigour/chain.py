"""Keep lines that none can be taken from: chained by hash, counted, and known to the runs that they are about.

Each line carries its number, the hash of the line before it and its own. The newest is written down apart in the head,
after the line itself, so a process killed in between leaves one line more than the head knows, which is as it should
be. Each run keeps a witness of its newest line in its own directory: a line removed together with the head is missed
there. Lines of an earlier version carry no hashes; the first chained one after them seals them as they are.
"""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from fmray.errors import DataError
from fmray.records import Json
from fmray.store import Store, fingerprint, redact
from fmray.store.fences import require_held
from fmray.store.plain import read_text, to_plain, write_text

FIRST = "0" * 32
WITNESS = "witness"
_THREADS = 32
log = logging.getLogger("fmray.unverified")  # shown by the command line, other warnings are for driver.log


class Chain:
    """Read and continue lines in a store; whoever adds one holds the lease of the file.

    Args:
        path: Of the lines, `.jsonl`.
        name: Of the log, as its witnesses are called.
        counter: Key of the number of a line.
        cure: What to do about a line that is gone, and what it means.
        jobs: Whose runs may be witnesses; by default all jobs of the store.
    """

    def __init__(
        self, store: Store, path: str, name: str, *, counter: str, cure: str, jobs: Sequence[str] | None = None
    ) -> None:
        self._store = store
        self._path = path
        self._name = name
        self._counter = counter
        self._cure = cure
        self._jobs = jobs
        self.head = f"{path.removesuffix('.jsonl')}.head.json"

    def entries(self) -> list[Json]:
        """Give the lines as they are, oldest first."""
        return self._store.events(self._path)

    def verify(self) -> list[Json]:
        """Give the lines, after making sure that none was changed or removed.

        Raises:
            DataError: Naming the first line that is not as it was written, or the one that is gone.
        """
        # the lines last: what the others know must be in them, also while another process adds one
        known = [*self._witnesses()]
        head = self._read_head()
        entries = self.entries()
        hashes = self._hashes(entries)
        if head is not None:
            known.append((self.head, head))
        for path, mark in known:
            self._require(hashes, mark["look"], mark["hash"], path)
        if not self._reaches(head, entries) and not self._reaches(head := self._read_head(), entries):
            state = "is gone" if head is None else f"is older than {self._path}"
            raise DataError(f"{self.head} {state}. Restore it. {self._cure}")
        return entries

    def add(self, entry: Json, job: str = "", run_id: str = "") -> Json:
        """Write a line and give it as it stands there; the caller has verified the lines before it.

        Args:
            job, run_id: Run that is to be its witness.
        """
        entries = self.entries()
        if entries and "hash" in entries[-1]:
            self._seal(entries[-1])  # where the process that wrote it was killed before it came to that
            previous = entries[-1]["hash"]
        else:
            previous = fingerprint(entries) if entries else FIRST
        plain = read_text(write_text(redact(to_plain(entry, self._path))))
        line = {**plain, self._counter: len(entries) + 1, "previous": previous}
        line["hash"] = fingerprint(line)
        self._store.append(self._path, line)
        self._seal(line)
        if job and run_id:
            self.bear_witness(line, job, run_id)
        return line

    def bear_witness(self, line: Json, job: str, run_id: str) -> None:
        """Have a run remember a line, if its directory is there."""
        root = self._store.path("runs", job, run_id)
        if self._store.exists(f"{root}/run.json"):
            require_held(self._path)  # the witness lies outside of what the lease of the log covers
            self._store.write_json(f"{root}/{WITNESS}/{self._name}.json", self._mark(line))

    def _read_head(self) -> Json | None:
        if not self._store.exists(self.head):
            return None
        found: Json = self._store.read_json(self.head)
        return found

    def _reaches(self, head: Json | None, entries: Sequence[Json]) -> bool:
        """Tell whether the head knows all lines but the newest: a kill may have come between that line and the head."""
        num_unknown = sum("hash" in entry for entry in entries) if head is None else len(entries) - head["look"]
        return num_unknown <= 1

    def _seal(self, line: Json) -> None:
        self._store.write_json(self.head, self._mark(line))

    def _mark(self, line: Json) -> Json:
        return {"look": line[self._counter], "hash": line["hash"]}

    def _hashes(self, entries: Sequence[Json]) -> list[str]:
        """Give the hashes of the lines, "" of those of an earlier version, that of no line first."""
        num_plain = next((place for place, entry in enumerate(entries) if "hash" in entry), len(entries))
        if num_plain and num_plain == len(entries):
            _say_unchained(self._path)
        hashes = [FIRST, *[""] * num_plain]
        previous = fingerprint(entries[:num_plain]) if num_plain else FIRST
        for number, entry in enumerate(entries[num_plain:], start=num_plain + 1):
            body = {name: value for name, value in entry.items() if name != "hash"}
            is_whole = entry.get("hash") == fingerprint(body)
            if not is_whole or (entry.get(self._counter), entry.get("previous")) != (number, previous):
                raise DataError(
                    f"{self._path}: entry {number} is not as it was written, or one before it is gone. "
                    f"Restore the file. {self._cure}"
                )
            previous = entry["hash"]
            hashes.append(previous)
        return hashes

    def _require(self, hashes: Sequence[str], number: int, digest: str, known_by: str) -> None:
        if number >= len(hashes) or hashes[number] != digest:
            raise DataError(
                f"{self._path}: {self._counter} {number} is gone, and {known_by} knows it. Restore the file. "
                f"{self._cure}"
            )

    def _witnesses(self) -> Iterator[tuple[str, Json]]:
        jobs = self._store.list(self._store.path("runs")) if self._jobs is None else self._jobs
        folders = [self._store.path("runs", job) for job in jobs]
        paths = [
            f"{folder}/{run}/{WITNESS}/{self._name}.json" for folder in folders for run in self._store.list(folder)
        ]
        if "://" not in self._store.root:
            found = [path for path in paths if self._store.exists(path)]
        else:  # each question takes a round trip
            with ThreadPoolExecutor(_THREADS) as pool:
                found = [path for path, there in zip(paths, pool.map(self._store.exists, paths), strict=True) if there]
        for path in found:
            yield path, self._store.read_json(path)


@cache
def _say_unchained(path: str) -> None:
    """Say, once in a process, that a log of an earlier version is read as it is."""
    log.warning(
        "%s was written by an earlier version, without hashes: lines removed or changed until now go unnoticed. "
        "The next line seals them.",
        redact(path),
    )
