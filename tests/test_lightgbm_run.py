"""Carry boosted trees through a whole run: report, gates, saved model, refusal of what they lack."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fmray.errors import DataError, SpecError
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.records import Run
from fmray.spec.load import job_from
from fmray.workflow import run


def boosted(target="target", sample="breast_cancer", **sections):
    job = {"name": "trees", "data": {"path": f"sample:{sample}", "target": target}}
    job |= {"model": {"lightgbm": {"rounds_per_epoch": 5, "num_leaves": 7, "learning_rate": 0.2}}}
    job |= {"train": {"epochs": 4}, "rigour": {"profile": "draft"}}
    return job_from(job | sections)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Run:
    """Two seeds, averaged."""
    store = tmp_path_factory.mktemp("trees")
    job = boosted(train={"epochs": 4, "seeds": 2}, ensemble={"average": {"keep": "always"}})
    return run(job, str(store / "store"))


@pytest.mark.slow
def test_a_saved_model_says_of_rows_what_the_run_said(done):
    model = open_model(done.root)
    assert {member.artefact for member in model.saved.members} == {"lightgbm"}
    said = model.predict(model.example)
    expected = pq.read_table(f"{done.root}/predictions/val.parquet")
    ours = np.stack([said.column(name).to_numpy() for name in model.output_names[1:]], axis=1)
    theirs = np.stack([expected.column(name).to_numpy() for name in ("p_0", "p_1")], axis=1)
    assert len(ours)
    for row in ours:
        assert np.abs(theirs - row).max(1).min() < 1e-12


def test_the_report_says_what_an_epoch_is(done):
    card = json.loads(Path(done.root, "card.json").read_text())
    assert "an epoch of lightgbm is 5 boosting rounds: train.epochs 4 are 20 rounds" in card["notes"]
    assert card["ensemble"]["cost"]["parameters"] > 20


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_export_is_refused_by_name(done, kind, tmp_path):
    with pytest.raises(SpecError, match=f"lightgbm is no network, and {kind} takes networks only"):
        export(done.root, kind, str(tmp_path / "out"))


def test_a_damaged_file_is_refused(done, tmp_path):
    import shutil

    shutil.copytree(f"{done.root}/model", tmp_path / "model")
    path = tmp_path / "model/00000/model.txt"
    path.write_text(path.read_text().replace("leaf_value=", "leaf_value=1", 1))
    with pytest.raises(DataError, match="is damaged: it is not what was trained as member 0"):
        open_model(str(tmp_path / "model"))


REFUSED = {
    "train.optimizer: has no effect on model lightgbm, which learns from all rows": {"train": {"optimizer": "sgd"}},
    "train.schedule: has no effect on model lightgbm": {"train": {"schedule": "cosine"}},
    "train.ema: has no effect on model lightgbm": {"train": {"ema": 0.9}},
    "train.precision: has no effect on model lightgbm": {"train": {"precision": "bfloat16"}},
    "train.groups: has no effect on model lightgbm": {"train": {"groups": [{"match": "a*", "lr_scale": 0.1}]}},
    "train.batch_rows: has no effect on model lightgbm": {"train": {"batch_rows": 64}, "evaluate": {"baselines": []}},
    "steps.1: noise changes rows in every epoch, and lightgbm reads them once": {"steps": ["auto", "noise"]},
    "data.target: 2 columns, and lightgbm learns one": {"data": {"path": "sample:iris", "target": ["a", "b"]}},
    "ensemble: soup averages parameters, and lightgbm has none": {"ensemble": "soup"},
    "train.seeds: 3 members of model lightgbm would be one: nothing is drawn": {
        "model": {"lightgbm": {"feature_fraction": 1.0, "bagging_fraction": 1.0}},
        "train": {"seeds": 3},
    },
    "model.lightgbm.num_leaves: 1. Accepted: a whole number in [2, 131072].": {
        "model": {"lightgbm": {"num_leaves": 1}}
    },
    "model.lightgbm: 'lightgbm' has no parameter": {"model": {"lightgbm": {"n_estimators": 10}}},
    "unknown model 'lightgmb'. Did you mean 'lightgbm'?": {"model": "lightgmb"},
    "run.gpu: true has no effect on model lightgbm": {"run": {"gpu": True}},
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_what_means_nothing_to_trees_is_refused(message):
    with pytest.raises(SpecError) as caught:
        boosted(**REFUSED[message])
    words = message.replace("model.lightgbm: 'lightgbm' has", "'lightgbm' has")
    assert words in str(caught.value)


def test_who_reads_a_batch_size_is_said():
    from fmray.spec.effect import said_of_estimator

    (_, text) = said_of_estimator(boosted(train={"batch_rows": 64}))
    assert text == "train.batch_rows: read by the linear baseline only, not by lightgbm"


@pytest.mark.slow
def test_a_search_over_structures_of_trees_stops_members_at_rungs_of_rounds(tmp_path):
    model = {"lightgbm": {"rounds_per_epoch": 3, "num_leaves": {"choice": [2, 4, 8, 16]}}}
    job = boosted(model=model, train={"epochs": 9}, search={"members": 4, "finalists": 1}, run={"workers": 0})
    done = run(job, str(tmp_path / "store"))
    card = json.loads(Path(done.root, "card.json").read_text())
    epochs = [member["epochs"] for member in card["members"]]
    assert max(epochs) == 9
    assert min(epochs) < 9
    assert {member["model"]["params"]["num_leaves"] for member in card["members"]} == {2, 4, 8, 16}


@pytest.mark.slow
@pytest.mark.parametrize(("sample", "target"), [("iris", "target"), ("diabetes", "target")])
def test_several_classes_and_numbers_run_too(tmp_path, sample, target):
    done = run(boosted(target, sample), str(tmp_path / "store"))
    scores = json.loads(Path(done.root, "scores.json").read_text())
    assert scores["test"][scores["primary"]]["value"] > (0.8 if sample == "iris" else 0.2)
