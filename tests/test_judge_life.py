"""Texts that a language model wrote are judged as programs by the tests of their rows, from the command line."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.cli.app import run_command
from fmray.errors import DataError, SpecError
from fmray.inference.generation import Generation
from fmray.inference.judge import judge
from fmray.inference.judge_parts import Asked, judge_part
from fmray.inference.predict import generate, predict
from fmray.records import Run
from fmray.spec.job import Job
from fmray.store import Store
from fmray.workflow import execute

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("judge_life")]
NAMES = ["add", "sub", "mul", "bad"]
BODIES = {"add": "return a + b", "sub": "return a - b", "mul": "return a * b", "bad": "return a */"}
SIGNS = {"add": "+", "sub": "-", "mul": "*", "bad": "+"}
ASKED = Asked(tests="tests", reference="right")
NUM_ROWS = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Train a model that knows the letters, which is all that is asked of it here."""
    home = tmp_path_factory.mktemp("programs")
    lines = [f"def {name}(a, b): {BODIES[name]} " for name in NAMES] * 20
    pq.write_table(pa.table({"text": [f"{line}# {n}" for n, line in enumerate(lines)]}), home / "rows.parquet")
    job = Job.from_json(
        {
            "name": "programs",
            "data": {"path": str(home / "rows.parquet"), "target": "text"},
            "task": {"language_model": {"context": 32}},
            "steps": [{"tokenize": {"columns": "text", "kind": "characters", "lowercase": False}}],
            "model": {"decoder": {"width": 16, "depth": 1, "heads": 2}},
            "train": {"steps": 20, "validate_every": 10, "batch_rows": 32},
            "evaluate": {"baselines": ["dummy"]},
            "rigour": {"profile": "draft"},
            "run": {"workers": 0, "threads": 1, "prepare": "local"},
        }
    )
    return execute(job, Store(str(home / "store")))


def rows() -> pa.Table:
    """Give prompts of which each has a test, a right program, and a body that `allowed` texts may or may not be."""
    kinds = [NAMES[n % 3] for n in range(NUM_ROWS)]
    return pa.table(
        {
            "text": [f"def {name}(a, b): # {n}\n  " for n, name in enumerate(kinds)],
            "tests": [[f"assert {name}({n}, 3) == {n} {SIGNS[name]} 3"] for n, name in enumerate(kinds)],
            "right": [f"def {name}(a, b): {BODIES[name]}" for name in kinds],
            "one_test": ["pass"] * NUM_ROWS,
            "number": range(NUM_ROWS),
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    pq.write_table(rows().slice(0, 7), folder / "a.parquet", row_group_size=3)
    pq.write_table(rows().slice(7), folder / "b.parquet")
    return folder


@pytest.fixture(scope="module")
def texts(run, data, tmp_path_factory) -> Path:
    """Let the model write one of four bodies for each prompt."""
    out = tmp_path_factory.mktemp("texts") / "one"
    asked = Generation(allowed=tuple(BODIES.values()), temperature=50.0, seed=1)
    generate(run.root, str(data), str(out), asked, place="local", item_bytes=300)
    return out


def read(folder: Path) -> list[dict]:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]).to_pylist()


def skip_without_sandbox(asked: Asked) -> None:
    from fmray.evaluate.sandbox import Sandbox

    try:
        Sandbox(asked.limits)
    except SpecError as error:
        pytest.skip(str(error))


