"""Compare `fmray predict` with a bare loop of pyarrow and PyTorch: read, standardise, forward, write.

Run as `python tests/benchmarks/predict.py [--rows N] [--ray] [--content]`. Target: at least 0.6x the bare loop's rows
per second, start-up excluded; both start-ups are shown. Both write the same outputs; fmray also writes row ids, checks
every value, counts unseen levels and finds equal rows. `--content` leaves the key out, so ids are hashes of all values.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from fmray import workflow
from fmray.data.session import session
from fmray.inference.predict import predict
from fmray.spec.load import job_from
from fmray.store import Store

WIDTH, FILE_ROWS, GROUP_ROWS = 32, 500_000, 131_072
NAMES = [f"f{i:02}" for i in range(WIDTH)]
CHUNK_ROWS = 65_536
ROUNDS = 2


def write_rows(folder: Path, num_rows: int) -> Path:
    """Write files of normal numbers, a key and a target."""
    folder.mkdir()
    for number, start in enumerate(range(0, num_rows, FILE_ROWS)):
        rng = np.random.default_rng(number)
        x = rng.standard_normal((WIDTH, min(FILE_ROWS, num_rows - start)), np.float32)
        columns = dict(zip(NAMES, x * 3 + 1, strict=True)) | {"id": np.arange(start, start + x.shape[1])}
        table = pa.table({**columns, "y": np.where(x[0] + x[1] * x[2] > 0, "b", "a")})
        pq.write_table(table, folder / f"{number:05}.parquet", row_group_size=GROUP_ROWS)
    return folder


def trained(folder: Path, key: bool) -> str:
    """Train a small network on a few rows, and give the directory of its run."""
    write_rows(folder / "few", 20_000)
    data = {"path": "few", "target": "y", **({"key": "id"} if key else {"ignore": ["id"]})}
    job = {"name": "few", "data": data, "train": {"epochs": 2, "batch_rows": 512}, "rigour": {"profile": "draft"},
           "model": {"mlp": {"width": 128, "depth": 2}}}  # fmt: skip
    return workflow.execute(job_from(job, folder), Store(str(folder / "store"))).root


class Net(nn.Sequential):
    """Compute what the trained network computes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2), nn.Softmax(1)
        )


def bare(data: Path, out: Path) -> None:
    """Read, standardise, predict and write, a file at a time."""
    out.mkdir()
    net = Net().eval()
    mean, scale = np.full(WIDTH, 1, np.float32), np.full(WIDTH, 1 / 3, np.float32)
    for path in sorted(data.glob("*.parquet")):
        table = pq.read_table(path, columns=[*NAMES, "id"])
        said = []
        for start in range(0, len(table), CHUNK_ROWS):
            chunk = table.slice(start, CHUNK_ROWS)
            x = np.stack([chunk.column(name).to_numpy() for name in NAMES], 1)
            with torch.no_grad():
                said.append(net(torch.from_numpy((x - mean) * scale)).double().numpy())
        whole = np.concatenate(said)
        names = pa.array(["a", "b"]).take(pa.array(whole.argmax(1)))
        made = {"id": table.column("id"), "prediction": names, "p_a": whole[:, 0], "p_b": whole[:, 1]}
        pq.write_table(pa.table(made), out / path.name)


def timed(call, out: Path) -> float:
    """Give the best time of a few rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        shutil.rmtree(out, ignore_errors=True)
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def startup(statement: str) -> float:
    """Give the seconds a fresh process takes to be ready."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - begin


def measure(num_rows: int, place: str, key: bool) -> float:
    """Give our speed as a share of the bare loop's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, data = trained(folder, key), write_rows(folder / "data", num_rows)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        out = folder / "out"
        theirs = timed(lambda: bare(data, out), out)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours = timed(lambda: predict(model, str(data), str(out), place=place), out)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"start-up: fmray {startup(f'from fmray.inference.predict import open_model; open_model({model!r})'):.1f} s, "
              f"bare loop {startup('import torch, pyarrow.parquet'):.1f} s")  # fmt: skip
        print(f"largest resident size: bare loop {before / 1024:,.0f} MiB, with fmray {after / 1024:,.0f} MiB")
        print(
            f"{num_rows:,} rows, {place}, ids by {'key' if key else 'content'}: fmray {num_rows / ours:,.0f} rows/s, "
            f"bare loop {num_rows / theirs:,.0f} rows/s, {theirs / ours:.2f}x",
            flush=True,
        )
    return theirs / ours


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--ray", action="store_true", help="as tasks of Ray Data, over a Ray that is started already")
    parser.add_argument("--content", action="store_true", help="leave the key out")
    given = parser.parse_args()
    if given.ray:
        with session():
            measure(given.rows, "ray", not given.content)
    else:
        measure(given.rows, "local", not given.content)
