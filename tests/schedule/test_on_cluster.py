"""Run jobs by the clock on a real cluster: submit, watch, be replaced, be killed and find the run again."""

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from fmray.schedule.book import Book
from fmray.schedule.launch import Submitted, start
from fmray.schedule.loop import Timer
from fmray.spec.load import load_job
from fmray.store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

JOB = """
name: {name}
data: {{path: "sample:breast_cancer", target: target}}
model: {{"nets:Net": {{pause: {pause}}}}}
train: {{epochs: {epochs}, batch_rows: 128, early_stop: null}}
evaluate: {{baselines: [dummy]}}
rigour: {{profile: draft}}
run: {{workers: 0, checkpoint_seconds: 0.2}}
schedule: {{cron: "{cron}", {rules}}}
"""
NETS = """
import time

import torch


class Net(torch.nn.Module):
    def __init__(self, schema, num_outputs, pause):
        super().__init__()
        self.layer, self.pause = torch.nn.Linear(schema.width, num_outputs), pause

    def forward(self, x):
        time.sleep(self.pause)  # or it would be trained before anything can happen to it
        return self.layer(x)
"""
MONDAY = datetime(2026, 1, 5, 3, tzinfo=UTC)


@pytest.fixture
def write(tmp_path, live, monkeypatch):
    """Write a job, and let this process and its children know the cluster's token."""
    for name, value in live.environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "nets.py").write_text(NETS)

    def job(name, cron="0 3 * * 1", rules="when: new_rows", pause=0.0, epochs=3):
        path = tmp_path / f"{name}.yaml"
        path.write_text(JOB.format(name=name, cron=cron, rules=rules, pause=pause, epochs=epochs))
        return path

    return job


def timer_of(path, store, live):
    name = load_job(str(path)).name
    return Timer(partial(load_job, str(path)), store, partial(start, name, str(path), store, live.address))


def until(timer, now, condition, seconds=100.0):
    """Let the scheduler look again and again at one instant."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        timer.step(now)
        time.sleep(0.1)


def submissions(live, job):
    return [(one["number"], one["status"]) for one in live.fmray("jobs")["jobs"] if one["job"] == job]


def events(store, job):
    (run,) = store.list(f"runs/{job}")
    return store.events(f"runs/{job}/{run}/events.jsonl")


def epochs(store, job):
    return [one["epoch"] for one in events(store, job) if one["event"] == "epoch" and one["role"] == "member"]


def test_a_tick_is_submitted_watched_and_ends_and_the_next_finds_no_new_rows(write, live, tmp_path):
    path, store = write("weekly"), Store(str(tmp_path / "store"))
    timer, book = timer_of(path, store, live), Book(store, "weekly")
    timer.step(MONDAY - timedelta(hours=1))
    assert not timer.is_running
    timer.step(MONDAY)
    assert timer.is_running
    until(timer, MONDAY + timedelta(minutes=1), lambda: not timer.is_running)
    timer.step(MONDAY + timedelta(days=7))
    timer.close()
    told = [entry.decision for entry in book.entries(9)]
    assert [one.event for one in told] == ["begun", "started", "finished", "skipped"]
    assert told[2].run_dir == store.path("runs/weekly", told[2].run_id)
    assert store.status(told[2].run_dir) == "finished"
    assert told[3].reason == "no new rows since the last finished run"
    assert submissions(live, "weekly") == [(1, "SUCCEEDED")]
    assert epochs(store, "weekly") == [1, 2, 3]


def test_a_run_on_the_cluster_makes_way_for_the_next_tick(write, live, tmp_path):
    # long enough for the first run to be stopped before it is over, on a loaded machine as well
    path = write("replaced", rules="overlap: replace", pause=0.2, epochs=50)
    store = Store(str(tmp_path / "store"))
    timer = timer_of(path, store, live)
    timer.step(MONDAY - timedelta(hours=1))
    timer.step(MONDAY)
    home = tmp_path / "store"
    until(timer, MONDAY, lambda: list(home.glob("**/states/*/manifest.json")))
    timer.step(MONDAY + timedelta(days=7))
    until(timer, MONDAY + timedelta(days=7), lambda: not timer.is_running)
    timer.close()
    told = [(one.decision.event, one.decision.tick) for one in Book(store, "replaced").entries(9)][1:]
    first, second = "2026-01-05T03:00:00Z", "2026-01-12T03:00:00Z"
    assert told == [("started", first), ("skipped", first), ("started", second), ("finished", second)]
    assert submissions(live, "replaced") == [(1, "STOPPED"), (2, "SUCCEEDED")]
    assert epochs(store, "replaced") == list(range(1, 51))  # the same rows: the second goes on from the first


def test_a_scheduler_that_lets_go_leaves_its_run_to_the_cluster(write, live, tmp_path):
    path, store = write("left", pause=0.05, epochs=100), Store(str(tmp_path / "store"))
    child = start("left", str(path), store, live.address, again=False)
    assert isinstance(child, Submitted)
    end = time.monotonic() + 120
    while not store.list("runs/left"):
        assert time.monotonic() < end
        time.sleep(0.1)
    child.leave()
    assert submissions(live, "left") == [(1, "RUNNING")]
    again = start("left", str(path), store, live.address, again=True)
    while (outcome := again.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert outcome.status == "finished"
    assert submissions(live, "left") == [(1, "SUCCEEDED")]


def test_a_scheduler_killed_while_its_run_is_on_the_cluster_attaches_when_it_is_started_again(write, live, tmp_path):
    tick = datetime.now(UTC)
    # long enough for the scheduler to come back before the run is over
    path = write("killed", cron=tick.strftime("%M %H * * *"), pause=0.2, epochs=30)
    store = Store(str(tmp_path / "store"))
    book = Book(store, "killed")
    book.open(tick - timedelta(minutes=3))
    arguments = ["schedule", "run", path, "--store", store.root, "--once"]
    call = [sys.executable, "-m", "fmray.cli", *map(str, arguments), "--address", live.address]
    first = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=live.environment())
    end = time.monotonic() + 300
    while not list((tmp_path / "store").glob("**/states/*/manifest.json")):
        assert time.monotonic() < end
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert [entry.decision.event for entry in book.entries(9)] == ["begun", "started"]
    told = live.fmray(*arguments)
    assert [one["event"] for one in told["decisions"]] == ["continued", "finished"]
    assert [entry.decision.event for entry in book.entries(9)] == ["begun", "started", "continued", "finished"]
    assert submissions(live, "killed") == [(1, "SUCCEEDED")]  # attached to, and never submitted again
    assert epochs(store, "killed") == list(range(1, 31))
    assert not [one for one in events(store, "killed") if one["event"] == "resumed"]
    third = live.fmray(*arguments)
    assert third["decisions"] == []
