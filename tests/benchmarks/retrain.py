"""Compare preparing a data set that grew by a file: fmray with what it kept of the other files, and from nothing.

Run as `python tests/benchmarks/retrain.py [files] [rows per file] [step]`. Beside them stands one process of Polars that does
what is needed at the least (divide rows by a hash, learn means and deviations from training rows, write all rows), with
nothing to tell equal rows, damage or another split by. Both records of fmray have the same bytes, or the script fails.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store

WIDTH = 16
NAMES = [f"f{i:02}" for i in range(WIDTH)]

POLARS = """
import sys, time, polars as pl, glob
from pathlib import Path
folder, out, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(",")
out.mkdir()
start = time.perf_counter()
place = pl.struct(names).hash(0) % 10
rows = pl.scan_parquet(folder + "/*.parquet").filter(place > 2)
means = [pl.col(n).mean().alias(n + "m") for n in names]
found = rows.select(means + [pl.col(n).std(ddof=0).alias(n + "s") for n in names])
found = found.collect(engine="streaming").row(0, named=True)
for number, path in enumerate(sorted(glob.glob(folder + "/*.parquet"))):
    changed = [((pl.col(n) - found[n + "m"]) / found[n + "s"]).cast(pl.Float32) for n in names]
    held = pl.read_parquet(path).with_columns(place.alias("place"), *changed)
    for side, chosen in (("train", pl.col("place") > 2), ("val", pl.col("place") == 2), ("test", pl.col("place") < 2)):
        held.filter(chosen).drop("place").write_ipc(out / f"{side}-{number}.arrow")
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Made:
    """Say what a preparation took, and of how many work items anything was read back."""

    seconds: float
    reused: int
    items: int
    contents: str


def write_file(folder: Path, number: int, num_rows: int) -> None:
    """Write a file of numbers and a target."""
    rng = np.random.default_rng(number)
    columns = {name: rng.standard_normal(num_rows) * 3 + 1 for name in NAMES}
    noise = rng.standard_normal(num_rows)
    pq.write_table(pa.table({**columns, "y": columns["f00"] - columns["f01"] + noise}), folder / f"{number:05}.parquet")


def contents_of(prepared: Prepared) -> str:
    """Give one digest of all files of a record."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(prepared.root).rglob("*") if path.is_file()):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def fmray(folder: Path, root: Path, step: str, reuse: bool) -> Made:
    """Prepare all files, from the scan on."""
    notes: list[str] = []
    asked = {"name": "bench", "data": {"path": str(folder), "target": "y"}, "steps": [step]}
    job = Job.from_json({**asked, "run": {"prepare": "local", "reuse": reuse}})
    start = time.perf_counter()
    store = Store(str(root))
    told = lambda event: notes.append(getattr(event, "text", ""))  # noqa: E731
    prepared = prepare(scan(job.data, ".", store), job, Ref("regression"), store, told)
    taken = time.perf_counter() - start
    counts = [note.split(": ")[1].split(" of ")[0] for note in notes if note.startswith("identify rows: ")]
    items = sum(len(parts) for parts in prepared.parts.values()) // len(prepared.parts)
    return Made(taken, int(counts[0]) if counts else 0, items, contents_of(prepared))


def polars(folder: Path, out: Path) -> float:
    """Time one process of Polars, without its start."""
    asked = [sys.executable, "-c", POLARS, str(folder), str(out), ",".join(NAMES)]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)
    shutil.rmtree(out)
    return float(done.stdout)


def show(name: str, made: Made) -> None:
    """Print a line."""
    counts = f"{made.items - made.reused:3} work items done, {made.reused:3} read back"
    print(f"  {name:44} {made.seconds:6.2f} s   {counts}", flush=True)


def measure(num_files: int, num_rows: int, step: str = "standardise", rounds: int = 2) -> None:
    """Grow a data set by a file, print times, best of the rounds, and compare the records."""
    with tempfile.TemporaryDirectory(prefix="fmray-bench-") as place:
        work, folder = Path(place), Path(place) / "rows"
        folder.mkdir()
        for number in range(num_files):
            write_file(folder, number, num_rows)
        print(f"{num_files} files x {num_rows:,} rows x {WIDTH} numbers, one file more; steps: [{step}]", flush=True)
        fmray(folder, work / "warm", step, False)  # libraries are imported, files are in memory
        shutil.rmtree(work / "warm")
        show("fmray, first run, keeps nothing", fmray(folder, work / "bare", step, False))
        shutil.rmtree(work / "bare")
        show("fmray, first run, keeps what it finds", fmray(folder, work / "store", step, True))
        write_file(folder, num_files, num_rows)
        grown, nothing, plain = [], [], []
        for number in range(rounds):
            again = work / f"again-{number}"
            shutil.copytree(work / "store", again)
            grown.append(fmray(folder, again, step, True))
            shutil.rmtree(again)
            nothing.append(fmray(folder, work / "nothing", step, False))
            shutil.rmtree(work / "nothing")
            plain.append(polars(folder, work / "polars"))
        best, bare = (min(made, key=lambda one: one.seconds) for made in (grown, nothing))
        show("fmray, one file more, from nothing", bare)
        show("fmray, one file more, with what was kept", best)
        print(f"  {'Polars ' + pl.__version__ + ', one file more, all anew':44} {min(plain):6.2f} s")
        print(f"  gain {bare.seconds / best.seconds:.2f}x; {best.seconds / min(plain):.2f}x the time of Polars")
        if len({made.contents for made in (*grown, *nothing)}) != 1:
            raise SystemExit("records differ")


if __name__ == "__main__":
    given = sys.argv[1:]
    measure(int(given[0]) if given else 20, int(given[1]) if given[1:] else 500_000, *given[2:3])
