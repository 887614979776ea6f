"""Read from source which parameters code takes and what fits them, without importing it.

So a job is checked in a second: the classes it names import torch, reading their source does not.
"""

import ast
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fmray.errors import SpecError
from fmray.registry import Kind, nearest

Params = Mapping[str, str]
"""Parameter -> its annotation, as written; empty where there is none."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "int": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": ("a number", _is_number),
    "str": ("text", lambda value: isinstance(value, str)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "None": ("null", lambda value: value is None),
    "Sequence": ("a list", lambda value: isinstance(value, list | tuple)),
    "Mapping": ("a map", lambda value: isinstance(value, Mapping)),
}


def source_of(module: str, folder: str) -> Path | None:
    """Find the file of a module beside a job or installed; None if it has no source to read.

    Raises:
        SpecError: If there is no such module.
    """
    inside = Path(*module.split("."))
    top = module.partition(".")[0]
    found = importlib.util.find_spec(top)
    homes = [] if found is None else [str(Path(home).parent) for home in found.submodule_search_locations or ()]
    for place in (folder, *sys.path, *homes):  # an editable installation is on no path
        for file in (Path(place, inside).with_suffix(".py"), Path(place, inside, "__init__.py")):
            if file.is_file():
                return file
    if Path(folder, top).is_dir() or found is None:
        raise SpecError(f"module '{module}' is neither beside the job file nor installed. Check its name.")
    return None


def params_of(file: Path, attribute: str, skipped: Sequence[str]) -> Params | None:
    """Give the parameters of a class or function; None where the source does not settle them.

    Raises:
        SpecError: If the file does not define the name.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SpecError(f"{file.name} is not Python: {error}. Mend it.") from error
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            settled = not node.bases or all(isinstance(b, ast.Name) and b.id == "Protocol" for b in node.bases)
            return _arguments(inits[0], skipped) if inits else {} if settled else None
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            return _arguments(node, skipped)
    names = _names(tree)
    if attribute not in names and "*" not in names:
        raise SpecError(f"{file.name} has no '{attribute}'. {nearest(attribute, names)}")
    return None


def refuse_other_kind(file: Path, attribute: str, kind: Kind) -> None:
    """Refuse a name that the source shows to be something else, without running it; what it leaves open passes.

    Raises:
        SpecError: If it is a function where a class is needed, or the other way round.
    """
    wanted: type[ast.stmt] = ast.FunctionDef if kind.first else ast.ClassDef
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name != attribute or kind.is_instance:
            continue
        if not isinstance(node, wanted):
            what = "function" if isinstance(node, ast.FunctionDef) else "class"
            raise SpecError(f"'{attribute}' in {file.name} is a {what}. Accepted: {kind.words}.")


def packable_of(file: Path, attribute: str) -> tuple[str, ...]:
    """Give the parameters of a class that may differ between members of one pack, as its `packable` says."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    while attribute in classes:
        for node in classes[attribute].body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "packable" and node.value is not None:
                return tuple(ast.literal_eval(node.value))
        bases = [ast.unparse(base) for base in classes[attribute].bases]
        attribute = next((base for base in bases if base in classes), "")
    return ()


def _arguments(node: ast.FunctionDef, skipped: Sequence[str]) -> Params | None:
    if node.args.kwarg is not None:
        return None
    return {
        argument.arg: ast.unparse(argument.annotation) if argument.annotation else ""
        for argument in (*node.args.args, *node.args.kwonlyargs)
        if argument.arg not in skipped
    }


def _names(tree: ast.Module) -> set[str]:
    """List what a module defines or imports, inside conditions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def fits(given: object, annotation: str) -> bool:
    """Tell whether a plain value fits an annotation; what cannot be told fits."""
    return any(_fits(given, option) for option in _options(annotation))


def accepted(annotation: str) -> str:
    """Say in words what an annotation accepts."""
    words = []
    for option in _options(annotation):
        name = _head(option)
        if name == "Literal" and isinstance(option, ast.Subscript):
            words += [str(value) for value in _literals(option)]
        elif name in KINDS:
            words.append(KINDS[name][0])
    return " or ".join(words)


def _options(annotation: str) -> list[ast.expr]:
    open_nodes = [ast.parse(annotation, mode="eval").body]
    found = []
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.BinOp):
            open_nodes += [node.right, node.left]
        else:
            found.append(node)
    return found


def _head(node: ast.expr) -> str:
    name = ast.unparse(node.value if isinstance(node, ast.Subscript) else node)
    return {"list": "Sequence", "tuple": "Sequence", "dict": "Mapping"}.get(name, name)


def _literals(node: ast.Subscript) -> list[object]:
    inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return [item.value for item in inside if isinstance(item, ast.Constant)]


def _fits(given: object, node: ast.expr) -> bool:
    name = _head(node)
    if isinstance(node, ast.Subscript) and name == "Literal":
        return given in _literals(node)
    if name not in KINDS:
        return True
    if not KINDS[name][1](given):
        return False
    if name == "Sequence" and isinstance(node, ast.Subscript) and isinstance(given, list | tuple):
        item = ast.unparse(node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice)
        return all(fits(value, item) for value in given)
    return True
