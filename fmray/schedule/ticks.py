"""Tell when a schedule fires.

A tick is an instant of UTC, whole seconds. Ticks strictly rise, also where a change of clocks lets two local times fall
on one instant.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim

from fmray.spec.schedule import Schedule

STAMP = "%Y-%m-%dT%H:%M:%SZ"


def ticks(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Give the ticks after an instant, without end."""
    last = after
    for local in CronSim(schedule.cron, after.astimezone(ZoneInfo(schedule.timezone))):
        # in a repeated hour the library starts from the clock's reading, which was there before
        if (tick := local.astimezone(UTC)) > last:
            yield (last := tick)


def stamp(moment: datetime) -> str:
    """Spell an instant; earlier ones sort first."""
    return moment.astimezone(UTC).strftime(STAMP)


def moment(text: str) -> datetime:
    """Read back what `stamp` gave."""
    return datetime.strptime(text, STAMP).replace(tzinfo=UTC)


def month(schedule: Schedule, tick: datetime) -> str:
    """Name the calendar month of a tick, by the schedule's clock."""
    return tick.astimezone(ZoneInfo(schedule.timezone)).strftime("%Y-%m")
