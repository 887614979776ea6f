"""Train, be killed at a chosen instant, go on, and compare with the training nobody interrupted.

Run as `python kill.py FOLDER NUM_KILLS [RANKS [steps|windows]]`; prints one JSON object. With `steps` the job counts
steps; with `windows` so does a language model of windows of texts, in buckets. Each training is a forked child, so that
starting costs nothing; a child kills itself with SIGKILL at its n-th call of fsync or rename, or the parent kills it
after some time. With RANKS the loop runs on that many processes joined by gloo, below a driver that holds the lease;
then any rank may be killed, or the driver, whose orphaned ranks train on until they see that the lease is another's.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import distributed as dist

import fmray.tune.sweep
from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.metrics.find import find_metric
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.store.sources import code_digest
from fmray.train.device import set_up
from fmray.train.group import Group
from fmray.train.ingest import Rows
from fmray.train.workers import Worker
from fmray.tune.plans import plans_of
from fmray.tune.sweep import sweep

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


def write_texts(folder: Path) -> Job:
    """Write texts of 0 to 40 letters, and give the job of a language model that counts steps."""
    source = np.random.default_rng(3)
    texts = ["".join(source.choice(list("abcab"), size)) for size in source.integers(0, 41, 300)]
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.table({"text": texts, "id": np.arange(300)}), folder / "data/a.parquet", row_group_size=70)
    order = {**JOB["train"]["order"], "bucket": 10}
    budget = {"epochs": 20, "steps": 43, "validate_every": 4}  # passes and epochs begin at different steps
    changed = {
        "data": {"path": str(folder / "data"), "target": "text", "key": "id"},
        "task": {"language_model": {"context": 8}},
        "steps": [{"tokenize": {"columns": "text", "kind": "characters"}}],
        "model": {"decoder": {"width": 8, "depth": 1, "heads": 2, "dropout": 0.3}},
        "train": {**JOB["train"], **budget, "batch_rows": 50, "order": order},
    }
    return Job.from_json({**JOB, **changed})


def task_of(job: Job) -> Ref:
    return Ref("classification") if job.task.name == "auto" else job.task


def prepared_rows(job: Job, folder: Path) -> Prepared:
    store = Store(str(folder / "prepared"))
    return prepare(scan(job.data, ".", store), job, task_of(job), store)


def warm_up() -> None:
    """Do once, before any child is forked, what each would do again: import, and read the code that keys name."""
    code_digest("fmray.data.prepare", "fmray.tune.search")


@dataclass(frozen=True)
class Ranks:
    """Train on several processes joined by gloo, in place of Ray's workers.

    Args:
        size: How many; 0 trains in the driver itself.
        victim, seconds: The rank that is killed that long after they have started.
    """

    size: int = 0
    victim: int | None = None
    seconds: float = 0.0

    def run(self, folder: Path, name: str, die_at: int | None, work: Callable[[Worker], None], job: Job) -> None:
        meeting = folder / f"{name}-{os.getpid()}-{time.monotonic_ns()}"
        pids = [self._fork(rank, meeting, folder, name, die_at, work, job) for rank in range(self.size)]
        if self.victim is not None:
            time.sleep(self.seconds)
            with suppress(ProcessLookupError):  # it had ended already
                os.kill(pids[self.victim], signal.SIGKILL)
        failed = False
        for _ in pids:
            _, status = os.wait()
            if status and not failed:
                failed = True
                for other in pids:
                    with suppress(ProcessLookupError):
                        os.kill(other, signal.SIGKILL)  # as Ray Train does: all start again
        if failed:
            raise RuntimeError("a rank died")

    def _fork(
        self, rank: int, meeting: Path, folder: Path, name: str, die_at: int | None, work: object, job: Job
    ) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            options = {"rank": rank, "world_size": self.size, "timeout": timedelta(seconds=60)}
            dist.init_process_group("gloo", init_method=f"file://{meeting}", **options)
            calls = _count_durable(die_at if rank == 0 else None)
            _record_rows(folder / f"{name}.steps", rank)
            set_up(job.run, job.train)
            work(Worker(Group.joined(), torch.device("cpu"), lambda event: None, job.run, over_ray=True))
            if rank == 0:
                (folder / f"{name}.calls").write_text(str(calls[0]))
        except BaseException as error:
            print(f"rank {rank}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)


def train(job: Job, folder: Path, name: str, die_at: int | None, ranks: Ranks) -> None:
    """Train in a store of its own; die at the n-th time something becomes durable."""
    prepared = prepared_rows(job, folder)
    calls = [0]
    if ranks.size:
        fmray.tune.sweep.train = lambda work, *_, **__: ranks.run(folder, name, die_at, work, job)
    else:
        calls = _count_durable(die_at)
        _record_rows(folder / f"{name}.steps")
    metric = find_metric("roc_auc" if job.task.name == "auto" else "nats_per_token", prepared.target)
    done = sweep(job, plans_of(job, task_of(job)), prepared, metric, Store(str(folder / f"store-{name}")))
    result = [{k: v for k, v in m.to_json().items() if k != "root"} for m in done.members]
    calls = [int((folder / f"{name}.calls").read_text())] if ranks.size else calls
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


def _record_rows(path: Path, rank: int = 0) -> None:
    """Write down which rows each step trains on."""
    steps, batches = path.open("a"), Rows.batches

    def recorded(self: Rows, order: object, seed: int, epoch: int, batch_rows: int, first_step: int = 0) -> object:
        for step, batch in enumerate(batches(self, order, seed, epoch, batch_rows, first_step), first_step):
            ids = self.lanes.take(batch.rows.numpy(), ["row_id"])["row_id"]
            steps.write(f"{rank}/{epoch} {step} {hashlib.sha256(ids.tobytes()).hexdigest()}\n")
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


def main(folder: Path, num_kills: int, size: int, kind: str) -> None:
    job = write_texts(folder) if kind == "windows" else write_data(folder)
    if kind == "steps":  # passes and epochs begin at different steps
        job = replace(job, train=replace(job.train, epochs=20, steps=43, validate_every=4))
    warm_up()
    child(lambda: prepared_rows(job, folder) and None)
    started = time.perf_counter()
    if not child(lambda: train(job, folder, "whole", None, Ranks(size))):
        sys.exit("the uninterrupted training failed")
    seconds = time.perf_counter() - started
    expected = json.loads((folder / "whole.json").read_text())
    rows, chosen, results = seen(folder, "whole"), random.Random(1), []
    for number in range(num_kills):
        name, kills = f"killed-{number}", []
        for again in range(2 if number % 5 == 4 else 1):  # twice in a row now and then
            after = chosen.uniform(0.2, 0.95) * seconds / (1 + again)
            at = max(1, number * expected["calls"] // num_kills + chosen.randrange(4)) // (1 + again)
            if number % 4 == 3:
                ended = child(lambda n=name: train(job, folder, n, None, Ranks(size)), kill_after=after)
                kills.append({"driver after": after, "ended": ended})
            elif size and number % 4 == 1:
                victim = Ranks(size, chosen.randrange(size), after / 2)
                ended = child(lambda n=name, v=victim: train(job, folder, n, None, v))
                kills.append({"rank": victim.victim, "after": after / 2, "ended": ended})
            else:
                ended = child(lambda n=name, at=at: train(job, folder, n, at, Ranks(size)))
                kills.append({"call": at, "ended": ended})
        whole = child(lambda n=name: train(job, folder, n, None, Ranks(size)))
        found = json.loads((folder / f"{name}.json").read_text()) if whole else {"members": None}
        same_rows = seen(folder, name) == rows
        results.append(
            {"kills": kills, "same members": found["members"] == expected["members"], "same rows": same_rows}
        )
    print(json.dumps({**expected, "steps": len(rows), "results": results}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int([*sys.argv, 0][3]), "".join(sys.argv[4:5]))
