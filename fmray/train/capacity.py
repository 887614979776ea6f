"""Say how many workers a cluster holds, what each reserves of it, and how rows reach them."""

import os
from collections import Counter
from collections.abc import Sequence

from fmray.data.session import living_nodes, session
from fmray.errors import ClusterError
from fmray.events import Note, Report
from fmray.records import Json
from fmray.spec.sections import RunOptions
from fmray.train.stream import READ_CPUS

LEAST_CPUS = 0.25
"""Least share of a core that a worker can live on."""
MOST_STREAMS = 16
"""Workers up to which each reads through Ray Data of its own; beyond, lanes on a disk that all see are mapped."""
SMALL_BYTES = 64 << 20
"""Lanes up to this size are mapped: to start a stream takes longer than to read them."""


def num_workers(run: RunOptions) -> tuple[int | tuple[int, int], str]:
    """Give the number of workers a job asks for, 0 for this process, and the rule behind it."""
    if run.workers != "auto":
        asked = run.workers if isinstance(run.workers, int) else (run.workers[0], run.workers[1])
        return asked, f"run.workers: {run.workers}"
    if not os.environ.get("RAY_ADDRESS"):
        return 0, "no cluster address, so in this process"
    with session():
        return auto_workers(living_nodes(), run.gpu)


def auto_workers(nodes: Sequence[Json], gpu: object) -> tuple[int, str]:
    """Give the number of workers for a cluster where the job does not say, and the rule behind it."""
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus and gpu is not False:
        return gpus, f"one per GPU of the cluster, {gpus} in all"
    return len(nodes), f"one per node of the cluster, {len(nodes)} in all"


def require_room(workers: int | tuple[int, int], gpu: object) -> None:
    """Refuse workers that do not fit the cluster, before any work is done for them.

    Raises:
        ClusterError: Naming how many fit.
    """
    if workers != 0:
        with session():
            room(living_nodes(), workers, gpu)


def cpu_share(node_cpus: Sequence[float], workers: int) -> float:
    """Give the cores each worker can have, so that one read task of Ray Data always finds room as well.

    Without that room the job would hang and say nothing: workers wait for rows, and reading waits for a core.

    Raises:
        ClusterError: If workers would get too little, naming how many fit.
    """
    cpus = sorted(node_cpus, reverse=True)
    free = [cpus[0] - READ_CPUS, *cpus[1:]]
    options = {int(100 * node / part) / 100 for node in free for part in range(1, workers + 1) if node > 0}
    fits = [share for share in options if share and sum(int(node / share + 1e-9) for node in free) >= workers]
    if not fits or max(fits) < LEAST_CPUS:
        most = sum(int(node / LEAST_CPUS) for node in free)
        change = f"Set run.workers: {most}" if most else "Set run.workers: 0"
        raise ClusterError(
            f"{workers} workers do not fit {sum(cpus):g} CPUs on {len(cpus)} nodes: each takes {LEAST_CPUS} at least, "
            f"and reading {READ_CPUS}. {change}, or add nodes.",
            "run.workers",
        )
    return max(fits)


def resources(nodes: Sequence[Json], workers: int, gpu: object) -> Json:
    """Give what each worker reserves of a cluster.

    Args:
        nodes: Resources of each living node, as Ray names them.
        gpu: The job's `run.gpu`.

    Raises:
        ClusterError: If the workers do not fit.
    """
    share = cpu_share([float(node.get("CPU", 0)) for node in nodes], workers)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpu is False or (gpu == "auto" and not gpus):
        return {"CPU": share}
    if workers > gpus:
        change = f"Set run.workers: {gpus}" if gpus else "Set run.gpu: false"
        raise ClusterError(f"{workers} workers want a GPU each, the cluster has {gpus}. {change}.", "run.gpu")
    return {"CPU": share, "GPU": 1}


def elastic_share(node_cpus: Sequence[float], fewest: int, most: int) -> tuple[int, float]:
    """Give how many workers fit, and the cores of each, where Ray Train starts as many as there is room for.

    It counts the shares that go into each node, without a thought for reading, and any node may be the one that is
    left: the share is one that leaves room for a read task on every node, however many workers Ray puts there.

    Raises:
        ClusterError: If not even the fewest fit.
    """
    nodes = Counter(node_cpus)
    options = {int(100 * (cpus - READ_CPUS) / part) / 100 for cpus in nodes for part in range(1, most + 1)}
    fits = [(0, 0.0)]
    for share in (share for share in options if share >= LEAST_CPUS):
        own = {cpus: int(cpus / share + 1e-9) for cpus in nodes}
        if all(number * share + READ_CPUS <= cpus + 1e-9 for cpus, number in own.items() if number):
            fits.append((min(sum(number * nodes[cpus] for cpus, number in own.items()), most), share))
    number, share = max(fits)
    if number < fewest:
        change = f"Set run.workers: [{min(number, fewest)}, {most}]" if number else "Set run.workers: 0"
        raise ClusterError(
            f"{fewest} to {most} workers do not fit {sum(node_cpus):g} CPUs on {len(node_cpus)} nodes: each takes "
            f"{LEAST_CPUS} at least, and reading {READ_CPUS} on each node. {change}, or add nodes.",
            "run.workers",
        )
    return number, share


def room(nodes: Sequence[Json], workers: int | tuple[int, int], gpu: object) -> tuple[int, Json]:
    """Give how many workers fit a cluster, and what each reserves; see `resources`.

    Raises:
        ClusterError: If not even the fewest fit.
    """
    if isinstance(workers, int):
        return workers, resources(nodes, workers, gpu)
    number, share = elastic_share([float(node.get("CPU", 0)) for node in nodes], *workers)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    on_gpu = "GPU" in resources(nodes, workers[0], gpu)
    return (min(number, gpus), {"CPU": share, "GPU": 1}) if on_gpu else (number, {"CPU": share})


def maps_lanes(asked: str, at_hand: bool, num_bytes: int, num_workers: int) -> tuple[bool, str]:
    """Say whether workers map the lanes rather than stream them, and by which rule."""
    if asked != "auto":
        return asked == "map", f"run.ingest: {asked}"
    if not at_hand:
        return False, "they do not lie on a disk at hand"
    if num_bytes <= SMALL_BYTES:
        return True, f"up to {SMALL_BYTES >> 20} MB are"
    if num_workers > MOST_STREAMS:
        return True, f"{num_workers} workers would start as many streams, {MOST_STREAMS} are the most"
    return False, f"over {SMALL_BYTES >> 20} MB are"


class Lookout:
    """Say so where workers no longer fit the cluster, since Ray Train waits for a node without a word.

    Args:
        fewest: How many workers have to fit.
        needed: What each reserves.
        report: Gets a note once per absence.
    """

    def __init__(self, fewest: int, needed: Json, report: Report) -> None:
        self._fewest = fewest
        self._needed = needed
        self._report = report
        self._fit = fewest

    def look(self) -> None:
        """Compare the nodes that live now with what the workers need."""
        fit = num_fitting(living_nodes(), self._needed)
        if fit < self._fewest and fit != self._fit:
            text = f"training waits for a node: {fit} of {self._fewest} workers fit those that live"
            self._report(Note(f"{text}, each with {self._needed}", about="node"))
        self._fit = fit


def num_fitting(nodes: Sequence[Json], needed: Json) -> int:
    """Count the workers that fit nodes, each of them reserving what is needed."""
    return sum(min(int(node.get(name, 0) / part + 1e-9) for name, part in needed.items()) for node in nodes)
