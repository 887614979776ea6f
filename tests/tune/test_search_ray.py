"""A search with Ray Tune tries, stops and finds what the same search in one process does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("search_on_ray.py")
pytestmark = pytest.mark.cluster


def start(folder, name, workers, *more):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])}
    command = [sys.executable, str(SCRIPT), str(folder), name, str(workers), *more]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(folder, name, workers, *more):
    with start(folder, name, workers, *more) as process:
        _, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def here(folder):
    return finish(folder, "here", 0)


def test_trials_of_ray_tune_come_to_the_same_bits_as_trials_one_after_the_other(folder, here):
    there = finish(folder, "there", 2)
    assert any("2 at a time with Ray Tune" in note for note in there["notes"])
    assert there["members"] == here["members"]


def test_killed_workers_leave_no_trace(folder, here):
    hurt = finish(folder, "hurt", 2, "kill")
    assert hurt["killed"] == 3
    assert hurt["members"] == here["members"]


def test_a_driver_killed_below_ray_tune_leaves_no_trace(folder, here):
    with start(folder, "killed", 2) as process:
        until = time.monotonic() + 200
        while time.monotonic() < until and not list(
            (folder / "killed").glob("checkpoints/*/trials/*/*/states/*/manifest.json")
        ):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=600)
    assert not (folder / "killed.json").exists()
    again = finish(folder, "killed", 2)
    assert again["members"] == here["members"]
    assert again["best"] == here["best"]
