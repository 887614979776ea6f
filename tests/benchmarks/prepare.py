"""Compare fit, transform and write of N x 32 numbers: fmray over Ray Data, Ray Data by itself, one process of Polars.

Run as `python tests/benchmarks/prepare.py [rows]`. Targets: at least 4x the speed of the Ray Data way and at most 3.5x
the time of Polars; ten times the rows cost at most eleven times the time beyond the fixed part. What only fmray does
(row hashes, split, equal rows, a record that is safe on disk) is measured with and without.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.apply import Going, inputs_of
from fmray.data.arrow_frames import raw_schema
from fmray.data.identify import Recipe, summarise
from fmray.data.lanes import write_part
from fmray.data.pipeline import Pipeline, build
from fmray.data.prepare import prepare
from fmray.data.scan import ITEM_BYTES, read_item, scan, work_items
from fmray.data.session import run_over_ray
from fmray.data.split import Definition
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store

WIDTH = 32
FILE_ROWS = 500_000
NAMES = [f"f{i:02}" for i in range(WIDTH)]


def write_rows(folder: Path, num_rows: int, file_rows: int = FILE_ROWS) -> Path:
    """Write files of normal numbers and a target."""
    folder.mkdir()
    for number, start in enumerate(range(0, num_rows, file_rows)):
        rng = np.random.default_rng(number)
        values = rng.standard_normal((WIDTH + 1, min(file_rows, num_rows - start)), np.float32) * 3 + 1
        pq.write_table(pa.table(dict(zip([*NAMES, "y"], values, strict=True))), folder / f"{number:05}.parquet")
    return folder


@contextmanager
def local_ray(num_cpus: int):
    """Hold a Ray of our own, quiet, with logs in a short place."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as place:
        with warnings.catch_warnings(action="ignore"):
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(num_cpus=num_cpus, _temp_dir=place, **quiet)
            context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()


def job_of(folder: Path) -> Job:
    """Ask for standardised numbers."""
    given = {"name": "bench", "data": {"path": str(folder), "target": "y"}, "steps": ["standardise"]}
    return Job.from_json(given | {"run": {"prepare": "ray"}})


def whole(folder: Path, work: Path, item_bytes: int = ITEM_BYTES) -> float:
    """Time all that prepare does, from the scan on, in a store of its own."""
    job, start = job_of(folder), time.perf_counter()
    store = Store(str(work / "store"))
    prepare(scan(job.data, ".", store), job, Ref("regression"), store, item_bytes=item_bytes)
    taken = time.perf_counter() - start
    shutil.rmtree(work / "store")
    return taken


def fit_only(recipe: Recipe, pipeline: Pipeline, item):
    """Learn from all rows of an item."""
    table = read_item(recipe.dataset, item, [column.name for column in recipe.schema.columns])
    return summarise(recipe, pipeline, table, with_target=False)


def write_only(recipe: Recipe, pipeline: Pipeline, item):
    """Change and write all rows of an item."""
    table = read_item(recipe.dataset, item)
    places = np.arange(table.num_rows)
    ones = np.ones(table.num_rows, np.int64)
    inputs = inputs_of(Going(table, ones, ones, ids=np.zeros((len(ones), 2)), places=places), recipe, pipeline, places)
    write_part(f"{recipe.folder}/{item.index}.arrow", {**inputs, "target": table.column("y").to_numpy()})


def bare(folder: Path, work: Path) -> float:
    """Time the same passes over the same items, without hashes, split and equal rows."""
    job, start = job_of(folder), time.perf_counter()
    dataset = scan(job.data, ".")
    out = work / "bare"
    out.mkdir()
    definition = Definition("hash", tuple(NAMES), "", 0.1, 0.2, (), 0)
    recipe = Recipe(dataset, definition, raw_schema(dataset, job), "regression", (), 64, 1, str(out))
    pipeline, items = Pipeline(build(job.prepared_steps), recipe.schema), [(item,) for item in work_items(dataset)]
    found = run_over_ray(print_nothing, "fit", fit_only, (recipe, pipeline), items)
    pipeline.learn_next(summary.step for summary in found)
    run_over_ray(print_nothing, "write", write_only, (recipe, pipeline), items)
    taken = time.perf_counter() - start
    shutil.rmtree(out)
    return taken


def print_nothing(event: object) -> None:
    """Take progress without a word."""


