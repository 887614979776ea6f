"""Check when a training counts as hanging, and that one in this process shows where it stands."""

import math
import threading

import pytest

from fmray.events import Failure, to_json
from fmray.train.heartbeat import LEAST_SECONDS, Stillness, beat, watched_here


def test_a_training_hangs_once_nobody_made_a_step_for_the_time_asked_for():
    still = Stillness(10.0)
    assert still.still_seconds(5, now=100.0) == 0
    assert still.still_seconds(5, now=109.0) == 9
    assert still.still_seconds(6, now=112.0) == 0
    assert still.still_seconds(6, now=123.0) > still.limit_seconds


def test_without_a_word_it_may_take_fifty_median_steps_and_ten_minutes_at_least():
    still = Stillness("auto")
    assert still.limit_seconds == LEAST_SECONDS
    for step in range(5):
        still.still_seconds(step, now=30.0 * step)
    assert still.limit_seconds == 50 * 30
    fast = Stillness("auto")
    for step in range(5):
        fast.still_seconds(step, now=0.5 * step)
    assert fast.limit_seconds == LEAST_SECONDS


def test_none_waits_for_ever():
    assert Stillness("none").limit_seconds == math.inf


def stand_still(until: threading.Event) -> None:
    until.wait(30)


def test_a_training_in_this_process_says_where_it_hangs_and_goes_on():
    events, told = [], threading.Event()

    def report(event):
        events.append(to_json(event))
        if isinstance(event, Failure):
            told.set()

    with watched_here(0.2, report):
        beat()
        stand_still(told)
        beat()
    assert [event["event"] for event in events] == ["stacks", "failure"]
    assert "in stand_still" in events[0]["text"]
    assert (events[1]["class"], events[1]["action"]) == ("hang", "waited")
    assert events[0]["path"] == f"{events[1]['stacks']}/rank-0.txt"


def test_a_training_that_gets_on_is_left_alone():
    events, ended = [], threading.Event()
    with watched_here(0.4, events.append):
        for _ in range(12):
            beat()
            ended.wait(0.05)
    assert events == []


@pytest.mark.parametrize("asked", ["none"])
def test_nobody_watches_where_nobody_asked(asked):
    before = threading.active_count()
    with watched_here(asked, lambda event: None):
        assert threading.active_count() == before
