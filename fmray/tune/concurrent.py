"""Run functions concurrently in threads of this process; results are those of running one after the other.

Work that releases the GIL, such as kernels of torch, gains from it. The first failure ends all.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")


def run_concurrently(
    pieces: Sequence[Callable[[], Result]], lanes: int, stop: Callable[[], None] = lambda: None
) -> list[Result]:
    """Return the results of all pieces, in order; at most `lanes` run at a time.

    Args:
        stop: Makes pieces that have begun end early, with a `CancelledError`; called when one fails, or the caller is
            interrupted.

    Raises:
        BaseException: What a piece raised; of several that failed at once, any one.
    """
    if lanes == 1:
        return [piece() for piece in pieces]
    with ThreadPoolExecutor(lanes, thread_name_prefix="fmray-pack") as pool:
        futures = [pool.submit(piece) for piece in pieces]
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
