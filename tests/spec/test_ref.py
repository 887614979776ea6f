import pytest

from fmray.spec.ref import DISTRIBUTIONS, Ref, is_range


@pytest.mark.parametrize("value", ["mlp", {"mlp": None}, {"mlp": {"width": 3}}])
def test_a_reference_written_and_read_is_the_same(value):
    ref = Ref.read(value)
    assert Ref.read(ref.to_json()) == ref


@pytest.mark.parametrize("value", [3, None, {}, {"a": {}, "b": {}}, {"a": 3}, {3: {}}, ["a"]])
def test_what_is_neither_name_nor_map_is_refused(value):
    with pytest.raises(ValueError, match="is neither a name nor"):
        Ref.read(value)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_ranges_are_recognised(name):
    assert is_range({name: [0, 1]})
    assert not is_range({name: [0, 1], "other": 2})
    assert not is_range(name)
