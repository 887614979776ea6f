"""Show how the time of `check`, `check --deep` and a run grows with the number of columns.

Run as `python tests/benchmarks/width.py [check|deep|run]`. Prints seconds of this machine's cores for 500, 1,500 and
5,000 columns of 300 rows, and by how much each is more than in proportion to the first.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTHS = (500, 1500, 5000)
COMMANDS = {"check": ["check"], "deep": ["check", "--deep"], "run": ["run", "--set", "train.epochs=3"]}
JOB = "data: {path: data, target: y}\nmodel: {mlp: {width: 16, depth: 1}}\n"


def seconds(what: str, num_columns: int) -> float:
    """Run a command on a table of so many columns and give what it took of the cores."""
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(1)
        columns = {f"c{i}": random.normal(size=300) for i in range(num_columns)}
        (Path(folder) / "data").mkdir()
        pq.write_table(pa.table({**columns, "y": np.where(columns["c0"] > 0, "a", "b")}), f"{folder}/data/a.parquet")
        (Path(folder) / "job.yaml").write_text(JOB)
        name, *options = COMMANDS[what]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "fmray.cli", name, f"{folder}/job.yaml", "--store", f"{folder}/store"]
        subprocess.run([*command, *options], check=False, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a line per command and width."""
    for what in sys.argv[1:] or COMMANDS:
        first = 0.0
        for width in WIDTHS:
            took = seconds(what, width)
            first = first or took
            print(f"{what:6} {width:5} columns {took:7.2f} s, {took / first / (width / WIDTHS[0]):.2f} of linear")


if __name__ == "__main__":
    main()
