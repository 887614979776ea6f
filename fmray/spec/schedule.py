"""Define when a job runs by itself: the `schedule` section."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from fmray.spec.sections import Flag, Text, Whole, strict

FIELDS = "five fields: minute, hour, day, month, weekday, e.g. '0 3 * * 1'"


def _fires(cron: str) -> str:
    if len(cron.split()) != 5:
        raise ValueError(f"{cron!r} has {len(cron.split())} fields. Accepted: {FIELDS}")
    try:
        next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        wrong = str(error).removeprefix("Bad ")
        raise ValueError(f"{cron!r}: {wrong} is not one of cron's. Accepted: {FIELDS}") from error
    except StopIteration:
        raise ValueError(f"{cron!r} never comes. Accepted: {FIELDS}, of a day that exists") from None
    return cron


def _is_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone. Accepted: UTC, or a name such as Europe/Berlin") from error
    return name


@dataclass(frozen=True, kw_only=True, config=strict)
class Schedule:
    """Say when the job runs by itself; none of it changes what is asked.

    A fixed time that a change of clocks skips comes when the skipped hour is over, one that it repeats comes once, the
    first time; `*` in minute or hour goes by true time, as in Debian's cron.

    Args:
        cron: Five fields: minute, hour, day, month, weekday.
        timezone: Whose clock they are read by.
        overlap: What a tick does while an earlier run goes on: "skip" leaves it out, "queue" lets it wait, "replace"
            stops the run for it.
        catch_up: True runs every tick that was missed, one after the other; false the newest only.
        when: "new_rows" runs only if the data is not what the last finished run was made from.
        max_runs_per_month: Ticks beyond so many runs of a calendar month are left out.
    """

    cron: Annotated[Text, AfterValidator(_fires)]
    timezone: Annotated[Text, AfterValidator(_is_zone)] = "UTC"
    overlap: Literal["skip", "queue", "replace"] = "skip"
    catch_up: Flag = False
    when: Literal["always", "new_rows"] = "always"
    max_runs_per_month: Annotated[Whole, Field(ge=1)] | None = None
