"""Give what benchmarks compare: prepared rows on our side, a bare in-memory PyTorch loop on the other."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.metrics.find import find_metric
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Train
from fmray.store import Store
from fmray.tasks.task import Batch
from fmray.train.device import set_up
from fmray.train.ingest import Rows, Steps, num_steps
from fmray.train.loop import run_epoch
from fmray.train.pack import Pack, Plan

NUM_FEATURES = 32


def regression_rows(folder: Path, num_rows: int) -> tuple[Job, Prepared]:
    """Write and prepare rows of 32 normal features and a noisy linear target; nearly all are for training."""
    random = np.random.default_rng(0)
    x = random.standard_normal((num_rows, NUM_FEATURES), dtype=np.float32)
    y = x @ random.standard_normal(NUM_FEATURES).astype(np.float32) + random.standard_normal(num_rows, dtype=np.float32)
    (folder / "data").mkdir(parents=True)
    table = pa.table({f"f{i}": column for i, column in enumerate(x.T)} | {"y": y})
    pq.write_table(table, folder / "data/part-0.parquet", row_group_size=1 << 17)
    job = Job.from_json(
        {
            "name": "benchmark",
            "data": {"path": str(folder / "data"), "target": "y"},
            "split": {"val": 0.002, "test": 0.002},
            "steps": ["standardise"],
            "run": {"prepare": "local"},
        }
    )
    store = Store(str(folder / "store"))
    return job, prepare(scan(job.data, ".", store), job, Ref("regression"), store)


def unending(rows: Rows, train: Train) -> tuple[Iterator[Batch], Steps]:
    """Give the batches of a training that has as many epochs as anybody asks for."""
    per_pass = num_steps(rows.num_rows, train.batch_rows)
    return rows.endless(train.order, 0, train.batch_rows, 0), Steps(per_pass, per_pass, per_pass * 10**6)


def our_epochs(job: Job, prepared: Prepared, plans: list[Plan], train: dict[str, object]) -> Callable[[], float]:
    """Give a function that trains one more epoch of a pack and says how many seconds it took."""
    job = Job.from_json({**job.to_json(), "train": {**train, "early_stop": None}})
    device = set_up(job.run, job.train)
    rows = Rows(prepared, "train", device)
    metric = find_metric("r2", prepared.target)
    pack = Pack(plans, prepared.schema, prepared.target, job.train, metric.higher_is_better, device)
    batches, steps = unending(rows, job.train)

    def epoch() -> float:
        started = time.perf_counter()
        pack.state.step = 0
        run_epoch(pack, batches, steps)
        pack.state.epoch += 1
        return time.perf_counter() - started

    return epoch


def bare_epochs(x: torch.Tensor, y: torch.Tensor, widths: list[int], lr: float, batch_rows: int) -> Callable[[], float]:
    """Give a function that trains one more epoch of an MLP the way a tutorial does, shuffled, all in memory."""
    torch.manual_seed(0)
    sizes = [x.shape[1], *widths]
    layers: list[nn.Module] = []
    for before, after in zip(sizes, widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loss_of = nn.MSELoss()

    def epoch() -> float:
        started = time.perf_counter()
        order = torch.randperm(len(x))
        for start in range(0, len(x), batch_rows):
            rows = order[start : start + batch_rows]
            optimizer.zero_grad()
            loss = loss_of(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    return epoch


def plans_of(widths: list[int], members: int) -> list[Plan]:
    """Give members of an MLP that differ in their seeds."""
    adam = Ref("adam", {"lr": 1e-3})
    return [Plan(i, i, Ref("mlp", {"width": widths}), adam, Ref("regression"), {}) for i in range(members)]


def ratio(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Give our seconds, theirs, and the median ratio ours / theirs over alternating rounds, the first one left out."""
    pairs = [(theirs(), ours()) for _ in range(rounds + 1)][1:]
    quotients = [our / their for their, our in pairs]
    return statistics.median(p[1] for p in pairs), statistics.median(p[0] for p in pairs), statistics.median(quotients)
