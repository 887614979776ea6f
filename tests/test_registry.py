import sys

import pytest

from fmray.errors import SpecError
from fmray.registry import Registry, nearest

STEPS = Registry("step", {"scale": "fractions:Fraction", "split": "os.path:split", "gone": "no_such_module:Gone"})


def test_a_name_is_found_and_only_its_code_imported():
    sys.modules.pop("no_such_module", None)
    from fractions import Fraction

    assert STEPS.find("scale") is Fraction
    assert "no_such_module" not in sys.modules


def test_a_name_with_a_colon_is_its_own_path():
    from decimal import Decimal

    assert STEPS.path("decimal:Decimal") == "decimal:Decimal"
    assert STEPS.find("decimal:Decimal") is Decimal
    assert "decimal:Decimal" not in STEPS


def test_names_keep_the_order_of_the_page_they_stand_on():
    assert list(STEPS) == ["scale", "split", "gone"]
    assert "scale" in STEPS


def test_a_misspelt_name_is_answered_with_the_nearest_known_one():
    with pytest.raises(SpecError, match=r"unknown step 'scael'\. Did you mean 'scale'\?"):
        STEPS.find("scael")


def test_a_name_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(SpecError, match=r"unknown step 'xyz'\. Known: gone, scale, split\."):
        STEPS.path("xyz")


@pytest.mark.parametrize("name", ["gone", "fractions:Nothing", "no_such_module:Net"])
def test_code_that_cannot_be_loaded_is_named_with_its_path(name):
    with pytest.raises(SpecError, match=rf"step '{name}' could not be loaded from {STEPS.path(name)}: .* PYTHONPATH"):
        STEPS.find(name)


@pytest.mark.parametrize(("name", "answer"), [("epoch", "Did you mean 'epochs'?"), ("q", "Known: epochs, seed.")])
def test_nearest_asks_or_lists(name, answer):
    assert nearest(name, ["seed", "epochs"]) == answer
