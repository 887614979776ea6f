"""Digest the code that a result depends on, so that a record is made again when that code changes, and only then.

`code_digest` covers modules and what they import, directly or not, inside fmray and in the user's own modules, as
syntax trees without docstrings and comments. A new file, an edited docstring or a change in a module that a job does
not use leaves every record as it is; a changed constant in a step makes what used that step again.
"""

import ast
import functools
import gc
import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fmray.errors import SpecError
from fmray.registry import file_of_module

PACKAGE = "fmray"
ROOT = Path(__file__).resolve().parents[1]
COMMON = ("catalogue", "errors", "printable", "registry", "spec", "store")
"""Parts of fmray that read a job and keep records; what a job asks for is in every fingerprint by its values."""
DECIDING = ("fmray.spec.ranges",)
"""Modules in those parts that decide a result nevertheless: which values a search tries."""


@dataclass(frozen=True)
class Module:
    """Hold what a digest needs of one source file.

    Args:
        digest: Of its syntax tree without docstrings.
        imports: Dotted names that it imports, anywhere in the file; of `from a import b` both `a` and `a.b`.
    """

    digest: str
    imports: tuple[str, ...]


def code_digest(*modules: str) -> str:
    """Give a digest of modules and of everything they import inside fmray and among the user's own modules.

    Installed packages of others do not count, unless a module of theirs is given: then all files of its package do, to
    the byte. Code is read once per process, as Python reads it.

    Args:
        modules: Dotted names.

    Raises:
        SpecError: If there is no such module, or its source is not Python.
    """
    # by file, as two jobs may each have a module of that name beside them
    return _digest(tuple((name, _file_of(name, is_required=True)) for name in sorted(set(modules))))


@functools.cache
def _digest(entries: tuple[tuple[str, Path | None], ...]) -> str:
    installed = {name.partition(".")[0] for name, file in entries if file is not None and _is_installed(file)}
    digest = hashlib.blake2b(digest_size=16)
    with _without_garbage_collection():
        for name, module in sorted(_closure([name for name, _ in entries]).items()):
            digest.update(f"{name}\0{module.digest}\0".encode())
    for top in sorted(installed):  # following what they import might lead through thousands of files
        digest.update(f"{top}\0{source_digest(top)}\0".encode())
    return digest.hexdigest()


@functools.cache
def source_digest(*packages: str) -> str:
    """Give a digest of all Python files of modules and packages, by dotted name, as they are to the byte.

    Raises:
        SpecError: If there is no such module.
    """
    digest = hashlib.blake2b(digest_size=16)
    for package in sorted(packages):
        try:
            file = file_of_module(package)
        except ModuleNotFoundError:
            file = None
        if file is None:
            raise SpecError(f"no module {package!r}. Give a dotted name such as 'fmray.data'.", "source_digest")
        digest.update(_sources(package, file))
    return digest.hexdigest()


def module_digest(package: str, file: Path) -> str:
    """Give the digest of one module or package as `source_digest` does, read from where it lies now."""
    return hashlib.blake2b(_sources(package, file), digest_size=16).hexdigest()


def with_imported(modules: Iterable[str]) -> list[str]:
    """Name modules of the user and all that they import, but for fmray and installed packages."""
    return sorted(name for name in _closure(modules) if not _is_fmray(name))


def _closure(modules: Iterable[str]) -> dict[str, Module]:
    """Find modules and all that they import, but for installed packages of others."""
    found: dict[str, Module] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or (file := _file_of(name)) is None or _is_installed(file):
            continue
        found[name] = module = _read(file, name)
        waiting += module.imports
        if not _is_fmray(name):  # importing a module runs the `__init__` of every package around it
            waiting += _packages_around(name)
    return found


def _file_of(name: str, *, is_required: bool = False) -> Path | None:
    """Find the source of a module; None for one that has none, or does not count."""
    if _is_fmray(name):
        return _file_of_fmray(name)
    try:
        file = file_of_module(name)
    except ModuleNotFoundError as error:  # `from a import b` may mean a name in a
        if is_required:
            raise SpecError(f"no module '{name}'. Put its folder on PYTHONPATH, or beside the job file.") from error
        return None
    return file if file is not None and file.suffix == ".py" else None


def _is_fmray(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE


def _file_of_fmray(name: str) -> Path | None:
    _, *inside = name.split(".")
    if inside and inside[0] in COMMON and name not in DECIDING:
        return None
    place = ROOT.joinpath(*inside)
    if inside and (file := place.with_name(f"{place.name}.py")).is_file():
        return file
    # a package of fmray itself only repeats names of its modules, which are imported from where they are defined
    return None


def _is_installed(file: Path) -> bool:
    """Tell whether a file belongs to Python or to an installed package of others."""
    if file.is_relative_to(ROOT):
        return False
    return any(file.resolve().is_relative_to(home) for home in _homes())


@functools.cache
def _homes() -> frozenset[Path]:
    paths = sysconfig.get_paths()
    return frozenset(Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def _packages_around(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


@functools.cache
def _read(file: Path, name: str) -> Module:
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        raise SpecError(f"{file} is not Python: {error}.") from error
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imports = [imported for statement in _statements(tree) for imported in _imported(statement, package)]
    text = ast.dump(tree)  # positions are left out
    return Module(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), tuple(sorted(set(imports))))


def _statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Give every statement of a tree, and take docstrings and other texts that stand alone out of it."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        block = getattr(tree, name, None)
        if not isinstance(block, list):  # of a lambda or a conditional expression
            continue
        block[:] = [node for node in block if not _is_text(node)]
        for node in block:
            if isinstance(node, ast.stmt):
                yield node
            yield from _statements(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imported(statement: ast.stmt, package: str) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        around = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
        base = ".".join([*around, *([statement.module] if statement.module else [])])
        yield base
        yield from (f"{base}.{alias.name}" for alias in statement.names if alias.name != "*")


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Parse without collecting: a tree has no garbage, and looking for it takes as long as parsing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _sources(package: str, file: Path) -> bytes:
    """Give what a digest of a module covers: the name, size and text of each of its Python files."""
    folder = file.parent
    found = []
    for path in sorted(folder.rglob("*.py")) if file.name == "__init__.py" else [file]:
        source = path.read_bytes()
        found.append(f"{package}\0{path.relative_to(folder).as_posix()}\0{len(source)}\0".encode() + source)
    return b"".join(found)
