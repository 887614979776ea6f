"""Python is told from what is none, and the share has the interval of a rate."""

import pytest
from scipy import stats

from fmray.errors import DataError
from fmray.evaluate.parses import parses, share_that_parses

PYTHON = ["", "x = 1\n", "def f(x):\n    return x\n", "'\\d'", "# nothing", "import never_there\n"]
NONE = ["def f(:", "  x = 1\ny", "x = = 1", "\0", "\ud800", "(" * 10_000, "-" * 100_000 + "1", "return )"]


@pytest.mark.parametrize("text", PYTHON, ids=repr)
def test_python_parses(text):
    assert parses(text)


@pytest.mark.parametrize("text", NONE, ids=lambda text: repr(text[:10]))
def test_what_is_no_python_does_not(text):
    assert not parses(text)


@pytest.mark.parametrize(("good", "bad"), [(1, 99), (0, 20), (7, 3), (5, 0)])
def test_the_share_has_wilsons_interval(good, bad):
    found = share_that_parses(["x"] * good + ["x ="] * bad)
    expected = stats.binomtest(good, good + bad).proportion_ci(0.95, "wilson")
    assert found.value == good / (good + bad)
    assert found.n == good + bad
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_text_has_no_share():
    with pytest.raises(DataError, match="there is no text"):
        share_that_parses([])
