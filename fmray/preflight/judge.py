"""Name what a cluster lacks for a job, from what its nodes saw, and what to change.

Pure: it sees facts as `probe.explore` gives them, so every verdict can be had without a cluster.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from fmray.errors import ClusterError
from fmray.preflight.needs import Needs
from fmray.records import Json
from fmray.store import redact
from fmray.train.capacity import auto_workers, num_fitting, room
from fmray.train.stream import READ_CPUS
from fmray.tune.slots import num_slots
from fmray.tune.slots import resources as trial_resources

EVERYWHERE = "all nodes"
BAD_INPUT = ("storage", "data", "disk")
"""Probes whose failures say that the job asks for something else than the cluster has; no other try will help."""
PARQUET_END = b"PAR1".hex()


@dataclass(frozen=True)
class Obstacle:
    """Say what one look found wrong.

    Args:
        probe: "node", "versions", "workers", "gpu", "cpus", "storage", "disk", "data" or "collective".
        node: Where.
        found: What is there, in words.
        fix: What to change.
        passes: It will be over by itself, and the run waits for that.
    """

    probe: str
    node: str
    found: str
    fix: str
    passes: bool = False

    def __str__(self) -> str:
        return f"{self.probe}, {self.node}: {self.found}. {self.fix}."

    def to_json(self) -> Json:
        """Give the record as plain values, without secrets."""
        return redact(asdict(self))

    @property
    def is_bad_input(self) -> bool:
        """Tell a job that asks for the wrong thing from a cluster that is not as it should be."""
        return self.probe in BAD_INPUT


def judge(facts: Json, needs: Needs) -> tuple[Obstacle, ...]:
    """Give what stands in the way of a job, the most basic first.

    Args:
        facts: {"nodes": [{"id", "name", "head", "resources", "available"}], "holders": [{"who", "CPU", "GPU"}],
            "answers": {look: {id: {"value"} or {"error"}}}}; a node that gave no answer to "versions" was asked
            nothing else.
    """
    names = {node["id"]: node["name"] for node in facts["nodes"]}
    silent = {name: answer for name, answer in facts["answers"]["versions"].items() if "error" in answer}
    look_at = "Look at it with `ray status`, or leave it out"
    failures = [
        Obstacle("node", names[name], f"no answer: {answer['error']}", look_at) for name, answer in silent.items()
    ]
    looks = {**facts["answers"], "versions": {n: a for n, a in facts["answers"]["versions"].items() if n not in silent}}
    failures += _versions(looks["versions"], names, needs)
    failures += _room([node for node in facts["nodes"] if node["resources"].get("CPU")], facts["holders"], needs)
    failures += _storage(looks, names, needs)
    failures += _disks(looks["disks"], names, needs)
    failures += _data(looks["data"], names, needs)
    failures += _collective(looks, names)
    return tuple(failures)


def _versions(answers: Mapping[str, Json], names: Mapping[str, str], needs: Needs) -> Iterator[Obstacle]:
    values = {name: answer["value"] for name, answer in answers.items()}
    for package in ("python", "ray", "torch", *(["fmray"] if needs.source else [])):
        held = _by_value({name: value[package] for name, value in values.items()}, names)
        also = ", or submit with --with-fmray" if package == "fmray" else ""
        said = [f"{_short(package, version)} on {where}" for version, where in held.items()]
        if "missing" in held:
            yield Obstacle("versions", held["missing"], f"{package} is not installed", f"Install it{also}")
        elif len(held) > 1:
            yield Obstacle(
                "versions", EVERYWHERE, f"{package} differs: {'; '.join(said)}", f"Start all from one image{also}"
            )
        elif package == "fmray" and held and needs.source not in held:
            found = f"fmray differs: {said[0]}; {_short(package, needs.source)} here"
            yield Obstacle("versions", EVERYWHERE, found, f"Install the same on both{also}")
    for name, value in values.items():
        for module in value["missing"]:
            fix = "Put it beside the job file, where it is sent along, or install it on every node"
            yield Obstacle("versions", names[name], f"there is no module '{module}'", fix)


def _short(package: str, version: str) -> str:
    return f"source {version[:8]}" if package == "fmray" else version


def _by_value(values: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Give value -> names of the nodes that have it, that of most nodes first."""
    held: dict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        held[value].append(names[name])
    return {value: ", ".join(nodes) for value, nodes in sorted(held.items(), key=lambda item: -len(item[1]))}


def _room(nodes: Sequence[Json], holders: Sequence[Json], needs: Needs) -> Iterator[Obstacle]:
    """Compare what workers will reserve with what the nodes have, and with what is free of it."""
    all_of = [node["resources"] for node in nodes]
    free = [node["available"] for node in nodes]
    try:
        workers, needed, reading = _reservation(all_of, needs)
    except ClusterError as error:
        found, _, fix = error.message.rstrip(".").rpartition(". ")
        yield Obstacle(error.where.removeprefix("run."), EVERYWHERE, found, fix)
        return
    if not workers:
        return
    left = sorted(free, key=lambda node: -float(node.get("CPU", 0)))
    left[0] = {**left[0], "CPU": float(left[0].get("CPU", 0)) - reading}
    fit = max(0, num_fitting(left, needed))
    if fit < workers:
        yield Obstacle(
            "cpus",
            EVERYWHERE,
            *_taken(all_of, free, holders=holders, needed=needed, fit=fit, workers=workers),
            passes=True,
        )


