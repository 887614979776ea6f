import sys

import pytest

from fmray import catalogue
from fmray.errors import SpecError
from fmray.registry import Kind, Registry, file_of_module, importable, nearest, trust_given, trusting

NUMBER = Kind("a class derived from Number", base="numbers.Number")
STEPS = Registry(
    "step",
    {"scale": "fractions:Fraction", "split": "os.path:split", "gone": "no_such_module:Gone"},
    NUMBER,
)
OWN = "class Fine:\n    def apply(self): ...\n\n\ndef function(): raise AssertionError\n\n\nvalue = Fine()\n"
APPLIES = Registry("step", {}, Kind("a class with the method apply", has=("apply",)))


def test_a_name_is_found_and_only_its_code_imported():
    sys.modules.pop("no_such_module", None)
    from fractions import Fraction

    assert STEPS.find("scale") is Fraction
    assert "no_such_module" not in sys.modules


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own_code_of_mine.py").write_text(OWN)
    with importable(str(tmp_path)):
        yield "own_code_of_mine"
    sys.modules.pop("own_code_of_mine", None)


def test_a_name_with_a_colon_is_its_own_path(own):
    assert APPLIES.path(f"{own}:Fine") == f"{own}:Fine"
    assert APPLIES.find(f"{own}:Fine").__name__ == "Fine"
    assert f"{own}:Fine" not in APPLIES


@pytest.mark.parametrize("attribute", ["function", "value"])
def test_what_is_no_class_of_the_kind_is_refused_without_calling_it(own, attribute):
    with pytest.raises(SpecError, match="Accepted: a class with the method apply"):
        APPLIES.find(f"{own}:{attribute}")


@pytest.mark.parametrize("name", ["os:system", "subprocess:run", "builtins:eval", "antigravity:fly", "posix:system"])
def test_modules_of_python_itself_hold_no_step_and_are_not_imported(name):
    before = set(sys.modules)
    for registry in (catalogue.STEPS, catalogue.MODELS, catalogue.METRICS, catalogue.ENSEMBLES, catalogue.OPTIMIZERS):
        with pytest.raises(SpecError, match="is part of Python itself. Accepted: "):
            registry.find(name)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("registry", "name"),
    [
        (catalogue.STEPS, "fmray.models.mlp:MLP"),
        (catalogue.STEPS, "fmray.registry:nearest"),
        (catalogue.MODELS, "fmray.models.mlp:ACTIVATIONS"),
        (catalogue.MODELS, "fmray.data.tabular:OneHot"),
        (catalogue.MODELS, "torch.hub:load"),
        (catalogue.OPTIMIZERS, "fmray.models.mlp:MLP"),
        (catalogue.TASKS, "torch.nn:Linear"),
        (catalogue.METRICS, "fmray.metrics.find:find_metric"),
        (catalogue.ENSEMBLES, "fmray.registry:nearest"),
        (catalogue.ENSEMBLES, "pandas:read_pickle"),
        (catalogue.SCHEDULES, "fmray.train.schedule:warmup"),
    ],
)
def test_code_of_another_kind_is_refused(registry, name):
    with pytest.raises(SpecError, match="Accepted: "):
        registry.find(name)


@pytest.mark.parametrize("name", ["a b:C", ":C", "x:", "..x:C", "x:y.z", "x:y:z", "x:__import__('os')"])
def test_what_is_no_path_of_code_is_refused(name):
    with pytest.raises(SpecError, match="is no path of code. Write package.module:Name"):
        STEPS.path(name)


def test_a_table_without_a_kind_takes_no_code_but_its_own():
    with pytest.raises(SpecError, match="unknown gate 'os:system'"):
        catalogue.GATES.find("os:system")


def test_every_name_of_the_catalogue_is_of_its_kind():
    tables = [table for table in vars(catalogue).values() if isinstance(table, Registry) and table.kind]
    assert len(tables) == 7
    for table in tables:
        assert [name for name in table if not table.kind.accepts(table.find(name))] == []


def test_the_file_of_a_module_is_found_without_importing_its_package(tmp_path):
    (tmp_path / "bomb_package").mkdir()
    (tmp_path / "bomb_package/__init__.py").write_text("raise AssertionError")
    (tmp_path / "bomb_package/inner.py").write_text("")
    with importable(str(tmp_path)):
        assert file_of_module("bomb_package.inner") == tmp_path / "bomb_package/inner.py"
        with pytest.raises(ModuleNotFoundError):
            file_of_module("bomb_package.other")
    assert "bomb_package" not in sys.modules
    assert file_of_module("bomb_package", [str(tmp_path)]) == tmp_path / "bomb_package/__init__.py"
    with pytest.raises(ModuleNotFoundError):
        file_of_module("no_such_module")


def test_trust_lasts_for_its_block_only():
    assert trust_given() is False
    with importable(".", ["mine"]):
        assert trust_given() == {"mine"}
        with trusting(True):
            assert trust_given() is True
        assert trust_given() == {"mine"}
    assert trust_given() is False


def test_names_keep_the_order_of_the_page_they_stand_on():
    assert list(STEPS) == ["scale", "split", "gone"]
    assert "scale" in STEPS


def test_a_misspelt_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(SpecError, match=r"unknown step 'scael'\. Did you mean 'scale'\?"):
        STEPS.find("scael")


def test_a_name_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(SpecError, match=r"unknown step 'xyz'\. Known: gone, scale, split\."):
        STEPS.path("xyz")


@pytest.mark.parametrize("name", ["gone", "numpy:Nothing", "no_such_module:Net"])
def test_code_that_cannot_be_loaded_is_named_with_its_path(name):
    with pytest.raises(SpecError, match=rf"step '{name}' could not be loaded from {STEPS.path(name)}: .* PYTHONPATH"):
        STEPS.find(name)


@pytest.mark.parametrize(("name", "answer"), [("epoch", "Did you mean 'epochs'?"), ("q", "Known: epochs, seed.")])
def test_nearest_asks_or_lists(name, answer):
    assert nearest(name, ["seed", "epochs"]) == answer