def test_each_text_has_the_verdict_that_its_own_row_gives_it(texts, data, tmp_path):
    skip_without_sandbox(ASKED)
    assert len(list(texts.glob("*.parquet"))) > 1
    summary = judge(str(texts), str(data), str(tmp_path / "out"), ASKED, place="local")
    written, found = read(texts), read(tmp_path / "out")
    assert list(found[0]) == ["file", "row", "row_id", "sample", "parsed", "passed", "reason"]
    names = [NAMES[n % 3] for n in range(NUM_ROWS)]
    for name, text, verdict in zip(names, written, found, strict=True):
        assert [text[key] for key in ("file", "row", "row_id", "sample")] == [
            verdict[key] for key in ("file", "row", "row_id", "sample")
        ]
        assert verdict["parsed"] == (text["text"] != BODIES["bad"])
        assert verdict["passed"] == (text["text"] == BODIES[name])
        assert (verdict["reason"] is None) == verdict["passed"]
    assert {verdict["passed"] for verdict in found} == {True, False}
    shares = summary["shares"]
    assert shares["parses"]["value"] == sum(one["parsed"] for one in found) / NUM_ROWS
    assert shares["pass@1"]["value"] == sum(one["passed"] for one in found) / NUM_ROWS
    assert shares["pass@1"]["method"] == "wilson"
    assert summary["references"]["passed"]["value"] == 1.0
    assert summary["references"]["vacuous"] == 0


