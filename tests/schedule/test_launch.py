import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fmray.schedule.book import Book, Decision
from fmray.schedule.launch import Orphan, Process, command, going, start
from fmray.schedule.ticks import stamp
from fmray.store import Store

JOB = """
data: {path: "sample:iris", target: target}
model: linear
train: {epochs: 3}
rigour: {profile: draft}
schedule: {cron: "%M %H * * *", when: new_rows}
"""


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def outcome(child, seconds=120.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := child.poll():
            return found
        time.sleep(0.02)
    raise TimeoutError


def saying(text, code=0):
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({code})"]


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (saying('{"status": "finished", "run_id": "r1", "run_dir": "d/r1"}'), "finished", ""),
        (saying('{"status": "finished", "failed_gates": ["G20"]}', 2), "finished", "gates that failed: G20"),
        (saying('{"status": "failed", "error": {"message": "no rows"}}', 5), "failed", "no rows"),
        (saying('{"status": "interrupted"}', 130), "failed", "interrupted"),
        (saying("no JSON", 3), "failed", "it ended with exit code 3"),
        (saying('[1]', 0), "failed", "it ended with exit code 0"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "failed", "it was killed by signal 9"),
    ],
)  # fmt: skip
def test_how_a_process_ended_is_told(store, arguments, status, reason):
    found = outcome(Process(arguments, store))
    assert (found.status, found.reason) == (status, reason)


def test_a_run_with_much_to_tell_is_not_stopped_by_a_full_pipe(store):
    text = "print('x' * 1_000_000); print('{\"status\": \"finished\"}')"
    assert outcome(Process([sys.executable, "-c", text], store)).status == "finished"


def test_a_process_that_is_stopped_is_interrupted_as_by_ctrl_c(store, tmp_path):
    text = f"import time, pathlib\ntry:\n  pathlib.Path({str(tmp_path)!r}, 'up').touch(); time.sleep(60)\nexcept KeyboardInterrupt:\n  pathlib.Path({str(tmp_path)!r}, 'heard').touch()"
    child = Process([sys.executable, "-c", text], store)
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    child.stop()
    assert (tmp_path / "heard").exists()


def test_a_run_that_another_process_holds_is_waited_for(store, monkeypatch, tmp_path):
    monkeypatch.setattr("fmray.schedule.launch.HELD_SECONDS", 0.05)
    answer = {"status": "failed", "error": {"message": "is held"}, "run_dir": store.path("runs/j/r1")}
    store.write_json("runs/j/r1/run.json", {"status": "running"})
    child = Process(saying(json.dumps(answer), 1), store)
    with store.lease("runs/j/r1"):
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            assert child.poll() is None
    assert outcome(child).reason == "is held"


def test_a_run_that_outlived_its_scheduler_is_watched_and_not_started_again(store):
    store.write_json("runs/j/r0/run.json", {"status": "finished"})
    store.write_json("runs/j/r1/run.json", {"status": "running"})
    with store.lease("runs/j/r1"):
        child = start("j", "/no/such/job.yaml", store, "", again=True)
        assert isinstance(child, Orphan)
        assert child.poll() is None
        store.write_json("runs/j/r1/run.json", {"status": "finished"})
        assert outcome(child).run_id == "r1"


def test_a_run_that_outlived_its_scheduler_and_died_is_started_again(store):
    store.write_json("runs/j/r1/run.json", {"status": "running"})
    again = saying('{"status": "finished", "run_id": "r1"}')
    with store.lease("runs/j/r1"):
        child = Orphan(store.path("runs/j/r1"), store, lambda: Process(again, store))
        assert child.poll() is None
    assert outcome(child).run_id == "r1"


def test_commands_are_those_a_person_would_type():
    assert command("j.yaml", "s3://b/s")[1:] == ["-m", "fmray.cli", "run", "j.yaml", "--store", "s3://b/s", "--json"]
    assert command("j.yaml", "/s", "http://h:8265")[3:7] == ["submit", "j.yaml", "--address", "http://h:8265"]


def test_a_run_that_outlived_its_scheduler_is_interrupted_to_make_way(store):
    holder = f"import time, sys; from fmray.store import Store\nwith Store({store.root!r}).lease('runs/j/r1'): time.sleep(60)"
    store.write_json("runs/j/r1/run.json", {"status": "running"})
    with subprocess.Popen([sys.executable, "-c", holder], stderr=subprocess.DEVNULL) as process:
        while not going("j", store):
            time.sleep(0.02)
        Orphan(store.path("runs/j/r1"), store, pytest.fail).stop()
        assert going("j", store) == []
        assert process.wait(10) == -signal.SIGINT


def scheduler(job, store):
    call = [sys.executable, "-m", "fmray.cli", "schedule", "run", str(job), "--store", store.root, "--once", "--json"]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_scheduler_that_is_killed_finds_its_run_again_and_unchanged_data_is_left_alone(tmp_path, store):
    job = tmp_path / "nightly.yaml"
    tick = datetime.now(UTC)
    job.write_text(tick.strftime(JOB))
    book = Book(store, "nightly")
    book.open(tick - timedelta(minutes=3))
    runs = Path(store.root, "runs/nightly")
    first = scheduler(job, store)
    until = time.monotonic() + 60
    while not list(runs.glob("*/run.json")) and time.monotonic() < until:
        time.sleep(0.05)
    first.kill()
    first.communicate()
    answer = json.loads(scheduler(job, store).communicate(timeout=120)[0].splitlines()[-1])
    assert [one["event"] for one in answer["decisions"]] == ["continued", "finished"]
    assert [entry.decision.event for entry in book.entries(9)] == ["begun", "started", "continued", "finished"]
    assert len(list(runs.iterdir())) == 1
    assert store.status(str(next(runs.iterdir()))) == "finished"
    yesterday = replace(book.open(tick).state, last=stamp(tick - timedelta(minutes=3)))
    book.write(Decision("begun", yesterday.last), yesterday, tick)
    scheduler(job, store).communicate(timeout=120)
    assert book.entries(1)[0].decision.reason == "no new rows since the last finished run"
