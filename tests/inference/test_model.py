"""Check that an opened model says what the run said, wherever it lies, of rows however they come."""

import json
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inference.made import NUM_ROWS, mean, rows, train, with_other_steps, write_data
from network_source import NET

from fmray.data.hashing import row_hash
from fmray.errors import DataError
from fmray.inference.model import open_model
from fmray.records import Ensemble
from fmray.store import fingerprint


def outputs(model, table):
    said = model.predict(table)
    return np.stack(
        [said[name].to_numpy() for name in said.column_names if name != "prediction" or said.num_columns == 1], 1
    )


def difference(model, trained, ensemble, folder, split="val"):
    """Compare with the run's own predictions, joined by row id."""
    table = rows()
    place = {value.tobytes(): row for row, value in enumerate(row_hash(table, ["id"]))}
    expected = trained.said(ensemble, folder, split)
    found = outputs(model, table)[[place[value.tobytes()] for value in expected.row_id]]
    assert len(found) == trained.prepared.num_rows(split) > 0
    return np.abs(found - expected.output).max()


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_opened_model_says_what_the_run_said_of_the_same_rows(classes, model, tmp_path, split):
    assert difference(open_model(model), classes, mean(0.25, 0.75), tmp_path, split) < 1e-6


@pytest.mark.parametrize(
    "ensemble",
    [
        Ensemble("single", (1,), (1.0,)),
        Ensemble("vote", (0, 1), (0.4, 0.6), combine="vote"),
        Ensemble("soup", (0, 1), (0.5, 0.5), combine="soup"),
        Ensemble("stacking", (0, 1), (0.5, 0.5), combine="logistic",
                 params={"coefficients": [[1, -1], [0, 2], [-0.5, 0.3], [0.1, 0.2]], "intercepts": [0.2, -0.4]}),
    ],
    ids=lambda ensemble: ensemble.combine,
)  # fmt: skip
def test_every_kind_of_ensemble_speaks_as_in_its_run(classes, tmp_path, ensemble):
    model = classes.open(ensemble, tmp_path / "model")
    assert difference(model, classes, ensemble, tmp_path) < 1e-6


def test_members_whose_rows_were_prepared_in_other_ways_speak_together(classes, tmp_path):
    steps = [{"drop": {"columns": ["day"]}}, {"one_hot": {}}, {"quantile": {"columns": ["f0"]}}, "standardise"]
    both, ensemble = with_other_steps(classes, steps), mean(0.3, 0.2, 0.4, 0.1)
    model = both.open(ensemble, tmp_path / "model")
    assert len(model.saved.ways()) == 2
    assert difference(model, both, ensemble, tmp_path) < 1e-6


def test_outputs_are_named_for_people(classes, numbers, model, tmp_path):
    said = open_model(model).predict(rows(7))
    assert said.column_names == ["prediction", "p_no", "p_yes"] == list(open_model(model).output_names)
    likely = np.where(said["p_no"].to_numpy() >= said["p_yes"].to_numpy(), "no", "yes")
    assert said["prediction"].to_pylist() == likely.tolist()
    assert np.allclose(said["p_no"].to_numpy() + said["p_yes"].to_numpy(), 1)
    two = numbers.open(mean(0.5, 0.5), tmp_path / "two")
    assert two.predict(rows(3)).column_names == ["y_z", "y_w"]


def test_inputs_are_described_without_targets_keys_and_what_is_ignored(model):
    opened = open_model(model)
    assert [(c.name, c.kind) for c in opened.input_schema.columns] == [
        ("f0", "number"), ("f1", "number"), ("n", "number"), ("city", "text"), ("day", "time")
    ]  # fmt: skip
    assert opened.input_types.field("f1").type == pa.float32()


def test_a_few_validation_rows_come_with_the_model(classes, model):
    opened = open_model(model)
    example = opened.example
    assert 0 < example.num_rows <= 16
    assert example.column_names == opened.input_types.names
    known = set(map(bytes, row_hash(rows(), example.column_names)))
    assert set(map(bytes, row_hash(example, example.column_names))) <= known
    assert opened.predict(example)["prediction"].null_count == 0


