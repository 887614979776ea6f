import itertools
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from schedule.world import JOB, START, STOP, Killed, World, audit, sundays

from fmray.errors import SpecError
from fmray.schedule.loop import Timer, keep
from fmray.schedule.ticks import moment, stamp
from fmray.spec.load import job_from
from fmray.store import Store
from fmray.store.local import LocalFiles

WEEKS = sundays()


@pytest.fixture(autouse=True)
def no_idle_looks(monkeypatch):
    monkeypatch.setattr("fmray.schedule.loop.REST", timedelta(days=9))


def test_a_year_without_trouble_runs_every_week_once(tmp_path):
    world = World(tmp_path)
    world.until(STOP, [world.timer()])
    fates = audit(world.decisions(), WEEKS)
    assert len(WEEKS) == 52
    assert fates == dict.fromkeys(WEEKS, ("finished", ""))
    assert sum(world.trained.values()) == 52


@pytest.mark.parametrize("overlap", ["skip", "replace", "queue"])
def test_runs_longer_than_a_week_meet_the_next_tick_as_overlap_says(tmp_path, overlap):
    world = World(tmp_path, overlap=overlap, hours=8 * 24)
    world.until(STOP, [world.timer()])
    fates = audit(world.decisions(), WEEKS)
    if overlap == "queue":  # one run after the other, so of 365 days each takes eight
        assert sorted(fates) == WEEKS[: len(fates)]
        assert len(fates) == (STOP - moment(WEEKS[0])) // timedelta(days=8)
        return
    if overlap == "replace":
        assert sorted(fates) == WEEKS[:-1]  # the last one goes on
        assert all(fate[0] == "skipped" and "overlap is replace" in fate[1] for fate in fates.values())
        return
    assert [tick for tick in WEEKS if fates[tick][0] == "finished"] == WEEKS[::2]
    assert all("goes on" in fates[tick][1] for tick in WEEKS[1::2])


@pytest.mark.slow
@pytest.mark.parametrize("catch_up", [True, False])
@pytest.mark.parametrize("overlap", ["skip", "queue", "replace"])
def test_a_year_of_outages_and_two_schedulers_decides_every_tick_once(tmp_path, overlap, catch_up):
    chosen = random.Random(f"{overlap}{catch_up}")
    world = World(tmp_path, overlap=overlap, catch_up=catch_up, hours=20)
    timers = [world.timer(), world.timer()]
    while world.now < STOP - timedelta(days=70):
        world.until(world.now + timedelta(days=chosen.uniform(1, 40)), timers)
        dead = chosen.sample([0, 1], chosen.choice([1, 2]))
        for place in dead:
            world.die(timers[place])
        if len(dead) == 2:  # nobody is there
            world.now += timedelta(days=chosen.uniform(0, 30))
        for place in dead:
            timers[place] = world.timer()
        chosen.shuffle(timers)
    world.until(STOP, timers)
    for timer in timers:
        world.die(timer)
    fates = audit(world.decisions(), WEEKS)
    missed = [tick for tick, fate in fates.items() if "missed" in fate[1]]
    assert bool(missed) == (not catch_up)
    assert all(event == "finished" or reason for event, reason in fates.values())
    if overlap != "replace":
        assert set(world.trained.values()) == {1}  # no run was made twice, whoever died
        assert world.most == 1  # nor two at once


def weeks_of_trouble(world, timers):
    """Run on to the third week, be gone for two, and come back."""
    timers.append(world.timer())
    world.until(moment(WEEKS[1]) + timedelta(days=3), timers[-1:])
    world.die(timers[-1])
    world.now = moment(WEEKS[3]) + timedelta(days=1)
    timers.append(world.timer())
    world.until(moment(WEEKS[4]) + timedelta(days=1), timers[-1:])


