from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile

import pytest
from schedule.world import sundays

from fmray.schedule.ticks import moment, month, stamp, ticks
from fmray.spec.schedule import Schedule


def fires(cron, after, until, timezone="Europe/Berlin"):
    schedule = Schedule(cron=cron, timezone=timezone)
    return [stamp(tick) for tick in takewhile(lambda tick: tick <= until, ticks(schedule, after))]


def test_a_fixed_time_comes_once_a_week_through_both_changes_of_clocks():
    start, stop = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    found = fires("30 2 * * 0", start, stop)
    assert found == sundays()
    assert "2026-03-29T01:00:00Z" in found  # 02:30 does not exist, and 03:00 is the end of the skipped hour
    assert "2026-10-25T00:30:00Z" in found  # 02:30 comes twice, and the first one counts


def test_hours_that_are_skipped_or_repeated_are_skipped_or_repeated_by_a_star():
    spring = fires("30 * * * *", datetime(2026, 3, 29, 0, tzinfo=UTC), datetime(2026, 3, 29, 3, tzinfo=UTC))
    assert spring == ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"]
    autumn = fires("30 * * * *", datetime(2026, 10, 25, 0, tzinfo=UTC), datetime(2026, 10, 25, 2, tzinfo=UTC))
    assert autumn == ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]


@pytest.mark.parametrize("cron", ["30 2 * * *", "0,30 2,3 * * *", "*/20 * * * *", "15 1-3 * * 0", "0 3 * * *"])
@pytest.mark.parametrize("day", [datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)])
def test_going_on_from_any_instant_gives_the_same_ticks(cron, day):
    until = day + timedelta(days=3)
    whole = fires(cron, day, until)
    assert whole == sorted(set(whole))
    for minutes in range(0, 3 * 24 * 60, 97):
        after = day + timedelta(minutes=minutes)
        assert fires(cron, after, until) == [tick for tick in whole if tick > stamp(after)]


def test_a_tick_years_away_is_found():
    leap = Schedule(cron="0 0 29 2 *")
    assert [stamp(tick) for tick in islice(ticks(leap, datetime(2026, 1, 1, tzinfo=UTC)), 2)] == [
        "2028-02-29T00:00:00Z",
        "2032-02-29T00:00:00Z",
    ]


def test_the_month_of_a_tick_is_that_of_its_own_clock():
    tick = moment("2026-10-31T23:30:00Z")
    assert month(Schedule(cron="0 0 1 * *", timezone="Europe/Berlin"), tick) == "2026-11"
    assert month(Schedule(cron="0 0 1 * *"), tick) == "2026-10"