def test_validation_rows_that_were_changed_since_are_not_taken_for_those_of_the_model(model, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(model, changed)
    path = changed / "example.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(table.num_rows)))), path)
    with pytest.raises(DataError, match=r"changed/example\.parquet was changed since the model was written"):
        _ = open_model(changed).example
    path.unlink()
    with pytest.raises(DataError, match=r"changed/example\.parquet cannot be read"):
        _ = open_model(changed).example


def test_the_validation_rows_of_a_model_of_an_earlier_version_have_no_digest(model, tmp_path):
    earlier = tmp_path / "earlier"
    shutil.copytree(model, earlier)
    description = json.loads((earlier / "model.json").read_text())
    description = {name: value for name, value in description.items() if name not in ("example", "checksum")}
    (earlier / "model.json").write_text(json.dumps({**description, "checksum": fingerprint(description)}))
    assert open_model(earlier).example.equals(open_model(model).example)


def test_a_model_speaks_where_it_was_moved_to_and_the_run_is_gone(classes, model, tmp_path):
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(model, moved)
    before = open_model(model).predict(rows(50))
    assert open_model(moved).predict(rows(50)).equals(before)


def test_the_directory_of_a_run_is_as_good_as_its_model_folder(model, tmp_path):
    shutil.copytree(model, tmp_path / "run" / "model")
    assert open_model(tmp_path / "run").identity == open_model(model).identity


def test_frames_tables_and_other_types_of_the_same_values_get_the_same_answer(model):
    opened, table = open_model(model), rows(60)
    expected = opened.predict(table)
    frame = table.to_pandas()
    assert opened.predict(frame).equals(expected)
    frame["city"] = frame["city"].astype("category")
    frame["n"] = frame["n"].astype(float)
    assert opened.predict(frame[["day", "city", "n", "f1", "f0"]]).equals(expected)
    assert opened.predict(table.to_pandas().iloc[::-1]).equals(expected.take(pa.array(range(59, -1, -1))))


def test_a_missing_value_is_treated_as_a_step_treats_it_and_none_drops_a_row(model):
    frame = rows(5).to_pandas()
    frame["n"] = frame["n"].astype(float)
    frame.loc[2, ["f0", "n"]] = np.nan
    frame.loc[3, "city"] = None
    said = open_model(model).predict(frame)
    assert said.num_rows == 5
    assert said["prediction"].null_count == 0


def test_a_row_that_cannot_be_an_input_has_no_answer_and_the_others_keep_theirs(model):
    opened, frame = open_model(model), rows(5).to_pandas()
    expected = opened.predict(frame)["p_no"].to_pylist()
    frame.loc[2, "f0"] = np.inf
    said = opened.predict(frame)
    assert said["prediction"].is_null().to_pylist() == [False, False, True, False, False]
    assert said["p_no"].to_pylist() == [*expected[:2], None, *expected[3:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(["f1", "city"]), "column 'f1', 'city' is missing"),
        (
            lambda t: t.set_column(0, "f0", t["f0"].cast(pa.string())),
            "'f0' holds string where training rows held double",
        ),
        (lambda t: t.set_column(3, "city", t["n"]), "'city' holds int64 where training rows held string"),
        (lambda t: t.set_column(4, "day", t["city"]), "'day' holds string where training rows held timestamp"),
    ],
    ids=["missing", "text for a number", "number for text", "text for a time"],
)
def test_a_column_that_is_missing_or_of_another_kind_is_refused(model, change, words):
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        open_model(model).predict(change(rows(3)))


def test_one_row_and_no_row_are_answered(model):
    opened, table = open_model(model), rows(3)
    whole = opened.predict(table)["p_no"].to_pylist()
    alone = [opened.predict(table.slice(row, 1))["p_no"][0].as_py() for row in range(3)]
    assert np.allclose(whole, alone, atol=1e-6)
    assert opened.predict(table.slice(0, 0)).num_rows == 0


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: flip(f / "00001/model.safetensors"), "its tensors are not those of member 1"),
        (
            lambda f: (f / "00000/model.safetensors").unlink(),
            "00000/model.safetensors is missing, and .*/model.json names it as member 0",
        ),
        (lambda f: (f / "00000/model.safetensors").write_bytes(b"short"), "cannot be read"),
        (lambda f: edit(f / "model.json", task={"name": "regression", "params": {}}), "its checksum does not match"),
        (lambda f: edit(f / "model.json", format=99), "format 99. This fmray reads 1"),
        (lambda f: (f / "model.json").write_text("{"), "it is not JSON"),
        (lambda f: (f / "model.json").unlink(), "model.json is missing. Give the directory of a finished run"),
    ],
)
def test_a_damaged_folder_is_refused(model, tmp_path, damage, words):
    shutil.copytree(model, tmp_path / "damaged")
    damage(tmp_path / "damaged")
    with pytest.raises(DataError, match=words):
        open_model(tmp_path / "damaged")


