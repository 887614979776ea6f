"""Keep schedules: decide each tick when it comes, start its run, hear how it ended.

Every decision is in the book before it is acted on. A scheduler that is killed in between is replaced by the next one,
which reads the book and starts the run that goes on once more; so no tick is lost and none runs twice.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta

from fmray.data.scan import scan
from fmray.errors import ClusterError, FmrayError, SpecError
from fmray.schedule.book import Book, Decision, Entry, State
from fmray.schedule.launch import Child, Launch
from fmray.schedule.rules import Move, end, next_move, next_tick
from fmray.spec.job import Job
from fmray.spec.schedule import Schedule
from fmray.store import Lease, Store

STANDBY = timedelta(seconds=15)
REST = timedelta(hours=1)
"""The longest sleep: a clock may be set meanwhile."""

Say = Callable[[str, Entry], None]
"""Hears of every decision: name of the job, and the entry."""

log = logging.getLogger("fmray")


class Timer:
    """Keep the schedule of one job.

    Args:
        read: Gives the job, anew at every tick; while it cannot be read, the schedule stays what it was.
        store: Holds the book and the runs.
        launch: Starts its run; told whether a scheduler before has, whose run may go on.
        say: Hears of every decision.

    Raises:
        SpecError: If the job is wrong, or has no schedule.
    """

    def __init__(
        self, read: Callable[[], Job], store: Store, launch: Launch, say: Say = lambda name, entry: None
    ) -> None:
        self._read = read
        self._store = store
        self._launch = launch
        self._say = say
        job = read()
        self._schedule = schedule_of(job)
        self.name = job.name
        self._book = Book(store, job.name)
        self._held = ExitStack()
        self._lease: Lease | None = None
        self._child: tuple[str, Child] | None = None
        self._is_synced = False

    def step(self, now: datetime) -> None:
        """Do all there is to do at this instant.

        Raises:
            FmrayError: If the store refuses; the next step begins with reading the book.
        """
        if not self._is_synced and not self._sync(now):
            return
        self._is_synced = False
        if self._hear(now) and self._decide(now):
            self._is_synced = True

    def rest(self, now: datetime) -> timedelta:
        """Give the time in which nothing happens but to a run that goes on."""
        if not self._is_synced:
            return STANDBY
        tick = next_tick(self._schedule, self._state.last)
        return REST if tick is None else min(REST, max(tick - now, timedelta()))

    @property
    def is_running(self) -> bool:
        """Tell whether a run of this scheduler goes on."""
        return self._is_synced and self._child is not None

    def close(self) -> None:
        """Let go of the run that goes on, which the next scheduler continues, and let that one in."""
        if self._child is not None:
            self._child[1].leave()
        self._drop()

    @property
    def _state(self) -> State:
        return self._book.newest.state

    def _sync(self, now: datetime) -> bool:
        """Read the book as the one who decides, and start the run of one who died; False if another one decides."""
        if self._lease is None:
            self._book.open(now)
            try:
                self._lease = self._held.enter_context(self._book.lease())
            except ClusterError as error:
                log.info("standing by: %s", error)
                return False
        state = self._book.open(now).state
        if self._child is not None and self._child[0] != state.running:
            self._child = None  # another scheduler has seen to it
        if state.running and self._child is None:
            decision = Decision("continued", state.running, "its scheduler ended before it did")
            return self._act(Move(decision, state), now)
        return True

    def _hear(self, now: datetime) -> bool:
        """Write down how the run ended, if it has; False if another scheduler has taken over."""
        outcome = self._child[1].poll() if self._child is not None else None
        if outcome is None:
            return True
        told = (outcome.status, outcome.reason, outcome.run_id, outcome.run_dir)
        return self._act(end(self._state, *told), now)

    def _decide(self, now: datetime) -> bool:
        """Decide every tick that is due; False if another scheduler has taken over."""
        tick = next_tick(self._schedule, self._state.last)
        if (tick is not None and tick <= now) or (self._state.queue and not self._state.running):
            with suppress(SpecError):  # while the file is being edited, the schedule stays what it was
                self._schedule = schedule_of(self._read())
        while move := next_move(self._schedule, self._state, now, self._look):
            if move.stops and self._child is not None:
                self._child[1].stop()
            if not self._act(move, now):
                return False
        return True

    def _act(self, move: Move, now: datetime) -> bool:
        """Write a decision down, then do what it says; False if another scheduler has taken over."""
        try:
            if self._lease is not None:
                self._lease.check()
        except ClusterError as error:
            log.warning("%s", error)
            self._drop()
            return False
        if not self._book.write(move.decision, move.state, now):
            self._drop()
            return False
        if move.decision.event in ("started", "continued"):
            self._child = (move.decision.tick, self._launch(move.decision.event == "continued"))
        elif not move.state.running:
            self._child = None
        self._say(self.name, self._book.newest)
        return True

    def _look(self) -> str:
        """Give the fingerprint of the data as it is now."""
        job = self._read()
        return scan(job.data, job.folder, self._store).fingerprint

    def _drop(self) -> None:
        self._held.close()
        self._lease, self._is_synced = None, False


def keep(
    timers: Sequence[Timer],
    clock: Callable[[], datetime],
    sleep: Callable[[float], None],
    *,
    once: bool = False,
    poll_seconds: float = 1.0,
) -> None:
    """Keep schedules until interrupted.

    Args:
        clock: Gives the time.
        sleep: Lets so many seconds pass.
        once: Return when nothing is due and no run goes on.
        poll_seconds: Time between two looks at a run.

    Raises:
        FmrayError: If the store refuses, with `once`; otherwise it is tried again.
    """
    try:
        while True:
            now = clock()
            for timer in timers:
                try:
                    timer.step(now)
                except FmrayError as error:
                    if once:
                        raise
                    log.warning("%s: %s", timer.name, error)
            running = any(timer.is_running for timer in timers)
            if once and not running:
                return
            rest = min(timer.rest(now) for timer in timers).total_seconds()
            sleep(min(poll_seconds, rest) if running else rest)
    finally:
        for timer in timers:
            timer.close()


def schedule_of(job: Job) -> Schedule:
    """Give the schedule of a job.

    Raises:
        SpecError: If it has none.
    """
    if job.schedule is None:
        raise SpecError(f"job '{job.name}' has none. Give one, e.g. schedule: {{cron: '0 3 * * 1'}}.", "schedule")
    return job.schedule
