"""Turn a name in a job file into the code that answers to it.

Names map to strings ("package.module:attribute"), so that a Ray worker, a laptop and a cron container, which all
start empty, find the same code. A name with a colon is such a path itself: that is how third parties join.
"""

import difflib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fmray.errors import SpecError


def nearest(name: str, known: Iterable[str]) -> str:
    """Ask about the nearest known name, or list them all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(names)}."


class Registry:
    """Look up code by the name a job file uses.

    Args:
        noun: What the names stand for, used in messages ("step", "model").
        paths: Name -> "package.module:attribute".
    """

    def __init__(self, noun: str, paths: Mapping[str, str]) -> None:
        self.noun = noun
        self._paths = dict(paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def path(self, name: str) -> str:
        """Give the import path behind a name, without importing it.

        Raises:
            SpecError: If the name is neither known nor a path of its own.
        """
        if ":" in name:
            return name
        if name not in self._paths:
            raise SpecError(f"unknown {self.noun} '{name}'. {nearest(name, self._paths)}")
        return self._paths[name]

    def find(self, name: str) -> Any:
        """Import and give the code behind a name.

        Raises:
            SpecError: If the name is unknown, or its module or attribute cannot be imported.
        """
        path = self.path(name)
        module_name, _, attribute = path.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise SpecError(
                f"{self.noun} '{name}' could not be loaded from {path}: {error}. "
                "Install its package or put its folder on PYTHONPATH."
            ) from error


@contextmanager
def importable(folder: str) -> Iterator[None]:
    """Let the user's own modules be found beside the job file."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
