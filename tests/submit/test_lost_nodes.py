"""Lose nodes of a real cluster under a submitted run: a worker's in mid-epoch, then the head itself.

What is compared are the bits of the model, the history, and the key of every training row in every batch: a live step
gets one key for each row and epoch, and the model's module has it write them down.
"""

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from live_ray import LiveRay, below

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

EPOCHS, BATCH_ROWS, WORKERS = 40, 16, 2
JOB = f"""
name: lost
data: {{path: "sample:breast_cancer", target: target}}
steps: [auto, {{noise: {{scale: 0.01}}}}]
model: {{"nets:Net": {{}}}}
train: {{epochs: {EPOCHS}, batch_rows: {BATCH_ROWS}, early_stop: null}}
evaluate: {{baselines: [dummy]}}
run: {{workers: {WORKERS}, threads: 1, checkpoint_seconds: 0.5, max_failures: 9}}
"""
NETS = """
import os

import torch
from fmray.train.live import Noise

apply = Noise.apply


def recorded(self, x, keys):
    with open(f"FOLDER/{os.uname().nodename}-{os.getpid()}", "a") as file:
        file.write(keys.numpy().tobytes().hex() + "\\n")
    return apply(self, x, keys)


Noise.apply = recorded


class Net(torch.nn.Module):
    def __init__(self, schema, num_outputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(schema.width, 8), torch.nn.ReLU(), torch.nn.Linear(8, num_outputs)
        )

    def forward(self, x):
        return self.layers(x)
"""
# Ray gives a silent node half a minute; a test does not
SOON = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "3"}


@pytest.fixture(scope="module")
def cluster():
    cluster = LiveRay(cpus=2, **SOON)
    cluster.nodes = [cluster.add_node(2), cluster.add_node(2)]
    yield cluster
    cluster.close()


def write_job(folder: Path) -> Path:
    (folder / "rows").mkdir(parents=True)
    (folder / "lost.yaml").write_text(JOB)
    (folder / "nets.py").write_text(NETS.replace("FOLDER", str(folder / "rows")))
    return folder / "lost.yaml"


def submit(cluster: LiveRay, job: Path, *more: str) -> dict:
    return cluster.fmray("submit", job, "--store", job.parent / "store", "--no-preflight", *more)


def wait_for_checkpoints(folder: Path, number: int) -> None:
    end = time.monotonic() + 90
    while len(list(folder.glob("store/checkpoints/*/trials/*/*/states/*/manifest.json"))) < number:
        assert time.monotonic() < end
        time.sleep(0.05)


def result(ended: dict) -> dict:
    """Give all that two equal runs have in common, and the steps at which it was resumed."""
    assert ended["status"] == "finished", ended
    root = Path(ended["run_dir"])
    events = [json.loads(line) for line in (root / "events.jsonl").read_text().splitlines()]
    return {
        "scores": ended["scores"]["test"],
        "history": pq.read_table(root / "history.parquet").to_pylist(),
        "tensors": {path.name: path.read_bytes() for path in (root / "model").rglob("*.safetensors")},
        "epochs": [event["epoch"] for event in events if event["event"] == "epoch" and event["role"] == "member"],
        "resumed": [event["class"] for event in events if event["event"] == "resumed"],
    }


def batches(folder: Path) -> list[list[str]]:
    """Give what each worker saw: the keys of the rows of its batches, in order."""
    files = sorted((folder / "rows").iterdir(), key=lambda path: path.stat().st_ctime)
    return [path.read_text().splitlines() for path in files]


@pytest.fixture(scope="module")
def whole(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    found = result(submit(cluster, write_job(folder), "--wait"))
    assert found["resumed"] == []
    return found | {"batches": batches(folder)}


def test_the_course_of_the_uninterrupted_run_has_every_row_once_in_each_epoch(whole):
    keys = np.concatenate([np.frombuffer(bytes.fromhex("".join(one)), np.int64) for one in whole["batches"]])
    assert len(whole["batches"]) == WORKERS
    assert len(np.unique(keys)) == len(keys)
    assert len(keys) % EPOCHS == 0
    assert 300 < len(keys) / EPOCHS < 450


def require_one_course(found: list[list[str]], whole: list[list[str]]) -> None:
    """Require that each worker began where the whole run does, or went on from one step, and left out none."""
    steps: dict[int, list[int]] = {}
    for course in found:
        filled = next(step for step, keys in enumerate(course) if keys)  # a worker may have no row of a batch
        rank, step = next((r, one.index(course[filled])) for r, one in enumerate(whole) if course[filled] in one)
        start = step - filled
        assert course == whole[rank][start : start + len(course)]
        steps.setdefault(start, []).append(len(course))
    assert sorted(map(len, steps.values())) == [WORKERS] * len(steps)
    starts = sorted(steps)
    assert starts[0] == 0
    assert len(starts) > 1
    for start, following in itertools.pairwise(starts):  # nothing lies between what was trained and what follows
        assert min(steps[start]) + start >= following
    assert all(starts[-1] + length == len(whole[0]) for length in steps[starts[-1]])


def test_a_node_killed_in_mid_epoch_leaves_no_trace_and_no_row_comes_twice(cluster, whole, tmp_path):
    job = write_job(tmp_path)
    sent = submit(cluster, job)
    wait_for_checkpoints(tmp_path, 2)
    victim = next(node for node in cluster.nodes if below(node.pid, b"TrainWorker"))
    cluster.kill(victim)
    cluster.nodes.remove(victim)
    ended = submit(cluster, job, "--wait")
    assert ended["submission_id"] == sent["submission_id"]
    found = result(ended)
    assert found.pop("resumed") == ["exact"]
    assert found == {name: whole[name] for name in found}
    require_one_course(batches(tmp_path), whole["batches"])


def test_a_head_that_is_killed_and_started_anew_has_the_run_continued(cluster, whole, tmp_path):
    job = write_job(tmp_path)
    sent = submit(cluster, job)
    wait_for_checkpoints(tmp_path, 2)
    cluster.kill(cluster.head)
    for node in cluster.nodes:  # they follow, as no head knows them
        cluster.kill(node)
    cluster.start_head()
    cluster.nodes = [cluster.add_node(2)]
    assert cluster.fmray("jobs")["jobs"] == []
    ended = submit(cluster, job, "--wait")
    assert (sent["submission_id"], ended["submission_id"]) == tuple(f"fmray-{sent['run_id']}-{n}" for n in (1, 2))
    found = result(ended)
    assert found.pop("resumed") == ["exact"]
    told = found.pop("epochs")  # a driver that dies takes along what it had not yet written down; the history is whole
    assert told == sorted(set(told))
    assert found == {name: whole[name] for name in found}
    require_one_course(batches(tmp_path), whole["batches"])