def is_pickle(data):
    try:
        with warnings.catch_warnings(action="ignore"):
            return bool(list(pickletools.genops(data)))
    except (ValueError, UnicodeError, IndexError):
        return False


def test_no_file_of_a_model_is_a_pickle(model):
    files = [path for path in model.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".parquet", ".safetensors"}
    assert [path for path in files if is_pickle(path.read_bytes())] == []
    assert is_pickle(pickle.dumps({"a": 1}))


@pytest.mark.slow
def test_the_users_own_network_comes_along_and_another_of_its_name_is_refused(tmp_path, monkeypatch):
    """In processes of their own: a module is loaded once per process."""
    write_data(tmp_path / "data", rows())
    (tmp_path / "net_of_mine.py").write_text(NET)
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        data = {"path": "data", "target": "y", "key": "id", "ignore": ["z", "w"]}
        trained, alone = train(tmp_path, 1, data=data, model="net_of_mine:Net"), Ensemble("single", (0,), (1.0,))
        trained.write(alone, tmp_path / "alone")
        expected = trained.said(alone, tmp_path)
    (tmp_path / "net_of_mine.py").unlink()

    def call(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        command = [sys.executable, "-m", "fmray.cli", "predict", *arguments, "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    code, answer = call("alone", "data", "--out", "out")
    assert (code, answer["error"]["kind"]) == (5, "SpecError")
    assert "needs code of its author: net_of_mine. Nothing of it was run" in answer["error"]["message"]
    assert call("alone", "data", "--out", "out", "--trust-code")[1]["rows"] == NUM_ROWS
    said = pq.read_table(tmp_path / "out/part-000000.parquet")
    place = {value: row for row, value in enumerate(said["row_id"].to_pylist())}
    same = said.take(pa.array([place[value.tobytes()] for value in expected.row_id]))
    assert np.abs(same["p_yes"].to_numpy() - expected.output[:, 1]).max() < 1e-6
    (tmp_path / "alone/code/net_of_mine.py").write_text(NET.replace("Linear(", "Linear(in_features="))
    code, answer = call("alone", "data", "--out", "other", "--trust-code")
    assert (code, answer["error"]["kind"]) == (5, "SpecError")
    assert "'net_of_mine' is not the one this model was trained with" in answer["error"]["message"]
    # models of earlier versions do not list the files of code/; the modules' digests prove what is imported
    description = json.loads((tmp_path / "alone/model.json").read_text())
    old = {name: value for name, value in description.items() if name not in ("code", "checksum")}
    (tmp_path / "alone/model.json").write_text(json.dumps({**old, "checksum": fingerprint(old)}))
    (tmp_path / "alone/code/torch.py").write_text("raise SystemExit('not a module of this model')")
    code, answer = call("alone", "data", "--out", "old", "--trust-code")
    assert "'net_of_mine' is not the one this model was trained with" in answer["error"]["message"]
    (tmp_path / "alone/code/net_of_mine.py").write_text(NET)
    assert call("alone", "data", "--out", "old")[0] == 5
    assert call("alone", "data", "--out", "old", "--trust-code")[1]["rows"] == NUM_ROWS
    assert pq.read_table(tmp_path / "old/part-000000.parquet").equals(said)


def test_steps_that_fill_nothing_leave_a_row_with_a_hole_unanswered(tmp_path):
    write_data(tmp_path / "data", rows(150).select(["f0", "f1", "y", "id"]))
    plain = train(tmp_path, seeds=1, data={"path": "data", "target": "y", "key": "id"}, steps=["standardise"])
    model = plain.open(Ensemble("single", (0,), (1.0,)), tmp_path / "model")
    table = pa.table({"f0": [1.0, None, 2.0], "f1": pa.array([0.5, 0.5, None], pa.float32())})
    assert model.predict(table)["prediction"].is_valid().to_pylist() == [True, False, False]
