from dataclasses import replace
from datetime import timedelta

import pytest

from fmray.errors import DataError
from fmray.schedule.book import State
from fmray.schedule.rules import end, next_move
from fmray.schedule.ticks import moment, stamp
from fmray.spec.schedule import Schedule

DAILY = Schedule(cron="0 3 * * *")
FIRST = moment("2026-05-01T03:00:00Z")
BEGUN = State(stamp(FIRST - timedelta(hours=1)))


def moves(schedule, state, now, look=lambda: "data"):
    """Carry out every decision there is, and give what was said."""
    said = []
    while move := next_move(schedule, state, now, look):
        said.append((move.decision.event, move.decision.tick, move.decision.count))
        state = move.state
    return said, state


def day(number):
    return stamp(FIRST + timedelta(days=number))


def test_nothing_is_decided_before_its_time():
    assert next_move(DAILY, BEGUN, FIRST - timedelta(seconds=1), pytest.fail) is None


def test_after_an_outage_the_newest_tick_alone_is_run():
    said, state = moves(DAILY, BEGUN, FIRST + timedelta(days=4, hours=5))
    assert said == [("skipped", day(3), 4), ("started", day(4), 1)]
    assert state.last == day(4)


def test_with_catch_up_every_missed_tick_is_run_one_after_the_other():
    schedule = replace(DAILY, catch_up=True)
    now = FIRST + timedelta(days=2, hours=5)
    said, state = moves(schedule, BEGUN, now)
    assert said == [("started", day(0), 1), ("queued", day(1), 1), ("queued", day(2), 1)]
    for number in (1, 2):
        state = end(state, "finished", "", "run", "dir").state
        said, state = moves(schedule, state, now)
        assert said == [("started", day(number), 1)]


def test_without_new_rows_there_is_no_run():
    schedule = replace(DAILY, when="new_rows")
    _, state = moves(schedule, BEGUN, FIRST, lambda: "monday")
    state = end(state, "finished", "", "run", "dir").state
    said, state = moves(schedule, state, FIRST + timedelta(days=1), lambda: "monday")
    assert said == [("skipped", day(1), 1)]
    said, state = moves(schedule, state, FIRST + timedelta(days=2), lambda: "tuesday")
    assert said == [("started", day(2), 1)]


def test_rows_that_a_failed_run_did_not_learn_from_are_still_new():
    schedule = replace(DAILY, when="new_rows")
    _, state = moves(schedule, BEGUN, FIRST, lambda: "monday")
    state = end(state, "failed", "killed", "", "").state
    assert moves(schedule, state, FIRST + timedelta(days=1), lambda: "monday")[0] == [("started", day(1), 1)]


def test_data_that_cannot_be_read_fails_the_tick_and_not_the_scheduler():
    def look():
        raise DataError("nothing lies there", "data.path")

    move = next_move(replace(DAILY, when="new_rows"), BEGUN, FIRST, look)
    assert (move.decision.event, move.decision.reason) == ("failed", "data.path: nothing lies there")
    assert move.state.running == ""


def test_the_runs_of_a_month_are_counted_and_the_next_month_has_its_own():
    schedule, state, said = replace(DAILY, max_runs_per_month=3), BEGUN, []
    for number in range(33):
        found, state = moves(schedule, state, FIRST + timedelta(days=number))
        said += found
        if state.running:
            state = end(state, "finished", "", "run", "dir").state
    assert [tick for event, tick, _ in said if event == "started"] == [day(n) for n in (0, 1, 2, 31, 32)]


@pytest.mark.parametrize(
    ("overlap", "said"),
    [
        ("skip", [("skipped", day(1), 1)]),
        ("queue", [("queued", day(1), 1)]),
        ("replace", [("skipped", day(0), 1), ("started", day(1), 1)]),
    ],
)
def test_a_tick_that_meets_a_run_does_as_overlap_says(overlap, said):
    schedule = replace(DAILY, overlap=overlap)
    _, state = moves(schedule, BEGUN, FIRST)
    assert moves(schedule, state, FIRST + timedelta(days=1))[0] == said


def test_what_waits_makes_way_too_where_runs_are_replaced():
    schedule = replace(DAILY, overlap="replace", catch_up=True)
    _, state = moves(schedule, BEGUN, FIRST + timedelta(days=2, hours=5))
    said, state = moves(schedule, state, FIRST + timedelta(days=3))
    assert said == [("skipped", day(0), 1), ("skipped", day(2), 2), ("started", day(3), 1)]
    assert state.queue == ()
