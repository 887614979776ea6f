"""Turn a name in a job file into the code that answers to it.

Names map to strings ("package.module:attribute"), so that a Ray worker, a laptop and a cron container, which all
start empty, find the same code. A name with a colon is such a path itself: that is how third parties join.
What is found must be what the name stands for: a step is a class of steps, a model a class of networks. Anything else,
such as a function of the operating system, is refused and never called.
"""

import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fmray.errors import SpecError

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES)


def nearest(name: str, known: Iterable[str]) -> str:
    """Ask about the nearest known name, or list them all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(names)}."


@dataclass(frozen=True)
class Kind:
    """Say what the code behind a name must be.

    Args:
        words: The same for people: "a class with the methods fit and apply".
        base: Dotted name of a class that it must derive from, or of which it must be an instance; a string, so that
            nothing is imported to compare with it.
        is_instance: Whether it is an instance of `base` rather than a class.
        has: Attributes that the class must have.
        first: Name of the first parameter of a function; empty where only a class is accepted.
    """

    words: str
    base: str = ""
    is_instance: bool = False
    has: tuple[str, ...] = ()
    first: str = ""

    def accepts(self, found: object) -> bool:
        """Tell whether an object is of this kind, without calling it."""
        if self.first:
            return inspect.isfunction(found) and next(iter(inspect.signature(found).parameters), "") == self.first
        kind = type(found) if self.is_instance else found
        if not isinstance(kind, type):
            return False
        ancestors = {f"{one.__module__}.{one.__qualname__}" for one in kind.__mro__}
        return (not self.base or self.base in ancestors) and all(hasattr(kind, name) for name in self.has)


class Registry:
    """Look up code by the name a job file uses.

    Args:
        noun: What the names stand for, used in messages ("step", "model").
        paths: Name -> "package.module:attribute".
        kind: What a path that is not in `paths` must lead to; None accepts no such path.
        components: Dotted name of the module that declares the parameters of each name, in a class called after it.
    """

    def __init__(self, noun: str, paths: Mapping[str, str], kind: Kind | None = None, components: str = "") -> None:
        self.noun = noun
        self.kind = kind
        self.components = components
        self._paths = dict(paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def is_catalogued(self, name: str) -> bool:
        """Tell whether a name stands for code of fmray, by its short name or its path."""
        return name in self._paths or name in self._paths.values()

    def path(self, name: str) -> str:
        """Give the import path behind a name, without importing it.

        Raises:
            SpecError: If the name is neither known nor a path of its own.
        """
        if name in self._paths:
            return self._paths[name]
        if self.kind is None or ":" not in name:
            raise SpecError(f"unknown {self.noun} '{name}'. {nearest(name, self._paths)}")
        if not PATH.fullmatch(name):
            raise SpecError(f"'{name}' is no path of code. Write package.module:Name.")
        if name.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
            raise SpecError(f"{self.noun} '{name}' is part of Python itself. Accepted: {self.kind.words}.")
        return name

    def params(self, name: str) -> Any:
        """Give the class that declares the parameters of a name of this table: `one_hot` has `OneHot`."""
        declared = importlib.import_module(self.components)
        return getattr(declared, "".join(part.capitalize() for part in name.split("_")))

    def module(self, name: str) -> str:
        """Give the dotted name of the module behind a name, without importing it.

        Raises:
            SpecError: If the name is neither known nor a path of its own.
        """
        return self.path(name).partition(":")[0]

    def find(self, name: str) -> Any:
        """Import and give the code behind a name.

        Raises:
            SpecError: If the name is unknown, its module or attribute cannot be imported, or it is of another kind.
        """
        path = self.path(name)
        module_name, _, attribute = path.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise SpecError(
                f"{self.noun} '{name}' could not be loaded from {path}: {error}. "
                "Install its package or put its folder on PYTHONPATH."
            ) from error
        if not self.is_catalogued(name) and self.kind is not None and not self.kind.accepts(found):
            raise SpecError(f"{self.noun} '{name}' is {type(found).__name__} {found!r}. Accepted: {self.kind.words}.")
        return found

    def build(self, name: str, *given: Any, params: Mapping[str, Any]) -> Any:
        """Call the code behind a name with its parameters.

        Args:
            given: Arguments before the parameters.

        Raises:
            SpecError: If the name is not found, or its parameters do not fit.
        """
        return self.find(name)(*given, **self.arguments(name, params))

    def arguments(self, name: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the keywords to call the code behind a name with: `params`, one declared object, or those of other code.

        Raises:
            SpecError: If the parameters of a name of this table do not fit.
        """
        declared = self.read(name, params)
        if isinstance(declared, Mapping):
            return declared
        return {"params": declared} if "params" in inspect.signature(self.find(name)).parameters else {}

    def read(self, name: str, params: Mapping[str, Any]) -> Any:
        """Give the parameters of a name of this table as their declared object; those of other code as they are.

        Raises:
            SpecError: If they do not fit.
        """
        if name not in self:
            return dict(params)
        declared = self.params(name)
        for parameter, message in declared.problems(params):
            raise SpecError(message, ".".join(filter(None, (self.noun.replace(" ", "_"), name, parameter))))
        return declared(**params)


