"""Check a search by population based training over Ray, whose workers and driver are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tune.pbt_kill import EPOCHS, INTERVAL, LONG, MEMBERS

from fmray.records import Member
from fmray.tune.plans import LINEAGE

SCRIPT = Path(__file__).with_name("pbt_kill.py")
pytestmark = [pytest.mark.cluster, pytest.mark.slow]
Json = dict[str, Any]


def start(folder: Path, *options: str) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(SCRIPT), str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def finish(folder: Path, *options: str) -> Json:
    with start(folder, *options) as process:
        _, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors[-4000:]
    return json.loads((folder / "result.json").read_text())


def events(folder: Path) -> list[Json]:
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pbt") / "whole"


@pytest.fixture(scope="module")
def members(folder: Path) -> list[Json]:
    return finish(folder, "worker")["members"]


def test_every_member_is_accounted_for_once_and_has_trained_every_epoch(members):
    assert [member["index"] for member in members] == list(range(MEMBERS))
    assert {(member["status"], member["epochs"]) for member in members} == {("finished", EPOCHS)}
    for member in members:
        epochs = [event["epoch"] for event in Member.from_json(member).history if event["metric"] == "roc_auc"]
        assert epochs == list(range(1, EPOCHS + 1))


def test_whoever_exploits_another_goes_on_from_its_epoch_and_close_to_its_score(members, folder):
    """Among them is one whose worker was killed there, and which was carried on by another."""
    assert [event["workers"] for event in events(folder) if event["event"] == "killed"] == [1]
    told = [event for event in events(folder) if event["event"] in ("exploit", "epoch")]
    exploits = [(place, event) for place, event in enumerate(told) if event["event"] == "exploit"]
    assert exploits
    for place, exploit in exploits:
        after = next(e for e in told[place:] if e["event"] == "epoch" and e["trial"] == exploit["member"])
        assert after["epoch"] == exploit["epoch"] + 1
        assert exploit["epoch"] % INTERVAL == 0
        assert exploit["from"] != exploit["member"]
    for member in (member for member in members if LINEAGE in member["params"]):
        taken = int(member["params"][LINEAGE].split()[-4])
        values = [event["value"] for event in Member.from_json(member).history if event["metric"] == "roc_auc"]
        assert values[taken] > values[taken - 1] - 0.15


def test_a_record_tells_the_last_parameters_and_where_the_weights_come_from(members, folder):
    last = {event["member"]: event for event in events(folder) if event["event"] == "exploit"}
    assert last
    for index, exploit in last.items():
        told = members[index]["params"]
        words = [f"epoch {step['epoch']} from member {step['from']}" for step in exploit["lineage"]]
        assert told == {**exploit["params"], LINEAGE: ", ".join(words)}
        assert 0 <= told["model.mlp.dropout"] <= 0.5
        assert 1e-5 <= told["train.optimizer.adamw.lr"] <= 1e-1


def test_a_search_whose_driver_was_killed_goes_on_and_trains_no_finished_member_again(folder):
    killed = folder.with_name("killed")
    with start(killed, "long") as process:
        until = time.monotonic() + 300
        while time.monotonic() < until and not list(killed.glob("store/checkpoints/*/trials/*/result.json")):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=600)
    before = len(events(killed))
    done = {int(path.parent.name) for path in killed.glob("store/checkpoints/*/trials/*/result.json")}
    members = finish(killed, "long")["members"]
    assert [member["index"] for member in members] == list(range(MEMBERS))
    assert {(member["status"], member["epochs"]) for member in members} == {("finished", LONG["epochs"])}
    again = [event for event in events(killed)[before:] if event["event"] == "epoch"]
    firsts = {event["trial"]: event["epoch"] for event in reversed(again)}
    assert 0 < len(done) < MEMBERS
    assert firsts
    assert not firsts.keys() & done  # another may have had its last checkpoint, or outlived its driver by a moment
    assert min(firsts.values()) > 1
