"""A program passes if all of its tests do, and not by ending early, printing or writing where verdicts are read."""

import pytest

from fmray.errors import SpecError
from fmray.evaluate.sandbox import Limits, Sandbox
from fmray.evaluate.unit_tests import Verdict, judge

pytestmark = pytest.mark.slow
RIGHT = "def add(a, b):\r\n\treturn a + b"
TESTS = ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox(Limits(cpu_seconds=2, wall_seconds=8.0, output_bytes=1 << 14))
    except SpecError as error:
        pytest.skip(str(error))


def test_a_right_program_passes(sandbox):
    assert judge(RIGHT, TESTS, sandbox=sandbox) == Verdict(True, True, "")
    assert judge("def f(): return X", ["assert f() == 3"], setup="X = 3", sandbox=sandbox).passed


def test_a_program_is_a_module_as_any_other(sandbox):
    program = (
        "from __future__ import annotations\nfrom dataclasses import dataclass, KW_ONLY\nimport pickle\n"
        "@dataclass\nclass Pair:\n    a: int\n    _: KW_ONLY\n    b: int = 0\n"
        "def add(a, b): pair = pickle.loads(pickle.dumps(Pair(a, b=b))); return pair.a + pair.b"
    )
    assert judge(program, TESTS, sandbox=sandbox) == Verdict(True, True, "")


def test_a_program_that_changes_builtins_is_judged_all_the_same(sandbox):
    program = "import builtins; builtins.exec = builtins.compile = lambda *given: None"
    assert judge(program, TESTS, sandbox=sandbox).reason == "test 1: NameError: name 'add' is not defined"


EQUAL = "class Any:\n    def __eq__(self, other): return True\ndef add(a, b): return Any()"
TOKEN = (
    "import json, os, sys\nframe = sys._getframe()\n"
    "while 'asked' not in frame.f_locals: frame = frame.f_back\n"
    "os.write(3, json.dumps([frame.f_locals['asked']['token'], '']).encode()); os._exit(0)"
)


@pytest.mark.parametrize("program", [EQUAL, TOKEN])
def test_a_program_that_sets_out_to_claims_to_pass_as_the_docs_say(sandbox, program):
    assert judge(program, TESTS, sandbox=sandbox).passed


@pytest.mark.parametrize(
    ("program", "reason", "kind"),
    [
        ("def add(a, b): return a * b", "test 1: AssertionError", "AssertionError in a test"),
        ("def add(a, b): return 3", "test 2: AssertionError", "AssertionError in a test"),
        ("", "test 1: NameError: name 'add' is not defined", "NameError in a test"),
        ("import never_there", "program: ModuleNotFoundError: No module named 'never_there'", None),
        ("raise SystemExit(0)", "program: SystemExit: 0", "SystemExit in the program"),
        ("return 1", "program: SyntaxError: 'return' outside function (program, line 1)", None),
        ("import os; os._exit(0)", "ended before its tests did", "ended before its tests did"),
        ("def add(a, b): __import__('os')._exit(0)", "ended before its tests did", None),
        ('import os; os.write(3, b\'["", ""]\'); os._exit(0)', "ended before its tests did", None),
        ("import os; os.close(3)", "ended before its tests did", None),
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV", "ended by SIGSEGV"),
        ("while True: pass", "used more than 2 s of processor time", None),
        ("while True: print(1)", "printed more than 16 kB", "printed more than 16 kB"),
        ("def add(a, b): return input()", "test 1: EOFError: EOF when reading a line", "EOFError in a test"),
        ("x = [0] * 10 ** 9", "program: MemoryError", "MemoryError in the program"),
        ("def f(:", "line 1: invalid syntax", "it does not parse"),
    ],
)
def test_why_a_program_fails_is_said(sandbox, program, reason, kind):
    verdict = judge(program, TESTS, sandbox=sandbox)
    assert verdict.reason == reason
    assert verdict.passed is False
    assert verdict.parsed == (reason != "line 1: invalid syntax")
    assert kind is None or verdict.kind == kind


def test_without_a_sandbox_nothing_is_run():
    assert judge("raise SystemExit(0)") == Verdict(True, None, "")
    assert judge("def f(:") == Verdict(False, None, "line 1: invalid syntax")


def test_what_a_program_says_is_cut(sandbox):
    assert len(judge("raise ValueError('x' * 10**6)", TESTS, sandbox=sandbox).reason) <= 300
