"""Python is told from what is none."""

import pytest

from fmray.evaluate.parses import fault, parses

PYTHON = ["", "x = 1\n", "def f(x):\n    return x\n", "'\\d'", "# nothing", "import never_there\n"]
NONE = ["def f(:", "  x = 1\ny", "x = = 1", "\0", "\ud800", "(" * 10_000, "-" * 100_000 + "1", "return )"]


@pytest.mark.parametrize("text", PYTHON, ids=repr)
def test_python_parses(text):
    assert parses(text)


@pytest.mark.parametrize("text", NONE, ids=lambda text: repr(text[:10]))
def test_what_is_no_python_does_not(text):
    assert not parses(text)


def test_why_a_text_does_not_parse_is_said():
    assert fault("x = 1\ndef f(:") == "line 2: invalid syntax"
    assert fault("(" * 10_000) != ""
    assert fault("x = 1") == ""
