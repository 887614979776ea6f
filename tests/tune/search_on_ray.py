"""Search over Ray Tune in a process of its own; run as `python search_on_ray.py FOLDER NAME WORKERS`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from tune.kill import prepared_rows, write_data
from tune.search_kill import searched

from fmray.metrics.find import find_metric
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.search import Hunt


def main(folder: Path, name: str, workers: int) -> None:
    home = folder / "rows"
    job = write_data(home) if not home.exists() else None
    if job is None:
        from tune.kill import JOB

        from fmray.spec.job import Job

        job = Job.from_json({**JOB, "data": {"path": str(home / "data"), "target": "y"}})
    prepared = prepared_rows(job, home)
    job = searched(job, exact=True)
    job = replace(job, run=replace(job.run, workers=workers))
    metric, events = find_metric("roc_auc", prepared.target), []
    store = Store(str(folder / name))
    done = Hunt(job, Ref("classification"), lambda job: prepared, metric, store, report=events.append).search()
    members = [{k: v for k, v in member.to_json().items() if k != "root"} for member in done.members]
    notes = [event["text"] for event in events if event["event"] == "note"]
    resumed = [event["class"] for event in events if event["event"] == "resumed"]
    facts = {"members": members, "notes": notes, "resumed": resumed, "best": done.best(metric).index}
    (folder / f"{name}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
