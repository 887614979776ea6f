"""Train on one to two workers while a node is lost and another one comes, and compare with a training left alone.

Run as `python elastic.py FOLDER`; writes FOLDER/result.json: how often it was resumed, whether each step was of the same
rows, and how far the final weights are from those of one process.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from kill import prepared_rows, write_data
from ray.cluster_utils import Cluster
from safetensors.numpy import load_file

import fmray.tune.sweep as module
from fmray.events import to_json
from fmray.metrics.find import find_metric
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.predict import TENSORS
from fmray.train.workers import Worker

WORKERS = (1, 2)
NODE = {"num_cpus": 1, "object_store_memory": 2**28}
EPOCHS = 150


@dataclass(frozen=True)
class Recorded:
    """Do the work and write down the ids of each batch: a file per worker, a line per step."""

    work: Callable[[Worker], None]
    folder: str

    def __call__(self, worker: Worker) -> None:
        from fmray.train.ingest import Rows

        Path(self.folder).mkdir(parents=True, exist_ok=True)
        place = f"{worker.group.rank} {worker.group.size}"
        batches = Rows.batches

        def recorded(self: Any, order: Any, seed: int, epoch: int, batch_rows: int, first_step: int = 0) -> Any:
            for step, batch in enumerate(batches(self, order, seed, epoch, batch_rows, first_step), first_step):
                ids = [row.tobytes().hex() for row in self.lanes.take(batch.rows.numpy(), ["row_id"])["row_id"]]
                lines.write(f"{time.time_ns()} {epoch} {step} {place} {','.join(ids)}\n")
                lines.flush()
                yield batch

        Rows.batches = recorded
        try:
            with Path(f"{self.folder}/{os.getpid()}-{time.time_ns()}.txt").open("a") as lines:
                self.work(worker)
        finally:
            Rows.batches = batches


def batches_of(folder: Path) -> tuple[dict[str, list[str]], list[int]]:
    """Give the row ids of each global batch as it was last trained on, and the sizes of groups in their order."""
    last: dict[tuple[str, str], dict[str, tuple[int, str, list[str]]]] = {}
    sizes: list[tuple[int, int]] = []
    for path in folder.glob("*.txt"):
        for line in path.read_text().splitlines():
            now, epoch, step, rank, size, *ids = line.split(" ")
            seen = (int(now), size, ids[0].split(",") if ids and ids[0] else [])
            ranks = last.setdefault((epoch, step), {})
            if rank not in ranks or ranks[rank][0] < seen[0]:
                ranks[rank] = seen
            sizes.append((int(now), int(size)))
    found = {}
    for (epoch, step), ranks in last.items():
        newest = max(ranks.values())[1]
        mine = [row for rank, (_, size, ids) in ranks.items() if size == newest for row in ids]
        found[f"{epoch} {step}"] = sorted(mine)
    order = [size for _, size in sorted(sizes)]
    return found, [size for place, size in enumerate(order) if place == 0 or size != order[place - 1]]


def farthest(one: list[Any], other: list[Any]) -> float:
    """Give the largest difference of two trainings' weights, relative to the largest weight of its tensor."""
    pairs = [
        (load_file(f"{a.root}/{TENSORS}"), load_file(f"{b.root}/{TENSORS}")) for a, b in zip(one, other, strict=True)
    ]
    return max(float(abs(a[n] - b[n]).max() / max(abs(a[n]).max(), 1e-12)) for a, b in pairs for n in a)


def states(folder: Path) -> int:
    return len(list(folder.glob("checkpoints/*/trials/*/*/states/*/manifest.json")))


def main(folder: Path) -> dict[str, Any]:
    job = write_data(folder)
    sgd = replace(
        job.train, optimizer=Ref("sgd", {"lr": 0.02}), schedule=Ref("constant"), early_stop=None, epochs=EPOCHS
    )
    job = replace(job, train=sgd, run=replace(job.run, workers=WORKERS, max_failures=9, ingest="ray"))
    prepared = prepared_rows(job, folder)
    metric, plans = find_metric("roc_auc", prepared.target), module.plans_of(job, Ref("classification"))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    lost = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    found: dict[str, Any] = {}
    events: list[dict[str, Any]] = []
    train = module.train

    def carry(way: str, workers: Any) -> None:
        def recorded(work: Any, *rest: Any) -> None:
            train(Recorded(work, str(folder / f"rows-{way}")), *rest)

        module.train = recorded
        store, report = (
            Store(str(folder / way)),
            (lambda event: events.append(to_json(event))) if way == "elastic" else lambda event: None,
        )
        found[way] = module.sweep(job, plans, prepared, metric, store, workers, report=report).members

    def wait(until: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and training.is_alive() and not until():
            time.sleep(0.1)
        return until()

    def resumed() -> int:
        return sum(event["event"] == "resumed" for event in events)

    started = time.monotonic()
    training = threading.Thread(target=carry, args=("elastic", WORKERS))  # nodes come from the main thread only
    training.start()
    wait(lambda: states(folder / "elastic") >= 2, 120)
    cluster.remove_node(lost, allow_graceful=False)
    went_on = wait(lambda: resumed() >= 1, 120)
    cluster.add_node(**NODE)
    grown = wait(lambda: resumed() >= 2, 150)
    training.join()
    seconds = time.monotonic() - started
    carry("whole", 0)
    ray.shutdown()
    cluster.shutdown()
    rows, sizes = batches_of(folder / "rows-elastic")
    whole, _ = batches_of(folder / "rows-whole")
    return {
        "went on": went_on,
        "grown": grown,
        "sizes": sizes,
        "same rows": rows == whole,
        "steps": len(whole),
        "farthest": farthest(found["elastic"], found["whole"]),
        "events": [event for event in events if event["event"] in ("resumed", "note")],
        "seconds": seconds,
    }


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    Path(sys.argv[1], "result.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
