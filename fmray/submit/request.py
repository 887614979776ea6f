"""Say what a submission would send: a value that can be printed and tested before anything is sent.

The run's id is the one it will have there: it follows from the job as it is sent, and from the data.
"""

import glob
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from fmray.data.scan import SAMPLE, Dataset, scan
from fmray.errors import DataError, FmrayError, SpecError
from fmray.records import Json
from fmray.registry import importable
from fmray.report.folder import RUN
from fmray.report.identity import name_run
from fmray.spec.job import Job
from fmray.store import Store, redact
from fmray.store.places import files_of
from fmray.submit.package import JOB_FILE, Files, Package, pack, pack_fmray


@dataclass(frozen=True)
class Request:
    """Hold all that a submission sends, but for the number of the attempt.

    Args:
        job: As it is sent: paths are absolute.
        store: Absolute path or URI.
        package: The working directory.
        fmray: fmray's own files, if they are sent along.
        fresh: Train anew, beside what is there.
    """

    job: Job
    store: str
    package: Package
    fmray: Files
    fresh: bool = False

    @cached_property
    def dataset(self) -> Dataset | None:
        """Scan the data, where this machine sees them.

        Raises:
            DataError: If data that lie here cannot be read.
        """
        path = self.job.data.path
        try:
            return scan(self.job.data, self.job.folder, self._opened)
        except DataError:
            if "://" not in path and any(glob.iglob(path)):
                raise
            return None

    @cached_property
    def run_id(self) -> str:
        """Name the run it will start or continue."""
        with importable(self.job.folder):
            seen = self.dataset.fingerprint if self.dataset else ""
            return name_run(self.job, seen, self._opened, self.fresh)

    @property
    def attempts_before(self) -> int:
        """Give the number of the newest attempt that the store knows of: a cluster forgets, if its head is lost."""
        path = f"runs/{self.job.name}/{self.run_id}/{RUN}"
        if self._opened is None or not self._opened.exists(path):
            return 0
        name, _, number = str(self._opened.read_json(path).get("submission", "")).rpartition("-")
        return int(number) if f"{name}-" == self.submission_id(0)[:-1] and number.isdigit() else 0

    @cached_property
    def _opened(self) -> Store | None:
        """Open the store if it is there; a submission makes none."""
        with suppress(FmrayError):
            if files_of(self.store).exists(f"{self.store.rstrip('/')}/store.json"):
                return Store(self.store)
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """Give what a person should know of it."""
        left_out = ", ".join(self.package.left_out)
        told = {
            "the data are not seen from here: the submission is named after the job alone": self.dataset is None,
            f"no store is seen from here at {redact(self.store)}: the first run there makes it": not self._opened,
            f"left out, as data do not travel with code: {left_out}": left_out,
        }
        return tuple(text for text, holds in told.items() if holds)

    @property
    def data(self) -> str:
        """Give the address of the data; none for samples, which lie in the store."""
        return "" if self.job.data.path.startswith(SAMPLE) else self.job.data.path

    @property
    def entrypoint(self) -> str:
        """Give the command that carries the job there."""
        command = ["python", "-m", "fmray.cli", "run", JOB_FILE, "--store", self.store, "--json"]
        return shlex.join([*command, *(["--fresh"] if self.fresh else [])])

    def submission_id(self, attempt: int) -> str:
        """Name an attempt."""
        return f"fmray-{self.run_id}-{attempt}"

    def metadata(self, attempt: int) -> dict[str, str]:
        """Give what lists of jobs show of it."""
        told = {"job": self.job.name, "run": self.run_id, "attempt": str(attempt), "store": self.store}
        return {f"fmray_{name}": value for name, value in told.items()}

    def to_json(self, attempt: int) -> Json:
        """Give the request as plain values, without secrets; files by their size."""
        shown = {
            "submission_id": self.submission_id(attempt),
            "entrypoint": self.entrypoint,
            "metadata": self.metadata(attempt),
            "working_dir": {name: len(content) for name, content in self.package.files.items()},
            "py_modules": {"fmray": sum(map(len, self.fmray.values()))} if self.fmray else {},
            "job": {key: value for key, value in self.job.to_json().items() if key != "folder"},
            "notes": list(self.notes),
        }
        return redact(shown)


def plan(job: Job, store: str, *, with_fmray: bool = False, fresh: bool = False) -> Request:
    """Collect what a job needs elsewhere; the data are looked at once the run is named.

    Raises:
        SpecError: If an address holds a secret, or there is too much to send.
    """
    store = _absolute(store, ".")
    if not job.data.path.startswith(SAMPLE):
        job = replace(job, data=replace(job.data, path=_absolute(job.data.path, job.folder)))
    for key, address in (("--store", store), ("data.path", job.data.path)):
        if redact(address) != address:
            text = f"{redact(address)!r} holds a secret, which a cluster shows to all who list its jobs"
            raise SpecError(f"{text}. Put it into the environment of the nodes.", key)
    return Request(job, store, package=pack(job), fmray=pack_fmray() if with_fmray else {}, fresh=fresh)


def _absolute(path: str, folder: str) -> str:
    path = path.removeprefix("file://")
    return path if "://" in path else os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
