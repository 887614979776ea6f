"""Show that looking at data and preparing it takes time in proportion to the number of columns and of files."""

import sys
import threading
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from fmray.data.preview import preview
from fmray.data.scan import scan
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


def calls_of(work):
    """Count the functions called, in C as well, by every thread."""
    counts = Counter()

    def count(frame, event, argument):
        counts[event] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return counts["call"] + counts["c_call"]


def of_every_kind(num_each):
    random = np.random.default_rng(0)
    rows = 100
    made = {"z": random.normal(size=rows)}
    for i in range(num_each):
        made[f"float{i}"] = random.normal(size=rows)
        made[f"integer{i}"] = random.integers(0, 9, rows)
        made[f"text{i}"] = random.choice(["red", "green", "blue"], rows)
        made[f"number{i}"] = [f"{value:.3f}" for value in random.normal(size=rows)]
        made[f"time{i}"] = np.datetime64("2020-01-01", "us") + random.integers(0, 10**15, rows).astype(
            "timedelta64[us]"
        )
    return pa.table({**made, "y": np.where(made["z"] > 0, "a", "b")})


def test_check_calls_functions_in_proportion_to_columns_of_every_kind(write):
    jobs = [job_of(write(f"{n}/a.parquet", of_every_kind(n)) / str(n)) for n in (1, 4, 8, 16)]
    _, few, some, many = (calls_of(lambda job=job: preview(job)) for job in jobs)  # the first one imports
    assert many - some < 2.2 * (some - few)  # twice 4 more columns of each kind, and 10 % for what varies


def test_check_calls_functions_in_proportion_to_columns_of_numbers(write):
    jobs = [job_of(write(f"{n}/a.parquet", pa.table(wide(n))) / str(n)) for n in (10, 100, 200, 400)]
    _, few, some, many = (calls_of(lambda job=job: preview(job)) for job in jobs)
    assert many - some < 2.2 * (some - few)
    assert many - some < 200 * 500  # an expression of polars for each takes more


def folder_of(write, num_files):
    for number in range(num_files):
        folder = write(f"{num_files}/{number:03}.parquet", {"a": [1.0, 2.0, number], "y": ["a", "b", "a"]})
    return folder / str(num_files)


def test_a_first_scan_opens_every_file_once_and_one_of_known_files_none(write, store, monkeypatch):
    opened = Counter()
    read = LocalFileSystem.cat_file

    def counted(self, path, *arguments, **options):
        opened[path] += 1
        return read(self, path, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", counted)
    data = job_of(folder_of(write, 40)).data
    first = scan(data, ".", store)
    assert (len(opened), set(opened.values())) == (40, {1})
    opened.clear()
    assert scan(data, ".", store) == first
    assert not opened


def test_a_scan_of_known_files_writes_nothing(write, store):
    data = job_of(folder_of(write, 3)).data
    scan(data, ".", store)
    (cache,) = [store.path("scans", name.rpartition("/")[2]) for name in store.list(store.path("scans"))]
    spaced = store.read_bytes(cache).rstrip() + b"  \n"  # the same to a reader
    store.write_bytes(cache, spaced)
    scan(data, ".", store)
    assert store.read_bytes(cache) == spaced


@pytest.mark.parametrize("way", ["first scan", "known files"])
def test_a_scan_calls_functions_in_proportion_to_files(write, tmp_path, way):
    counts = []
    for num_files in (5, 40, 80, 160):
        data, known = job_of(folder_of(write, num_files)).data, Store(f"{tmp_path}/store-{num_files}")
        if way == "known files":
            scan(data, ".", known)
        counts.append(calls_of(lambda data=data, known=known: scan(data, ".", known)))
    _, few, some, many = counts
    assert many - some < 2.2 * (some - few)


@pytest.mark.slow
def test_check_of_five_thousand_columns_takes_time_in_proportion(write):
    jobs = [job_of(write(f"{n}/a.parquet", pa.table(wide(n))) / str(n)) for n in (500, 5000)]
    few, many = (cpu_seconds(lambda job=job: preview(job)) for job in jobs)
    assert many < 20 * few  # ten times the columns; in proportion to their square it would be a hundred


@pytest.mark.slow
@pytest.mark.parametrize("way", ["first scan", "known files"])
def test_scanning_takes_time_in_proportion_to_files(write, tmp_path, way):
    stores = (Store(f"{tmp_path}/store-{number}") for number in range(9))
    taken = []
    for num_files in (300, 3000):
        data, known = job_of(folder_of(write, num_files)).data, next(stores)
        scan(data, ".", known)
        taken.append(
            cpu_seconds(lambda data=data, known=known: scan(data, ".", next(stores) if way == "first scan" else known))
        )
    few, many = taken
    assert many < 20 * few
