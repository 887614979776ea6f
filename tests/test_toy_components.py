"""Add one component of each kind to a copy of fmray: its file, its parameter class and one line of the catalogue do."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import fmray
from fmray.rigour.ledger import Ledger
from fmray.store import Store

SOURCE = Path(fmray.__file__).parent


@dataclass(frozen=True)
class Toy:
    """Hold what is added for one component.

    Args:
        file: Of the component, in the package, and its text.
        table: Of the catalogue, and the entry that it gets.
        declared: File of parameter classes, and the class; empty for kinds without parameters.
    """

    file: str
    text: str
    table: str
    entry: str
    declared: str = ""
    parameters: str = ""


STEP = Toy(
    "data/toy.py",
    '''
"""Double numbers."""

import polars as pl

from fmray.data.step import Fitted, chosen
from fmray.spec.components.steps import ToyTimes


class Times:
    """Multiply numbers by a factor."""

    def __init__(self, params=ToyTimes()):
        self.params = params

    def fit(self, frame, schema):
        return None

    def merge(self, one, other):
        return None

    def learn(self, partial, schema):
        names = [column.name for column in chosen(None, schema, ("number",), "toy_times")]
        return Fitted({"names": names}, schema, (f"toy_times multiplies {len(names)} columns by {self.params.factor:g}",))

    def apply(self, frame, state):
        return frame.with_columns(pl.col(state["names"]) * self.params.factor)
''',
    "STEPS",
    '"toy_times": "fmray.data.toy:Times",',
    "spec/components/steps.py",
    '''
class ToyTimes(Params):
    """Multiply numbers by a factor."""

    factor: Real = Field(2.0, description="Factor.")
''',
)
MODEL = Toy(
    "models/toy.py",
    '''
"""Predict by one hidden unit."""

from torch import nn


class OneUnit(nn.Module):
    """Squeeze inputs through one unit."""

    def __init__(self, schema, num_outputs, params=None):
        super().__init__()
        self.inner, self.outer = nn.Linear(schema.width, params.units), nn.Linear(params.units, num_outputs)

    def forward(self, x):
        return self.outer(self.inner(x).tanh())
''',
    "MODELS",
    '"toy_unit": "fmray.models.toy:OneUnit",',
    "spec/components/models.py",
    '''
class ToyUnit(Params):
    """Predict by few hidden units."""

    units: Units = Field(1, description="Hidden units.")
''',
)
TASK = Toy(
    "tasks/toy.py",
    '''
"""Minimise a multiple of cross-entropy."""

from fmray.spec.components import tasks as declared
from fmray.tasks.classification import Classification
from fmray.tasks.task import Losses


class Louder:
    """Minimise cross-entropy times a factor."""

    phases = ("model",)
    packable = ()

    def __init__(self, target, members=(declared.ToyLouder(),)):
        self.inner, self.factor = Classification(target), members[0].factor
        self.num_outputs = self.inner.num_outputs

    def loss(self, model, batch, phase):
        plain = self.inner.loss(model, batch, phase)
        return Losses(plain.loss * self.factor, plain.weight)

    def predict(self, output, batch):
        return self.inner.predict(output, batch)

    def select(self, keep):
        return self
''',
    "TASKS",
    '"toy_louder": "fmray.tasks.toy:Louder",',
    "spec/components/tasks.py",
    '''
class ToyLouder(Params):
    """Predict classes by a louder loss."""

    target: ClassVar[str] = "class"

    factor: Real = Field(1000.0, description="Factor of the loss.")
''',
)
METRIC = Toy(
    "metrics/toy.py",
    '''
"""Judge by the share of wrong rows."""

import numpy as np

from fmray.metrics.exact import RowSums, ratio
from fmray.metrics.metric import Metric, mean_pull


def wrong(output, target):
    return np.asarray(output.argmax(1) != target, np.float64)


def terms(output, target, w):
    return {"wrong": (w * wrong(output, target), None, 1), "weight": (w, None, 1)}


def value(sums):
    return ratio(sums["wrong"][0], sums["weight"][0])


def pull(sums, output, target, w):
    return mean_pull(wrong(output, target), w, sums["wrong"][0], sums["weight"][0])


SUMS = RowSums(terms, value, pull)
ERROR = Metric("toy_error", False, "class", lambda *rows: SUMS.value(SUMS.partial(*rows)), sums=SUMS, is_bounded=True)
''',
    "METRICS",
    '"toy_error": "fmray.metrics.toy:ERROR",',
)
ENSEMBLE = Toy(
    "ensemble/toy.py",
    '''
"""Let the first member speak louder."""

from fmray.records import Ensemble


def first(candidates, params):
    """Give the first member its share, and the others the rest."""
    others = len(candidates.members) - 1
    weights = (params.share, *[(1 - params.share) / others] * others)
    return Ensemble("toy_first", candidates.indices, weights, reason=f"the first of {others + 1} has {params.share}")
''',
    "ENSEMBLES",
    '"toy_first": "fmray.ensemble.toy:first",',
    "spec/components/ensembles.py",
    '''
class ToyFirst(Ensemble):
    """Let the first member speak louder."""

    share: Annotated[Real, Field(gt=0, lt=1)] = Field(0.5, description="Share of the first member.")
''',
)


def gate(stage: str, number: int, body: str) -> Toy:
    """Add a gate of a stage, which looks at the evidence of that stage."""
    text = f'''
"""Gate G{number}: look at the {stage}."""

from fmray.rigour.gates.gate import Finding, Gate


def look(evidence, rigour):
    {body}


GATE = Gate("toy of the {stage}", "{stage}", {{}}, look)
'''
    file = f"rigour/gates/toy_{stage}.py"
    return Toy(file, text, "GATES", f'"G{number}": "fmray.rigour.gates.toy_{stage}:GATE",')


SEVERAL = """number = len(evidence.members)
    return Finding("pass" if number > 1 else "fail", f"{number} members were trained.", value=float(number), limit=2.0)"""
GATES = {
    "data": gate("data", 95, 'return Finding("pass", f"{evidence.num_files} file was read.")'),
    "training": gate("training", 96, SEVERAL),
    "result": gate("result", 99, SEVERAL),
    "artefact": gate("artefact", 97, 'return Finding("pass", f"not opened: {evidence.reason}")'),
}
TOYS = {"step": STEP, "model": MODEL, "task": TASK, "metric": METRIC, "ensemble": ENSEMBLE, **GATES}
JOB = """
name: toys
data: {path: data, target: y}
steps: [{toy_times: {factor: 3}}, standardise]
task: toy_louder
model: {toy_unit: {units: 2}}
train: {epochs: 8, seeds: 2, batch_rows: 64, optimizer: {adamw: {lr: 0.05}}}
ensemble: {toy_first: {share: 0.75, keep: always}}
evaluate: {primary: toy_error}
rigour: {profile: draft}
"""


def add(toy: Toy, package: Path) -> None:
    """Write the file of a component, append its parameter class, and put one line into the catalogue."""
    (package / toy.file).write_text(toy.text.lstrip())
    if toy.declared:
        with (package / toy.declared).open("a") as file:
            file.write("\n" + toy.parameters)
    catalogue = package / "catalogue.py"
    lines = catalogue.read_text().splitlines()
    tree = ast.parse("\n".join(lines))
    table = next(n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == toy.table)
    entries = next(node for node in table.value.args if isinstance(node, ast.Dict))
    lines.insert(entries.end_lineno - 1, f"        {toy.entry}")
    catalogue.write_text("\n".join(lines) + "\n")


def fmray_of(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "fmray.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_component_takes_its_file_its_parameters_and_one_line_of_the_catalogue(tmp_path):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(SOURCE, tmp_path / "fmray", ignore=shutil.ignore_patterns("__pycache__"))
    for toy in TOYS.values():
        add(toy, tmp_path / "fmray")
    x = np.random.default_rng(1).standard_normal((600, 4))
    table = pa.table({f"f{i}": column for i, column in enumerate(x.T)} | {"y": (x[:, 0] > 0).astype(int)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "a.parquet")
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "wrong.yaml").write_text(JOB.replace("factor: 3", "factor: many").replace("units: 2", "units: 0"))

    refused = fmray_of(tmp_path, "check", "wrong.yaml")
    assert refused.returncode == 5, refused.stdout + refused.stderr
    assert "steps.0.toy_times.factor: 'many'. Accepted: a number." in refused.stderr
    assert "model.toy_unit.units: 0. Accepted: a whole number in [1, inf)." in refused.stderr
    reference = fmray_of(tmp_path, "schema").stdout
    assert all(name in reference for name in ("toy_times", "toy_unit", "toy_louder", "toy_error", "toy_first"))

    done = fmray_of(tmp_path, "run", "job.yaml", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    root = Path(json.loads(done.stdout.splitlines()[-1])["run_dir"])
    card = json.loads((root / "card.json").read_text())
    assert "toy_times multiplies 4 columns by 3" in done.stderr
    assert {member["model"]["name"] for member in card["members"]} == {"toy_unit"}
    assert card["ensemble"]["reason"].startswith("the first of 2 has 0.75")
    assert card["scores"]["primary"] == "toy_error"
    assert 0 <= card["scores"]["test"]["toy_error"]["value"] < 0.2
    found = {gate["gate"]: gate for gate in card["gates"]}
    assert [found[name]["status"] for name in ("G95", "G96", "G99", "G97")] == ["pass"] * 4
    assert [found[name].get("stage") for name in ("G95", "G96", "G99", "G97")] == ["data", "training", None, "artefact"]
    assert found["G95"]["text"] == "1 file was read."
    assert found["G96"]["text"] == found["G99"]["text"] == "2 members were trained."
    assert found["G97"]["text"] == "not opened: a draft: its model was not opened again."
    assert "gate G96, toy of the training: pass. 2 members were trained." in done.stderr
    history = pq.read_table(root / "history.parquet").to_pylist()
    losses = [entry["value"] for entry in history if entry["metric"] == "train_loss"]
    assert max(losses) > 100  # a thousand times what cross-entropy is
    predicted = fmray_of(tmp_path, "predict", str(root / "model"), "data", "--out", "said")
    assert predicted.returncode == 0, predicted.stderr

    (tmp_path / "alone.yaml").write_text(
        JOB.replace("name: toys", "name: alone")
        .replace("seeds: 2, ", "")
        .replace("ensemble: {toy_first: {share: 0.75, keep: always}}", "ensemble: single")
        .replace("rigour: {profile: draft}", "")
    )
    stopped = fmray_of(tmp_path, "run", "alone.yaml", "--json")
    answer = json.loads(stopped.stdout.splitlines()[-1])
    assert stopped.returncode == 2, stopped.stderr
    assert answer["failed_gates"] == ["G96"]
    assert "Change the job, or waive G96 under rigour.waive with a reason." in stopped.stderr
    root = Path(answer["run_dir"])
    kept = [(gate["gate"], gate["status"]) for gate in json.loads((root / "gates.json").read_text())]
    assert kept == [("G02", "pass"), ("G03", "pass"), ("G95", "pass"), ("G96", "fail")]
    assert not (root / "sealed").exists()
    assert root.name not in Ledger(Store(str(tmp_path / "fmray-store"))).first_looks()  # the test set was not looked at
