"""Compare training inside Ray Train workers with a bare loop and with the script that Ray's documentation teaches.

Run as `python tests/benchmarks/workers.py [rows]`. Targets: at least 0.9x the rows per second of a bare in-memory loop
at batches of 256 and 2048; at least 8x those of TorchTrainer with `iter_torch_batches` at 2048; two workers of one
thread each at least 1.6x one on a model that computes much.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

from fmray.data.lanes import Lanes
from fmray.data.session import session
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.train.group import Group
from fmray.train.loop import run_epoch
from fmray.train.pack import Pack
from fmray.train.workers import Worker

sys.path.insert(0, str(Path(__file__).parent))
from rivals import NUM_FEATURES, bare_epochs, plans_of, ratio, regression_rows, unending

ROUNDS = 4
HEAVY, HEAVY_BATCH = [1024, 1024], 8192


def our_epochs(job: Job, prepared: Prepared, widths: list[int], batch_rows: int) -> Callable[[], float]:
    """Give a function that trains one more epoch on this worker's share, as fmray does."""
    changes = {"batch_rows": batch_rows, "early_stop": None}
    job = Job.from_json({**job.to_json(), "train": changes})
    worker = Worker(Group.joined(), torch.device("cpu"), lambda event: None, job.run, over_ray=True)
    rows = worker.rows(prepared, "train", 100)
    pack = Pack(plans_of(widths, 1), prepared.schema, prepared.target, job.train, True)
    batches, steps = unending(rows, job.train)

    def epoch() -> float:
        started = time.perf_counter()
        pack.state.step = 0
        run_epoch(pack, batches, steps, group=worker.group)
        pack.state.epoch += 1
        return time.perf_counter() - started

    return epoch


def against_bare(config: dict[str, Any]) -> None:
    """Measure both loops by turns in one worker."""
    torch.set_num_threads(1)
    job, prepared, found = config["job"], config["prepared"], {}
    whole = Lanes(prepared, "train").load(["x", "target"])
    x, y = torch.from_numpy(whole["x"]), torch.from_numpy(whole["target"]).float().view(-1, 1)
    for batch_rows in (256, 2048):
        theirs = bare_epochs(x, y, [64], 1e-3, batch_rows)
        our, their, quotient = ratio(our_epochs(job, prepared, [64], batch_rows), theirs, ROUNDS)
        found[batch_rows] = (len(x) / our, len(x) / their, 1 / quotient)
    Path(config["out"]).write_text(json.dumps(found))


def as_taught(config: dict[str, Any]) -> None:
    """Train as Ray's documentation does: `iter_torch_batches` over a shard, a wrapped model."""
    torch.set_num_threads(1)
    shard, seconds = train.get_dataset_shard("train"), []
    model = prepare_model(nn.Sequential(nn.Linear(NUM_FEATURES, 64), nn.ReLU(), nn.Linear(64, 1)))
    optimizer, loss_of = torch.optim.Adam(model.parameters(), lr=1e-3), nn.MSELoss()
    for _ in range(3):
        started, num_rows = time.perf_counter(), 0
        for batch in shard.iter_torch_batches(batch_size=2048, dtypes=torch.float32):
            x = torch.stack([batch[f"f{i}"] for i in range(NUM_FEATURES)], dim=1)
            optimizer.zero_grad()
            loss_of(model(x), batch["y"].view(-1, 1)).backward()
            optimizer.step()
            num_rows += len(x)
        seconds.append(time.perf_counter() - started)
    Path(config["out"]).write_text(json.dumps([num_rows, statistics.median(seconds[1:])]))


def heavy(config: dict[str, Any]) -> None:
    """Train a model that computes much on this worker's share."""
    torch.set_num_threads(1)
    epoch = our_epochs(config["job"], config["prepared"], HEAVY, HEAVY_BATCH)
    epoch()
    seconds = [epoch() for _ in range(ROUNDS)]
    if train.get_context().get_world_rank() == 0:
        Path(config["out"]).write_text(json.dumps(seconds))


def on_workers(loop: Callable[[dict[str, Any]], None], workers: int, folder: Path, **config: Any) -> Any:
    """Run a loop on workers of Ray Train, and give what it wrote down."""
    datasets = config.pop("datasets", None)
    config["out"] = str(folder / f"{loop.__name__}-{workers}.json")
    TorchTrainer(
        loop,
        train_loop_config=config,
        datasets=datasets,
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.85}),
        run_config=RunConfig(name=f"{loop.__name__}-{workers}", storage_path=str(folder / "ray")),
    ).fit()
    return json.loads(Path(config["out"]).read_text())


def measure(num_rows: int) -> dict[str, float]:
    """Give every ratio by name."""
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, session():
        folder = Path(name)
        job, prepared = regression_rows(folder / "rows", num_rows)
        bare = on_workers(against_bare, 1, folder, job=job, prepared=prepared)
        for batch_rows, (our, their, quotient) in bare.items():
            ratios[f"bare {batch_rows}"] = quotient
            print(f"batch {batch_rows:>5}: fmray {our:12,.0f} rows/s, bare loop {their:12,.0f}, {quotient:.2f}x")
        whole = Lanes(prepared, "train").load(["x", "target"])
        columns = {f"f{i}": column for i, column in enumerate(whole["x"].T)} | {"y": whole["target"]}
        (folder / "taught").mkdir()
        pq.write_table(pa.table(columns), folder / "taught/part.parquet", row_group_size=1 << 17)
        datasets = {"train": ray.data.read_parquet(str(folder / "taught"))}
        taught_rows, seconds = on_workers(as_taught, 1, folder, datasets=datasets)
        ratios["taught"] = bare["2048"][0] / (taught_rows / seconds)
        print(
            f"batch  2048: TorchTrainer with iter_torch_batches {taught_rows / seconds:12,.0f}, {ratios['taught']:.1f}x"
        )
        few = regression_rows(folder / "few", 60_000)
        one, two = (min(on_workers(heavy, n, folder, job=few[0], prepared=few[1])) for n in (1, 2))
        ratios["two"] = one / two
        print(f"mlp {HEAVY}: one worker {one:.2f} s an epoch, two {two:.2f} s, {one / two:.2f}x", flush=True)
    return ratios


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
