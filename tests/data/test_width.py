"""Show that looking at data and preparing it takes time in proportion to the number of columns."""

import time

import numpy as np
import pyarrow as pa
import pytest

from fmray.data.preview import preview
from fmray.spec.job import Job
from fmray.store import Store

FEW, MANY = 300, 1800


def cpu_seconds(work):
    """Give the least time of three tries: of the process, so that other programs do not count."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def wide(num_columns):
    random = np.random.default_rng(0)
    columns = {f"c{i}": random.normal(size=100) for i in range(num_columns)}
    return {**columns, "y": np.where(columns["c0"] > 0, "a", "b")}


def job_of(folder):
    return Job.from_json({"name": "wide", "data": {"path": str(folder), "target": "y"}})


def test_check_takes_time_in_proportion_to_columns(write, tmp_path):
    jobs = [job_of(write(f"{n}/a.parquet", pa.table(wide(n))) / str(n)) for n in (FEW, MANY)]
    few, many = (cpu_seconds(lambda job=job: preview(job)) for job in jobs)
    assert many < 2.5 * MANY / FEW * few  # six times the columns took 27 times as long when it was quadratic


@pytest.mark.slow
def test_preparing_takes_time_in_proportion_to_columns(write, prepared, tmp_path):
    folders = [write(f"{n}/a.parquet", pa.table(wide(n))) / str(n) for n in (FEW, MANY)]
    stores = (Store(f"{tmp_path}/store-{n}") for n in range(9))
    few, many = (cpu_seconds(lambda folder=folder: prepared(folder, store=next(stores))) for folder in folders)
    assert many < 2.5 * MANY / FEW * few
