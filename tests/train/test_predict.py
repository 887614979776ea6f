"""Check that predictions are of every row once, in order, here or over Ray."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from fmray.data.lanes import Lanes
from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.data.session import session
from fmray.errors import DataError
from fmray.evaluate.table import read
from fmray.metrics.find import find_metric
from fmray.records import Ensemble
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train import predict as module
from fmray.train.predict import Predictor, predict
from fmray.tune.sweep import sweep


def asked(classes, tmp_path, *plans):
    train = {"epochs": 2, "batch_rows": 64, "order": {"num_lanes": 5}}
    job = Job.from_json({"name": "rows", "data": {"path": "x", "target": "y"}, "train": train})
    metric = find_metric("accuracy", classes.prepared.target)
    return job, plans, classes.prepared, metric, Store(str(tmp_path / "store"))


def wider(classes, tmp_path):
    return asked(classes, tmp_path, classes.plan(0, model={"width": 9}))


@pytest.fixture
def members(classes, tmp_path):
    return sweep(*asked(classes, tmp_path, classes.plan(0), classes.plan(1))).members


def mean(*weights):
    return Ensemble("average", tuple(range(len(weights))), weights)


def test_predictions_are_of_every_row_once_in_sequence_order(classes, members, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 10)
    found = predict(
        members, mean(0.5, 0.5), classes.prepared, "val", Ref("classification"), str(tmp_path / "val.parquet")
    )
    lanes = classes.rows("val").lanes.load(["row_id", "target"])
    table = read(found)
    assert np.array_equal(table.row_id, lanes["row_id"])
    assert np.array_equal(table.target, lanes["target"])
    assert np.allclose(table.output.sum(1), 1)


def test_a_row_that_is_lost_is_no_prediction(classes, members, tmp_path, monkeypatch):
    whole = module._SplitPredictor.tables
    monkeypatch.setattr(module._SplitPredictor, "tables", lambda self, start, stop: whole(self, start, stop - 1))
    with pytest.raises(DataError, match=r"predict: \d+ of the \d+ rows of val were predicted"):
        predict(members, mean(1, 0), classes.prepared, "val", Ref("classification"), str(tmp_path / "val.parquet"))
    assert not (tmp_path / "val.parquet").exists()


@pytest.mark.cluster
def test_tasks_of_ray_predict_the_same(classes, members, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TASK_ROWS", 30)  # so that the last task has a few rows only
    arguments = (members, mean(0.25, 0.75), classes.prepared, "train", Ref("classification"))
    here = predict(*arguments, str(tmp_path / "here.parquet"))
    there = predict(*arguments, str(tmp_path / "there.parquet"), over_ray=True)
    one, other = pq.read_table(here.path), pq.read_table(there.path)
    assert one.column_names == other.column_names
    assert one["row_id"] == other["row_id"]
    assert np.allclose(read(here).output, read(there).output, atol=1e-6)
    assert not (tmp_path / "there.parquet.parts").exists()


@pytest.mark.cluster
def test_no_row_is_lost_where_a_split_ends_just_before_or_after_a_task(members, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ROWS", 5)
    monkeypatch.setattr(module, "TASK_ROWS", 12)
    random = np.random.default_rng(3)
    with session():
        for num_rows in (1, 11, 12, 13, 24, 25):
            split = np.array(["train"] * 80 + ["val"] * num_rows + ["test"] * 3)
            columns = {f"f{i}": random.standard_normal(len(split)) for i in range(6)}
            columns |= {"y": np.arange(len(split)) % 3, "id": np.arange(len(split)), "split": split}
            folder = tmp_path / str(num_rows)
            (folder / "data").mkdir(parents=True)
            pq.write_table(pa.table(columns), folder / "data/a.parquet")
            given = {"path": str(folder / "data"), "target": "y", "key": "id"}
            own = {"name": "rows", "data": given, "split": {"by": "given", "column": "split"}, "steps": ["standardise"]}
            job, store = Job.from_json({**own, "run": {"prepare": "local"}}), Store(str(folder / "store"))
            prepared = prepare(scan(job.data, ".", store), job, Ref("classification"), store)
            arguments = (members, mean(0.5, 0.5), prepared, "val", Ref("classification"))
            there = read(predict(*arguments, str(folder / "there.parquet"), over_ray=True))
            here = read(predict(*arguments, str(folder / "here.parquet")))
            expected = Lanes(prepared, "val").load(["row_id", "target"])
            assert len(expected["row_id"]) == num_rows
            assert np.array_equal(there.row_id, expected["row_id"])
            assert np.array_equal(there.target, expected["target"])
            assert np.allclose(there.output, here.output, atol=1e-6)


def test_a_soup_is_the_model_with_the_mean_of_the_parameters(classes, members, tmp_path):
    ensemble = Ensemble("soup", (0, 1), (0.25, 0.75), combine="soup")
    found = read(predict(members, ensemble, classes.prepared, "val", Ref("classification"), str(tmp_path / "val")))
    own = [load_file(f"{member.root}/model.safetensors") for member in members]
    mixed = {name: 0.25 * own[0][name] + 0.75 * own[1][name] for name in own[0]}
    x = torch.from_numpy(classes.rows("val").lanes.load(["x"])["x"])
    module = classes.plan(0).blueprint.module(classes.prepared.schema, 3)
    module.load_state_dict(mixed)
    with torch.no_grad():
        expected = module.eval()(x).reshape(len(x), 3).double().softmax(-1).numpy()
    assert np.allclose(found.output, expected, atol=1e-6)
    apart = read(
        predict(members, mean(0.25, 0.75), classes.prepared, "val", Ref("classification"), str(tmp_path / "m"))
    )
    assert not np.allclose(apart.output, expected, atol=1e-3)


def test_a_vote_is_written_as_shares(classes, members, tmp_path):
    ensemble = Ensemble("vote", (0, 1), (0.25, 0.75), combine="vote")
    said = read(
        predict(members, ensemble, classes.prepared, "val", Ref("classification"), str(tmp_path / "val"))
    ).output
    assert set(np.unique(said)) <= {0, 0.25, 0.75, 1}
    assert len(np.unique(said)) > 2


def test_a_member_that_does_not_load_is_an_error(classes, members, tmp_path):
    tensors = Path(members[1].root) / "model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(DataError, match="cannot be read as member 1"):
        predict(members, mean(0.5, 0.5), classes.prepared, "val", Ref("classification"), str(tmp_path / "val"))


def test_members_of_other_shapes_make_no_soup(classes, members, tmp_path):
    wide = sweep(*wider(classes, tmp_path)).members[0]
    ensemble = Ensemble("soup", (0, 0), (0.5, 0.5), combine="soup")
    with pytest.raises(DataError, match="differ in the shapes"):
        predict([members[0], wide], ensemble, classes.prepared, "val", Ref("classification"), str(tmp_path / "val"))


def test_an_ensemble_survives_the_way_to_a_task(classes, members):
    ensemble = Ensemble("vote", (0, 1), (0.25, 0.75), combine="vote")
    predictor = module._SplitPredictor(
        tuple(members), ensemble, classes.prepared, "val", Ref("classification"), "cpu", None
    )
    assert pickle.loads(pickle.dumps(predictor)) == predictor


def test_a_voice_counts_the_parameters_behind_an_answer(classes, members):
    one = 6 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3  # two layers of 8 on 6 inputs, 3 classes
    task = Ref("classification")
    assert Predictor(members, mean(0.5, 0.5), classes.prepared, task).num_parameters == 2 * one
    ensemble = Ensemble("soup", (0, 1), (0.5, 0.5), combine="soup")
    assert Predictor(members, ensemble, classes.prepared, task).num_parameters == one
