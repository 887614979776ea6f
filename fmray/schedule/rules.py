"""Decide what becomes of the next tick.

Pure: the same schedule, state, time and data give the same decision, so one that was never written down, because its
scheduler was killed, is made again.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile

from fmray.errors import FmrayError
from fmray.schedule.book import Decision, State
from fmray.schedule.ticks import moment, month, stamp, ticks
from fmray.spec.schedule import Schedule

LATE = timedelta(seconds=90)
"""A tick this old was missed: no scheduler was there, or it was busy elsewhere."""

Look = Callable[[], str]


@dataclass(frozen=True)
class Move:
    """Pair a decision with the state after it.

    Args:
        stops: True if the run that goes on must be stopped before this is written.
    """

    decision: Decision
    state: State
    stops: bool = False


@functools.lru_cache(maxsize=1024)
def next_tick(schedule: Schedule, last: str) -> datetime | None:
    """Give the first tick after one that was decided; None if there will be none."""
    return next(ticks(schedule, moment(last)), None)


def next_move(schedule: Schedule, state: State, now: datetime, look: Look) -> Move | None:
    """Give the next decision, or None if there is nothing to decide yet.

    Args:
        look: Gives the fingerprint of the data as it is now; called before a run, where the schedule goes by it. What
            it raises fails the tick.
    """
    tick = next_tick(schedule, state.last)
    if tick is None or tick > now:
        if state.running or not state.queue:
            return None
        return _start(schedule, replace(state, queue=state.queue[1:]), state.queue[0], look)
    if not schedule.catch_up and (gone := _missed(schedule, state, tick, now)):
        return gone
    name = stamp(tick)
    late = now - tick > LATE
    decided = replace(state, last=name)
    if not state.running and not state.queue:
        return _start(schedule, decided, name, look)
    if schedule.overlap == "queue" or (late and schedule.catch_up):
        return Move(Decision("queued", name, _busy(state)), replace(decided, queue=(*state.queue, name)))
    if schedule.overlap == "skip":
        return Move(Decision("skipped", name, _busy(state)), decided)
    return _replace(state, name)


def end(state: State, status: str, reason: str, run_id: str, run_dir: str) -> Move:
    """Give the decision that closes the run that goes on; a status other than "finished" is a failure."""
    finished = status == "finished"
    decision = Decision("finished" if finished else "failed", state.running, reason, run_id=run_id, run_dir=run_dir)
    return Move(decision, replace(state, running="", data="", seen=state.data if finished else state.seen))


def _missed(schedule: Schedule, state: State, tick: datetime, now: datetime) -> Move | None:
    """Leave out all ticks but the newest of those that are due."""
    due = list(takewhile(lambda one: one <= now, ticks(schedule, moment(state.last))))
    if len(due) == 1:
        return None
    gone = due[:-1]
    reason = f"missed; catch_up is off, and {stamp(due[-1])} is newer"
    decision = Decision("skipped", stamp(gone[-1]), reason=reason, first=stamp(tick), count=len(gone))
    return Move(decision, replace(state, last=stamp(gone[-1])))


def _replace(state: State, tick: str) -> Move:
    """Make room for a tick, which is decided next: first the run that goes on makes way, then what waits."""
    reason = f"stopped for {tick}; overlap is replace"
    if state.running:
        return Move(Decision("skipped", state.running, reason), replace(state, running="", data=""), stops=True)
    waiting = Decision("skipped", state.queue[-1], reason=reason, first=state.queue[0], count=len(state.queue))
    return Move(waiting, replace(state, queue=()))


def _start(schedule: Schedule, state: State, tick: str, look: Look) -> Move:
    """Start the run of a tick, unless the month's runs are spent or there is nothing new to learn from."""
    this = month(schedule, moment(tick))
    spent = state.num_runs if state.month == this else 0
    most = schedule.max_runs_per_month
    if most is not None and spent >= most:
        return Move(Decision("skipped", tick, f"{spent} of {most} runs of {this} are spent"), state)
    try:
        data = look() if schedule.when == "new_rows" else ""
    except FmrayError as error:
        return Move(Decision("failed", tick, str(error)), state)
    if data and data == state.seen:
        return Move(Decision("skipped", tick, "no new rows since the last finished run"), state)
    return Move(Decision("started", tick), replace(state, running=tick, data=data, month=this, num_runs=spent + 1))


def _busy(state: State) -> str:
    return f"the run of {state.running} goes on" if state.running else f"{state.queue[0]} waits before it"
