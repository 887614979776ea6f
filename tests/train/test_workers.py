"""Check where workers find room, how they get rows, and what is refused before anything starts."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tune import kill

from fmray.errors import ClusterError, SpecError
from fmray.events import Note, to_json
from fmray.metrics.find import find_metric
from fmray.spec.ref import Ref
from fmray.spec.sections import Order, RunOptions
from fmray.store import Store
from fmray.train import capacity as module
from fmray.train import stream
from fmray.train.capacity import (
    LEAST_CPUS,
    SMALL_BYTES,
    cpu_share,
    elastic_share,
    maps_lanes,
    num_fitting,
    num_workers,
    require_room,
    resources,
    room,
)
from fmray.train.group import ALONE
from fmray.train.predict import TENSORS
from fmray.train.workers import Worker
from fmray.tune.plans import plans_of
from fmray.tune.sweep import sweep

READING = stream.READ_CPUS


@pytest.mark.parametrize("nodes", [[2.0], [1.0], [16.0, 16.0], [8.0, 2.0, 4.0], [96.0] * 8, [0.5, 0.5]])
@pytest.mark.parametrize("workers", [1, 2, 3, 7, 999])
def test_workers_fit_their_nodes_and_leave_room_to_read(nodes, workers):
    most = sum(int((cpus - READING * (i == 0)) / LEAST_CPUS) for i, cpus in enumerate(sorted(nodes, reverse=True)))
    if workers > most:
        with pytest.raises(ClusterError, match=f"{workers} workers do not fit .* Set run.workers: {most}"):
            cpu_share(nodes, workers)
        return
    share, left = cpu_share(nodes, workers), sorted(nodes, reverse=True)
    placed = 0
    for node in range(len(left)):  # the read task takes its place first, then workers fill what is left
        left[node] -= READING if node == 0 else 0
        while left[node] >= share - 1e-9 and placed < workers:
            left[node], placed = left[node] - share, placed + 1
    assert placed == workers
    assert min(left) > -1e-6


def test_a_larger_share_would_not_fit():
    for workers in (1, 2, 3, 5):
        share = cpu_share([4.0, 2.0], workers) + 0.02
        assert int((4 - READING) / share) + int(2 / share) < workers


def test_every_worker_gets_a_gpu_where_there_are_any_and_none_where_the_job_forbids_it():
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]
    assert resources(nodes, 4, "auto")["GPU"] == 1
    assert "GPU" not in resources(nodes, 4, False)
    assert "GPU" not in resources([{"CPU": 8.0}], 2, "auto")
    with pytest.raises(
        ClusterError, match=r"run\.gpu: 5 workers want a GPU each, the cluster has 4. Set run.workers: 4"
    ):
        resources(nodes, 5, "auto")
    with pytest.raises(ClusterError, match=r"the cluster has 0. Set run.gpu: false"):
        resources([{"CPU": 8.0}], 2, True)


def test_lanes_are_mapped_or_streamed_by_a_rule_that_is_said():
    assert maps_lanes("map", False, 1, 1)[0]
    assert not maps_lanes("ray", True, 1, 1)[0]
    assert maps_lanes("auto", True, SMALL_BYTES, 2) == (True, "up to 64 MB are")
    assert maps_lanes("auto", True, SMALL_BYTES + 1, 16) == (False, "over 64 MB are")
    assert maps_lanes("auto", True, SMALL_BYTES + 1, 17)[0]
    assert not maps_lanes("auto", False, 1, 17)[0]


def test_without_a_cluster_a_job_trains_in_this_process(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert num_workers(RunOptions()) == (0, "no cluster address, so in this process")
    assert num_workers(RunOptions(workers=3))[0] == 3
    assert num_workers(RunOptions(workers=(1, 4)))[0] == (1, 4)


def test_a_window_that_memory_cannot_hold_is_refused_with_one_that_it_can(classes):
    notes: list[Note] = []
    run = RunOptions(workers=1, memory=4000, ingest="ray")
    worker = Worker(ALONE, torch.device("cpu"), notes.append, run, over_ray=True)
    with pytest.raises(SpecError, match=r"run\.memory: .* Set train\.order\.window_chunks: 6 or run\.memory: "):
        worker.rows(classes.prepared, "train", 2, order=Order(chunk_rows=1, window_chunks=16, num_lanes=5))
    few = 3 * 40 * 5 * -(-len(classes.rows().lanes.load(["row_id"])["row_id"]) // 5)  # lanes are shorter than a window
    with pytest.raises(SpecError, match=f"three windows of {few // 3} bytes. Set run.memory: {few}, or"):
        worker.rows(classes.prepared, "train", 2, order=Order(num_lanes=5))
    fits = Order(chunk_rows=1, window_chunks=6, num_lanes=5)
    assert not worker.rows(classes.prepared, "train", 2, order=fits).in_memory
    worker = Worker(ALONE, torch.device("cpu"), notes.append, replace(run, ingest="map"), over_ray=True)
    assert not worker.rows(classes.prepared, "train", 2, order=Order(num_lanes=5)).in_memory
    assert [note.text.partition(" (")[0] for note in notes] == [
        "train lanes are streamed through Ray Data",
        "train lanes are streamed through Ray Data",
        "train lanes are streamed through Ray Data",
        "train lanes are mapped from their files",
    ]


def test_as_many_workers_as_there_is_room_for_share_the_cluster():
    nodes = [{"CPU": 2.0}]
    assert room(nodes, (1, 2), "auto") == (2, {"CPU": cpu_share([2.0], 2)})
    assert room(nodes, (2, 100), "auto") == (
        6,
        {"CPU": 0.29},
    )  # of 0.25 Ray would start eight, and reading find no core
    assert room(nodes, 3, "auto")[0] == 3
    with pytest.raises(ClusterError, match=r"8 to 9 workers do not fit 2 CPUs .* Set run.workers: \[6, 9\]"):
        room(nodes, (8, 9), "auto")


def test_workers_without_room_are_refused_before_any_work_is_done(monkeypatch):
    monkeypatch.setattr(module, "session", nullcontext)
    monkeypatch.setattr(module, "living_nodes", lambda: [{"CPU": 2.0}])
    require_room(0, "auto")
    require_room((1, 100), "auto")
    with pytest.raises(ClusterError, match=r"8 workers do not fit 2 CPUs on 1 nodes: .* Set run.workers: 7"):
        require_room(8, "auto")


@pytest.mark.parametrize("node_cpus", [[1], [2], [1, 1], [2, 1], [4, 4, 0], [3.5, 16, 1.25], [64] * 3])
@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_however_many_workers_ray_starts_on_a_node_reading_has_room(node_cpus, most):
    number, share = elastic_share(node_cpus, 1, most)
    assert 1 <= number <= most
    assert share >= 0.25
    for cpus in node_cpus:
        assert cpus // share * share + 0.25 <= cpus + 1e-9 or cpus < share


@pytest.mark.cluster
@pytest.mark.parametrize("ingest", ["ray", "map"])
def test_two_workers_see_the_rows_of_one_and_end_where_one_does(tmp_path, ingest):
    job = kill.write_data(tmp_path)
    sgd = replace(job.train, optimizer=Ref("sgd", {"lr": 0.05}), schedule=Ref("constant"), early_stop=None)
    run = RunOptions(workers=2, ingest=ingest, memory=1, prepare="local", deterministic=True)
    job, prepared = replace(job, train=sgd, run=run), kill.prepared_rows(job, tmp_path)
    metric = find_metric("roc_auc", prepared.target)
    notes: list[dict[str, object]] = []
    plans = plans_of(job, Ref("classification"))
    if ingest == "ray":
        job = replace(job, run=replace(run, memory=6000))  # three windows, and less than a share
    one = sweep(replace(job, run=RunOptions(workers=0)), plans, prepared, metric, Store(str(tmp_path / "one")))
    two = sweep(
        job, plans, prepared, metric, Store(str(tmp_path / "two")), 2, report=lambda event: notes.append(to_json(event))
    )
    for mine, other in zip(one.members, two.members, strict=True):
        tensors, others = (load_file(f"{member.root}/{TENSORS}") for member in (mine, other))
        assert mine.best_epoch == other.best_epoch
        for name, tensor in tensors.items():
            torch.testing.assert_close(others[name], tensor, rtol=1e-5, atol=1e-6)
    assert any("streamed through Ray Data" in str(note.get("text")) for note in notes) == (ingest == "ray")


@pytest.mark.cluster
def test_what_a_worker_refuses_arrives_as_it_was_raised_and_is_not_tried_again(tmp_path):
    job = kill.write_data(tmp_path)
    prepared, store = kill.prepared_rows(job, tmp_path), Store(str(tmp_path / "store"))
    metric, plans = find_metric("roc_auc", prepared.target), plans_of(job, Ref("classification"))
    wrong = [replace(plan, model=Ref("mlp", {"width": 0})) for plan in plans]
    with pytest.raises(SpecError, match=r"^model\.mlp\.width: 0\. Accepted: a whole number in \[1, inf\)"):
        sweep(job, wrong, prepared, metric, store, 2)
    with pytest.raises(ClusterError, match="999 workers do not fit"):
        sweep(job, plans, prepared, metric, store, 999)


@pytest.mark.parametrize(
    ("nodes", "needed", "expected"),
    [
        ([{"CPU": 1.0}, {"CPU": 1.0}], {"CPU": 0.75}, 2),
        ([{"CPU": 0.3}], {"CPU": 0.1}, 3),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], {"CPU": 1.0, "GPU": 1}, 2),
        ([], {"CPU": 0.75}, 0),
    ],
)
def test_workers_that_fit_the_living_nodes_are_counted(nodes, needed, expected):
    assert num_fitting(nodes, needed) == expected
