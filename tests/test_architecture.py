"""Keep the shape of the house: floors, doors, sizes, names. Medians are printed, not enforced."""

import ast
import importlib
import re
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from fmray import catalogue
from fmray.registry import Registry
from fmray.spec.load import load_job
from fmray.spec.ref import DISTRIBUTIONS

ROOT = Path(__file__).resolve().parents[1] / "fmray"
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {"fmray." + str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in FILES}
MOST_LINES, MOST_CODE_LINES = 600, 50

# From the top down; units of one floor are siblings and never meet.
FLOORS = (
    ("cli",),
    ("progress",),
    ("console",),
    ("schedule",),
    ("submit", "preflight", "why"),
    ("workflow",),
    ("stages",),
    ("promote",),
    ("report", "inference"),
    ("tune",),
    ("rigour",),
    ("ensemble", "evaluate"),
    ("train", "track"),
    ("data", "tasks", "models", "metrics"),
    ("targets",),
    ("spec",),
    ("catalogue", "store"),
    ("records",),
    ("events", "failures"),
    ("pieces",),
    ("registry", "moments", "ragged", "schema", "words"),
    ("seeding",),
    ("errors",),
    ("printable",),
)
HEIGHT = {unit: len(FLOORS) - floor for floor, units in enumerate(FLOORS) for unit in units}
DOORS = {
    "ray": {
        "data/prepare.py",
        "data/session.py",
        "preflight/probe.py",
        "submit/cluster.py",
        "train/mailbox.py",
        "train/stream.py",
        "train/watch.py",
        "train/workers.py",
        "tune/pbt.py",
        "tune/executors.py",
        "why/cluster.py",
        "why/remote.py",
    },
    "PIL": {"data/image.py"},
    "tokenizers": {"data/embed.py", "data/tokenize.py"},
    "transformers": {"data/embed.py", "models/hf.py"},
    "torch": {
        "data/embed.py",
        "preflight/probe.py",
        "models/*",
        "tasks/*",
        "train/*",
        "tune/*",
        "ensemble/folds.py",
        "inference/export.py",
    },
    "lightgbm": {"models/boosting.py"},
    "typer": {"cli/*"},
    "rich": {"cli/*", "console.py", "progress.py"},
    "jinja2": {"report/card.py"},
    "mlflow": {"inference/pyfunc.py", "track/mlflow.py"},
    "tensorboardX": {"track/tensorboard.py"},
    "optuna": {"track/optuna.py", "tune/*", "report/importance.py"},
    "ruamel": {"spec/load.py", "report/folder.py", "schedule/kubernetes.py"},
}


def unit_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Give the dotted modules a file imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in full}
    return frozenset(found)


def imported_units(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("fmray.") and name.count(".") >= 1}


