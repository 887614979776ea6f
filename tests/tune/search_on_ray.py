"""Search with Ray Tune in a process of its own; run as `python search_on_ray.py FOLDER NAME WORKERS [kill]`.

With `kill`, three workers are killed on the way, whatever they are doing.
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

from tune.kill import prepared_rows, write_data
from tune.search_kill import searched

from fmray.events import to_json
from fmray.metrics.find import find_metric
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.search import MemberTrainer


def kill_workers(killed: list[int]) -> None:
    """Kill one worker of a trial after the other, a while apart."""
    from ray_kill import workers  # which is found where this file is run as a script

    while len(killed) < 3:
        time.sleep(1.5)
        for pid in [*workers(b"_train_trial"), *workers(b"ImplicitFunc")][:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)


def main(folder: Path, name: str, workers: int, killing: bool) -> None:
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
    store, killed = Store(str(folder / name)), list[int]()
    if killing:
        threading.Thread(target=kill_workers, args=(killed,), daemon=True).start()
    done = MemberTrainer(
        job,
        Ref("classification"),
        lambda job: prepared,
        metric,
        store,
        report=lambda event: events.append(to_json(event)),
    ).run_search()
    members = [{k: v for k, v in member.to_json().items() if k != "root"} for member in done.members]
    notes = [event["text"] for event in events if event["event"] == "note"]
    resumed = [event["class"] for event in events if event["event"] == "resumed"]
    best = done.best(metric).index
    facts = {"members": members, "notes": notes, "resumed": resumed, "killed": len(killed), "best": best}
    (folder / f"{name}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), "kill" in sys.argv[4:])
