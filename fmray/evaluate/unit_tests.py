"""Judge one program by whether it parses, and by running unit tests on it in a sandbox.

A program passes if every test ran to its end without an error. One that ends by itself before its tests do has not.
Program and tests share a process, so a program that sets out to can claim to pass: the sandbox protects the machine,
not the verdict.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from fmray.evaluate.parses import fault
from fmray.evaluate.sandbox import Sandbox

REASON_CHARACTERS = 300
DRIVER = """
import json, os, sys, types
def judge(exec=exec, compile=compile, dumps=json.dumps, write=os.write, leave=os._exit):
    asked = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    module = sys.modules["judged"] = types.ModuleType("judged")
    names = module.__dict__
    def stage(name, text):
        try:
            exec(compile(text, name, "exec"), names)
        except BaseException as error:
            said = str(error)[:200]
            told = f"{name}: {type(error).__name__}" + (f": {said}" if said else "")
            write(3, dumps([asked["token"], told]).encode())
            leave(1)
    if asked["setup"]:
        stage("setup", asked["setup"])
    stage("program", asked["program"])
    for number, test in enumerate(asked["tests"], 1):
        stage(f"test {number}", test)
    try:
        sys.stdout.flush()
    except BaseException:
        pass
    write(3, dumps([asked["token"], ""]).encode())
judge()
"""
"""Runs in the sandbox: reads program and tests from stdin, and reports at which of them it failed, "" if at none.
The report carries a token, so that a program which merely writes there has said nothing; one that looks for the token
finds it. What the driver calls is bound before the program runs, which may change the builtins."""


@dataclass(frozen=True)
class Verdict:
    """Say what became of a program.

    Args:
        parsed: It is Python.
        passed: It passed its tests; None where none were run.
        reason: Why it did not; "" if it did.
    """

    parsed: bool
    passed: bool | None
    reason: str

    @property
    def kind(self) -> str:
        """Name the reason without what differs from one program to the next."""
        if not self.parsed:
            return "it does not parse"
        where, _, said = self.reason.partition(": ")
        if where == "program" or where.startswith(("test ", "setup")):
            return f"{said.partition(':')[0]} in {'a test' if where.startswith('test') else f'the {where}'}"
        return self.reason.partition(":")[0]


def judge(program: str, tests: Sequence[str] = (), *, setup: str = "", sandbox: Sandbox | None = None) -> Verdict:
    """Say whether a program parses, and whether it passes its tests.

    Args:
        tests: Statements that raise where the program is wrong, run one after the other.
        setup: Statements that run before the program.
        sandbox: Where tests run; without it none are.
    """
    broken = fault(program)
    if broken or sandbox is None:
        return Verdict(not broken, None if sandbox is None else False, _printable(broken))
    token = secrets.token_hex(16)
    asked = {"program": program, "tests": list(tests), "setup": setup, "token": token}
    outcome = sandbox.run(DRIVER, json.dumps(asked))
    told = _told(outcome.report, token)
    if outcome.stopped or told is None:
        reason = outcome.reason if outcome.stopped or outcome.status < 0 else "ended before its tests did"
    else:
        reason = told
    return Verdict(True, not reason, _printable(reason))


def _printable(text: str) -> str:
    """Spell out what cannot be written or would steer a terminal."""
    signs = (sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return "".join(signs)[:REASON_CHARACTERS]


def _told(report: str, token: str) -> str | None:
    """Read what the driver reported; None if it did not."""
    try:
        found = json.loads(report)
    except (ValueError, RecursionError):  # whatever a program has written there
        return None
    if isinstance(found, list) and len(found) == 2 and found[0] == token and isinstance(found[1], str):
        return found[1]
    return None