def functions_of(path: Path) -> list[ast.FunctionDef]:
    tree = tree_of(path)
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def code_lines(node: ast.FunctionDef, lines: list[str]) -> int:
    """Count lines of a function that are neither blank, comment, docstring nor signature."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    if not body:
        return 0
    inside = lines[body[0].lineno - 1 : node.end_lineno]
    return sum(1 for line in inside if line.strip() and not line.strip().startswith("#"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [f for f in FILES if f.name != "__init__.py" or f.parent != ROOT], ids=name_of)
def test_imports_point_down(path):
    unit = unit_of(path)
    known = {other for other in imported_units(path) if other in HEIGHT}
    climbing = {other for other in known if other != unit and HEIGHT[other] >= HEIGHT[unit]}
    assert not climbing, f"{unit} must not import {sorted(climbing)}"


def test_every_unit_has_a_floor():
    units = {unit_of(path) for path in FILES} - {"__init__"}
    assert units == set(HEIGHT)


@pytest.mark.parametrize("library", list(DOORS))
def test_a_heavy_library_comes_in_by_its_doors_only(library):
    users = {
        name_of(path)
        for path in FILES
        if any(name == library or name.startswith(f"{library}.") for name in imports_of(path))
    }
    allowed = {user for user in users for door in DOORS[library] if Path(user).match(door)}
    assert users == allowed, f"{library} is imported in {sorted(users - allowed)}"


def test_no_modules_import_each_other_in_a_circle():
    modules = {path: "fmray." + name_of(path).removesuffix(".py").replace("/", ".") for path in FILES}
    names = {name.removesuffix(".__init__"): path for path, name in modules.items()}
    edges = {
        path: {names[name] for name in imports_of(path) if name in names and names[name] != path}
        for path in FILES
        if path.parent != ROOT or path.name != "__init__.py"
    }
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " > ".join(name_of(p) for p in (*trail[trail.index(path) :], path))
        if path in done:
            return
        for other in edges.get(path, ()):
            visit(other, (*trail, path))
        done.add(path)

    for path in edges:
        visit(path, ())


def test_files_and_functions_stay_small(capsys):
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    functions = {
        f"{name_of(path)}:{node.name}": code_lines(node, path.read_text(encoding="utf-8").splitlines())
        for path in FILES
        for node in functions_of(path)
    }
    with capsys.disabled():
        print(f"\nlines per file: median {statistics.median(sizes.values()):.0f}, most {max(sizes.values())}", end="; ")
        print(
            f"code lines per function: median {statistics.median(functions.values()):.0f}, most {max(functions.values())}"
        )
    assert {name_of(path): size for path, size in sizes.items() if size > MOST_LINES} == {}
    assert {name: size for name, size in functions.items() if size > MOST_CODE_LINES} == {}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_and_public_names_say_what_they_are(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), "no module docstring"
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_parameter_and_return_is_typed_and_nothing_is_asserted(path):
    for node in functions_of(path):
        arguments = [
            a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")
        ]
        assert [a.arg for a in arguments if a.annotation is None] == [], node.name
        assert node.returns is not None or node.name == "__init__", node.name
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree_of(path)))


TABLES = [table for table in vars(catalogue).values() if isinstance(table, Registry)]


@pytest.mark.parametrize(("table", "name"), [(t, n) for t in TABLES for n in t], ids=lambda v: getattr(v, "noun", v))
def test_every_name_of_the_catalogue_leads_to_code(table, name):
    assert callable(table.find(name)) or table.noun in ("metric", "gate")


def test_ranges_are_told_from_names():
    assert not {name for table in TABLES for name in table} & set(DISTRIBUTIONS)


def test_the_public_names_are_those_it_says():
    fmray = importlib.import_module("fmray")
    assert sorted(fmray.__all__) == fmray.__all__
    assert all(getattr(fmray, name) is not None for name in fmray.__all__)


@pytest.mark.parametrize("module", ["fmray", "fmray.cli", "fmray.spec.load", "fmray.data.preview", "fmray.store"])
def test_importing_loads_neither_torch_nor_ray(module):
    code = f"import sys, {module}; print([name for name in ('torch', 'ray', 'mlflow') if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("path", sorted((ROOT.parent / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_job_is_valid(path):
    assert load_job(path).name == path.stem


def test_no_assignment_packs_unrelated_values_into_a_tuple():
    packed = []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Assign) and is_packed(node.targets[0], node.value):
                packed.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert packed == []


def is_packed(target, value):
    """Tell whether each of several targets gets a value of its own; pairs of points, literals and exchanges may."""
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return False
    is_literal = all(isinstance(item, ast.Constant | ast.UnaryOp) for item in value.elts)
    is_nested = any(isinstance(item, ast.Tuple) for item in target.elts)
    names = [ast.unparse(item) for item in target.elts]
    is_exchange = any(isinstance(n, ast.Name) and n.id in names for item in value.elts for n in ast.walk(item))
    return not (is_literal or is_nested or is_exchange)


MOST_POSITIONAL = 4
VARIADIC = {"fingerprint", "_shuffle", "packable_draws", "Table", "add_row", "info", "remote", "partial", "suppress"}
"""What takes any number of alike arguments."""
UNNAMED = {"run", "Conv2d", "init_process_group"}
"""A callable without names of its own; what another library takes in its well-known order."""


def test_calls_name_their_arguments_beyond_the_fourth():
    found = []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
                if name not in VARIADIC | UNNAMED and not any(isinstance(item, ast.Starred) for item in node.args):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert found == []


def test_every_name_that_scripts_and_slow_tests_import_is_there():
    missing = []
    for path in sorted([*ROOT.parent.glob("tests/**/*.py"), *ROOT.parent.glob("examples/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fmray":
                module = importlib.import_module(node.module)
                names = [alias.name for alias in node.names]
                missing += [
                    f"{path.name}: {n}" for n in names if not hasattr(module, n) and not is_module(node.module, n)
                ]
    assert missing == []


def is_module(package, name):
    return f"{package}.{name}" in MODULES


def test_the_workflow_is_one_page():
    assert len((ROOT / "workflow.py").read_text(encoding="utf-8").splitlines()) <= 150


KIND_OF_TARGET = re.compile(
    r"(target|theirs|ours|metric|codec)\.kind\s*(==|!=|in)\s*[\"(]|\bkind\s*(==|!=|in)\s*\(?\"(class|labels)\""
    r"|len\((\w+\.)*(target|ours|theirs)\.classes\)\s*(==|!=|<|>|or\b|if\b)"
)
"""Code that asks of which kind a target is."""


def test_only_codecs_ask_for_the_kind_of_a_target():
    asking = {
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in FILES
        if unit_of(path) != "targets"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if KIND_OF_TARGET.search(line)
    }
    assert asking == set(), "give the codec a method instead; see fmray/targets/codec.py"