def ray_data(folder: Path, work: Path) -> float:
    """Time what the manual of Ray Data says: read, fit a scaler, map batches, write."""
    import ray
    from ray.data.preprocessors import StandardScaler

    start = time.perf_counter()
    rows = ray.data.read_parquet(str(folder))
    scaler = StandardScaler(columns=NAMES)
    scaler.fit(rows)
    scaler.transform(rows).write_parquet(str(work / "ray"))
    taken = time.perf_counter() - start
    shutil.rmtree(work / "ray")
    return taken


POLARS = """
import sys, time, polars as pl, glob
from pathlib import Path
folder, out, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(",")
out.mkdir()
start = time.perf_counter()
rows = pl.scan_parquet(folder + "/*.parquet")
means = [pl.col(n).mean().alias(n + "m") for n in names]
found = rows.select(means + [pl.col(n).std(ddof=0).alias(n + "s") for n in names])
found = found.collect(engine="streaming").row(0, named=True)
for number, path in enumerate(sorted(glob.glob(folder + "/*.parquet"))):
    changed = [((pl.col(n) - found[n + "m"]) / found[n + "s"]).cast(pl.Float32) for n in names]
    pl.read_parquet(path).with_columns(changed).write_ipc(out / f"{number}.arrow")
print(time.perf_counter() - start)
"""


def polars(folder: Path, work: Path) -> tuple[float, float]:
    """Time one process of Polars, without and with its start."""
    start = time.perf_counter()
    asked = [sys.executable, "-c", POLARS, str(folder), str(work / "polars"), ",".join(NAMES)]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)
    taken = time.perf_counter() - start
    shutil.rmtree(work / "polars")
    return float(done.stdout), taken


@dataclass(frozen=True)
class Times:
    """Hold seconds per way, best of the rounds."""

    whole: float
    bare: float
    ray_data: float
    polars: float
    polars_started: float


def measure(num_rows: int, rounds: int = 2) -> Times:
    """Give the times of all ways on the same files, in turn."""
    with tempfile.TemporaryDirectory(prefix="fmray-bench-") as place, local_ray(os.cpu_count() or 1):
        work = Path(place)
        folder = write_rows(work / "rows", num_rows)
        few = write_rows(work / "few", 2000, file_rows=1000)
        whole(few, work, item_bytes=1)  # workers start, libraries are imported
        ray_data(few, work)
        ways: dict[str, Callable[[Path, Path], float | tuple[float, float]]]
        ways = {"whole": whole, "bare": bare, "ray_data": ray_data, "polars": polars}
        found = {name: min(way(folder, work) for _ in range(rounds)) for name, way in ways.items()}
    polars_alone, polars_started = found.pop("polars")
    return Times(**found, polars=polars_alone, polars_started=polars_started)


def growth(num_rows: int) -> tuple[float, float, float]:
    """Give the times of hardly any rows, of some and of ten times as many."""
    with tempfile.TemporaryDirectory(prefix="fmray-bench-") as place, local_ray(os.cpu_count() or 1):
        work = Path(place)
        few = write_rows(work / "few", 2000, file_rows=1000)
        tiny = min(whole(few, work, item_bytes=1) for _ in range(3))  # the passes of Ray Data, without rows to speak of
        some, many = (write_rows(work / f"{size}", size) for size in (num_rows, 10 * num_rows))
        return tiny, *(min(whole(folder, work) for _ in range(2)) for folder in (some, many))


def show(num_rows: int, times: Times) -> None:
    """Print the table."""
    lines = {
        "fmray over Ray, all of prepare": times.whole,
        "fmray over Ray, fit and write only": times.bare,
        "Ray Data by itself": times.ray_data,
        "Polars, one process": times.polars,
        "Polars, its start included": times.polars_started,
    }
    print(f"{num_rows:,} rows x {WIDTH}, {os.cpu_count()} cores, polars {pl.__version__}")
    for name, seconds in lines.items():
        against = f"{times.ray_data / seconds:5.2f}x Ray Data   {seconds / times.polars:5.2f}x the time of Polars"
        print(f"  {name:36} {seconds:7.2f} s   {num_rows / seconds / 1e6:6.2f}M rows/s   {against}", flush=True)


if __name__ == "__main__":
    asked_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 8_000_000
    show(asked_rows, measure(asked_rows))
    few, some, many = growth(asked_rows // 8)
    print(f"growth: {few:.2f} s fixed; ten times the rows cost {(many - few) / (some - few):.1f}x (at most 11x)")
