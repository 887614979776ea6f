"""Carry whole jobs: what is reused, what is counted, what is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch

from fmray import workflow
from fmray.errors import ClusterError, DataError, TrainError
from fmray.evaluate import parts
from fmray.events import to_json
from fmray.records import Run
from fmray.report.folder import read_run
from fmray.spec.load import job_from
from fmray.store import Store

ROOT = Path(__file__).resolve().parents[1]
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, schema, num_outputs, width=8):
        super().__init__()
        self.first = nn.Linear(schema.width, width)
        self.last = nn.Linear(width, num_outputs)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


class Broadcast(Net):
    def forward(self, x):
        return super().forward(x).squeeze(-1)


class Softmax(Net):
    def forward(self, x):
        return super().forward(x).softmax(-1)


class Constant(Net):
    def forward(self, x):
        return super().forward(x * 0)
"""


def write_folder(folder: Path) -> Path:
    random = np.random.default_rng(0)
    x = random.normal(size=(900, 4))
    signal_ = x[:, 0] + x[:, 1] * x[:, 2]
    city = np.array(["Oslo", "Bonn", "Rome"])[random.integers(0, 3, 900)]
    table = {f"f{i}": c for i, c in enumerate(x.T)} | {"city": city, "y": np.where(signal_ > 0, "b", "a"), "z": signal_}
    (folder / "data").mkdir()
    pq.write_table(pa.table(table), folder / "data/a.parquet")
    (folder / "own_net.py").write_text(NET)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """Give the folder of a job and its finished run."""
    folder = write_folder(tmp_path_factory.mktemp("finished"))
    return folder, run(folder, Store(str(folder / "store")))[0]


