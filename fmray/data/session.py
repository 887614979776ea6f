"""Hold a running Ray for as long as it is needed, and have it say nothing of its own.

One that is there already, or that `RAY_ADDRESS` names, is used and stays; one that is started here ends with its use.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fmray.errors import ClusterError


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
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (RuntimeError, ConnectionError, OSError) as error:
        raise ClusterError(
            f"Ray does not start: {error}. Set run.workers: 0 and run.prepare: local to do without."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


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
