"""Train on three nodes of one machine, lose one of them, have another come, and compare with a training left alone.

Run as `python node_loss.py FOLDER`; prints one JSON object.
"""

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from kill import prepared_rows, write_data
from ray.cluster_utils import Cluster

from fmray.events import to_json
from fmray.metrics.find import find_metric
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.plans import plans_of
from fmray.tune.sweep import sweep

WORKERS = 3
NODE = {"num_cpus": 1, "object_store_memory": 2**28}


def main(folder: Path) -> Any:
    job = write_data(folder)
    job = replace(
        job,
        train=replace(job.train, epochs=150, early_stop=None),
        run=replace(job.run, workers=WORKERS, max_failures=0),
    )
    prepared = prepared_rows(job, folder)
    metric, plans = find_metric("roc_auc", prepared.target), plans_of(job, Ref("classification"))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    lost = [cluster.add_node(**NODE) for _ in range(WORKERS - 1)].pop()
    ray.init(address=cluster.address, log_to_driver=False)
    found: dict[str, Any] = {}
    events: list[dict[str, Any]] = []

    def train(way: str) -> None:
        store = Store(str(folder / way))
        members = sweep(
            job, plans, prepared, metric, store, WORKERS, report=lambda event: events.append(to_json(event))
        ).members
        plain = [{k: v for k, v in m.to_json().items() if k != "root"} for m in members]
        found[way] = plain

    losing = threading.Thread(target=train, args=("lost",))  # nodes can be added from the main thread only
    losing.start()
    while len(list((folder / "lost").glob("checkpoints/*/trials/*/*/states/*/manifest.json"))) < 2:
        time.sleep(0.02)
    cluster.remove_node(lost, allow_graceful=False)
    until = time.monotonic() + 120
    while time.monotonic() < until and not any("waits for a node" in event.get("text", "") for event in events):
        time.sleep(0.1)  # Ray takes a while to see that a node has gone
    cluster.add_node(**NODE)
    losing.join()
    train("whole")
    ray.shutdown()
    cluster.shutdown()
    return found | {"events": [event for event in events if event["event"] in ("resumed", "note", "failure")]}


if __name__ == "__main__":
    result = main(Path(sys.argv[1]))
    Path(sys.argv[1], "result.json").write_text(json.dumps(result))