def file_of_module(module: str, folders: Iterable[str] = ()) -> Path | None:
    """Find the source file of a module; a package's is its `__init__.py`. Nothing is imported, parents neither.

    Args:
        folders: Looked in first, before installed packages.

    Raises:
        ModuleNotFoundError: If there is no such module.
    """
    top, *inside = module.split(".")
    homes = [str(folder) for folder in folders]
    if (found := _source_in(homes, [top, *inside])) is not None:
        return found
    if any(_source_in([home], [top]) or Path(home, top).is_dir() for home in homes):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    try:
        spec = importlib.util.find_spec(top)  # of a top-level name, this imports nothing
    except ValueError:  # of `__main__`
        spec = None
    if spec is None:
        raise ModuleNotFoundError(f"No module named {top!r}", name=module)
    if not inside:
        return Path(spec.origin) if spec.origin and spec.has_location else None
    locations = [str(Path(place).parent) for place in spec.submodule_search_locations or ()]
    found = _source_in(locations, [top, *inside])
    if found is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    return found


def _source_in(homes: Iterable[str], names: list[str]) -> Path | None:
    for home in homes:
        place = Path(home, *names)
        for file in (place / "__init__.py", *(place.with_name(place.name + suffix) for suffix in SUFFIXES)):
            if file.is_file():
                return file
    return None


Trust = bool | frozenset[str]
"""Whose code may run that a model brings or names: anybody's, that of some modules as they lie here, or nobody's."""
_trust: ContextVar[Trust] = ContextVar("_trust", default=False)


def trust_given() -> Trust:
    """Tell whose code the models opened in this context may run."""
    return _trust.get()


@contextmanager
def trusting(trust: Trust) -> Iterator[None]:
    """Let the models that are opened inside the block run code, anybody's or that of some modules."""
    before = _trust.set(trust or _trust.get())
    try:
        yield
    finally:
        _trust.reset(before)


@contextmanager
def importable(folder: str, modules: Iterable[str] = ()) -> Iterator[None]:
    """Let the user's own modules be found beside the job file.

    What was imported from there is unloaded at the end: another job of this process may bring other code of the same
    name, and a notebook may run the same job again after an edit.

    Args:
        modules: Those that the job names: models of its runs may use them, as they lie there.
    """
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        with trusting(frozenset(modules)):
            yield
    finally:
        sys.path.remove(folder)
        beside = {name for name in set(sys.modules) - before if _lies_in(folder, sys.modules[name])}
        for name in [name for name in sys.modules if name.partition(".")[0] in beside]:
            del sys.modules[name]


def _lies_in(folder: str, module: ModuleType) -> bool:
    """Tell whether a module is a file or package directly in a folder; never so of fmray, which may lie there too."""
    file = Path(getattr(module, "__file__", None) or "/")
    home = file.parent.parent if file.name == "__init__.py" else file.parent
    return "." not in module.__name__ and module.__name__ != "fmray" and home == Path(folder).absolute()
