"""Open models of runs again in this process, where a run would start another Python for that."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def reopened_here(hidden: str = "") -> Iterator[Callable[[Path], str]]:
    """Stand for `fmray.inference.fresh.fresh_process`, by the function that a fresh process calls."""

    def reopened(folder: Path) -> str:
        before = list(sys.path)
        from fmray.inference.reopen import reopen

        try:
            reopen(folder)
        except Exception as error:
            return f"it ended with code 1: {type(error).__name__}: {error}"
        finally:
            sys.path[:] = before  # a model's own code is put there
        return ""

    yield reopened
