"""Train, be killed at a chosen instant, go on, and compare with the training nobody interrupted.

Run as `python kill.py FOLDER NUM_KILLS`; prints one JSON object. Each training is a forked child, so that starting costs
nothing; a child kills itself with SIGKILL at its n-th call of fsync or rename, or the parent kills it after some time.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.metrics.find import find_metric
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.ingest import Rows
from fmray.tune.sweep import plans_of, sweep

DURABLE = ("fsync", "fdatasync", "rename", "replace", "link")
JOB = {
    "name": "killed",
    "steps": ["standardise"],
    "model": {"mlp": {"width": 8, "depth": 2, "dropout": 0.3}},
    "train": {
        "epochs": 8,
        "batch_rows": 100,
        "optimizer": {"adamw": {"lr": 0.02}},
        "schedule": {"plateau": {"patience": 1}},
        "warmup_steps": 4,
        "clip_norm": 1.0,
        "early_stop": {"patience": 3},
        "seeds": 3,
        "order": {"chunk_rows": 8, "window_chunks": 2, "num_lanes": 5},
    },
    "run": {"prepare": "local", "deterministic": True, "checkpoint_seconds": 0, "threads": 1},
}


def write_data(folder: Path) -> Job:
    source = np.random.default_rng(3)
    x = source.standard_normal((730, 5))
    y = (x[:, 0] + x[:, 1] * x[:, 2] + source.standard_normal(730) > 0).astype(int)
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.table({f"f{i}": c for i, c in enumerate(x.T)} | {"y": y}), folder / "data/a.parquet")
    return Job.from_json({**JOB, "data": {"path": str(folder / "data"), "target": "y"}})


def prepared_rows(job: Job, folder: Path) -> Prepared:
    store = Store(str(folder / "prepared"))
    return prepare(scan(job.data, ".", store), job, Ref("classification"), store)


def train(job: Job, folder: Path, name: str, die_at: int | None) -> None:
    """Train in a store of its own; die at the n-th time something becomes durable."""
    prepared = prepared_rows(job, folder)
    calls = _count_durable(die_at)
    _record_rows(folder / f"{name}.steps")
    metric = find_metric("roc_auc", prepared.target)
    task = Ref("classification")
    done = sweep(job, plans_of(job, task), prepared, metric, Store(str(folder / f"store-{name}")), "cpu")
    result = [{k: v for k, v in m.to_json().items() if k != "root"} for m in done.members]
    (folder / f"{name}.json").write_text(json.dumps({"members": result, "calls": calls[0]}))


def _count_durable(die_at: int | None) -> list[int]:
    calls = [0]

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **options: object) -> object:
            calls[0] += 1
            if calls[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return wrapped

    for name in DURABLE:
        setattr(os, name, wrap(getattr(os, name)))
    return calls


def _record_rows(path: Path) -> None:
    """Write down which rows each step trains on."""
    steps, batches = path.open("a"), Rows.batches

    def recorded(self: Rows, order: object, seed: int, epoch: int, batch_rows: int, first_step: int = 0) -> object:
        for step, batch in enumerate(batches(self, order, seed, epoch, batch_rows, first_step), first_step):
            ids = self.lanes.take(batch.rows.numpy(), ["row_id"])["row_id"]
            steps.write(f"{epoch} {step} {hashlib.sha256(ids.tobytes()).hexdigest()}\n")
            steps.flush()
            yield batch

    Rows.batches = recorded


def child(work: Callable[[], None], kill_after: float | None = None) -> bool:
    """Run in a forked process; say whether it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def seen(folder: Path, name: str) -> dict[str, str]:
    """Give the rows of each step as they were last trained on."""
    lines = [line.split() for line in (folder / f"{name}.steps").read_text().splitlines()]
    return {f"{line[0]} {line[1]}": line[2] for line in lines if len(line) == 3 and len(line[2]) == 64}


def main(folder: Path, num_kills: int) -> None:
    job = write_data(folder)
    child(lambda: prepared_rows(job, folder) and None)
    started = time.perf_counter()
    if not child(lambda: train(job, folder, "whole", None)):
        sys.exit("the uninterrupted training failed")
    seconds = time.perf_counter() - started
    expected = json.loads((folder / "whole.json").read_text())
    rows, chosen, results = seen(folder, "whole"), random.Random(1), []
    for number in range(num_kills):
        name, kills = f"killed-{number}", []
        for again in range(2 if number % 5 == 4 else 1):  # twice in a row now and then
            if number % 4 == 3:
                after = chosen.uniform(0.2, 0.95) * seconds / (1 + again)
                ended = child(lambda n=name: train(job, folder, n, None), kill_after=after)
                kills.append({"seconds": after, "ended": ended})
            else:
                at = max(1, number * expected["calls"] // num_kills + chosen.randrange(4)) // (1 + again)
                ended = child(lambda n=name, at=at: train(job, folder, n, at))
                kills.append({"call": at, "ended": ended})
        whole = child(lambda n=name: train(job, folder, n, None))
        found = json.loads((folder / f"{name}.json").read_text()) if whole else {"members": None}
        same_rows = seen(folder, name) == rows
        results.append(
            {"kills": kills, "same members": found["members"] == expected["members"], "same rows": same_rows}
        )
    print(json.dumps({**expected, "steps": len(rows), "results": results}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