def test_the_command_says_first_whether_the_tests_are_sound(texts, data, tmp_path):
    skip_without_sandbox(ASKED)
    call = [
        sys.executable,
        "-m",
        "fmray.cli",
        "judge",
        str(texts),
        str(data),
        "--tests",
        "tests",
        "--reference",
        "right",
    ]
    done = subprocess.run([*call, "--out", str(tmp_path / "a")], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    places = [
        next(n for n, line in enumerate(lines) if line.startswith(begin))
        for begin in ("reference programs pass their tests: 1.0000", "an empty program passes the tests of 0 of 12", "12 texts", "parses: ", "pass@1: ", "why not: ")
    ]  # fmt: skip
    assert places == sorted(places)
    done = subprocess.run([*call, "--out", str(tmp_path / "b"), "--json"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["status"] == "finished"
    assert set(told["shares"]) == {"parses", "pass@1"}


def test_tests_that_pass_without_a_program_are_said(texts, data, tmp_path):
    skip_without_sandbox(ASKED)
    asked = Asked(tests="one_test", reference="right")
    assert (
        judge(str(texts), str(data), str(tmp_path / "out"), asked, place="local")["references"]["vacuous"] == NUM_ROWS
    )


def test_without_tests_texts_are_only_parsed(texts, data, tmp_path):
    summary = judge(str(texts), str(data), str(tmp_path / "out"), place="local")
    assert list(summary["shares"]) == ["parses"]
    assert {verdict["passed"] for verdict in read(tmp_path / "out")} == {None}
    alone = judge(str(texts), str(data), str(tmp_path / "alone"), Asked(is_alone=True), place="local")
    # `return` outside of a function parses
    assert alone["shares"]["parses"] == summary["shares"]["parses"]


def test_several_texts_of_a_prompt_count_as_one_piece(run, data, tmp_path):
    asked = Generation(allowed=tuple(BODIES.values()), temperature=50.0, seed=1, num=3)
    generate(run.root, str(data), str(tmp_path / "texts"), asked, place="local")
    skip_without_sandbox(ASKED)
    summary = judge(str(tmp_path / "texts"), str(data), str(tmp_path / "out"), Asked(tests="tests"), place="local")
    assert summary["judged"] == 3 * NUM_ROWS
    assert list(summary["shares"]) == ["parses", "pass@1", "pass@3"]
    passed = [verdict["passed"] for verdict in read(tmp_path / "out")]
    any_of_three = [any(passed[start : start + 3]) for start in range(0, len(passed), 3)]
    share = summary["shares"]["pass@3"]
    assert share["value"] == pytest.approx(sum(any_of_three) / NUM_ROWS)
    assert (share["n"], share["method"]) == (NUM_ROWS, "grouped delta")
    assert summary["shares"]["pass@1"]["value"] == pytest.approx(sum(passed) / len(passed))


def test_what_was_interrupted_is_continued_and_the_rest_not_done_again(texts, data, tmp_path, monkeypatch):
    done = []

    def interrupted(work, name):
        if done:
            raise KeyboardInterrupt
        done.append(name)
        return judge_part(work, name)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("fmray.inference.judge.judge_part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            judge(str(texts), str(data), str(out), place="local")
    before = (out / done[0]).stat().st_mtime_ns
    with pytest.raises(DataError, match="verdicts on other texts, with other settings or of another Python"):
        judge(str(texts), str(data), str(out), Asked(is_alone=True), place="local")
    summary = judge(str(texts), str(data), str(out), place="local")
    assert (out / done[0]).stat().st_mtime_ns == before
    again = judge(str(texts), str(data), str(tmp_path / "whole"), place="local")
    assert summary["shares"] == again["shares"]
    assert read(out) == read(tmp_path / "whole")


def test_a_damaged_file_of_verdicts_is_made_anew(texts, data, tmp_path):
    out = tmp_path / "out"
    judge(str(texts), str(data), str(out), place="local")
    part = min(out.glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    judge(str(texts), str(data), str(out), place="local")
    assert len(read(out)) == NUM_ROWS


def test_finished_verdicts_are_given_again_and_changed_ones_made_anew(texts, data, tmp_path):
    out = tmp_path / "out"
    summary = judge(str(texts), str(data), str(out), place="local")
    assert (summary["python"], summary["repeats"]) == (platform.python_version(), 0)
    parts = sorted(out.glob("*.parquet"))
    before = [part.read_bytes() for part in parts]
    times = [part.stat().st_mtime_ns for part in parts]
    assert judge(str(texts), str(data), str(out), place="local") == summary
    assert [part.stat().st_mtime_ns for part in parts] == times
    # one bit of the rows: the footer is whole
    parts[0].write_bytes(before[0][:40] + bytes([before[0][40] ^ 1]) + before[0][41:])
    judge(str(texts), str(data), str(out), place="local")
    assert [part.read_bytes() for part in parts] == before


def test_other_rows_are_refused(texts, data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(rows().slice(1), other / "a.parquet")
    with pytest.raises(DataError, match="are not the rows that the texts were written for"):
        judge(str(texts), str(other), str(tmp_path / "out"))


def test_damaged_texts_are_refused(run, data, tmp_path):
    out = tmp_path / "texts"
    generate(run.root, str(data), str(out), Generation(max_new_tokens=2), place="local")
    part = min(out.glob("*.parquet"))
    part.write_bytes(part.read_bytes() + b"x")
    with pytest.raises(DataError, match="bytes instead of"):
        judge(str(out), str(data), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tests": "test"}, "--tests: column 'test' is not in a.parquet. It has: text, tests"),
        ({"tests": "number"}, "--tests: column 'number' holds int64. Accepted: text or lists of it."),
        ({"tests": "tests", "reference": "tests"}, "--reference: column 'tests' holds list<element: string>. Accepted: text."),
        ({"reference": "right"}, "--reference: 'right' has no effect without tests. Give --tests."),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_refused(texts, data, tmp_path, asked, message):
    with pytest.raises(SpecError) as caught:
        judge(str(texts), str(data), str(tmp_path / "out"), Asked(**asked))
    assert str(caught.value).startswith(message)


def test_predictions_and_unfinished_texts_are_refused(run, data, tmp_path, capsys):
    predict(run.root, str(data), str(tmp_path / "predicted"), place="local")
    code, _ = run_command(["judge", str(tmp_path / "predicted"), str(data), "--out", str(tmp_path / "out")], {})
    assert code == 5
    assert "holds predictions. Give a folder that fmray generate wrote" in capsys.readouterr().err
    code, _ = run_command(["judge", str(tmp_path), str(data), "--out", str(tmp_path / "out")], {})
    assert code == 5
    assert "has no predictions.json" in capsys.readouterr().err


@pytest.mark.cluster
def test_over_ray_verdicts_are_the_same(texts, data, tmp_path):
    skip_without_sandbox(ASKED)
    for place in ("local", "ray"):
        judge(str(texts), str(data), str(tmp_path / place), Asked(tests="tests"), place=place)
    assert read(tmp_path / "local") == read(tmp_path / "ray")
