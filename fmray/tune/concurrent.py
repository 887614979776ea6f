"""Do pieces of work side by side in threads of this process, each as it would be done alone.

What computes outside Python's lock gains: kernels of torch do. The first piece that fails ends all.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")


def run_concurrently(
    pieces: Sequence[Callable[[], Result]], lanes: int, stop: Callable[[], None] = lambda: None
) -> list[Result]:
    """Give what each piece gave, in their order; at most so many are done at a time.

    Args:
        stop: Makes pieces that have begun end early, with a `CancelledError`; called when one fails, or the caller is
            interrupted.

    Raises:
        BaseException: What the first piece that failed raised.
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
