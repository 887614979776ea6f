"""A world for schedulers: a clock, data that grows, and runs that go on whoever watches them."""

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from fmray.schedule.book import Book
from fmray.schedule.launch import Outcome
from fmray.schedule.loop import Timer
from fmray.schedule.ticks import stamp
from fmray.spec.load import job_from
from fmray.store import Store

BERLIN = ZoneInfo("Europe/Berlin")
START, STOP = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
JOB = {"name": "job", "data": {"path": "sample:iris", "target": "target"}}
SCHEDULE = {"cron": "30 2 * * 0", "timezone": "Europe/Berlin"}


class Killed(BaseException):
    """What a process that is killed does not survive."""


def sundays(start=START, stop=STOP):
    """Half past two in Berlin on every Sunday, worked out from the calendar; when clocks skip it, three o'clock."""
    found = []
    day = date(2025, 12, 28)
    while day <= stop.date():
        clock = (3, 0) if day == date(2026, 3, 29) else (2, 30)
        tick = datetime(day.year, day.month, day.day, *clock, tzinfo=BERLIN, fold=0).astimezone(UTC)
        if start < tick <= stop:
            found.append(stamp(tick))
        day += timedelta(days=7)
    return found


class World:
    """Hold what outlives a scheduler: the store, the clock, and the run that goes on.

    Args:
        hours: How long a run takes.
        grows: How often new data arrives.
    """

    def __init__(self, folder: Path, hours: float = 3, grows: timedelta = timedelta(days=1), **schedule: Any) -> None:
        self.job = job_from({**JOB, "schedule": {**SCHEDULE, **schedule}})
        self.store = Store(str(folder / "store"))
        self.now, self.hours, self.grows = START, hours, grows
        self.going: dict[int, datetime] = {}
        self.trained: Counter[int] = Counter()
        self.most = 0

    def timer(self) -> Timer:
        return Timer(lambda: self.job, self.store, lambda again: Child(self, again))

    def data(self) -> int:
        return (self.now - START) // self.grows

    def live(self) -> list[int]:
        return [key for key, end in self.going.items() if end > self.now]

    def until(self, stop: datetime, timers: list[Timer]) -> None:
        """Let time pass, and each scheduler act whenever it would wake."""
        while self.now < stop:
            for timer in timers:
                timer.step(self.now)
            rests = [timer.rest(self.now) if timer._is_synced else timedelta(hours=18) for timer in timers]
            rests += [timedelta(hours=6) for timer in timers if timer.is_running]
            self.now = min(stop, self.now + max(min(rests), timedelta(seconds=1)))

    def die(self, timer: Timer) -> None:
        """End a scheduler as SIGKILL does: no lease released, nothing written; its run goes on."""
        if timer._lease is not None:
            timer._lease._stop()
            timer._lease.release = lambda: None
        for path in Path(self.store.root, "schedules/job").glob("lease-*.json"):
            holder = json.loads(path.read_text())
            path.write_text(json.dumps({**holder, "started": "0"}))  # no process of this number began then

    def decisions(self):
        return [entry.decision for entry in Book(self.store, "job").entries(100_000)]


class Child:
    """The run of a data set: one that goes on or was finished is not begun again, as `fmray run` does it."""

    def __init__(self, world: World, again: bool) -> None:
        self.world = world
        self.key = next(iter(world.live() if again else []), world.data())
        if self.key not in world.going:
            world.trained[self.key] += 1
            world.going[self.key] = world.now + timedelta(hours=world.hours)
            world.most = max(world.most, len(world.live()))

    def poll(self):
        end = self.world.going.get(self.key)
        return Outcome("finished", "", f"run{self.key}", "dir") if end is not None and end <= self.world.now else None

    def stop(self) -> None:
        if self.key in self.world.live():
            del self.world.going[self.key]

    leave = stop


def audit(decisions, expected):
    """Make sure that every tick was decided once, in order, and closed at most once; give tick -> (event, reason)."""
    fates: dict[str, tuple[str, str]] = {}
    waiting, running, order = [], "", []
    for one in decisions[1:]:
        match one.event:
            case "started":
                assert not running
                if one.tick in waiting:
                    assert waiting.pop(0) == one.tick
                else:
                    order.append(one.tick)
                running = one.tick
            case "queued":
                assert running or waiting
                waiting.append(one.tick)
                order.append(one.tick)
            case "continued":
                assert running == one.tick
            case "finished" | "failed" | "skipped":
                inside = [t for t in expected if one.first <= t <= one.tick] if one.count > 1 else [one.tick]
                assert len(inside) == one.count
                for tick in inside:
                    assert tick not in fates
                    fates[tick] = (one.event, one.reason)
                    if tick == running:
                        running = ""
                    elif tick in waiting:
                        waiting.remove(tick)
                    else:
                        order.append(tick)
                assert one.reason or one.event == "finished"
    assert order == expected == sorted(expected)
    assert set(expected) - set(fates) == {tick for tick in (*waiting, running) if tick}
    return fates
