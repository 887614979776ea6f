"""Search by population based training over Ray, perhaps until killed, and write down what came of it.

Run as `python pbt_kill.py FOLDER`: in a folder that was used before, the search goes on. Events are appended as they
come, so whoever watches them knows when to kill.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from tune.kill import JOB, prepared_rows, write_data

from fmray.metrics.find import find_metric
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.search import search

EPOCHS, MEMBERS, INTERVAL = 10, 5, 2
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


def main(folder: Path) -> None:
    if (folder / "data").exists():
        job = Job.from_json({**JOB, "data": {"path": str(folder / "data"), "target": "y"}})
    else:
        job = write_data(folder)
    prepared = prepared_rows(job, folder)
    events = (folder / "events.jsonl").open("a")

    def report(event: dict[str, object]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    metric, store = find_metric("roc_auc", prepared.target), Store(str(folder / "store"))
    found = search(populated(job), Ref("classification"), lambda job: prepared, metric, store, report=report)
    members = [member.to_json() for member in found.members]
    (folder / "result.json").write_text(json.dumps({"members": members, "reused": found.reused}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
