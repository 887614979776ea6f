"""Tell MLflow of a run while it goes on, so that whoever watches it there sees it live.

Training hands over what happened and never waits: a thread tells it every few seconds, and what it cannot tell now is
part of what `publish` tells at the end.
"""

import logging
import threading
import time

from fmray.errors import FmrayError
from fmray.events import Event, Logged, Report, Resumed
from fmray.store import Store
from fmray.store.fences import require_held
from fmray.track.address import Address
from fmray.track.entries import is_progress, progress_of
from fmray.track.mlflow import ANSWER_SECONDS, connected
from fmray.track.notice import Notice

EVERY_SECONDS = 10.0
"""Time between two messages; a run that is shorter tells everything at its end."""
PATIENCE = 6
"""How many times longer to wait after MLflow did not answer."""

log = logging.getLogger("fmray")


class Live:
    """Pass the events of a run on, and tell MLflow of its progress beside.

    Args:
        root: Directory of the run.
        notice: What MLflow knows the run by.
        report: Gets every event.
    """

    def __init__(self, root: str, store: Store, address: Address, notice: Notice, report: Report) -> None:
        self.address = address
        self._root = root
        self._store = store
        self._notice = notice
        self._report = report
        self._epochs = self._kept()
        self._told = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk, name=f"mlflow {root}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Resumed):  # the journal has cut what is trained again
            self._epochs = self._kept()
        elif is_progress(event):
            self._epochs.append(Logged(time.time(), "", event))
        self._report(event)

    def close(self) -> None:
        """Stop talking; a message under way is waited for no longer than it may take."""
        self._ended.set()
        self._thread.join(ANSWER_SECONDS + 1)

    def _kept(self) -> list[Logged]:
        lines = map(Logged.from_json, self._store.events(f"{self._root}/events.jsonl"))
        return [line for line in lines if is_progress(line.event)]

    def _talk(self) -> None:
        pause = EVERY_SECONDS
        while not self._ended.wait(pause):
            try:
                self._say()
                pause = EVERY_SECONDS
            except FmrayError as error:
                log.info("no progress told: %s", error)
                pause = EVERY_SECONDS * PATIENCE

    def _say(self) -> None:
        require_held(self._root)
        points = progress_of(list(self._epochs))
        fresh = [point for point in points if point.step > self._told]
        if not fresh:
            return
        with connected(self.address, ANSWER_SECONDS) as connection:
            notice = self._notice
            experiment = connection.experiment(notice.job["name"])
            run = connection.run(experiment, notice.key, self._root.rpartition("/")[2], notice.began)
            connection.progress(run, fresh)
        self._told = fresh[-1].step
