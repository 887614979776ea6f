"""Check what becomes of trainings on Ray's workers whose models fail on purpose, in every way a model may."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("ray_failures.py")
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("failures") / "data"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "result.json").read_text())


def failures(one: dict[str, Any], *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(event[key] for key in keys) for event in one["events"] if event["event"] == "failure"]


def test_a_killed_worker_counts_and_ends_a_job_that_puts_up_with_none(found):
    one = found["killed too often"]
    assert failures(one, "class", "action", "counted", "rank") == [("worker", "stopped", True, 1)]
    assert one["error"].startswith("ClusterError: run.max_failures: the workers failed more than 0 times")


def test_a_training_that_hangs_starts_again_once_then_is_ended_and_says_where_the_stacks_are(found):
    one = found["always hung"]
    assert failures(one, "class", "action", "attempt") == [("hang", "restarted", 1), ("hang", "stopped", 2)]
    assert sorted(one["stacks"]) == ["0/rank-0.txt", "0/rank-1.txt", "1/rank-0.txt", "1/rank-1.txt"]
    assert "faulty_net.py" in one["stacks"]["0/rank-1.txt"]
    assert "in _fail" in one["stacks"]["0/rank-1.txt"]
    assert "all_reduce" in one["stacks"]["0/rank-0.txt"]  # waits for the other
    assert "_fail" not in one["stacks"]["0/rank-0.txt"]
    last = failures(one, "stacks")[-1][0]
    assert f"The stacks of all workers are in {last}" in one["error"]
    assert not one["hashes"]


def test_a_mistake_of_the_user_is_not_tried_again_and_says_where_it_is(found):
    one = found["bug"]
    assert failures(one, "class", "action", "attempt") == [("user", "stopped", 1)]
    assert one["error"].startswith("CodeError: train: rank 1: ValueError: the user's own mistake (faulty_net.py:")
    assert "Its traceback is in stacks/error-0-1.txt" in one["error"]
    assert "in _fail" in one["stacks"]["0/error-0-1.txt"]


def test_one_worker_short_of_memory_has_all_of_them_take_smaller_steps(found):
    one = found["narrow"]
    assert failures(one, "class", "action", "rank") == [("device memory", "halved the micro-batch", 1)]
    assert one["scores"] == pytest.approx(found["whole"]["scores"], abs=1e-6)
    assert [event["class"] for event in one["events"] if event["event"] == "resumed"] == [
        "changed (micro-batch, step 0)"
    ]


def test_a_trial_of_a_search_fails_for_itself_and_each_kind_has_its_own_budget(found):
    ends = found["search"]["ends"]
    assert {way: status for way, (status, _) in ends.items()} == {
        "none": "finished", "hang": "finished", "memory": "finished", "bug": "failed", "kill": "failed",
    }  # fmt: skip
    assert "ValueError: the user's own mistake (faulty_net.py:" in ends["bug"][1]
    assert ends["kill"][1] == "its worker died more than run.max_failures times"
    assert sorted(failures(found["search"], "class", "action")) == [
        ("device memory", "halved the micro-batch"), ("hang", "restarted"), ("user", "left the member out"), ("worker", "stopped"),
    ]  # fmt: skip
    texts = [text for name, text in found["search"]["stacks"].items() if "rank-" in name]
    assert len(texts) == 1
    assert "in _fail" in texts[0]
