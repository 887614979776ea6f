"""Talk to a cluster through Ray's Jobs API: send, follow, list and stop.

The token is Ray's own business: it is taken from where Ray looks for it, and never read, printed or kept here.
"""

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmray.errors import ClusterError, SpecError
from fmray.records import Json
from fmray.store import redact
from fmray.store.lease import SUBMISSION
from fmray.submit.package import unpack
from fmray.submit.request import Request

ALIVE = ("PENDING", "RUNNING")
STOPPED_CODE = 130
"""Of an attempt that was stopped: interrupted and resumable."""
TRIES = 3
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
"""How long a cluster may be silent while a submission is followed."""
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
TOKEN_FILE = ".ray/auth_token"


@dataclass(frozen=True)
class Attempt:
    """Describe one submission as the cluster knows it.

    Args:
        id: Of the submission.
        status: "PENDING", "RUNNING", "STOPPED", "SUCCEEDED" or "FAILED".
        job, run_id, store: What it carries.
        number: Of the attempt, from 1.
        started: Seconds since 1970, 0 if it has not.
        seconds: Since it started, until it ended.
        code: With which it ended, if it did so itself.
        message: What Ray says of it.
    """

    id: str
    status: str
    job: str
    run_id: str
    store: str
    number: int
    started: float
    seconds: float
    code: int | None
    message: str

    @property
    def is_alive(self) -> bool:
        """Tell an attempt that goes on from one that has ended."""
        return self.status in ALIVE

    @property
    def exit_code(self) -> int:
        """Give the exit code of a run that has ended."""
        if self.status == "STOPPED":
            return STOPPED_CODE
        if self.status == "SUCCEEDED":
            return 0
        return self.code if self.code is not None and 0 < self.code < 128 else 1

    def to_json(self) -> Json:
        """Give the record as plain values, without secrets."""
        names = ("status", "job", "run_id", "store", "number", "started", "seconds", "code")
        return redact({"submission_id": self.id, **{name: getattr(self, name) for name in names}})