class Axe:
    """Kill at the n-th write of a file, before it or after it."""

    def __init__(self, monkeypatch):
        self.left, self.after = 0, False
        for name in ("write", "create"):
            monkeypatch.setattr(LocalFiles, name, self.around(getattr(LocalFiles, name)))

    def around(self, write):
        def method(files, path, data):
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            result = write(files, path, data)
            if self.left == 0:
                raise Killed
            return result

        return method


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["skip", "queue", "replace"])
def test_killed_before_or_after_any_write_it_goes_on(tmp_path, monkeypatch, overlap):
    axe = Axe(monkeypatch)
    for number in itertools.count():
        world = World(tmp_path / str(number), overlap=overlap, catch_up=True, hours=9 * 24)
        axe.left, axe.after = number // 2 + 1, bool(number % 2)
        timers: list[Timer] = []
        try:
            weeks_of_trouble(world, timers)
        except Killed:
            if timers:
                world.die(timers[-1])
            timers.append(world.timer())
        whole, axe.left = axe.left > 0, 0
        world.until(moment(WEEKS[6]), timers[-1:])
        world.die(timers[-1])
        fates = audit(world.decisions(), WEEKS[:6])
        assert len(fates) >= {"skip": 4, "queue": 3, "replace": 5}[overlap]
        if overlap != "replace":
            assert set(world.trained.values()) == {1}  # no data was trained on twice, whoever died
            assert world.most == 1  # nor two at once
        if whole:
            break
    assert number >= 18


def test_the_loop_sleeps_until_the_next_tick_and_looks_at_a_run_more_often(tmp_path):
    world = World(tmp_path, hours=1)
    slept: list[float] = []

    def sleep(seconds):
        slept.append(seconds)
        world.now += timedelta(seconds=seconds)
        if world.now > moment(WEEKS[1]):
            raise KeyboardInterrupt

    timer = world.timer()
    with pytest.raises(KeyboardInterrupt):
        keep([timer], lambda: world.now, sleep, poll_seconds=600)
    assert slept[0] == (moment(WEEKS[0]) - START).total_seconds()
    assert slept[1:7] == [600] * 6
    assert [one.event for one in world.decisions()] == ["begun", "started", "finished", "started"]
    next_one = world.timer()  # the interrupted one has let go of the lease, and its run is continued
    next_one.step(world.now)
    assert world.decisions()[-1].event == "continued"
    next_one.close()


def test_once_does_what_is_due_and_ends(tmp_path):
    world = World(tmp_path, hours=1)

    def sleep(seconds):
        world.now += timedelta(seconds=seconds)

    keep([world.timer()], lambda: world.now, sleep, once=True)
    world.now = moment(WEEKS[0])
    keep([world.timer()], lambda: world.now, sleep, once=True, poll_seconds=600)
    assert [one.event for one in world.decisions()] == ["begun", "started", "finished"]
    assert world.now == moment(WEEKS[0]) + timedelta(hours=1)


def test_a_second_scheduler_stands_by_until_the_first_lets_go(tmp_path):
    world = World(tmp_path)
    first, second = world.timer(), world.timer()
    world.now = moment(WEEKS[0]) - timedelta(seconds=1)
    for timer in (first, second):
        timer.step(world.now)
    world.now = moment(WEEKS[0])
    second.step(world.now)
    assert [one.event for one in world.decisions()] == ["begun"]
    first.close()
    second.step(world.now)
    assert [one.event for one in world.decisions()] == ["begun", "started"]
    second.close()


def test_a_job_without_a_schedule_is_refused(tmp_path):
    with pytest.raises(SpecError, match="schedule: job 'job' has none"):
        Timer(lambda: job_from(JOB), Store(str(tmp_path)), pytest.fail)


def test_a_job_file_that_is_being_edited_keeps_the_schedule_as_it_was(tmp_path):
    world = World(tmp_path)
    timer = world.timer()
    timer.step(world.now)
    whole, world.job = world.job, job_from(JOB)  # without its schedule
    world.now = moment(WEEKS[0])
    timer.step(world.now)
    assert world.decisions()[-1].event == "started"
    world.job = replace(whole, schedule=replace(whole.schedule, cron="30 2 * * 1"))
    world.until(moment(WEEKS[1]) + timedelta(days=2), [timer])
    assert [one.tick for one in world.decisions() if one.event == "started"][-1] == stamp(
        moment(WEEKS[1]) + timedelta(days=1)
    )
    timer.close()
