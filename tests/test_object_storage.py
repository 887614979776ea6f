"""Rows and store on S3, from a server on this machine that speaks its language."""

import socket
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from live_ray import LiveRay

from fmray.events import to_json
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.promote.decide import rollback
from fmray.promote.history import champion_of
from fmray.report.card import read_card
from fmray.report.listing import list_runs
from fmray.schedule.book import Book, Decision
from fmray.schedule.ticks import moment
from fmray.spec.load import job_from
from fmray.store import Store
from fmray.store.places import files_of
from fmray.workflow import run

s3fs = pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
NOW = moment("2026-05-01T03:00:00Z")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A bucket of a server that is started for this file, and stopped by its process id."""
    port = free_port()
    call = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(call, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server,
    ):
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        ):
            patch.setenv(name, value)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("fmray")
        yield "s3://fmray"
        server.terminate()


def rows(number, num_rows=400):
    random = np.random.default_rng(number)
    x = random.normal(size=(num_rows, 3))
    label = np.where(x @ [1, 1, 0] + random.normal(size=num_rows) > 0, "yes", "no")
    return pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "g": random.integers(0, 50, num_rows), "y": label})


def files_below(root):
    """Name the files of a run, but for its lease and what TensorBoard names by the time."""
    names = files_of(root).sizes(root)
    return sorted({name.partition("events.out")[0] for name in names if "lease-" not in name})


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"train": {"epochs": 2, "seeds": 2}, "track": {"tensorboard": True}},
        {
            "model": {"mlp": {"width": {"choice": [4, 8]}}},
            "search": {"members": 4, "finalists": 2},
            "ensemble": "greedy",
        },
    ],
    ids=["a training", "a search"],
)
def test_rows_and_store_on_s3_give_what_a_local_disk_gives(bucket, tmp_path, more):
    remote = s3fs.S3FileSystem(skip_instance_cache=True)
    (tmp_path / "rows").mkdir()
    for number in range(2):
        local = tmp_path / "rows" / f"part-{number}.parquet"
        pq.write_table(rows(number), local)
        remote.put_file(str(local), f"fmray/rows/part-{number}.parquet")
    asked = {"train": {"epochs": 3}, "rigour": {"profile": "draft"}, **more}

    def carry(folder, store):
        data = {"path": f"{folder}/rows", "target": "y", "group": "g"}
        return run(job_from({"name": f"job{len(more)}", "data": data, **asked}), store)

    here, there = carry(tmp_path, str(tmp_path / "store")), carry(bucket, f"{bucket}/store")
    assert there.status == "finished"
    assert replace(there.scores, looks=1) == here.scores
    store = Store(f"{bucket}/store")
    hashes = [
        held.read_json(f"{one.root}/run.json")["tensor_hashes"]
        for held, one in ((store, there), (Store(str(tmp_path / "store")), here))
    ]
    assert hashes[0] == hashes[1]
    assert files_below(there.root) == files_below(here.root)
    assert not Path("s3:").exists()  # a path that was taken for a local one
    assert read_card(there.root, store).run_id == there.id
    assert carry(bucket, f"{bucket}/store").root == there.root
    assert there.id in [line.run_id for line in list_runs(store)]
    store.gc(dry_run=False)
    assert store.status(there.root) == "finished"


@pytest.mark.slow
def test_a_model_on_s3_is_used_promoted_and_trained_on_as_one_on_a_local_disk_is(bucket, tmp_path):
    remote = s3fs.S3FileSystem(skip_instance_cache=True)
    (tmp_path / "life").mkdir()

    def land(number):
        table = rows(number, 2000)
        bent = pc.if_else(pc.greater(pc.multiply(table["a"], table["b"]), 0), "yes", "no")  # takes some epochs to learn
        pq.write_table(table.set_column(4, "y", bent), tmp_path / f"life/part-{number}.parquet")
        remote.put_file(str(tmp_path / f"life/part-{number}.parquet"), f"fmray/life/part-{number}.parquet")

    def carry(folder, store, **train):
        asked = {
            "name": "life",
            "data": {"path": f"{folder}/life", "target": "y"},
            "steps": [{"clip": {"columns": ["a", "b", "c"], "quantile": 0.999}}],
            "train": {"batch_rows": 64, **train},
            "evaluate": {"primary": "accuracy", "baselines": ["dummy"]},
            "promote": {"evidence": "fresh"},
        }
        return run(job_from(asked), store)

    places = {tmp_path: str(tmp_path / "store"), bucket: f"{bucket}/life-store"}
    land(0)
    first = {folder: carry(folder, store, epochs=5) for folder, store in places.items()}
    land(1)
    second = {folder: carry(folder, store, epochs=20) for folder, store in places.items()}
    told = {folder: decisions(store, "life") for folder, store in places.items()}
    assert told[bucket] == told[tmp_path]
    assert [verdict for verdict, *_ in told[bucket]] == ["first", "promote"]

    new = rows(7)
    here, there = (open_model(one.root).predict(new) for one in second.values())
    assert there.equals(here)
    said = {
        folder: predict(one.root, f"{folder}/life", f"{folder}/said-{second[folder].id}")
        for folder, one in first.items()
    }
    assert said[bucket]["rows"] == said[tmp_path]["rows"] == 4000
    assert export(second[bucket].root, "torch", str(tmp_path / "program"))["model"]["folder"].startswith(bucket)

    warm = {folder: carry(folder, store, epochs=1, warm_start="champion") for folder, store in places.items()}
    facts = [Store(store).read_json(f"{warm[folder].root}/run.json") for folder, store in places.items()]
    assert facts[1]["tensor_hashes"] == facts[0]["tensor_hashes"]
    assert facts[1]["warm_start"]["from"] == second[bucket].id

    store = Store(places[bucket])
    assert champion_of("life", store) == second[bucket].id
    assert rollback("life", store, by="test").champion == first[bucket].id
    assert not Path("s3:").exists()


def decisions(store, job):
    """Give what was decided of each run in turn, and by which numbers."""
    place = Store(store)
    found = [line for line in place.events(f"promotions/{job}/log.jsonl") if line["event"] == "decision"]
    return [(line["verdict"], line["text"]) for line in found]


@pytest.mark.cluster
def test_workers_train_from_and_to_s3(bucket):
    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file("fmray/few/part-0.parquet", as_parquet(rows(0)))
    asked = {
        "data": {"path": f"{bucket}/few", "target": "y"},
        "train": {"epochs": 2},
        "evaluate": {"baselines": ["dummy"]},
        "rigour": {"profile": "draft"},
        "run": {"workers": 2, "threads": 1},
    }
    events: list[dict] = []
    done = run(
        job_from({"name": "wide", **asked}), f"{bucket}/workers", report=lambda event: events.append(to_json(event))
    )
    assert done.status == "finished"
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2]
    assert Store(f"{bucket}/workers").list("ray") == []


@pytest.mark.cluster
def test_a_job_is_submitted_to_nodes_that_share_nothing_but_s3(bucket, tmp_path):
    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file("fmray/sent/part-0.parquet", as_parquet(rows(0)))
    train = "train: {epochs: 2}\nevaluate: {baselines: [dummy]}\nrigour: {profile: draft}\nrun: {workers: 2}\n"
    (tmp_path / "job.yaml").write_text(f'name: sent\ndata: {{path: "{bucket}/sent", target: y}}\n{train}')
    live = LiveRay(cpus=2)
    try:
        live.add_node(2)
        command = ["submit", str(tmp_path / "job.yaml"), "--address", live.address, "--store", f"{bucket}/sent-store"]
        done = subprocess.run(
            [sys.executable, "-m", "fmray.cli", *command, "--wait"], env=live.environment(),
            capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
    finally:
        live.close()
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = list_runs(Store(f"{bucket}/sent-store"))
    assert (line.job, line.status) == ("sent", "finished")
    assert "preflight passed" in done.stdout


def as_parquet(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.slow
def test_of_many_schedulers_on_s3_one_is_heard(bucket):
    books = [Book(Store(f"{bucket}/books"), "job") for _ in range(6)]
    with ThreadPool(6) as pool:
        for tick in map(str, range(5)):
            pool.map(lambda book: book.open(NOW), books)
            heard = pool.map(
                lambda book, tick=tick: book.write(Decision("skipped", tick, "no"), book.newest.state, NOW), books
            )
            assert sum(heard) == 1
    assert [entry.decision.tick for entry in books[0].entries(5)] == [str(n) for n in range(5)]
