"""Decide how many trials run concurrently on a cluster, and which resources each of them reserves."""

from fmray.errors import ClusterError
from fmray.records import Json
from fmray.spec.sections import RunOptions


def resources(nodes: list[Json], slots: int, gpu: object) -> Json:
    """Return what each of `slots` trials reserves: a GPU if there are any, and as many cores as fit.

    Raises:
        ClusterError: If they do not fit.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    cores = next((k for k in range(max(cpus), 0, -1) if sum(cpu // k for cpu in cpus) >= slots), 0)
    if not cores:
        text = f"{slots} concurrent trials do not fit on {sum(cpus)} CPUs (nodes: {len(nodes)}): each needs one"
        raise ClusterError(f"{text}. Set run.workers: {sum(cpus)}, or add nodes.", "run.workers")
    if gpu is False or not gpus:
        return {"CPU": cores}
    if slots > gpus:
        text = f"{slots} concurrent trials need one GPU each, but the cluster has {gpus}"
        raise ClusterError(f"{text}. Set run.workers: {gpus}.", "run.gpu")
    return {"CPU": cores, "GPU": 1}


def num_slots(nodes: list[Json], run: RunOptions) -> int:
    """Return the number of concurrent trials: `run.workers` if given, else one per GPU, else one per core."""
    if run.workers != "auto":
        return run.workers if isinstance(run.workers, int) else run.workers[1]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    return gpus if gpus and run.gpu is not False else max(1, sum(int(node.get("CPU", 0)) for node in nodes))
