import math
import sys
from pathlib import Path

import pytest

from fmray.errors import SpecError
from fmray.spec.check import GIVEN_BY_FMRAY
from fmray.spec.params import accepted, fits, params_of, source_of

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
