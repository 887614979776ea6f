"""Run functions concurrently in threads of this process; results are the same as one after the other.

Work that releases the GIL, such as kernels of torch, gains from it. The first exception cancels the others.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")


def run_concurrently(
    calls: Sequence[Callable[[], Result]], max_workers: int, stop: Callable[[], None] = lambda: None
) -> list[Result]:
    """Return the results of all calls, in order; at most `max_workers` run at a time.

    Args:
        stop: Called when a call fails or the caller is interrupted; makes running calls raise `CancelledError` soon.

    Raises:
        BaseException: The exception of a call; if several failed at once, one of them.
    """
    if max_workers == 1:
        return [call() for call in calls]
    with ThreadPoolExecutor(max_workers, thread_name_prefix="fmray-pack") as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            stop()
            raise
    return [future.result() for future in futures]