def _taken(
    all_of: Sequence[Json], free: Sequence[Json], holders: Sequence[Json], needed: Json, fit: int, workers: int
) -> tuple[str, str]:
    """Say what is taken and by whom, and what can be done beside waiting."""
    counts = {name: [sum(float(node.get(name, 0)) for node in held) for held in (all_of, free)] for name in needed}
    taken = " and ".join(f"{total - left:g} of {total:g} {name}s" for name, (total, left) in counts.items())
    parts = ((holder, [f"{holder[name]:g} {name}" for name in needed if holder.get(name)]) for holder in holders)
    named = "; ".join(f"{' and '.join(held)} by {redact(holder['who'])}" for holder, held in parts if held)
    found = f"{taken} are taken by other work{f' ({named})' if named else ''}, "
    found += f"which leaves room for {fit} of {workers} workers with {needed} each"
    fix = "The run waits for them; to have it start now, stop what holds them (`fmray stop ID`)"
    return found, fix + (f", or set run.workers: {fit}" if fit else "")


def _reservation(nodes: Sequence[Json], needs: Needs) -> tuple[int, Json, float]:
    """Give how many workers a run will ask for at least, what each reserves, and the share that reads."""
    run = needs.run
    if needs.searched:
        if run.workers == 0:
            return 0, {}, 0.0
        # trials beyond those that find room wait for their turn
        return 1, trial_resources(list(nodes), num_slots(list(nodes), run), run.gpu), 0.0
    asked = auto_workers(nodes, run.gpu)[0] if run.workers == "auto" else run.workers
    if asked == 0:
        return 0, {}, 0.0
    fewest = asked if isinstance(asked, int) else asked[0]
    return fewest, room(nodes, asked, run.gpu)[1], READ_CPUS


def _storage(looks: Mapping[str, Json], names: Mapping[str, str], needs: Needs) -> Iterator[Obstacle]:
    store = redact(needs.store)
    share = f"Name a store that every node sees, on a shared mount or at a URI such as s3://bucket/prefix, not {store}"
    for name, answer in looks["write"].items():
        if "error" in answer:
            found = f"it cannot write to {store}: {answer['error']}"
            fix = "Give every node the right to write there, or name another store"
            yield Obstacle("storage", names[name], found, fix)
        elif answer["value"]:
            yield Obstacle("storage", names[name], "it does not read back what it wrote there itself", share)
    written = {name for name, answer in looks["write"].items() if answer == {"value": []}}
    for name, answer in looks["read"].items():
        if "error" in answer and name in written:
            yield Obstacle("storage", names[name], f"it cannot read {store}: {answer['error']}", share)
        elif lost := [names[other] for other in answer.get("value", []) if other in written]:
            yield Obstacle("storage", names[name], f"it does not see what {', '.join(lost)} wrote to the store", share)


def _disks(answers: Mapping[str, Json], names: Mapping[str, str], needs: Needs) -> Iterator[Obstacle]:
    for name, answer in answers.items():
        disk = answer.get("value", {})
        if disk and disk["free"] < needs.free_bytes:
            found = f"{disk['free']:,} bytes are free at {disk['path']}, the run needs {needs.free_bytes:,}"
            yield Obstacle("disk", names[name], found, "Free space (`fmray gc`), or name another store")


def _data(answers: Mapping[str, Json], names: Mapping[str, str], needs: Needs) -> Iterator[Obstacle]:
    fix = f"Put {redact(needs.data)} where every node sees it, or name the place that all see in data.path"
    seen: dict[str, tuple[int, int]] = {}
    for name, answer in answers.items():
        if "error" in answer:
            yield Obstacle("data", names[name], f"it cannot read {redact(needs.data)}: {answer['error']}", fix)
        elif answer["value"]["tail"] != PARQUET_END:
            found = f"{answer['value']['last']} there is no whole Parquet file"
            yield Obstacle("data", names[name], found, "Write it again, or leave it out")
        else:
            seen[name] = (answer["value"]["files"], answer["value"]["bytes"])
    said = {name: f"{files} files with {size:,} bytes" for name, (files, size) in seen.items()}
    held = _by_value(said, names)
    if len(held) > 1:
        found = "; ".join(f"{value} on {where}" for value, where in held.items())
        yield Obstacle("data", EVERYWHERE, f"they see different data: {found}", fix)
    elif held and needs.seen is not None and needs.seen not in seen.values():
        here = f"{needs.seen[0]} files with {needs.seen[1]:,} bytes"
        yield Obstacle("data", EVERYWHERE, f"they see {next(iter(held))}, this machine sees {here}", fix)


def _collective(looks: Mapping[str, Json], names: Mapping[str, str]) -> Iterator[Obstacle]:
    for name, answer in looks["load"].items():
        if "error" in answer:
            fix = "Mend its installation, or start the node on a faster disk"
            yield Obstacle("collective", names[name], f"torch cannot be imported: {answer['error']}", fix)
    met = looks["meet"]
    wrong = {names[name]: answer for name, answer in met.items() if answer.get("value") != len(met)}
    if wrong:
        said = {str(answer.get("error", f"the sum is {answer.get('value')}")) for answer in wrong.values()}
        found = f"{len(met)} nodes could not add up a number together over gloo: {'; '.join(sorted(said))}"
        fix = "Open the ports between the nodes, or set GLOO_SOCKET_IFNAME on each to the network they share"
        yield Obstacle("collective", ", ".join(wrong), found, fix)
