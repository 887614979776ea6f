"""Search by population based training over Ray, perhaps until killed, and write down what came of it.

Run as `python pbt_kill.py FOLDER [worker|long]`: in a folder that was used before, the search goes on. With `worker`, the
one that carries the first exploit is killed at it; `long` gives time to kill the driver from outside.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from tune.kill import JOB, prepared_rows, write_data

from fmray.events import Event, Exploit, to_json
from fmray.metrics.find import find_metric
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.search import MemberTrainer

EPOCHS, MEMBERS, INTERVAL = 8, 5, 2
LONG = {"epochs": 48, "interval": 4}
SEARCHED = {
    "model": {"mlp": {"width": 16, "depth": 1, "dropout": {"uniform": [0, 0.5]}}},
    "train": {
        "epochs": EPOCHS,
        "early_stop": None,
        "schedule": "constant",
        "optimizer": {"adamw": {"lr": {"log_uniform": [1e-5, 1e-1]}}},
        "seeds": 1,
    },
    "search": {"by": "pbt", "members": MEMBERS, "interval": INTERVAL},
    "run": {"deterministic": False, "workers": 1, "threads": 1},
}


def populated(job: Job) -> Job:
    value = job.to_json()
    for section, given in SEARCHED.items():
        value[section] = {**value.get(section, {}), **given} if section in ("train", "run") else given
    return replace(Job.from_json(value), folder=job.folder)


def kill_workers() -> int:
    from ray_kill import workers  # which is found where this file is run as a script

    found = workers(b"ray::")
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found}
    chosen = [pid for pid, title in titles.items() if b"ImplicitFunc" in title or b"_train_member" in title]
    for pid in chosen:
        os.kill(pid, signal.SIGKILL)
    return len(chosen)


def main(folder: Path, way: str) -> None:
    if (folder / "data").exists():
        job = Job.from_json({**JOB, "data": {"path": str(folder / "data"), "target": "y"}})
    else:
        job = write_data(folder)
    prepared = prepared_rows(job, folder)
    pending = [way] if way == "worker" else []
    events = (folder / "events.jsonl").open("a")

    def write(event: dict[str, object]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    def report(event: Event) -> None:
        write(to_json(event))
        if isinstance(event, Exploit) and pending:
            pending.clear()
            write({"event": "killed", "workers": kill_workers()})

    metric, store = find_metric("roc_auc", prepared.target), Store(str(folder / "store"))
    job = populated(job)
    if way == "long":
        train, asked = replace(job.train, epochs=LONG["epochs"]), replace(job.search, interval=LONG["interval"])
        job = replace(job, train=train, search=asked)
    found = MemberTrainer(job, Ref("classification"), lambda job: prepared, metric, store, report=report).run_search()
    members = [member.to_json() for member in found.members]
    (folder / "result.json").write_text(json.dumps({"members": members, "reused": found.reused}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "".join(sys.argv[2:]))
