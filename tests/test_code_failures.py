"""Jobs that bring code which fails: what the console, the run's directory, the report and `fmray why` say of it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.cli.app import main
from fmray.report.card import read_card
from fmray.store import Store

NETS = """\
import sys
import torch
from fmray.data.step import Fitted

class Good(torch.nn.Module):
    def __init__(self, schema, num_outputs, width=8):
        super().__init__()
        if width == 13:
            raise ValueError("width 13 is unlucky")
        self.first, self.last = torch.nn.Linear(schema.width, width), torch.nn.Linear(width, num_outputs)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))

class Prints(Good):
    def forward(self, x):
        print("hello", end="")
        return super().forward(x)

class Exits(Good):
    def forward(self, x):
        sys.exit(0)

class Picky:
    def __init__(self, power=1):
        self.power = power

    def fit(self, frame, schema):
        return None

    def merge(self, one, other):
        return one

    def learn(self, partial, schema):
        return Fitted({}, schema)

    def apply(self, frame, state):
        if self.power == 3 and frame.height:
            raise ValueError("no third power")
        return frame

class Step:
    def fit(self, frame, schema):
        return None

    def merge(self, one, other):
        return one

    def learn(self, partial, schema):
        return Fitted({}, schema)

    def apply(self, frame, state):
        raise KeyError("a column of my own")
"""


@pytest.fixture
def fmray(tmp_path, capsys):
    """Run a job beside the user's modules, and give the exit code, what was printed and the answer."""
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2))
    y = np.where(x[:, 0] + random.normal(size=300) > 0, "yes", "no")
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "y": y}), tmp_path / "data/a.parquet")
    (tmp_path / "failing_nets.py").write_text(NETS)

    def run(*command, text="", **job):
        if text:
            (tmp_path / "job.yaml").write_text(f"data: {{path: data, target: y}}\ntrain: {{epochs: 2}}\n{text}")
        elif job:
            value = {"data": {"path": "data", "target": "y"}, "train": {"epochs": 2, "batch_rows": 64}, **job}
            (tmp_path / "job.yaml").write_text(json.dumps(value))
        with pytest.raises(SystemExit) as ended:
            main([*command, "--store", str(tmp_path / "store"), "--json"])
        printed = capsys.readouterr()
        return ended.value.code, printed.err, json.loads(printed.out.splitlines()[-1]), printed.out

    run.job = str(tmp_path / "job.yaml")
    return run


def test_code_that_fails_ends_in_one_line_with_its_place_and_the_file_of_its_traceback(fmray):
    code, err, answer, _ = fmray("run", fmray.job, model={"failing_nets:Good": {"width": 13}})
    assert code == 1
    assert "Traceback" not in err
    assert "error: train: ValueError: width 13 is unlucky (failing_nets.py:9 in __init__). Its traceback is in /" in err
    path = Path(answer["error"]["message"].partition("traceback is in ")[2].partition(". Correct")[0])
    assert 'raise ValueError("width 13 is unlucky")' in path.read_text()


def test_a_module_that_exits_does_not_end_the_run_without_a_word(fmray):
    code, err, _, _ = fmray("run", fmray.job, model="failing_nets:Exits")
    assert code == 1
    assert "SystemExit: 0 (failing_nets.py:22 in forward)" in err


def test_a_step_that_fails_is_named_by_file_and_line(fmray):
    code, err, _, _ = fmray("run", fmray.job, model="mlp", steps=["auto", "failing_nets:Step"])
    assert code == 1
    assert "error: prepare: KeyError: 'a column of my own' (failing_nets.py:53 in apply). Its traceback is in" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_what_a_module_prints_does_not_stand_in_the_answer(fmray):
    code, err, answer, out = fmray("run", fmray.job, model="failing_nets:Prints")
    assert code in (0, 2)
    assert answer["status"] == "finished"
    assert "hello" in err
    assert "hello" not in out


@pytest.mark.slow
def test_a_failed_member_stands_in_the_report_in_the_account_and_in_what_why_says(fmray):
    text = "model: {'failing_nets:Good': {width: {choice: [8, 13, 16]}}}\nsearch: {by: grid}\n"
    code, err, answer, _ = fmray("run", fmray.job, text=text)
    reason = "ValueError: width 13 is unlucky (failing_nets.py:9 in __init__)"
    assert code in (0, 2)
    assert f"user: member 1 (model.failing_nets:Good.width: 13): {reason} (left the member out)" in err
    store = Store(answer["run_dir"].partition("/runs/")[0])
    card = read_card(answer["run_dir"], store)
    assert card.search.failed == ({"member": 1, "params": {"model.failing_nets:Good.width": 13}, "reason": reason},)
    page = Path(answer["report"]).read_text()
    assert "Members that failed" in page
    assert "<td>model.failing_nets:Good.width: 13 </td>" in page
    _, _, why, _ = fmray("why", answer["run_dir"])
    found = {finding["kind"]: finding for finding in [why, *why["also"]]}
    assert reason in found["failed members"]["cause"]
    assert "stacks" in found["failed members"]["fix"]


@pytest.mark.slow
def test_a_structure_whose_steps_fail_is_a_failed_member_and_the_search_goes_on(fmray):
    text = "model: linear\nsteps: [{'failing_nets:Picky': {power: {choice: [1, 3, 2]}}}, auto]\nsearch: {by: grid}\n"
    code, err, answer, _ = fmray("run", fmray.job, text=text)
    reason = "ValueError: no third power (failing_nets.py:39 in apply)"
    assert code in (0, 2), err
    assert f"(steps.0.failing_nets:Picky.power: 3): {reason} (left the member out)" in err
    store = Store(answer["run_dir"].partition("/runs/")[0])
    card = read_card(answer["run_dir"], store)
    (failed,) = card.search.failed
    assert (failed["params"], failed["reason"]) == ({"steps.0.failing_nets:Picky.power": 3}, reason)
    assert [member.status for member in card.members].count("failed") == 1
    assert all(member.prepared and member.val_score for member in card.members if member.status != "failed")
    traceback = next(Path(answer["run_dir"], "stacks").glob("steps-*.txt")).read_text()
    assert 'raise ValueError("no third power")' in traceback
    code, err, again, _ = fmray("run", fmray.job, text=text)
    assert again["scores"] == answer["scores"]
