"""Say which resources a run waits for on its cluster: what no node can hold, and what others hold now."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from fmray.events import Driver
from fmray.records import Json
from fmray.train.capacity import num_fitting
from fmray.why.evidence import Evidence
from fmray.why.finding import FREE_CPUS, NEW_NODE, Finding, shorten, spell_names, spell_needs

WAITING = ("PENDING", "RESCHEDULING", "PENDING_CREATION", "RESTARTING", "PENDING_NODE_ASSIGNMENT")
READING = ("Read", "_read_item")
Needs = Mapping[str, float]


def own_jobs(evidence: Evidence) -> set[str]:
    """Give the ids under which the cluster knows the run; none if it cannot be told."""
    jobs = evidence.cluster.get("jobs", {})
    own = set()
    for seen in evidence.of(Driver):  # another cluster at the same address counts its jobs from 1 as well
        name = str((seen.event.ray or {}).get("job", ""))
        pids = {0, *(place["pid"] for place in seen.event.places)}
        own |= {name} if name in jobs and jobs[name]["pid"] in pids else set()
    submission = evidence.attempt.get("submission_id")
    return own | {name for name, job in jobs.items() if submission and job["submission"] == submission}


def missing_room(evidence: Evidence) -> Iterator[Finding]:
    """Name what waits for resources, the infeasible first."""
    cluster = evidence.cluster
    own = own_jobs(evidence)
    nodes = [node for node in cluster.get("nodes", []) if node["alive"]]
    if not nodes:
        return
    asked = [one for one in _asked(cluster) if one["job"] in own]
    sizes = [node["resources"] for node in nodes]
    hopeless = [one for one in asked if not _fits(sizes, one["bundles"]) or not one["feasible"]]
    for one in hopeless[:1]:
        yield _infeasible(one, nodes, evidence)
    waiting = [one for one in asked if one not in hopeless]
    reading = [one for one in waiting if one["name"].startswith(READING)]
    if not hopeless and waiting:
        yield (
            _starved(reading, nodes, evidence) if len(reading) == len(waiting) else _taken(waiting[0], nodes, evidence)
        )


def dead_nodes(evidence: Evidence) -> list[tuple[str, str]]:
    """Name the nodes that died while the run went on, and of what."""
    since = min((seen.time for seen in evidence.of(Driver)), default=0.0)
    dead = [one for one in evidence.cluster.get("nodes", []) if not one["alive"] and one["time"] >= since]
    return [(f"node {node['name']}", f"is dead: {shorten(node['why'], 160)}") for node in dead[:5]]


def _asked(cluster: Json) -> list[Json]:
    """Give what waits: placement groups with their bundles, and actors and tasks outside them."""
    groups = [
        {
            "job": one["job"],
            "name": "workers",
            "feasible": one["feasible"],
            "bundles": [b["needs"] for b in one["bundles"]],
        }
        for one in cluster["groups"]
        if one["state"] in WAITING
    ]
    single = [
        {"job": one["job"], "name": one["name"], "feasible": True, "bundles": [one["needs"]]}
        for one in [*cluster["actors"], *cluster["tasks"]]
        if one["state"] in WAITING and not one["grouped"] and any(one["needs"].values())
    ]
    return groups + single


def _fits(nodes: Sequence[Json], bundles: Sequence[Needs]) -> bool:
    """Tell whether nodes hold every bundle, each as often as it is asked for, were nothing else there."""
    counts = _counted(bundles)
    return all(num_fitting(nodes, dict(needs)) >= count for needs, count in counts.items())


def _counted(bundles: Sequence[Needs]) -> dict[tuple[tuple[str, float], ...], int]:
    counts: dict[tuple[tuple[str, float], ...], int] = defaultdict(int)
    for needs in bundles:
        counts[tuple(sorted((name, value) for name, value in needs.items() if value))] += 1
    return counts


def _infeasible(asked: Json, nodes: Sequence[Json], evidence: Evidence) -> Finding:
    counts = _counted(asked["bundles"])
    needs, count = next(
        ((n, c) for n, c in counts.items() if num_fitting([o["resources"] for o in nodes], dict(n)) < c),
        next(iter(counts.items())),
    )
    lacking = [_lack(name, value, count, nodes) for name, value in needs]
    reason = next((text for text in lacking if text), f"no node has room for {spell_needs(dict(needs))} at once")
    seen = [("asked", f"{_who(asked)} of this run: {spell_needs(dict(needs), count)}"), *_sizes(nodes)]
    gpu = any(name == "GPU" for name, _ in needs)
    if dead := dead_nodes(evidence):
        cause = f"it waits for a node: {dead[0][0]} died, and without it {reason}"
        return Finding("dead node", cause, (*dead, *seen, _told_by(evidence)), NEW_NODE)
    fix = (
        "Set run.gpu: false, or add nodes with a GPU"
        if gpu and "GPU" in reason
        else "Set a smaller run.workers, or add nodes"
    )
    return Finding(
        "infeasible resources",
        f"it waits for what the cluster does not have: {reason}",
        (*seen, _told_by(evidence)),
        fix,
    )


def _lack(name: str, value: float, count: int, nodes: Sequence[Json]) -> str:
    """Say what of one resource is too little; "" if it is enough."""
    have = [float(node["resources"].get(name, 0)) for node in nodes]
    most = max(have)
    total = sum(have)
    if not total:
        return f"{value * count:g} {name} asked, no node has one"
    if most < value:
        return f"{value:g} {name} asked on one node, the largest has {most:g}"
    return f"{value * count:g} {name} asked, {total:g} are there on {len(nodes)} nodes" if total < value * count else ""


def _taken(asked: Json, nodes: Sequence[Json], evidence: Evidence) -> Finding:
    (needs, count), *_ = _counted(asked["bundles"]).items()
    held = _held(evidence.cluster)
    own = own_jobs(evidence)
    jobs = evidence.cluster["jobs"]
    scarce = max((name for name, _ in needs), key=lambda name: _taken_of(name, held) / (_all_of(name, nodes) or 1.0))
    others = sorted(
        (job for job in held.keys() - own if held[job].get(scarce)), key=lambda job: -held[job].get(scarce, 0.0)
    )
    who = spell_names([f"{_name(job, jobs)} ({held[job][scarce]:g})" for job in others[:3]]) or "this run itself"
    taken = _taken_of(scarce, held)
    total = _all_of(scarce, nodes)
    share = "all" if taken >= total else f"{taken:g} of {total:g}"
    seen = (
        ("asked", f"{_who(asked)} of this run: {spell_needs(dict(needs), count)}"),
        *_holders(held, own, jobs),
        *_sizes(nodes),
        _told_by(evidence),
    )
    cause = f"it waits for {spell_needs(dict(needs), count)}: {share} {scarce}s are taken by {who}"
    stop = f" or stop it ({_stop(jobs.get(others[0], {}))})" if others else ""
    return Finding("resources taken", cause, seen, f"Wait until that ends{stop}; or ask for fewer run.workers")


def _starved(reading: Sequence[Json], nodes: Sequence[Json], evidence: Evidence) -> Finding:
    held = _held(evidence.cluster)
    jobs = evidence.cluster["jobs"]
    taken = f"{_taken_of('CPU', held):g} of {_all_of('CPU', nodes):g} CPUs are taken"
    seen = (
        ("waiting", f"{len(reading)} read tasks, each for {spell_needs(reading[0]['bundles'][0])}"),
        *_holders(held, own_jobs(evidence), jobs),
        *_sizes(nodes),
        _told_by(evidence),
    )
    cause = f"its workers wait for rows, and reading finds no free CPU: {taken}"
    return Finding("starved ingest", cause, seen, FREE_CPUS)


def _holders(held: Mapping[str, Needs], own: set[str], jobs: Json) -> list[tuple[str, str]]:
    return [
        ("this run", f"holds {spell_needs(needs)}")
        if job in own
        else (f"job {job}", f"{_name(job, jobs)} holds {spell_needs(needs)}")
        for job, needs in held.items()
    ]


def _name(job: str, jobs: Json) -> str:
    return str(jobs.get(job, {}).get("name") or f"job {job}")


def _stop(job: Json) -> str:
    """Say how another job is stopped."""
    name = job.get("submission", "")
    if name:
        return f"`fmray stop {name}`" if name.startswith("fmray-") else f"`ray job stop {name}`"
    return f"its process has the id {job['pid']}" if job.get("pid") else "see `ray list actors`"


def _held(cluster: Json) -> dict[str, dict[str, float]]:
    """Give job -> what it holds: bundles that are placed, and actors and tasks outside them."""
    held: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    placed = [(one["job"], bundle["needs"]) for one in cluster["groups"] for bundle in one["bundles"] if bundle["node"]]
    alone = [
        (one["job"], one["needs"])
        for one in [*cluster["actors"], *cluster["tasks"]]
        if one["state"] in ("ALIVE", "RUNNING") and not one["grouped"]
    ]
    for job, needs in placed + alone:
        for name, value in needs.items():
            held[job][name] += 0.0 if name.startswith("node:") else value
    return {
        job: {name: value for name, value in needs.items() if value}
        for job, needs in held.items()
        if any(needs.values())
    }


def _taken_of(name: str, held: Mapping[str, Needs]) -> float:
    return sum(needs.get(name, 0.0) for needs in held.values())


def _all_of(name: str, nodes: Sequence[Json]) -> float:
    return sum(float(node["resources"].get(name, 0)) for node in nodes)


def _who(asked: Json) -> str:
    return "the workers" if asked["name"] == "workers" else shorten(asked["name"], 60)


def _sizes(nodes: Sequence[Json]) -> list[tuple[str, str]]:
    shown = [
        (
            f"node {node['name']}",
            f"has {spell_needs({k: v for k, v in node['resources'].items() if not k.endswith('memory')})}",
        )
        for node in nodes[:8]
    ]
    return shown + ([("nodes", f"and {len(nodes) - 8} more")] if len(nodes) > 8 else [])


def _told_by(evidence: Evidence) -> tuple[str, str]:
    return ("cluster", f"as {evidence.cluster['address']} says")