@pytest.fixture
def finished(finished_once: tuple[Path, Run], tmp_path: Path) -> tuple[Path, Store, Run]:
    """Give a store of one's own in which the job is finished, and its run there; the data stay where they are."""
    folder, first = finished_once
    shutil.copytree(folder / "store", tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    return folder, store, read_run(store.path("runs", first.job, first.id), store)


def job(folder: Path, **changes):
    data = {"path": "data", "target": "y", "ignore": ["z"], **changes.pop("data", {})}
    train = {"epochs": 12, "batch_rows": 32, "optimizer": {"adam": {"lr": 0.01}}, **changes.pop("train", {})}
    return job_from({"name": "flow", "data": data, "train": train, **changes}, folder)


def run(folder, store, **options):
    events = []
    fresh = options.pop("fresh", False)
    found = workflow.execute(
        job(folder, **options), store, fresh=fresh, report=lambda event: events.append(to_json(event))
    )
    return found, events


def stages(events):
    return [event["stage"] for event in events if event["event"] == "stage"]


def test_a_run_leaves_everything_a_reader_needs(folder, store):
    found, events = run(folder, store, train={"seeds": 3}, evaluate={"slices": ["city"]})
    assert stages(events) == ["scan", "prepare", "train", "baseline", "combine", "evaluate", "report"]
    facts = store.read_json(f"{found.root}/run.json")
    assert facts["rows"]["read"] == 900 == sum(n for name, n in facts["rows"].items() if name != "read")
    assert set(facts["tensor_hashes"]) == {"0", "1", "2"}
    assert [kind for kind, _ in facts["records"]] == ["prepared", "members", "members"]
    history = pq.read_table(f"{found.root}/history.parquet").to_pandas()
    assert set(history["metric"]) == {"train_loss", "val_loss", "roc_auc"}
    sealed = pq.read_table(f"{found.root}/sealed/test.parquet")
    assert sealed.num_rows == facts["rows"]["test"]
    assert len(set(sealed["row_id"].to_pylist())) == sealed.num_rows
    assert set(found.scores.slices) == {"city=Bonn", "city=Oslo", "city=Rome"}
    assert found.scores.looks == 1
    assert found.scores.paired["dummy"].low > 0


def test_the_members_that_the_train_stage_tells_of_are_those_that_are_trained(folder, store):
    found, events = run(folder, store, train={"seeds": 2, "folds": 3, "epochs": 1})
    (text,) = [event["text"] for event in events if event["event"] == "stage" and event["stage"] == "train"]
    assert text.endswith(f" {len(store.read_json(f'{found.root}/run.json')['tensor_hashes'])} members")


@pytest.mark.slow
def test_a_finished_run_is_returned_and_nothing_is_done(finished):
    folder, store, first = finished
    again, events = run(folder, store)
    assert again == first
    assert stages(events) == ["scan", "found"]


@pytest.mark.slow
def test_starting_afresh_trains_anew_and_is_another_look(finished):
    folder, store, first = finished
    other, events = run(folder, store, fresh=True)
    assert other.id == f"{first.id}-b"
    assert [event["event"] for event in events].count("epoch") > 0
    assert (first.scores.looks, other.scores.looks) == (1, 2)
    hashes = [store.read_json(f"{r.root}/run.json")["tensor_hashes"] for r in (first, other)]
    assert hashes[0] == hashes[1]
    assert run(folder, store)[0].id == other.id


def test_another_judgement_reuses_the_members(finished):
    folder, store, _ = finished
    found, events = run(folder, store, evaluate={"metrics": ["accuracy", "f1[b]"]})
    assert [event for event in events if event["event"] == "epoch"] == []
    assert set(found.scores.test) == {"roc_auc", "accuracy", "f1[b]"}
    assert found.scores.looks == 2


@pytest.mark.slow
def test_judged_in_many_parts_a_model_has_the_same_scores_and_passes_the_same_gates(folder, store, monkeypatch):
    whole, _ = run(folder, store, evaluate={"slices": ["city"]})
    monkeypatch.setattr(parts, "PART_ROWS", 50)
    found, _ = run(folder, store, evaluate={"slices": ["city"], "min_effect": 1e-9})  # of no consequence, another run
    assert found.scores.figures["rows"]["of"] == found.scores.test["roc_auc"].n
    for ours, theirs in (
        (found.scores.test, whole.scores.test),
        (found.scores.paired, whole.scores.paired),
        *((found.scores.slices[name], intervals) for name, intervals in whole.scores.slices.items()),
    ):
        assert {name: i.value for name, i in ours.items()} == {name: i.value for name, i in theirs.items()}
        for name, interval in theirs.items():
            assert (ours[name].low, ours[name].high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    statuses = [{g["gate"]: g["status"] for g in store.read_json(f"{r.root}/gates.json")} for r in (found, whole)]
    assert {**statuses[0], "G20": ""} == {**statuses[1], "G20": ""}  # G20 looks at min_effect


@pytest.mark.slow
def test_more_seeds_reuse_the_rows(finished):
    folder, store, _ = finished
    prepared = store.list("prepared")
    run(folder, store, train={"seeds": 2})
    assert store.list("prepared") == prepared


@pytest.mark.slow
def test_a_module_of_ones_own_trains_packed_and_changing_it_is_another_run(folder, store):
    first, _ = run(folder, store, model={"own_net:Net": {"width": 4}}, train={"seeds": 2})
    assert store.read_json(f"{first.root}/run.json")["pack_widths"] in ([2], [1, 1])
    code = (
        "import sys; from fmray import job_from, workflow\nfrom fmray.store import Store\n"
        "job = job_from({'name': 'flow', 'data': {'path': 'data', 'target': 'y', 'ignore': ['z']}, 'train': {'epochs': 12, "
        "'batch_rows': 32, 'optimizer': {'adam': {'lr': 0.01}}, 'seeds': 2}, 'model': {'own_net:Net': {'width': 4}}}, sys.argv[1])\n"
        "print(workflow.execute(job, Store(sys.argv[2])).id)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def again() -> str:
        call = [sys.executable, "-c", code, str(folder), str(store.root)]
        return subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert again() == first.id
    (folder / "own_net.py").write_text(NET.replace("tanh", "relu"))
    assert again() != first.id


@pytest.mark.slow
def test_two_jobs_of_one_process_each_train_the_module_that_lies_beside_them(tmp_path, store):
    for width in (3, 5):
        home = tmp_path / str(width)
        home.mkdir()
        write_folder(home)
        (home / "own_net.py").write_text(NET.replace("width=8", f"width={width}"))
        found, _ = run(home, store, model="own_net:Net", train={"epochs": 1})
        (saved,) = Path(found.root, "model").rglob("*.safetensors")
        tensors = safetensors.torch.load_file(saved)
        assert tensors["first.weight"].shape[0] == width
        assert "own_net" not in sys.modules


def test_a_column_against_a_row_is_refused_where_a_naive_program_would_only_warn(folder, store):
    with pytest.raises(TrainError, match=r"Broadcast .* gave \(\d+,\) for \d+ rows"):
        run(folder, store, data={"target": "z", "ignore": ["y"]}, model="own_net:Broadcast")


@pytest.mark.slow
def test_a_module_that_ends_in_a_softmax_of_its_own_is_found_out(folder, store):
    x = np.random.default_rng(1).normal(size=(5000, 4))
    table = {f"f{i}": c for i, c in enumerate(x.T)} | {"y": np.where(x[:, 0] + x[:, 1] > 0, "b", "a"), "z": x[:, 0]}
    pq.write_table(pa.table(table), folder / "data/a.parquet")
    found, _ = run(folder, store, model="own_net:Softmax", train={"epochs": 15})
    gates = {gate["gate"]: gate for gate in store.read_json(f"{found.root}/gates.json")}
    assert gates["G14"]["status"] == "fail"
    assert "a softmax was applied twice" in gates["G14"]["text"]


@pytest.mark.slow
def test_a_module_that_answers_always_the_same_fails_its_gates(folder, store):
    found, _ = run(folder, store, model="own_net:Constant")
    assert {"G14", "G22"} <= set(found.failed_gates)


@pytest.mark.slow
def test_regression_is_scored_in_the_targets_units(folder, store):
    found, _ = run(folder, store, data={"target": "z", "ignore": ["y"]}, train={"epochs": 30})
    assert found.scores.primary == "r2"
    assert found.scores.test["r2"].value > 0.5
    table = pq.read_table(f"{found.root}/sealed/test.parquet").to_pandas()
    assert np.sqrt(((table["y_0"] - table["target"]) ** 2).mean()) == pytest.approx(found.scores.test["rmse"].value)


@pytest.mark.slow
def test_several_targets_are_learned_together(folder, store):
    found, _ = run(folder, store, data={"target": ["z", "f3"], "ignore": ["y"]}, rigour={"profile": "draft"})
    assert {"y_0", "y_1", "target_0", "target_1"} <= set(
        pq.read_table(f"{found.root}/sealed/test.parquet").column_names
    )


@pytest.mark.slow
def test_rows_of_a_group_stay_together_and_count_as_one(folder, store):
    table = pq.read_table(folder / "data/a.parquet")
    pq.write_table(table.append_column("who", pa.array([i // 6 for i in range(900)])), folder / "data/a.parquet")
    found, _ = run(folder, store, data={"group": "who"}, split={"by": "group"})
    groups = {}
    for split, path in (("val", "predictions/val.parquet"), ("test", "sealed/test.parquet")):
        groups[split] = set(pq.read_table(f"{found.root}/{path}")["group"].to_pylist())
    assert not groups["val"] & groups["test"]
    assert found.scores.test["roc_auc"].n == len(groups["test"])
    assert found.scores.test["roc_auc"].method == "grouped delong"


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: data[:5000] + b"!" + data[5001:]])
def test_a_damaged_lane_is_named(finished, damage):
    folder, store, _ = finished
    lane = next(path for path in Path(store.root).glob("prepared/*/*/*.arrow") if "train" in path.name)
    lane.write_bytes(damage(lane.read_bytes()))
    with pytest.raises(DataError, match=lane.name):
        run(folder, store, train={"epochs": 2})


def test_a_damaged_record_is_named(finished):
    folder, store, _ = finished
    manifest = next(Path(store.root).glob("members/*/manifest.json"))
    manifest.write_text(manifest.read_text().replace('"seed"', '"seef"', 1))
    with pytest.raises(DataError, match=r"manifest\.json"):
        run(folder, store, evaluate={"metrics": ["accuracy"]})


@pytest.mark.slow
def test_a_run_killed_at_any_stage_continues_to_the_same_scores_with_one_look(folder, store):
    (folder / "flow.yaml").write_text(
        "data: {path: data, target: y, ignore: [z]}\ntrain: {epochs: 60, batch_rows: 32, seeds: 2, early_stop: null}\n"
        "run: {checkpoint_seconds: 0.1, deterministic: true, threads: 1}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(name: str) -> subprocess.Popen[str]:
        call = [
            sys.executable,
            "-m",
            "fmray.cli",
            "run",
            str(folder / "flow.yaml"),
            "--store",
            str(folder / name),
            "--json",
        ]
        return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(process: subprocess.Popen[str]) -> dict:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode in (0, 2), stderr
        return json.loads(stdout.splitlines()[-1])

    expected = finish(start("whole"))
    for number, stage in enumerate(["prepare", "train", "baseline", "evaluate", "report"]):
        process = start(f"killed-{number}")
        events, until = folder / f"killed-{number}/runs/flow", time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            text = "".join(path.read_text() for path in events.glob("*/events.jsonl"))
            if f'"stage": "{stage}"' in text or f'"stage":"{stage}"' in text:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = finish(start(f"killed-{number}"))
        assert done["scores"] == expected["scores"], stage
        assert done["scores"]["looks"] == 1


@pytest.mark.slow
def test_a_run_that_another_process_is_about_to_leave_is_waited_for(folder, store):
    first = workflow.execute(job(folder, train={"epochs": 2}), store)
    store.write_json(f"{first.root}/run.json", store.read_json(f"{first.root}/run.json") | {"status": "running"})
    store.remove(f"{first.root}/finished.json")
    held, events = threading.Event(), []

    def hold():
        with store.lease(first.root):
            held.set()
            time.sleep(0.5)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with pytest.raises(ClusterError, match="is held by"):
        workflow.execute(job(folder, train={"epochs": 2}), store)
    again = workflow.execute(
        job(folder, train={"epochs": 2}), store, report=lambda event: events.append(to_json(event)), wait_seconds=20
    )
    holder.join()
    assert again.status == "finished"
    assert any("another process holds this run; waits 20 s" in event.get("text", "") for event in events)
