"""Stream rows that are many times larger than a worker's memory, and compare speed and memory with rows held in it.

Run as `python tests/benchmarks/memory.py [rows] [budget in MB]`. Targets: at least 0.8x the rows per second of memory;
peak of all that is not a file (worker, read tasks and object store, sampled every 0.1 s) within budget and CONSTANT.
"""

import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from fmray.data.session import session
from fmray.spec.job import Job
from fmray.train.group import Group
from fmray.train.loop import run_epoch
from fmray.train.pack import Pack
from fmray.train.workers import Worker

sys.path.insert(0, str(Path(__file__).parent))
from rivals import plans_of, regression_rows, unending

CONSTANT = 600_000_000
"""What streaming costs whatever the rows: some 430 MB of items that Ray Data has read ahead, 150 MB for two read tasks,
100 MB in the worker, of which the budget already counts a part."""


def anonymous_bytes(pids: list[int]) -> int:
    """Sum the anonymous memory of processes."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return total


def busy() -> list[int]:
    """List this worker and the processes that read for it."""
    found = [os.getpid()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"ray::Read" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def stored_bytes() -> int:
    """Give the bytes of the object store that hold something."""
    room = os.statvfs("/dev/shm")
    return (room.f_blocks - room.f_bfree) * room.f_frsize


class Peak:
    """Sample memory every 0.1 s until stopped."""

    def __init__(self) -> None:
        self.most, self.parts, self._ended = 0, (0, 0, 0), threading.Event()
        self._before = self._now()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            parts = tuple(now - before for now, before in zip(self._now(), self._before, strict=True))
            if sum(parts) > self.most:
                self.most, self.parts = sum(parts), parts

    def _now(self) -> tuple[int, int, int]:
        """Give the memory of this worker, of read tasks and of the object store."""
        own = anonymous_bytes([os.getpid()])
        return own, anonymous_bytes(busy()) - own, stored_bytes()

    def stop(self) -> int:
        """Give the most there was, beyond what there was before."""
        self._ended.set()
        self._thread.join()
        return self.most


def loop(config: dict[str, Any]) -> None:
    """Train some epochs on rows in memory, and on rows that are streamed, by turns in one worker."""
    torch.set_num_threads(1)
    job, prepared, found = config["job"], config["prepared"], {}
    for way, ingest, memory in (
        ("memory", "map", "auto"),
        ("ray", "ray", config["budget"]),
        ("map", "map", config["budget"]),
    ):
        run = replace(job.run, memory=memory, ingest=ingest)
        peak = Peak()
        worker = Worker(Group.joined(), torch.device("cpu"), lambda event: None, run, over_ray=True)
        rows = worker.rows(prepared, "train", config["epochs"])
        pack = Pack(plans_of([64], 1), prepared.schema, prepared.target, job.train, True)
        seconds = []
        batches, steps = unending(rows, job.train)
        for epoch in range(config["epochs"]):
            started = time.perf_counter()
            pack.state.step, pack.state.epoch = 0, epoch
            run_epoch(pack, batches, steps, group=worker.group)
            seconds.append(time.perf_counter() - started)
        found[way] = {
            "rows/s": rows.num_rows / min(seconds),
            "peak": peak.stop(),
            "parts": peak.parts,
            "seconds": seconds,
        }
        del rows, pack, worker
    Path(config["out"]).write_text(json.dumps(found))


def measure(num_rows: int, budget: int) -> dict[str, Any]:
    """Give speed and peak of each way."""
    with tempfile.TemporaryDirectory() as name, session():
        folder = Path(name)
        job, prepared = regression_rows(folder, num_rows)
        order = {"chunk_rows": 256, "window_chunks": max(1, budget // 4 // 144 // 64 // 256), "num_lanes": 64}
        changes = {"batch_rows": 2048, "early_stop": None, "order": order}
        job = Job.from_json({**job.to_json(), "train": changes})
        config = {"job": job, "prepared": prepared, "budget": budget, "epochs": 3, "out": str(folder / "out.json")}
        TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name="memory", storage_path=str(folder / "ray")),
        ).fit()
        found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    size = num_rows * 144
    print(f"{size / 1e6:,.0f} MB of rows, a budget of {budget / 1e6:,.0f} MB: {size / budget:.1f} times as much")
    for way, told in found.items():
        share = told["rows/s"] / found["memory"]["rows/s"]
        print(
            f"{way:>7}: {told['rows/s']:12,.0f} rows/s, {share:.2f}x, peak {told['peak'] / 1e6:,.0f} MB "
            f"(worker, read tasks, object store: {', '.join(f'{part / 1e6:,.0f}' for part in told['parts'])})",
            flush=True,
        )
    excess = found["ray"]["peak"] - budget
    print(f"streamed: {excess / 1e6:,.0f} MB beyond the budget, {CONSTANT / 1e6:,.0f} are stated", flush=True)
    return found


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    measure(numbers[0] if numbers else 8_000_000, (numbers[1] if len(numbers) > 1 else 128) * 1_000_000)
