"""Train on three workers of Ray Train, have one killed, and compare with the training nobody interrupted.

Run as `python ray_kill.py FOLDER NAME [worker|checkpoint|none ...]`: trains in one Ray session once per way to be
killed, and adds one JSON object per training to FOLDER/NAME.jsonl. A driver is killed from outside.
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from kill import prepared_rows, write_data

from fmray.data.session import session
from fmray.events import Event, Resumed, to_json
from fmray.metrics.find import find_metric
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.plans import plans_of
from fmray.tune.sweep import sweep

WORKERS = 3


def workers(title: bytes = b"TrainWorker") -> list[int]:
    """List the processes below this one whose title holds this."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
    below, size = {os.getpid()}, 0
    while len(below) > size:
        size = len(below)
        below |= {pid for pid, parent in parents.items() if parent in below}
    return sorted(pid for pid in below if title in names.get(pid, b""))


def kill_one(store: Path, way: str, killed: list[int]) -> None:
    """Kill a worker once two checkpoints are there: the last one, or the one that is writing, inside a checkpoint."""
    while len(list(store.glob("checkpoints/*/trials/*/*/states/*/manifest.json"))) < 2:
        time.sleep(0.01)
    until = time.monotonic() + 30
    while way == "checkpoint" and time.monotonic() < until:
        folders = sorted(store.glob("checkpoints/*/trials/*/*/states/*"))
        if folders and not (folders[-1] / "manifest.json").exists():
            break
    for pid in workers() if way == "checkpoint" else workers()[-1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)


def main(folder: Path, name: str, ways: list[str]) -> None:
    job = write_data(folder) if not (folder / "data").exists() else write_data_again(folder)
    job = replace(job, run=replace(job.run, workers=WORKERS))
    prepared = prepared_rows(job, folder)
    metric = find_metric("roc_auc", prepared.target)
    with session():
        for way in ways:
            killed: list[int] = []
            events: list[Event] = []
            store = folder / f"store-{name}-{way}"
            if way != "none":
                threading.Thread(target=kill_one, args=(store, way, killed), daemon=True).start()
            done = sweep(
                job, plans_of(job, Ref("classification")), prepared, metric, Store(str(store)), WORKERS,
                report=events.append,
            )  # fmt: skip
            members = [{k: v for k, v in m.to_json().items() if k != "root"} for m in done.members]
            resumed = [to_json(event) for event in events if isinstance(event, Resumed)]
            result = {"way": way, "members": members, "killed": killed, "resumed": resumed}
            with (folder / f"{name}.jsonl").open("a") as file:  # Ray prints lines of its own
                file.write(json.dumps(result) + "\n")


def write_data_again(folder: Path):
    """Give the job of rows that lie there."""
    from kill import JOB, Job

    return Job.from_json({**JOB, "data": {"path": str(folder / "data"), "target": "y"}})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
