"""Say which resources a run waits for on its cluster: what no node can hold, and what others hold now."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from fmray.records import Json
from fmray.train.room import num_fitting
from fmray.why.evidence import Evidence
from fmray.why.finding import FREE_CPUS, Finding, shorten, spell_names, spell_needs

WAITING = ("PENDING", "RESCHEDULING", "PENDING_CREATION", "RESTARTING", "PENDING_NODE_ASSIGNMENT")
READING = ("Read", "_read_item")
Needs = Mapping[str, float]


def own_jobs(evidence: Evidence) -> set[str]:
    """Give the ids under which the cluster knows the run; none if it cannot be told."""
    jobs, own = evidence.cluster.get("jobs", {}), set()
    for line in evidence.of("driver"):  # another cluster at the same address counts its jobs from 1 as well
        name, pids = str((line["ray"] or {}).get("job", "")), {0, *(place["pid"] for place in line["places"] or [])}
        own |= {name} if name in jobs and jobs[name]["pid"] in pids else set()
    submission = evidence.attempt.get("submission_id")
    return own | {name for name, job in jobs.items() if submission and job["submission"] == submission}


def missing_room(evidence: Evidence) -> Iterator[Finding]:
    """Name what waits for resources, the infeasible first."""
    cluster, own = evidence.cluster, own_jobs(evidence)
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
    most, total = max(have), sum(have)
    if not total:
        return f"{value * count:g} {name} asked, no node has one"
    if most < value:
        return f"{value:g} {name} asked on one node, the largest has {most:g}"
    return f"{value * count:g} {name} asked, {total:g} are there on {len(nodes)} nodes" if total < value * count else ""


def _taken(asked: Json, nodes: Sequence[Json], evidence: Evidence) -> Finding:
    (needs, count), *_ = _counted(asked["bundles"]).items()
    held, own = _held(evidence.cluster), own_jobs(evidence)
    scarce = max((name for name, _ in needs), key=lambda name: _share_taken(name, held, nodes))
    total = sum(float(node["resources"].get(scarce, 0)) for node in nodes)
    amounts = {job: needs.get(scarce, 0.0) for job, needs in held.items() if needs.get(scarce)}
    others = {job: value for job, value in amounts.items() if job not in own}
    who = [
        f"{evidence.cluster['jobs'].get(job, {}).get('name') or job} ({value:g})"
        for job, value in sorted(others.items(), key=lambda item: -item[1])
    ]
    names = spell_names(who[:3]) or "other work"
    all_of = "all" if sum(amounts.values()) >= total else f"{sum(amounts.values()):g} of {total:g}"
    seen = [
        ("asked", f"{_who(asked)} of this run: {spell_needs(dict(needs), count)}"),
        *(
            (f"job {job}", f"{evidence.cluster['jobs'].get(job, {}).get('name') or '?'} holds {spell_needs(needs)}")
            for job, needs in held.items()
        ),
        *_sizes(nodes),
    ]
    ids = [evidence.cluster["jobs"].get(job, {}).get("submission") for job in others]
    stop = next(
        (f"`fmray stop {name}`" if name.startswith("fmray-") else f"`ray job stop {name}`" for name in ids if name),
        "the process that runs it",
    )
    return Finding(
        "resources taken",
        f"it waits for {spell_needs(dict(needs), count)}: {all_of} {scarce}s are taken by {names}",
        (*seen, _told_by(evidence)),
        f"Wait until that ends or stop it ({stop}); or ask for fewer run.workers",
    )


def _starved(reading: Sequence[Json], nodes: Sequence[Json], evidence: Evidence) -> Finding:
    held = _held(evidence.cluster)
    total = sum(float(node["resources"].get("CPU", 0)) for node in nodes)
    taken = sum(needs.get("CPU", 0.0) for needs in held.values())
    jobs = evidence.cluster["jobs"]
    seen = [
        ("waiting", f"{len(reading)} read tasks, each for {spell_needs(reading[0]['bundles'][0])}"),
        *(
            (f"job {job}", f"{jobs.get(job, {}).get('name') or '?'} holds {spell_needs(needs)}")
            for job, needs in held.items()
        ),
    ]
    return Finding(
        "starved ingest",
        f"its workers wait for rows, and reading finds no free CPU: {taken:g} of {total:g} CPUs are taken",
        (*seen, *_sizes(nodes), _told_by(evidence)),
        FREE_CPUS,
    )


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
            held[job][name] += value
    return {
        job: {name: value for name, value in needs.items() if value}
        for job, needs in held.items()
        if any(needs.values())
    }


def _share_taken(name: str, held: Mapping[str, Needs], nodes: Sequence[Json]) -> float:
    total = sum(float(node["resources"].get(name, 0)) for node in nodes)
    return sum(needs.get(name, 0.0) for needs in held.values()) / total if total else 0.0


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
