"""Ask the dashboard of a cluster, through Ray's state API, for its nodes and for what waits, runs and died on them.

Only facts, in as few words as the judge needs; each question has its own time limit, and one that fails is said so.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fmray.records import Json
from fmray.why.evidence import ask

SECONDS = 6.0
MOST = 2000
"""Entries asked for of each kind."""
_PID = re.compile(r"pid='(\d+)'")


def look(address: str) -> Json:
    """Give what a cluster says of itself.

    Args:
        address: URL of its dashboard; the token is taken from where Ray looks for it.

    Returns:
        {"address", "nodes": [{"id", "name", "alive", "why", "resources"}], "jobs": {id: {"name", "pid", "submission"}},
        "groups": [{"job", "state", "feasible", "bundles": [{"needs", "node"}]}], "actors": [{"job", "name", "state",
        "needs", "node", "grouped", "death"}], "tasks": [the same], "deaths": [{"kind", "text", "node", "pid", "time"}],
        "errors": {question: why it has no answer}}.
    """
    from ray.util import state  # takes a second

    given: Json = {"address": address, "limit": MOST, "timeout": int(SECONDS), "raise_on_missing_output": False}
    questions: dict[str, Callable[[], Any]] = {
        "nodes": partial(state.list_nodes, detail=True, **given),
        "jobs": partial(state.list_jobs, detail=True, **given),
        "groups": partial(state.list_placement_groups, detail=True, **given),
        "actors": partial(state.list_actors, detail=True, **given),
        "running": partial(state.list_tasks, detail=True, filters=[("state", "=", "RUNNING")], **given),
        "waiting": partial(state.list_tasks, detail=True, filters=[("state", "=", "PENDING_NODE_ASSIGNMENT")], **given),
        "workers": partial(state.list_workers, detail=True, filters=[("is_alive", "=", False)], **given),
    }
    answers = ask(questions, SECONDS + 1)
    told = {name: [dict(_plain(one)) for one in answer.get("value", [])] for name, answer in answers.items()}
    return {
        "address": address,
        "nodes": [_node(one) for one in told["nodes"]],
        "jobs": {one["job_id"]: _job(one) for one in told["jobs"] if one["job_id"]},
        "groups": [_group(one) for one in told["groups"] if one["state"] != "REMOVED"],
        "actors": [_held(one, one["class_name"], one["pid"]) for one in told["actors"]],
        "tasks": [_held(one, one["name"], one["worker_pid"]) for one in _tasks(told["running"] + told["waiting"])],
        "deaths": [_death(one) for one in told["workers"]],
        "errors": {name: answer["error"] for name, answer in answers.items() if "error" in answer},
    }


def _plain(one: Any) -> Json:
    return one if isinstance(one, dict) else dict(vars(one))


def _node(one: Json) -> Json:
    """Describe a node; `why` is set once it is dead."""
    name = f"{one['node_ip']} ({one['node_id'][:6]})"
    kept = {key: value for key, value in one["resources_total"].items() if _counts(key)}
    alive = one["state"] == "ALIVE"
    return {
        "id": one["node_id"],
        "name": name,
        "alive": alive,
        "why": "" if alive else (one.get("state_message") or "no reason given"),
        "resources": kept,
        "time": (one.get("end_time_ms") or 0) / 1000,
    }


def _job(one: Json) -> Json:
    pid = _PID.search(str(one.get("driver_info") or ""))
    command, *rest = str(one.get("entrypoint") or "").split() or [one["job_id"]]
    entry = " ".join([command.rpartition("/")[2], *rest])
    name = one.get("submission_id") or (f"{entry[:40]}..." if len(entry) > 40 else entry)
    return {"name": name, "submission": one.get("submission_id") or "", "pid": int(pid[1]) if pid else 0}


def _group(one: Json) -> Json:
    bundles = [
        {"needs": bundle["unit_resources"], "node": bundle.get("node_id") or ""} for bundle in one["bundles"] or []
    ]
    state = (one.get("stats") or {}).get("scheduling_state", "")
    return {"job": one["creator_job_id"], "state": one["state"], "feasible": state != "INFEASIBLE", "bundles": bundles}


def _tasks(found: Sequence[Json]) -> list[Json]:
    """Give the tasks that ask for resources of their own, which those of actors do not."""
    return [one for one in found if one["type"] == "NORMAL_TASK"]


def _held(one: Json, name: str, pid: int | None) -> Json:
    return {
        "job": one["job_id"],
        "name": name,
        "state": one["state"],
        "needs": one.get("required_resources") or {},
        "node": one.get("node_id") or "",
        "pid": pid or 0,
        "grouped": bool(one.get("placement_group_id")),
        "death": _cause(one.get("death_cause") or {}),
    }


def _cause(cause: Json) -> str:
    """Give in words why an actor died: the message that lies deepest."""
    inner = next((value for value in cause.values() if isinstance(value, dict)), {})
    return str(inner.get("error_message") or "").strip()


def _death(one: Json) -> Json:
    return {
        "kind": one.get("exit_type") or "",
        "text": one.get("exit_detail") or "",
        "node": one.get("node_id") or "",
        "pid": one.get("pid") or 0,
        "time": (one.get("end_time_ms") or 0) / 1000,
    }


def _counts(name: str) -> bool:
    return not name.startswith("node:")
