"""Hold a running Ray for as long as it is needed, and pass work items through it or through this process alike.

A Ray that is there already, or that `RAY_ADDRESS` names, is used and stays; one that is started here ends with its use.
"""

import logging
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from fmray.errors import ClusterError, DataError, FmrayError
from fmray.events import Progress, Report
from fmray.records import Json
from fmray.store.fences import guards
from fmray.store.files import is_disk_full

MOST_THREADS = 8


@contextmanager
def session() -> Iterator[None]:
    """Hold a running Ray: one that is there already stays.

    Raises:
        ClusterError: If it does not start.
    """
    import ray  # takes a second, which a small job need not wait

    if ray.is_initialized():
        yield
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            # "local", or Ray would join whatever session was started last on this machine, and die with it
            address = os.environ.get("RAY_ADDRESS") or "local"
            options = {} if address != "local" else {"include_dashboard": False}
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (RuntimeError, ConnectionError, OSError) as error:
        raise ClusterError(
            f"Ray does not start: {error}. Set run.workers: 0 and run.prepare: local to do without."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def where_ray_runs() -> Json:
    """Give the addresses of a Ray that is held, and which of its jobs this is; nothing where there is none."""
    ray = sys.modules.get("ray")  # a job in this process does without
    if ray is None or not ray.is_initialized():
        return {}
    here = ray.get_runtime_context()
    # one that was started for this process alone has an address there as well, and nobody who answers
    board = ray._private.worker.get_dashboard_url() if os.environ.get("RAY_ADDRESS") else ""
    return {"address": here.gcs_address, "dashboard": f"http://{board}" if board else "", "job": here.get_job_id()}


def living_nodes() -> list[Json]:
    """Give the resources, as Ray names them, of each living node that can work."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def run_here(
    report: Report, name: str, function: Callable[..., Any], common: tuple[Any, ...], own: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """Call a function for each work item in threads of this process, and give the results in order.

    Args:
        report: Gets progress.
        name: Of the pass, for people.
        common, own: Arguments for all items, and of each.
    """
    results = []
    pool = ThreadPoolExecutor(min(len(own), os.cpu_count() or 1, MOST_THREADS), thread_name_prefix="fmray-prepare")
    try:
        for result in pool.map(lambda arguments: function(*common, *arguments), own):
            results.append(result)
            report(Progress(name, len(results), len(own)))
    finally:
        pool.shutdown(cancel_futures=True)  # the first error, or Ctrl-C, ends the pass
    return results


def run_over_ray(
    report: Report, name: str, function: Callable[..., Any], common: tuple[Any, ...], own: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """Call a function for each work item in tasks of Ray Data, and give the results in order; see `run_here`.

    Raises:
        ClusterError: If Ray fails.
    """
    import ray.data

    if len(own) == 1:  # not worth half a second of planning
        return run_here(report, name, function=function, common=common, own=own)
    results: list[Any] = []
    # the fences go along: a task writes no more than its driver may
    call = partial(_call, ray.put((function, common, guards())), tuple(sys.path))
    rows = [{"own": ray.cloudpickle.dumps(arguments)} for arguments in own]
    with quiet() as context, ray.data.DataContext.current(context):
        asked = ray.data.from_items(rows, override_num_blocks=len(rows)).map(call, num_cpus=1)
        try:
            for row in asked.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, Exception):
                    raise result
                results.append(result)
                report(Progress(name, len(results), len(own)))
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ClusterError(
                f"Ray failed to {name}: {reason} See the logs of Ray, or do without it: run.prepare: local."
            ) from error
    return results


def _call(common: Any, path: Sequence[str], row: Json) -> Json:
    """Do in a Ray task what is done here otherwise; an error travels as a result, so it arrives as it was raised."""
    import ray

    os.environ["POLARS_MAX_THREADS"] = "1"  # a task has one core; read when Polars first works
    sys.path += [folder for folder in path if folder not in sys.path]  # the user's own modules
    try:
        function, held, _ = ray.get(common)
        result = function(*held, *pickle.loads(row["own"]))
    except Exception as error:
        if is_disk_full(error) and not isinstance(error, FmrayError):
            result = DataError("disk is full: what is written did not fit. Free space or choose another store.")
        else:
            error.add_note(traceback.format_exc())
            result = error
    return {"result": ray.cloudpickle.dumps(result)}


@contextmanager
def quiet() -> Iterator[Any]:
    """Give a context in which Ray Data keeps the order of rows and says nothing."""
    import ray.data

    log = logging.getLogger("ray.data")
    level = log.level
    with warnings.catch_warnings(action="ignore"):
        context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    # What is reserved for an operator is worked out once a second; until then a machine of two cores uses one.
    context.op_resource_reservation_enabled = False
    log.setLevel(logging.ERROR)
    try:
        yield context
    finally:
        log.setLevel(level)


def address_of_node() -> str:
    """Give the address by which other nodes reach this one."""
    import ray

    return str(ray.util.get_node_ip_address())
