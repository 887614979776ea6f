"""Check that an exported program says what the model says, and that nothing is left of one that does not."""

import json
import sys

import numpy as np
import pytest
import torch
from inference.made import mean, rows, train, with_other_steps, write_data
from safetensors.numpy import load_file

from fmray.cli import main
from fmray.errors import DataError, SpecError
from fmray.inference.export import export
from fmray.inference.rows import Unseen, as_trained
from fmray.records import Ensemble

STACKED = Ensemble(
    "stacking", (0, 1), (0.5, 0.5), combine="logistic",
    params={"coefficients": [[1, -1], [0, 2], [-0.5, 0.3], [0.1, 0.2]], "intercepts": [0.2, -0.4]},
)  # fmt: skip


def inputs_and_outputs(model, table):
    """Give prepared inputs of each way, and what the model says of the rows."""
    given = as_trained(table, model.input_schema.columns, model.input_types)
    parts = list(model.reader.slices(given, [], Unseen()))
    inputs = [np.concatenate([part.x[name].arrays["x"] for part in parts]) for name in model.saved.ways()]
    said = model.predict(table)
    return inputs, np.stack([said[name].to_numpy() for name in said.column_names if name[:2] in ("p_", "y_")], 1)


def run_torch(folder, inputs):
    program = torch.export.load(folder / "model.pt2").module()
    return program(*map(torch.from_numpy, inputs)).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", [mean(0.25, 0.75), STACKED], ids=lambda e: e.combine)
def test_a_torch_program_says_what_the_model_says_of_any_number_of_rows(classes, tmp_path, ensemble):
    model = classes.open(ensemble, tmp_path / "model")
    summary = export(str(tmp_path / "model"), "torch", str(tmp_path / "out"))
    assert set(summary["files"]) == {"golden.safetensors", "model.pt2", "steps.json"}
    assert summary["golden"]["difference"] <= 1e-6
    for num_rows in (1, 2, 300):
        inputs, expected = inputs_and_outputs(model, rows(num_rows, seed=3))
        assert np.abs(run_torch(tmp_path / "out", inputs) - expected).max() < 1e-6
    golden = load_file(tmp_path / "out/golden.safetensors")
    assert np.abs(run_torch(tmp_path / "out", [golden["x"]]) - golden["outputs"]).max() < 1e-6
    steps = json.loads((tmp_path / "out/steps.json").read_text())
    assert steps["target"]["classes"] == ["no", "yes"]
    assert len(steps["inputs"]["x"]["features"]) == golden["x"].shape[1]
    assert b"data.pkl" not in (tmp_path / "out/model.pt2").read_bytes()


@pytest.mark.slow
def test_numbers_and_members_with_other_steps_are_exported_too(numbers, classes, tmp_path):
    model = numbers.open(mean(0.5, 0.5), tmp_path / "numbers")
    export(str(tmp_path / "numbers"), "torch", str(tmp_path / "two"))
    inputs, expected = inputs_and_outputs(model, rows(50, seed=3))
    assert np.abs(run_torch(tmp_path / "two", inputs) - expected).max() < 1e-6 * np.abs(expected).max()
    steps = [{"drop": {"columns": ["day", "city"]}}, "standardise"]
    both = with_other_steps(classes, steps).open(mean(0.3, 0.2, 0.4, 0.1), tmp_path / "ways")
    export(str(tmp_path / "ways"), "torch", str(tmp_path / "both"))
    inputs, expected = inputs_and_outputs(both, rows(50, seed=3))
    assert [x.shape[1] for x in inputs] == [own.schema.width for own in both.saved.ways().values()]
    assert np.abs(run_torch(tmp_path / "both", inputs) - expected).max() < 1e-6


@pytest.mark.slow
def test_an_onnx_program_says_what_the_model_says_of_any_number_of_rows(classes, tmp_path, capsys):
    runtime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    model = classes.open(STACKED, tmp_path / "model")
    with pytest.raises(SystemExit) as left:
        main(["export", str(tmp_path / "model"), "--format", "onnx", "--out", str(tmp_path / "out"), "--json"])
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["golden"]["rows"] > 0
    session = runtime.InferenceSession(tmp_path / "out/model.onnx")
    for num_rows in (1, 2, 300):
        inputs, expected = inputs_and_outputs(model, rows(num_rows, seed=3))
        (said,) = session.run(["outputs"], {"x": inputs[0]})
        assert np.abs(said - expected).max() < 1e-5


def test_a_vote_is_refused_with_what_can_be_exported(classes, tmp_path):
    classes.write(Ensemble("vote", (0, 1), (0.5, 0.5), combine="vote"), tmp_path / "model")
    with pytest.raises(SpecError, match="combines by vote, which jumps .* Accepted: mean, soup, logistic"):
        export(str(tmp_path / "model"), "torch", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused(model, tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(DataError, match="is not empty. Give a new folder"):
        export(str(model), "torch", str(tmp_path))


TWO_FACED = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, schema, num_outputs):
        super().__init__()
        self.last = nn.Linear(schema.width, num_outputs)

    def forward(self, x):
        if torch.compiler.is_exporting():
            return self.last(x) * 1.001
        return self.last(x)


class Listing(Net):
    def forward(self, x):
        return super().forward(x) * float(x.sum().item() > -1e9)
"""


@pytest.mark.slow
def test_nothing_is_left_of_a_program_that_differs_or_that_torch_cannot_trace(tmp_path, monkeypatch):
    write_data(tmp_path / "data", rows(200))
    (tmp_path / "two_faced.py").write_text(TWO_FACED)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = {"path": "data", "target": "y", "key": "id", "ignore": ["z", "w"]}
    alone = Ensemble("single", (0,), (1.0,))
    for name, error, words in (
        ("Net", DataError, "differs from the model by"),
        ("Listing", SpecError, "cannot export"),
    ):
        trained = train(tmp_path, 1, name, data=data, model=f"two_faced:{name}")
        trained.write(alone, tmp_path / name)
        with pytest.raises(error, match=words):
            export(str(tmp_path / name), "torch", str(tmp_path / "out" / name), trust_code=True)
    assert list((tmp_path / "out").iterdir()) == []
    assert "two_faced" in sys.modules
