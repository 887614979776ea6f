"""Train on two workers of Ray Train with models that fail on purpose, and write down what came of it.

Run as `python ray_failures.py FOLDER`: one Ray session, one JSON object per training in FOLDER/result.json.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kill import prepared_rows, write_data

from fmray.data.session import session
from fmray.errors import FmrayError
from fmray.events import Event, Record
from fmray.metrics.find import find_metric
from fmray.records import Member, Prepared
from fmray.report.journal import Journal
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.plans import plans_of
from fmray.tune.search import MemberTrainer
from fmray.tune.sweep import sweep

WORKERS = 2


def train(job: Job, prepared: Prepared, folder: Path, model: Ref, **run: Any) -> dict[str, Any]:
    job = replace(job, model=model, run=replace(job.run, workers=WORKERS, **run))
    store = Store(str(folder / "store"))
    root, metric = store.path("runs/one"), find_metric("roc_auc", prepared.target)
    journal = Journal(root, store, lambda event: None)
    started, error, members = time.perf_counter(), "", []
    try:
        plans = plans_of(job, Ref("classification"))
        members = sweep(job, plans, prepared, metric, store, WORKERS, report=Recorded(journal)).members
    except FmrayError as caught:
        error = f"{type(caught).__name__}: {caught}"
    return {"error": error, **described(members, store, root, folder), "seconds": time.perf_counter() - started}


def search(job: Job, prepared: Prepared, folder: Path, ways: list[str]) -> dict[str, Any]:
    """Search over models that differ in how they fail, two at a time."""
    marks = folder / "marks"
    marks.mkdir(parents=True)
    value = job.to_json()
    value["model"] = {"train.faulty_net:Marked": {"folder": str(marks), "way": {"choice": ways}}}
    value["search"] = {"by": "grid", "stop": "none", "finalists": 1}
    value["run"] = {**value["run"], "workers": WORKERS, "max_failures": 0, "hang_seconds": 3.0}
    store, metric = Store(str(folder / "store")), find_metric("roc_auc", prepared.target)
    root = store.path("runs/one")
    report = Recorded(Journal(root, store, lambda event: None))
    trainer = MemberTrainer(
        Job.from_json(value), Ref("classification"), lambda job: prepared, metric, store, report=report
    )
    return described(trainer.run_search().members, store, root, folder)


def described(members: Sequence[Member], store: Store, root: str, folder: Path) -> dict[str, Any]:
    events = store.events(f"{root}/events.jsonl")
    found = sorted(folder.glob("store/runs/one/stacks/**/*.txt"))
    folders = list(dict.fromkeys(path.parent for path in found))
    stacks = {f"{folders.index(path.parent)}/{path.name}": path.read_text() for path in found}
    return {
        "hashes": [member.tensor_hash for member in members], "scores": [member.val_score for member in members],
        "ends": {m.model["params"].get("way", ""): [m.status, m.reason] for m in members},
        "events": events, "stacks": stacks,
    }  # fmt: skip


class Recorded:
    """Pass on to a journal all but records: there is no run to list them in."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Record):
            self._journal(event)


def main(folder: Path) -> None:
    job = write_data(folder)
    seeds = replace(job.train.seeds, n=1)
    job = replace(job, train=replace(job.train, epochs=8, early_stop=None, seeds=seeds))
    prepared, found = prepared_rows(job, folder), {}

    def marked(name: str, way: str, times: int) -> Ref:
        marks = folder / f"marks-{name}"
        marks.mkdir()
        return Ref("train.faulty_net:Marked", {"folder": str(marks), "way": way, "times": times})

    asked = {
        "whole": (marked("whole", "none", 0), {}),
        "killed too often": (marked("often", "kill", 1), {"max_failures": 0}),
        "always hung": (marked("always", "hang", 9), {"hang_seconds": 3.0}),
        "bug": (marked("bug", "bug", 9), {}),
        "narrow": (Ref("train.faulty_net:Narrow", {"most": 30, "rank": 1}), {"max_failures": 0}),
    }
    with session():
        for name, (model, run) in asked.items():
            if len(sys.argv) < 3 or name in sys.argv[2:]:
                found[name] = train(job, prepared, folder / name, model, **run)
        found["search"] = search(job, prepared, folder / "search", ["none", "bug", "hang", "kill", "memory"])
    (folder / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
