"""Submit to a real cluster: attach, watch, stop, continue, finish; and be refused."""

import json
import time

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

JOB = """
name: small
data: {path: "sample:breast_cancer", target: target}
model: {"nets:Net": {width: 4}}
train: {epochs: 100, batch_rows: 128, early_stop: null}
evaluate: {baselines: [dummy]}
run: {workers: 0, checkpoint_seconds: 0.2}
"""
NETS = """
import time

import torch
from sizes import DEPTH


class Net(torch.nn.Module):
    def __init__(self, schema, num_outputs, width):
        super().__init__()
        sizes = [schema.width, *[width] * DEPTH]
        hidden = [torch.nn.Sequential(torch.nn.Linear(a, b), torch.nn.ReLU()) for a, b in zip(sizes, sizes[1:])]
        self.layers = torch.nn.Sequential(*hidden, torch.nn.Linear(width, num_outputs))

    def forward(self, x):
        time.sleep(0.02)  # or it would be trained before it can be stopped
        return self.layers(x)
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "small.yaml").write_text(JOB)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "sizes.py").write_text("DEPTH = 1\n")
    return tmp_path / "small.yaml"


def events(root):
    return [json.loads(line) for line in (root / "events.jsonl").read_text().splitlines()]


def test_a_submitted_run_is_attached_to_stopped_and_continued_to_its_end(live, job, tmp_path):
    store = tmp_path / "store"
    first = live.fmray("submit", job, "--store", store)
    assert first["status"] == "submitted"
    assert first["submission_id"] == f"fmray-{first['run_id']}-1"
    again = live.fmray("submit", job, "--store", store, "--no-preflight")
    assert (again["status"], again["submission_id"]) == ("attached", first["submission_id"])

    root, end = store / "runs/small" / first["run_id"], time.monotonic() + 300
    while not list(store.glob("**/states/*/manifest.json")):
        assert time.monotonic() < end, live.fmray("logs", first["run_id"])["log"]
        time.sleep(0.1)
    stopped = live.fmray("stop", first["submission_id"])
    assert stopped["status"] == "stopped"
    (lease,) = root.glob("lease-*.json")  # on another machine only this shows that nobody holds the run
    assert json.loads(lease.read_text())["released"]
    trained = max(event["epoch"] for event in events(root) if event["event"] == "epoch")
    assert trained < 100
    ended = live.fmray("submit", job, "--store", store, "--no-preflight", "--wait")
    assert (ended["status"], ended["submission_id"]) == ("finished", f"fmray-{first['run_id']}-2")
    assert ended["run_dir"] == str(root)
    assert "evaluate" in ended["text"]
    resumed = [event for event in events(root) if event["event"] == "resumed"]
    assert [event["class"] for event in resumed] == ["exact"]
    assert resumed[0]["epoch"] > 0
    epochs = [event["epoch"] for event in events(root) if event["event"] == "epoch" and event["role"] == "member"]
    assert epochs == list(range(1, 101))

    listed = live.fmray("jobs")["jobs"]
    mine = [(one["number"], one["status"], one["code"]) for one in listed if one["run_id"] == first["run_id"]]
    assert mine == [(1, "STOPPED", None), (2, "SUCCEEDED", 0)]
    assert "resumed at epoch" in live.fmray("logs", first["run_id"])["log"]


def test_a_run_that_fails_ends_the_submission_with_its_own_code_and_words(live, tmp_path):
    (tmp_path / "wrong.yaml").write_text("data: {path: 'sample:diabetes', target: target}\ntask: classification\n")
    told = live.fmray("submit", tmp_path / "wrong.yaml", "--store", tmp_path / "s", "--no-preflight", "--wait", code=5)
    assert told["status"] == "failed"
    assert told["submission_id"].startswith("fmray-")
    assert (told["error"]["kind"], told["error"]["where"]) == ("DataError", "data.target")


@pytest.mark.parametrize(
    ("given", "said"),
    [({"RAY_AUTH_TOKEN": "f" * 64}, "refuses the token"), ({"RAY_AUTH_TOKEN": ""}, "asks for a token")],
)
def test_a_wrong_token_and_none_are_told_apart(live, given, said):
    told = live.fmray("jobs", code=1, **given)
    assert said in told["error"]["message"]
    assert told["error"]["kind"] == "ClusterError"


def test_an_address_in_the_environment_of_ray_does_not_win_over_the_one_given(live):
    assert live.fmray("jobs", RAY_ADDRESS="http://127.0.0.1:9")["status"] == "done"


def test_a_submission_nobody_knows_is_bad_input(live):
    assert "is no submission" in live.fmray("logs", "fmray-none-1", code=5)["error"]["message"]
