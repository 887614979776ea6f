"""Say how many trials train at a time on a cluster, and what each reserves of it."""

from fmray.errors import ClusterError
from fmray.records import Json
from fmray.spec.sections import RunOptions


def resources(nodes: list[Json], slots: int, gpu: object) -> Json:
    """Give what each of so many trials reserves: a GPU where there are any, and as many cores as all can have.

    Raises:
        ClusterError: If they do not fit.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    most = next((k for k in range(max(cpus), 0, -1) if sum(cpu // k for cpu in cpus) >= slots), 0)
    if not most:
        text = f"{slots} trials at a time do not fit {sum(cpus)} CPUs on {len(nodes)} nodes: each takes one at least"
        raise ClusterError(f"{text}. Set run.workers: {sum(cpus)}, or add nodes.", "run.workers")
    if gpu is False or not gpus:
        return {"CPU": most}
    if slots > gpus:
        text = f"{slots} trials at a time want a GPU each, the cluster has {gpus}"
        raise ClusterError(f"{text}. Set run.workers: {gpus}.", "run.gpu")
    return {"CPU": most, "GPU": 1}


def num_slots(nodes: list[Json], run: RunOptions) -> int:
    """Count the trials that train at a time: as the job says, else one per GPU, else one per core."""
    if run.workers != "auto":
        return run.workers if isinstance(run.workers, int) else run.workers[1]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    return gpus if gpus and run.gpu is not False else max(1, sum(int(node.get("CPU", 0)) for node in nodes))
