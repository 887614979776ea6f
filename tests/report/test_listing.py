import time
from pathlib import Path

import pytest

from fmray.report.listing import list_runs
from fmray.store import Store
from fmray.store.local import LocalFiles

PRIMARY = {"metric": "roc_auc", "value": 0.9, "low": 0.8, "high": 0.95}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def put(store, job, run, facts):
    folder = Path(store.root, "runs", job, run)
    store.write_json(f"{folder}/run.json", {"run_id": run, "job": job, **facts})
    return folder


def finished(number):
    # a manifest of two hundred files and tensors of ten members, as a nightly run writes them
    manifest = [
        {"path": f"day={day}/part-0.parquet", "bytes": 1 << 20, "rows": 10_000, "version": "0123456789abcdef"}
        for day in range(200)
    ]
    hashes = {str(member): "0" * 64 for member in range(10)}
    return {
        "status": "finished",
        "time": 1e9 + number,
        "primary": PRIMARY,
        "data": {"manifest": manifest},
        "tensor_hashes": hashes,
    }


@pytest.mark.slow
def test_a_thousand_runs_are_listed_with_one_read_each(store, monkeypatch, capsys):
    for number in range(1000):
        put(store, f"job{number % 4}", f"run{number:04d}", finished(number))
    reads, real = [], LocalFiles.read
    monkeypatch.setattr(LocalFiles, "read", lambda files, path: reads.append(path) or real(files, path))
    started = time.perf_counter()
    lines = list_runs(store)
    with capsys.disabled():
        print(f"\n1,000 runs listed in {time.perf_counter() - started:.2f} s")
    assert len(reads) == 1000
    assert [line.run_id for line in lines] == [f"run{number:04d}" for number in reversed(range(1000))]
    assert {(line.metric, line.value, line.low, line.high) for line in lines} == {("roc_auc", 0.9, 0.8, 0.95)}
    assert len(list_runs(store, "job1")) == 250


def test_a_run_says_how_it_stands(store):
    put(store, "job", "went", {"status": "running", "time": 1})
    put(store, "job", "failed", {"status": "failed", "error": "no rows are left", "time": 2})
    put(store, "job", "goes", {"status": "running", "time": 3})
    put(store, "job", "torn", {}).joinpath("run.json").write_text('{"status": ')
    Path(store.root, "runs/job/early").mkdir()
    with store.lease("runs/job/goes"):
        lines = {line.run_id: line for line in list_runs(store)}
    assert {name: line.status for name, line in lines.items()} == {
        "went": "interrupted",
        "failed": "failed",
        "goes": "running",
        "torn": "damaged",
        "early": "interrupted",
    }
    assert lines["failed"].reason == "no rows are left"
    assert "runs/job/torn/run.json" in lines["torn"].reason


def test_the_score_of_a_run_from_before_is_read_from_its_scores(store):
    folder = put(store, "job", "old", {"status": "finished"})
    interval = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50, "method": "wilson"}
    store.write_json(f"{folder}/scores.json", {"primary": "accuracy", "test": {"accuracy": interval}})
    (line,) = list_runs(store)
    assert (line.metric, line.value, line.low, line.high) == ("accuracy", 0.7, 0.6, 0.8)


def test_a_store_without_runs_lists_none(store):
    assert list_runs(store) == []
    assert list_runs(store, "nobody") == []
