"""Sum the progress of all packs of a search, for display."""

import time
from collections.abc import Sequence
from dataclasses import replace

from fmray.events import Epoch, Event, Failure, Report, SearchStanding, Stacks
from fmray.failures import LEFT_OUT
from fmray.metrics.metric import Metric

MAX_REPORTED_MEMBERS = 20
"""Number of left-out members that are reported one by one; the others are only in the summary at the end."""


class SearchProgress:
    """Forward events; add the progress of the whole search to epoch events.

    Args:
        report: Called with every event.
        metric: The primary metric.
        members: Number of members in the search.
        expected: Expected number of epochs, summed over members.
        rungs: Epochs at which members are compared.
    """

    def __init__(self, report: Report, metric: Metric, members: int, expected: int, rungs: Sequence[int]) -> None:
        self._report = report
        self._higher_is_better = metric.higher_is_better
        self._members = members
        self._expected = expected
        self._rungs = rungs
        self._packs: dict[tuple[int, int], Epoch] = {}
        self._epochs = 0
        self._started = time.monotonic()
        self._best: float | None = None
        self._left_out = 0

    def __call__(self, event: Event) -> None:
        """Forward an event."""
        if self._is_suppressed(event):
            return
        self._report(replace(event, search=self._standing(event)) if isinstance(event, Epoch) else event)

    def _is_suppressed(self, event: Event) -> bool:
        """Return whether an event is about a left-out member beyond the first `MAX_REPORTED_MEMBERS`; count these."""
        if isinstance(event, Stacks):
            return event.path.startswith("stacks/member-") and self._left_out >= MAX_REPORTED_MEMBERS
        if isinstance(event, Failure) and event.action == LEFT_OUT:
            self._left_out += 1
            return self._left_out > MAX_REPORTED_MEMBERS
        return False

    def _standing(self, event: Epoch) -> SearchStanding:
        key = (event.place.trial, event.place.pack)
        # assume that a pack seen for the first time, or just resumed, has trained one epoch with all its members
        previous = self._packs.get(key, replace(event, alive=event.members, epoch=event.epoch - 1))
        self._packs[key] = event
        self._epochs += previous.alive * max(event.epoch - previous.epoch, 0)
        scores = [value for value in (self._best, event.best) if value is not None]
        self._best = (max if self._higher_is_better else min)(scores) if scores else None
        seen = sum(pack.members for pack in self._packs.values())
        epochs_left = max(self._expected - self._epochs, 0)
        seconds = time.monotonic() - self._started
        return SearchStanding(
            best=self._best,
            members=self._members,
            alive=sum(pack.alive for pack in self._packs.values() if pack.epoch < pack.epochs),
            waiting=max(self._members - seen, 0),
            epochs=self._epochs,
            expected=max(self._expected, self._epochs),
            rungs=[sum(pack.epoch >= rung for pack in self._packs.values()) for rung in self._rungs],
            packs=len(self._packs),
            seconds_left=round(seconds / max(self._epochs, 1) * epochs_left, 1),
        )
