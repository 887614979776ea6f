"""Show how the time of `check`, `check --deep`, a run and a scan grows with the number of columns or files.

Run as `python tests/benchmarks/width.py [check|deep|run|files]`. Prints seconds of this machine's cores for 500, 1,500
and 5,000 columns of 300 rows, and for 1,000, 3,000 and 10,000 files, checked, scanned for the first time and scanned
again; and by how much each is more than in proportion to the first, and what a column or a file costs beyond the start.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTHS = (500, 1500, 5000)
COUNTS = (1000, 3000, 10_000)
COMMANDS = {"check": ["check"], "deep": ["check", "--deep"], "run": ["run", "--set", "train.epochs=3"]}
JOB = "data: {path: data, target: y}\nmodel: {mlp: {width: 16, depth: 1}}\n"
SCAN = """
import sys
from fmray.data.scan import scan
from fmray.spec.load import load_job
from fmray.store import Store
job = load_job(sys.argv[1])
scan(job.data, job.folder, Store(sys.argv[2]))
"""


def cpu_seconds(arguments: Sequence[str]) -> float:
    """Run Python with these arguments and give what it took of the cores, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=False, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_columns(folder: str, num_columns: int) -> None:
    """Write a job and a table of so many columns."""
    random = np.random.default_rng(1)
    columns = {f"c{i}": random.normal(size=300) for i in range(num_columns)}
    Path(folder, "data").mkdir()
    pq.write_table(pa.table({**columns, "y": np.where(columns["c0"] > 0, "a", "b")}), f"{folder}/data/a.parquet")
    Path(folder, "job.yaml").write_text(JOB)


def write_files(folder: str, num_files: int) -> None:
    """Write a job and so many files of twenty rows."""
    random = np.random.default_rng(1)
    Path(folder, "data").mkdir()
    for number in range(num_files):
        values = random.normal(size=20)
        rows = pa.table({"a": values, "b": random.normal(size=20), "y": np.where(values > 0, "a", "b")})
        pq.write_table(rows, f"{folder}/data/{number:05}.parquet")
    Path(folder, "job.yaml").write_text(JOB)


def seconds(what: str, num_columns: int, rounds: int = 1) -> float:
    """Give what a command on a table of so many columns takes of the cores, the least of some rounds."""
    name, *options = COMMANDS[what]
    taken = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            write_columns(folder, num_columns)
            command = ["-m", "fmray.cli", name, f"{folder}/job.yaml", "--store", f"{folder}/store"]
            taken.append(cpu_seconds([*command, *options]))
    return min(taken)


def scan_seconds(num_files: int, rounds: int = 1) -> dict[str, float]:
    """Give what `check`, a first scan and one of files that are known take of the cores, the least of some rounds."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(folder, num_files)
        job = f"{folder}/job.yaml"
        taken: dict[str, list[float]] = {"check": [], "first": [], "again": []}
        for number in range(rounds):
            store = f"{folder}/store-{number}"
            taken["check"].append(cpu_seconds(["-m", "fmray.cli", "check", job, "--store", store]))
            taken["first"].append(cpu_seconds(["-c", SCAN, job, store]))
            taken["again"].append(cpu_seconds(["-c", SCAN, job, store]))
    return {name: min(values) for name, values in taken.items()}


def show(title: str, what: str, sizes: Sequence[int], taken: Sequence[float], start: float) -> None:
    """Print a line per size.

    Args:
        start: Seconds that hardly any columns or files take.
    """
    for size, took in zip(sizes, taken, strict=True):
        proportion = took / taken[0] / (size / sizes[0])
        each = (took - start) / size
        print(
            f"{title:12} {size:6,} {what} {took:6.2f} s, {proportion:.2f} of linear, {1e6 * each:6.0f} us each",
            flush=True,
        )


def main() -> None:
    """Print a line per command and width, and per way of looking at files."""
    for name in sys.argv[1:] or [*COMMANDS, "files"]:
        if name == "files":
            start = scan_seconds(1, rounds=3)
            found = [scan_seconds(count, rounds=3) for count in COUNTS]
            for way in start:
                show(f"files, {way}", "files  ", COUNTS, [one[way] for one in found], start[way])
        else:
            rounds = 3 if name == "check" else 1
            show(name, "columns", WIDTHS, [seconds(name, width, rounds) for width in WIDTHS], seconds(name, 2, rounds))


if __name__ == "__main__":
    main()
