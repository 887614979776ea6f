"""Check that a training on Ray's workers survives the death of any of them without a trace."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("ray_kill.py")
pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


def results(folder: Path, name: str) -> dict[str, Any]:
    lines = (folder / "data" / f"{name}.jsonl").read_text().splitlines()
    return {found["way"]: found for found in map(json.loads, lines)}


def start(folder: Path, name: str, *ways: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SCRIPT), str(folder / "data"), name, *ways]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, Any]:
    with start(folder, "all", "none", "worker", "checkpoint") as process:
        _, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors
    return results(folder, "all")


@pytest.mark.parametrize("way", ["worker", "checkpoint"])
def test_a_killed_worker_leaves_no_trace_in_the_members(whole, way):
    assert whole[way]["killed"]
    assert [event["class"] for event in whole[way]["resumed"]] == ["exact"]
    assert whole[way]["members"] == whole["none"]["members"]


def test_a_killed_driver_leaves_no_trace_and_its_workers_write_no_more(folder, whole):
    with start(folder, "driver", "none") as process:
        until = time.monotonic() + 300
        states = folder / "data/store-driver-none"
        while (
            time.monotonic() < until and len(list(states.glob("checkpoints/*/trials/*/*/states/*/manifest.json"))) < 2
        ):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=600)
    with start(folder, "driver", "none") as process:
        _, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors
    again = results(folder, "driver")["none"]
    # workers that outlive their driver may come to the end while its lease still stands; then nothing is left to resume
    assert {event["class"] for event in again["resumed"]} <= {"exact"}
    assert again["members"] == whole["none"]["members"]


def test_a_lost_node_leaves_no_trace_and_its_absence_is_said(tmp_path):
    script = Path(__file__).with_name("node_loss.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "result.json").read_text())
    assert [event["class"] for event in found["events"] if event["event"] == "resumed"] == ["exact"]
    assert any("waits for a node: 2 of 3 workers fit" in event.get("text", "") for event in found["events"])
    assert found["lost"] == found["whole"]
    failures = [event for event in found["events"] if event["event"] == "failure"]
    # the job puts up with no failure of a worker
    assert failures
    assert {(event["class"], event["action"], event["counted"]) for event in failures} == {("node", "restarted", False)}
