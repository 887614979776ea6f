"""Start the run of a tick in a process of its own, and hear how it ended.

`fmray run` finds its run by what is asked and by the data, so starting it once more continues it; where a process that
outlived its scheduler still holds the run, it is waited for.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fmray.records import Json
from fmray.store import Store

STOP_SECONDS = 30.0
"""What a run gets to write its last checkpoint once it is asked to stop."""
HELD_SECONDS = 10.0
"""Time between two looks at a run that another process holds."""


@dataclass(frozen=True)
class Outcome:
    """Say how the run of a tick ended.

    Args:
        status: "finished", or anything else for a failure.
        reason: In words.
        run_id, run_dir: What it made, as far as it got.
    """

    status: str
    reason: str = ""
    run_id: str = ""
    run_dir: str = ""


class Child(Protocol):
    """Be the run of a tick, as its scheduler sees it."""

    def poll(self) -> Outcome | None:
        """Give the outcome; None while it goes on."""

    def stop(self) -> None:
        """Have it stop where it can be continued, and wait until it has."""

    def leave(self) -> None:
        """Let go of it: what runs on this machine stops, what runs on a cluster goes on."""


Launch = Callable[[bool], Child]
"""Starts the run of a job; True if a scheduler before has started it, and ended before it did."""


FMRAY = (sys.executable, "-m", "fmray.cli")


def command(job_file: str, store: str, address: str = "") -> list[str]:
    """Give the command that runs a job: here, or on the cluster at an address."""
    if address:
        return [*FMRAY, "submit", job_file, "--address", address, "--store", store, "--wait", "--json"]
    return [*FMRAY, "run", job_file, "--store", store, "--json"]


class Process:
    """Run a command that ends with one JSON object on stdout.

    Args:
        arguments: The command.
        store: Where its run lies; tells whether another process holds it.
    """

    def __init__(self, arguments: Sequence[str], store: Store) -> None:
        self._arguments = list(arguments)
        self._store = store
        self._waits_until: float | None = None
        self._start()

    def poll(self) -> Outcome | None:
        """Give the outcome; None while it goes on, here or in a process that outlived an earlier scheduler."""
        if self._waits_until is not None:
            if time.monotonic() >= self._waits_until:
                self._start()
            return None
        code = self._process.poll()
        if code is None:
            return None
        answer = self._answer()
        run_dir = str(answer.get("run_dir") or "")
        if answer.get("status") != "finished" and run_dir and self._store.status(run_dir) == "running":
            self._waits_until = time.monotonic() + HELD_SECONDS
            return None
        return Outcome(*_told(answer, code), str(answer.get("run_id") or run_dir.rpartition("/")[2]), run_dir)

    def stop(self) -> None:
        """Interrupt it, as Ctrl-C would; kill it if that is not heard."""
        self._process.send_signal(signal.SIGINT)  # nothing happens if it has ended
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    leave = stop

    def _start(self) -> None:
        self._waits_until = None
        # a file, since a pipe that nobody reads would stop a run with much to tell
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        # in a session of its own, so that Ctrl-C reaches the scheduler alone, which passes it on
        self._process = subprocess.Popen(self._arguments, stdout=self._output, start_new_session=True)

    def _answer(self) -> Json:
        with self._output as output:
            output.seek(0)
            lines = output.read().decode(errors="replace").splitlines()
        try:
            answer = json.loads(lines[-1])
        except (IndexError, ValueError):
            return {}
        return answer if isinstance(answer, dict) else {}


class Orphan:
    """Watch a run that outlived its scheduler, and start it once more should it end before it is finished.

    Args:
        run_dir: Of the run.
        store: Where it lies.
        start: Starts it once more.
    """

    def __init__(self, run_dir: str, store: Store, start: Callable[[], Child]) -> None:
        self._run_dir = run_dir
        self._store = store
        self._start = start
        self._again: Child | None = None

    def poll(self) -> Outcome | None:
        """Give the outcome; None while it goes on."""
        if self._again is not None:
            return self._again.poll()
        match self._store.status(self._run_dir):
            case "running":
                return None
            case "finished":
                return Outcome("finished", "", self._run_dir.rpartition("/")[2], self._run_dir)
        self._again = self._start()
        return None

    def stop(self) -> None:
        """Interrupt it, if its process is on this machine; elsewhere it goes on to its end."""
        if self._again is not None:
            self._again.stop()
        elif (pid := self._store.holder_pid(self._run_dir)) is not None:
            os.kill(pid, signal.SIGINT)
            until = time.monotonic() + STOP_SECONDS
            while self._store.status(self._run_dir) == "running" and time.monotonic() < until:
                time.sleep(0.2)

    leave = stop


class Submitted(Process):
    """Follow a run on a cluster; submitted once more, it is attached to.

    Args:
        arguments: The command that submits it, and waits.
        store: Where its run lies.
        job: Name of the job.
        address: Of the cluster.
    """

    def __init__(self, arguments: Sequence[str], store: Store, job: str, address: str) -> None:
        super().__init__(arguments, store)
        self._job = job
        self._address = address

    def stop(self) -> None:
        """Stop following it, and have the cluster stop it."""
        self.leave()
        for run_dir in going(self._job, self._store):
            name = run_dir.rpartition("/")[2]
            subprocess.run([*FMRAY, "stop", name, "--address", self._address], stdout=subprocess.DEVNULL, check=False)


def going(job: str, store: Store) -> list[str]:
    """Give the directories of the job's runs that a living process holds."""
    runs = [store.path("runs", job, name) for name in store.list(f"runs/{job}")]
    return [run for run in runs if store.status(run) == "running"]


def start(job: str, job_file: str, store: Store, address: str, again: bool) -> Child:
    """Start the run of a job, or watch the one that a scheduler before has started, if it goes on."""
    arguments = command(job_file, store.root, address)
    if address:
        return Submitted(arguments, store, job, address)
    alive = going(job, store) if again else []
    return Orphan(alive[0], store, partial(Process, arguments, store)) if alive else Process(arguments, store)


def _told(answer: Json, code: int) -> tuple[str, str]:
    """Give status and reason of a process that has ended."""
    if answer.get("status") == "finished":
        gates = answer.get("failed_gates") or []
        return "finished", f"gates that failed: {', '.join(map(str, gates))}" if gates else ""
    if code < 0:
        return "failed", f"it was killed by signal {-code}"
    error = answer.get("error") or {}
    return "failed", str(error.get("message") or answer.get("status") or f"it ended with exit code {code}")
