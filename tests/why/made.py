"""Make evidence up, where what is wrong is known because it was put there."""

from typing import Any

from fmray.why import Evidence
from fmray.why.evidence import seen_at

NOW = 1_000_000.0
VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "fmray": "0123456789abcdef"}
HOLDER = {"name": "host:7", "age": 2.0, "released": False, "gone": False, "here": True}


def place(rank: int | None, pid: int = 7, node: str = "", **versions: str) -> dict[str, Any]:
    found = {"rank": rank, "host": f"host{rank or 0}", "machine": "m", "pid": pid, "started": "1", "node": node}
    return {**found, "stacks": "", "versions": {**VERSIONS, **versions}}


def driver(job: str = "01000000") -> dict[str, Any]:
    return {"event": "driver", "places": [place(None)], "ray": {"job": job}, "time": NOW - 1000}


def stage(name: str, age: float) -> dict[str, Any]:
    return {"event": "stage", "stage": name, "text": "of a test", "time": NOW - age}


def epoch(number: int, age: float, seconds: float = 1.0, rows: float = 0.1, checkpoints: float = 0.1) -> dict[str, Any]:
    spent = {"rows": rows * seconds, "checkpoints": checkpoints * seconds}
    told = {"event": "epoch", "epoch": number, "epochs": 20, "rows_per_second": 1000, "primary": "roc_auc", "best": 0.9}
    return {**told, "seconds": seconds, "spent": spent, "seconds_left": (20 - number) * seconds, "time": NOW - age}


def failure(kind: str, text: str, action: str, stacks: str | None = None) -> dict[str, Any]:
    told = {"event": "failure", "class": kind, "text": text, "action": action, "counted": True, "attempt": 1}
    return {**told, "rank": None, "node": None, "stacks": stacks, "time": NOW - 5}


def failed(text: str, kind: str = "ClusterError", frames: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"event": "failed", "kind": kind, "text": text, "frames": list(frames), "time": NOW - 1}


def evidence(status: str, *events: dict[str, Any], **given: Any) -> Evidence:
    lines = [seen_at(f"events.jsonl:{number}", event) for number, event in enumerate([driver(), *events], 1)]
    holder = {**HOLDER, "released": status in ("finished", "failed")}
    known = {
        "run": {"run_id": "abc", "job": "test", "status": status},
        "holder": holder,
        "root": "/store/runs/test/abc",
    }
    return Evidence(**{"name": "abc", "now": NOW, "status": status, "events": lines, **known, **given})


def running(**given: Any) -> Evidence:
    return evidence("running", stage("train", 30), *(epoch(n, 10 - n) for n in range(1, 10)), **given)


def cluster(*nodes: dict[str, float], **given: Any) -> dict[str, Any]:
    found = [
        {
            "id": f"n{number}",
            "name": f"10.0.0.{number} (n{number})",
            "alive": True,
            "why": "",
            "resources": node,
            "time": 0.0,
        }
        for number, node in enumerate(nodes)
    ]
    jobs = {
        "01000000": {"name": "fmray-abc-1", "pid": 7, "submission": "fmray-abc-1"},
        "02000000": {"name": "fmray-other-1", "pid": 8, "submission": "fmray-other-1"},
    }
    known = {"address": "http://head:8265", "nodes": found, "jobs": jobs, "groups": [], "actors": [], "tasks": []}
    return {**known, "deaths": [], "errors": {}, **given}


def group(job: str, *bundles: dict[str, float], node: str = "", feasible: bool = True) -> dict[str, Any]:
    told = [{"needs": needs, "node": node} for needs in bundles]
    return {"job": job, "state": "CREATED" if node else "PENDING", "feasible": feasible, "bundles": told}


def task(job: str, name: str, state: str, **needs: float) -> dict[str, Any]:
    return {
        "job": job, "name": name, "state": state, "needs": needs, "node": "", "pid": 0, "grouped": False, "death": "",
    }  # fmt: skip


def stack(rank: int | None, *frames: str, still: bool = True) -> dict[str, Any]:
    return {"rank": rank, "name": f"host:{rank}", "frames": list(frames), "still": still}