class Cluster:
    """Connect to the dashboard of a cluster.

    Args:
        address: Its URL, e.g. http://127.0.0.1:8265; no environment variable replaces it.

    Raises:
        SpecError: If that is no URL of a dashboard.
        ClusterError: If nothing answers there, or the token is refused.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise SpecError(
                f"'{redact(address)}' is no dashboard. Give its URL, e.g. http://127.0.0.1:8265.", "--address"
            )
        self.shown = redact(address.rstrip("/"))
        if _has_token():  # as Ray sends one only where it is told to
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.job_submission import JobSubmissionClient  # takes a second

        for name in (
            "ray.dashboard.modules.dashboard_sdk",
            "ray.dashboard.modules.job.sdk",
            "ray._private.runtime_env.packaging",
        ):
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._answers(), _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # which would win over `address`
            self._client = JobSubmissionClient(address.rstrip("/"))

    def attempts(self) -> list[Attempt]:
        """List the submissions of fmray that the cluster knows, in the order they were sent."""
        with self._answers():
            found = [_attempt(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted((one for one in found if one.run_id), key=lambda one: (one.started, one.id))

    def find(self, name: str) -> Attempt:
        """Find a submission by its id, or the newest attempt of a run by the run's.

        Raises:
            SpecError: If there is none.
        """
        attempts = self.attempts()
        found = [one for one in attempts if name == one.id] or _of_run(attempts, name)
        if not found:
            raise SpecError(f"'{name}' is no submission on {self.shown}. `fmray jobs` lists them.", "ID")
        return found[-1]

    def submit(self, request: Request) -> tuple[Attempt, bool]:
        """Send the next attempt of a run, or attach to one that is alive; tell which.

        Raises:
            ClusterError: If the cluster refuses it.
        """
        for _ in range(TRIES):
            attempts = _of_run(self.attempts(), request.run_id)
            if attempts and attempts[-1].is_alive:
                return attempts[-1], False
            number = 1 + max(request.attempts_before, attempts[-1].number if attempts else 0)
            name = request.submission_id(number)
            try:
                self._send(request, number)
                return self._known(name), True
            except ClusterError:
                if not any(one.id == name for one in self.attempts()):
                    raise  # else another submission was faster: look again
        raise ClusterError(f"{request.run_id}: {TRIES} attempts were taken by others. Submit it once.")

    def ask(self, command: str, mark: str, seconds: float) -> Json:
        """Run a command there and give what it answers: JSON, on the line that begins with a mark.

        Raises:
            ClusterError: If it ends without an answer, or takes too long.
        """
        end = time.monotonic() + seconds
        with self._answers():
            name = self._client.submit_job(entrypoint=command)
            while True:
                details = self._client.get_job_info(name)
                log = self._client.get_job_logs(name)
                answer = next((line for line in log.splitlines() if line.startswith(mark)), None)
                if answer is not None:
                    return dict(json.loads(answer.removeprefix(mark)))
                if details.status not in ALIVE:
                    said = redact(_last_words(log) or details.message or "nothing")
                    raise ClusterError(
                        f"it cannot look at its nodes, and says: {said}. See `ray status` there.", self.shown
                    )
                if time.monotonic() > end:
                    self._client.stop_job(name)
                    text = f"no answer within {seconds:g} s, but: {details.message}. See `ray status` there."
                    raise ClusterError(text, self.shown)
                time.sleep(POLL_SECONDS)

    def follow(self, name: str, show: Callable[[str], None]) -> Attempt:
        """Show the lines that a submission prints, from its first, until it ends.

        Raises:
            ClusterError: If the cluster stays silent for `PATIENCE_SECONDS`.
        """
        shown, silent_since = 0, None
        while True:
            try:
                with self._answers():
                    shown = asyncio.run(self._tail(name, shown, show))
                attempt = self._known(name)
                silent_since = None
            except ClusterError:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE_SECONDS:
                    raise
                attempt = None
            if attempt is not None and not attempt.is_alive:
                return attempt
            time.sleep(POLL_SECONDS)

    async def _tail(self, name: str, shown: int, show: Callable[[str], None]) -> int:
        """Show what is printed beyond the characters that were shown before, and give their number."""
        seen = 0
        async for chunk in self._client.tail_job_logs(name):
            fresh = chunk[max(0, shown - seen) :]
            seen += len(chunk)
            if fresh:
                show(fresh)
            shown = max(shown, seen)
        return shown

    def logs(self, name: str) -> str:
        """Give what a submission has printed."""
        with self._answers():
            return str(self._client.get_job_logs(name))

    def stop(self, name: str, seconds: float = 15.0) -> Attempt:
        """Stop a submission, and give it once it has ended or the time is up."""
        with self._answers():
            self._client.stop_job(name)
        end = time.monotonic() + seconds
        while (attempt := self._known(name)).is_alive and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return attempt

    def _known(self, name: str) -> Attempt:
        with self._answers():
            return _attempt(self._client.get_job_info(name))

    def _send(self, request: Request, number: int) -> None:
        with tempfile.TemporaryDirectory(prefix="fmray-submit-") as folder:
            unpack(request.package.files, Path(folder, "work"))
            variables = {SUBMISSION: request.submission_id(number)}
            environment: Json = {"working_dir": f"{folder}/work", "env_vars": variables}
            if request.fmray:
                unpack(request.fmray, Path(folder))
                environment["py_modules"] = [f"{folder}/fmray"]
            with self._answers():
                self._client.submit_job(
                    entrypoint=request.entrypoint,
                    submission_id=request.submission_id(number),
                    runtime_env=environment,
                    metadata=request.metadata(number),
                )

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Say in fmray's words what Ray's client raises.

        Raises:
            ClusterError: Instead of anything else.
        """
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            said = "it refuses the token" if "invalid" in str(error).lower() else "it asks for a token"
            raise ClusterError(
                f"{said}. Put the cluster's into RAY_AUTH_TOKEN or ~/{TOKEN_FILE}.", self.shown
            ) from None
        except (ConnectionError, requests.RequestException, aiohttp.ClientError) as error:
            text = f"it does not answer ({type(error).__name__}). Give the URL of a running dashboard."
            raise ClusterError(text, self.shown) from error
        except RuntimeError as error:
            raise ClusterError(f"it refuses: {redact(_last_words(str(error)))}", self.shown) from error


def _of_run(attempts: list[Attempt], run_id: str) -> list[Attempt]:
    return sorted((one for one in attempts if one.run_id == run_id), key=lambda one: one.number)


def _attempt(details: Any) -> Attempt:
    told = details.metadata or {}
    started = (details.start_time or 0) / 1000
    ended = details.end_time / 1000 if details.end_time else time.time()
    return Attempt(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        job=told.get("fmray_job", ""),
        run_id=told.get("fmray_run", ""),
        store=told.get("fmray_store", ""),
        number=int(told.get("fmray_attempt", 0)),
        started=started,
        seconds=round(ended - started, 1) if started else 0.0,
        code=details.driver_exit_code,
        message=(details.message or "").strip(),
    )


def _has_token() -> bool:
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return any(os.environ.get(name) for name in names) or (Path.home() / TOKEN_FILE).is_file()


def _last_words(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide environment variables for a while."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
