"""Check preparation where it runs beside others: full disks, killed processes, Ray."""

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fmray.errors import DataError
from fmray.events import to_json
from fmray.records import Prepared
from fmray.store import Store


def rows(num_rows=1200):
    """Give rows of numbers and text."""
    rng = np.random.default_rng(num_rows)
    columns = {name: rng.standard_normal(num_rows) for name in ("a", "b", "y")}
    return pa.table(columns | {"city": rng.choice(("Ulm", "Bonn", "Jena"), num_rows)})


def cut(table, *sizes):
    """Cut a table at the given rows."""
    return [table.slice(a, b - a) for a, b in pairwise([0, *sizes, table.num_rows])]


def contents(prepared: Prepared):
    """Give the digest of every file of a record."""
    files = (path for path in Path(prepared.root).rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def small_disk(tmp_path):
    """Give a folder on a disk of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small disk needs root: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_is_a_data_error_and_leaves_no_half_record(write, prepared, small_disk, monkeypatch):
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 40))  # others fill it meanwhile
    store = Store(str(small_disk / "store"))
    folder = write("p.parquet", rows(60_000).select(["a", "b", "y"]))
    with pytest.raises(DataError, match="disk is full"):
        prepared(folder, steps=["auto"], store=store)
    left = [path for path in (small_disk / "store" / "prepared").rglob("*") if path.suffix in (".arrow", ".npy")]
    assert left == []


PREPARE = """
import sys
from fmray.data import preparation
from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
folder, root, mark = sys.argv[1:]
asked = {"name": "t", "data": {"path": folder, "target": "y"}, "steps": ["auto"], "run": {"prepare": "local"}}
job = Job.from_json(asked)
store = Store(root)
def report(event):
    if getattr(event, "stage", "") == "identify rows":
        open(mark, "w").close()
        if mark.endswith("wait"):
            import time; time.sleep(600)
print(prepare(scan(job.data, ".", store), job, Ref("regression"), store, report).root)
"""


@pytest.mark.slow
def test_when_one_of_two_processes_is_killed_the_other_finishes(tmp_path, write):
    folder, root = write("p.parquet", rows()), str(tmp_path / "shared")
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}

    def start(mark):
        asked = [sys.executable, "-c", PREPARE, str(folder), root, str(tmp_path / mark)]
        return subprocess.Popen(asked, env=environment, stdout=subprocess.PIPE, text=True)

    first = start("wait")
    deadline = time.monotonic() + 60
    while not (tmp_path / "wait").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    second = start("go")
    time.sleep(3)
    assert second.poll() is None  # it waits while the first one lives
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    made, _ = second.communicate(timeout=600)
    assert second.returncode == 0
    drafts = [name for name in os.listdir(Path(made.strip()).parent) if os.path.isdir(Path(made.strip()).parent / name)]
    assert drafts == [Path(made.strip()).name]  # nothing of the dead process is left


@pytest.fixture(scope="module")
def local_ray():
    """Start a Ray of our own."""
    import ray

    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with warnings.catch_warnings(action="ignore"):
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=place)
    yield ray
    ray.shutdown()
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [{"dedup": "report"}, {"dedup": "exact"}, {"target": "city", "sample": {"rates": {"Ulm": 2.5, "Bonn": 0.5}}}],
    ids=str,
)
def test_ray_writes_the_same_bytes_as_this_process(tmp_path, write, prepared, local_ray, data):
    table = pa.concat_tables([rows(), rows(300)])
    for number, part in enumerate(cut(table, 400, 900, 1300)):
        folder = write(f"{number}.parquet", part)
    asked = {"steps": ["auto", "quantile"], "data": data, "item_bytes": 1, "evaluate": {"slices": ["city"]}}
    here = prepared(folder, **asked)
    there = prepared(folder, **asked, store=Store(str(tmp_path / "ray")), run={"prepare": "ray"})
    assert len(here.parts["train"]) == 4
    assert contents(here) == contents(there)
    assert local_ray.is_initialized()  # a Ray that was running stays


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("dedup", ["report", "exact"])
def test_over_ray_what_was_kept_here_is_read_back_into_the_same_bytes(tmp_path, write, prepared, local_ray, dedup):
    table = pa.concat_tables([rows(), rows(300)])
    first, *others = cut(table, 400, 900, 1300)
    told: list[dict[str, str]] = []
    asked = {"steps": ["auto", "quantile"], "data": {"dedup": dedup}, "item_bytes": 1}
    folder = write("0.parquet", first)
    prepared(folder, **asked)
    for number, part in enumerate(others, 1):
        write(f"{number}.parquet", part)
        there = prepared(folder, **asked, run={"prepare": "ray"}, report=lambda event: told.append(to_json(event)))
        words = f"identify rows: {number} of {number + 1} work items"
        assert any(event.get("text", "").startswith(words) for event in told)
    bare = prepared(folder, **asked, store=Store(str(tmp_path / "bare")), run={"prepare": "local", "reuse": False})
    assert contents(there) == contents(bare)


@pytest.mark.cluster
@pytest.mark.slow
def test_an_error_in_a_ray_task_arrives_as_it_was_raised(write, prepared, local_ray):
    for number, part in enumerate(cut(rows(), 600)):
        folder = write(f"{number}.parquet", part)
    with pytest.raises(DataError, match=r"evaluate.slices: column 'a' has 600 or more levels"):
        prepared(folder, steps=["auto"], item_bytes=1, evaluate={"slices": ["a"]}, run={"prepare": "ray"})


@pytest.mark.cluster
@pytest.mark.slow
def test_preparing_over_ray_says_nothing_on_the_terminal(write, prepared, local_ray, capfd):
    for number, part in enumerate(cut(rows(), 600)):
        folder = write(f"{number}.parquet", part)
    prepared(folder, steps=["auto"], item_bytes=1, run={"prepare": "ray"})
    assert capfd.readouterr() == ("", "")
