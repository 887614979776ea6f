"""Carry one small job, and start real MLflow servers on this machine, each ended by its process id."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray import workflow
from fmray.inference.serving import served
from fmray.report.card import read_card
from fmray.report.folder import read_run
from fmray.spec.load import job_from
from fmray.store import Store
from fmray.track.address import address_of
from fmray.track.mlflow import connected
from fmray.track.publish import begin, publish

SECRET = "hunter2-Zq"


def make_job(folder, **changes):
    data = {"path": str(folder / "rows"), "target": "bought"}
    train = {"epochs": 3, "batch_rows": 64, "seeds": 2, **changes.pop("train", {})}
    return job_from({"name": "shop", "data": data, "train": train, "rigour": {"profile": "draft"}, **changes}, folder)


@pytest.fixture(scope="session")
def carried(tmp_path_factory):
    """Give the folder of a job that was carried once, MLflow not being told."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    price, age = random.normal(size=400), random.integers(18, 90, 400)
    table = {
        "price": price,
        "age": pa.array(age, mask=random.random(400) < 0.1),
        "city": pa.array(np.array(["Oslo", "Bonn", "Rome"])[random.integers(0, 3, 400)]),
        "member": random.random(400) < 0.5,
        "bought": np.where(price + age / 50 + random.normal(size=400) > 1, "yes", "no"),
    }
    (folder / "rows").mkdir()
    pq.write_table(pa.table(table), folder / "rows/a.parquet")
    workflow.run(make_job(folder), str(folder / "store"))
    return folder


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """Give a database of MLflow that is laid out and empty; to lay one out takes seconds."""
    store = Store(str(tmp_path_factory.mktemp("empty")))
    with connected(address_of("default", store)) as connection:
        connection.client.search_experiments()
    return store.path("mlflow.db")


@pytest.fixture
def shop(carried, database, tmp_path):
    """Give a store of its own with the finished run in it, and the run."""
    shutil.copytree(carried / "store", tmp_path / "store")
    shutil.copy(database, tmp_path / "store/mlflow.db")
    store = Store(str(tmp_path / "store"))
    (identity,) = store.list("runs/shop")
    return store, read_run(store.path("runs/shop", identity), store)


def tell(store, run, to):
    """Tell MLflow of a run that was carried without it."""
    address = address_of(to, store)
    begin(run, read_card(run.root, store).job, (), store, address)
    publish(run.root, store, address, served)
    return address


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(arguments, log, answers_at, port):
    """Start a command of MLflow, wait until it answers, and kill its whole process group at the end."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output, stderr=output, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{answers_at}", timeout=2) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                assert process.poll() is None, Path(log).read_text()[-2000:]
                assert time.monotonic() < until, Path(log).read_text()[-2000:]
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def mlflow_server(folder, port):
    """Run `mlflow server` over the database in a folder; started again there, it knows what it knew."""
    database = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    with serving(["server", *database, "--workers", "1"], f"{folder}/server.log", "/health", port) as address:
        yield address
