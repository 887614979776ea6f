import importlib
import inspect
import math
import sys
from pathlib import Path

import pytest

from fmray import catalogue
from fmray.errors import SpecError
from fmray.spec.check import GIVEN_BY_FMRAY, GIVEN_TO_ENSEMBLES, OPTIMIZER_PARAMS, TASK_PARAMS
from fmray.spec.params import LIMITS, accepted, fits, params_of, refusal, source_of

OWN = [
    (table, name)
    for table in (catalogue.STEPS, catalogue.LIVE, catalogue.MODELS, catalogue.SCHEDULES, catalogue.ENSEMBLES)
    for name in table
]


@pytest.mark.parametrize(("table", "name"), OWN, ids=lambda value: getattr(value, "noun", value))
def test_the_source_tells_the_same_parameters_as_the_imported_code(table, name):
    module, _, attribute = table.path(name).partition(":")
    skipped = GIVEN_TO_ENSEMBLES if table is catalogue.ENSEMBLES else GIVEN_BY_FMRAY
    read = params_of(source_of(module, "."), attribute, skipped)
    code = getattr(importlib.import_module(module), attribute)
    bare = inspect.isclass(code) and code.__init__ is object.__init__
    real = [] if bare else [p for p in inspect.signature(code).parameters if p not in skipped]
    assert list(read) == real


@pytest.mark.parametrize("name", list(OPTIMIZER_PARAMS))
def test_optimizers_take_the_parameters_of_the_table(name):
    real = inspect.signature(catalogue.OPTIMIZERS.find(name).__init__).parameters
    assert set(OPTIMIZER_PARAMS[name]) <= set(real)


def test_every_task_has_its_parameters_in_the_table():
    assert set(TASK_PARAMS) == {*catalogue.TASKS, "auto"}
    assert set(OPTIMIZER_PARAMS) == set(catalogue.OPTIMIZERS)


FITS = [
    (3, "int", True),
    (3.0, "int", False),
    (True, "int", False),
    (3, "float", True),
    (True, "float", False),
    (math.nan, "float", False),
    ("3", "float", False),
    ("a", "str", True),
    (1, "bool", False),
    (None, "float | None", True),
    (None, "float", False),
    ([1, 2], "int | Sequence[int]", True),
    ([1, "a"], "int | Sequence[int]", False),
    (["a"], "Sequence[str] | None", True),
    ("ab", "Sequence[str]", False),
    ([0.9, 0.999], "tuple[float, float]", True),
    ({"a": 1}, "Mapping[str, float]", True),
    ([], "Mapping[str, float]", False),
    ("mean", "Literal['mean', 'median']", True),
    ("mode", "Literal['mean', 'median']", False),
    (..., "SomethingOfTheirs", True),
]


@pytest.mark.parametrize(("given", "annotation", "answer"), FITS, ids=str)
def test_a_value_fits_its_annotation_or_not(given, annotation, answer):
    assert fits(given, annotation) is answer


def test_an_annotation_is_put_in_words():
    assert accepted("int | Sequence[int]") == "a whole number or a list"
    assert accepted("Literal['mse', 'huber'] | None") == "mse or huber or null"


@pytest.mark.parametrize(
    ("component", "name", "given", "message"),
    [
        ("mlp", "dropout", 0, ""),
        ("mlp", "dropout", 1, "1. Accepted: a number in [0, 1)."),
        ("mlp", "dropout", -0.1, "-0.1. Accepted: a number in [0, 1)."),
        ("adam", "lr", 0, "0. Accepted: a number in (0, inf)."),
        ("mlp", "width", [64, 0], "0. Accepted: a number in [1, inf)."),
        ("cosine", "final", 1, ""),
        ("mlp", "speed", -5, ""),
        ("rmsprop", "alpha", 0, ""),
        ("mixup", "alpha", 0, "0. Accepted: a number in (0, inf)."),
    ],
)
def test_limits_hold_with_their_ends_for_the_component_that_has_them(component, name, given, message):
    assert refusal(component, name, given, "") == message
    assert refusal("my_net:Net", name, given, "") == ""


LIMITED = [(component, name) for component, limits in LIMITS.items() for name in limits if component != "auto"]


@pytest.mark.parametrize(("component", "name"), LIMITED)
def test_every_limit_belongs_to_a_parameter_of_its_component(component, name):
    described = {**OPTIMIZER_PARAMS, **TASK_PARAMS}
    tables = (catalogue.MODELS, catalogue.SCHEDULES, catalogue.ENSEMBLES, catalogue.STEPS, catalogue.LIVE)
    builds = [table.find(component) for table in tables if component in table]
    takes = described.get(component) or inspect.signature(builds[0]).parameters
    assert name in takes


NET = """
from somewhere import Other
if True:
    from elsewhere import Late as Early
class Base: ...
class Net(Base):
    def __init__(self, schema, num_outputs, width: int = 3, *, deep=False): ...
class Heir(Base): ...
class Open:
    def __init__(self, **params): ...
class Bare: ...
def make(schema, num_outputs, size): ...
Alias = Net
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "my_nets.py").write_text(NET)
    return tmp_path / "my_nets.py"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Net", {"width": "int", "deep": ""}),
        ("make", {"size": ""}),
        ("Bare", {}),
        ("Heir", None),
        ("Open", None),
        ("Alias", None),
        ("Other", None),
        ("Early", None),
    ],
)
def test_of_a_users_module_only_what_its_source_settles_is_claimed(net, name, known):
    assert params_of(net, name, GIVEN_BY_FMRAY) == known


def test_a_name_that_a_module_lacks_is_answered_with_the_nearest(net):
    with pytest.raises(SpecError, match=r"my_nets\.py has no 'Ne'\. Did you mean 'Net'\?"):
        params_of(net, "Ne", ())


def test_a_module_that_is_no_python_is_named(net):
    net.write_text("class Net(:\n")
    with pytest.raises(SpecError, match=r"my_nets\.py is not Python: .* Mend it\."):
        params_of(net, "Net", ())


def test_a_module_is_found_beside_the_job_before_anywhere_else_and_never_run(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('ran')")
    assert source_of("json", str(tmp_path)) == tmp_path / "json.py"
    assert "ran" not in sys.modules
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "deep.py").write_text("class Net: ...")
    assert source_of("nets.deep", str(tmp_path)) == tmp_path / "nets" / "deep.py"


def test_a_module_without_source_is_left_to_the_run(tmp_path):
    assert source_of("itertools", str(tmp_path)) is None


@pytest.mark.parametrize("module", ["no_such_module", "no_such_package.inside"])
def test_a_module_that_is_nowhere_is_refused(tmp_path, module):
    with pytest.raises(SpecError, match=f"module '{module}' is neither beside the job file nor installed"):
        source_of(module, str(tmp_path))
