"""Whatever a program does, the programs beside it are judged, and its own verdict is written."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.errors import SpecError
from fmray.evaluate.sandbox import Limits, Sandbox
from fmray.inference.judge_parts import NO_TESTS, Asked, Tally, Work, judge_part

pytestmark = pytest.mark.slow
LIMITS = Limits(cpu_seconds=2, wall_seconds=8.0)
RIGHT = "x = 1"


def judged(
    folder: Path, texts: list[str], asked: Asked, **columns: list[str | list[str] | None]
) -> tuple[Tally, list[dict]]:
    """Write texts as `generate` does, and judge them; give what was counted, and the verdicts."""
    num = len(texts)
    for name in ("texts", "rows", "out"):
        (folder / name).mkdir()
    rows = {"tests": ["assert x == 1"] * num, **columns}
    pq.write_table(pa.table(rows), folder / "rows" / "a.parquet")
    ids = pa.array([bytes([n]) * 16 for n in range(num)], pa.binary(16))
    sample = pa.array([0] * num, pa.int32())
    table = {"file": ["a.parquet"] * num, "row": range(num), "row_id": ids, "sample": sample, "text": texts}
    pq.write_table(pa.table(table), folder / "texts" / "part.parquet")
    places = {name: str(folder / name) for name in ("texts", "out")}
    work = Work(**places, root=str(folder / "rows"), prompt="", num=1, threads=2, asked=asked)
    tally = Tally(1)
    tally.add(judge_part(work, "part.parquet"))
    return tally, pq.read_table(folder / "out" / "part.parquet").to_pylist()


@pytest.fixture
def asked() -> Asked:
    try:
        Sandbox(LIMITS)
    except SpecError as error:
        pytest.skip(str(error))
    return Asked(tests="tests", limits=LIMITS)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 40)", "ended by signal 40"),
        ("import os; os.write(3, b'[' * 4096); os._exit(0)", "ended before its tests did"),
        (r"raise ValueError('\ud800')", r"program: ValueError: \ud800"),
        (r"raise type('\x1b[31m', (Exception,), {})", r"program: \x1b[31m"),
    ],
)
def test_a_program_that_ends_or_says_something_strange_fails_alone(tmp_path, asked, program, reason):
    tally, found = judged(tmp_path, [program, RIGHT], asked)
    assert [one["passed"] for one in found] == [False, True]
    assert found[0]["reason"] == reason
    assert tally.shares.total["pass@1"] == 1


def test_a_program_whose_sandbox_is_ended_from_outside_fails_alone(tmp_path):
    asked = Asked(tests="tests", limits=LIMITS, is_confined=False)
    _, found = judged(tmp_path, ["import os, time; os.kill(os.getppid(), 9); time.sleep(9)", RIGHT], asked)
    assert [one["passed"] for one in found] == [False, True]
    assert found[0]["reason"] == "its sandbox was ended from outside"


def test_empty_tests_are_none(tmp_path, asked):
    empty = [None, "", " \n", [], [None, ""], "assert x == 1"]
    lists = [one if one is None or isinstance(one, list) else [one] for one in empty]
    tally, found = judged(tmp_path, [RIGHT] * 6, asked, tests=lists)
    assert tally.left_out == {NO_TESTS: 5}
    assert [one["passed"] for one in found] == [None] * 5 + [True]
    plain = tmp_path / "plain"
    plain.mkdir()
    tally, _ = judged(plain, [RIGHT] * 3, asked, tests=["", " ", "assert x == 1"])
    assert tally.left_out == {NO_TESTS: 2}


def test_a_row_without_a_reference_does_not_count_among_references(tmp_path, asked):
    asked = Asked(tests="tests", limits=LIMITS, reference="right")
    tally, found = judged(tmp_path, [RIGHT, RIGHT, ""], asked, right=[RIGHT, None, RIGHT])
    assert [one["passed"] for one in found] == [True, True, False]
    assert (tally.references.prompts, tally.references.total["pass@1"]) == (2, 2)
    assert tally.vacuous == 0
    assert tally.left_out == {}
