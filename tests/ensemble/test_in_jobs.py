"""Ask for each ensemble in a whole job, and compare what is written with what its members say."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray import workflow
from fmray.errors import SpecError
from fmray.spec.load import job_from
from fmray.store import Store

pytestmark = pytest.mark.slow

JOBS = {
    "bagging": ({"bagging": {"members": 4, "keep": "always"}}, {}, 4),
    "folds": ({"stacking": {"keep": "always"}}, {"folds": 3}, 3),
    "folds, logistic": ({"stacking": {"kind": "logistic", "keep": "always"}}, {"folds": 3, "seeds": 2}, 6),
    "adaboost": ({"adaboost": {"rounds": 3, "keep": "always"}}, {}, 3),
    "soup": ({"soup": {"greedy": False, "keep": "always"}}, {"seeds": 3}, 3),
    "greedy": ({"greedy": {"bags": 3, "keep": "always"}}, {"seeds": 3}, 3),
    "vote": ({"vote": {"keep": "always"}}, {"seeds": 3}, 3),
    "stacking": ({"stacking": {"kind": "logistic", "keep": "always"}}, {"seeds": 3}, 3),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = np.random.default_rng(0)
    x = source.normal(size=(900, 4))
    signal = x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * source.normal(size=900)
    table = {f"f{i}": c for i, c in enumerate(x.T)} | {"y": np.digitize(signal, [-0.7, 0.7]).astype(str), "z": signal}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(table), tmp_path / "data/a.parquet")
    return tmp_path


def run(folder, ensemble, train, target="y"):
    data = {"path": "data", "target": target, "ignore": ["z" if target == "y" else "y"]}
    train = {"epochs": 3, "batch_rows": 64, "optimizer": {"adam": {"lr": 0.01}}, **train}
    options = {"run": {"threads": 1, "workers": 0}, "rigour": {"profile": "draft"}}
    job = job_from({"name": "flow", "data": data, "train": train, "ensemble": ensemble, **options}, folder)
    store = Store(str(folder / "store"))
    found = workflow.execute(job, store)
    return found, json.loads(Path(found.root, "model/model.json").read_text())["ensemble"]


@pytest.mark.parametrize("name", list(JOBS))
def test_a_job_gets_the_ensemble_that_it_asks_for(folder, name):
    ensemble, train, num_members = JOBS[name]
    found, record = run(folder, ensemble, train)
    method = next(iter(ensemble))
    assert found.status == "finished"
    assert record["name"] in (method, "single")  # one member may have all weight
    assert pq.read_table(f"{found.root}/members.parquet").to_pandas()["role"].eq("member").sum() == num_members
    assert sum(record["weights"]) == pytest.approx(1)
    assert record["cost"]["rows_per_second"] > 0
    said = pq.read_table(f"{found.root}/sealed/test.parquet").to_pandas()[["p_0", "p_1", "p_2"]].to_numpy()
    assert np.allclose(said.sum(1), 1)
    if record["combine"] == "vote":
        assert len(np.unique(said.round(9))) < 20


def test_numbers_are_bagged_too(folder):
    found, record = run(folder, {"bagging": {"members": 3, "keep": "always"}}, {}, target="z")
    assert record["name"] == "bagging"
    assert found.scores.test["r2"].value > 0


@pytest.mark.parametrize("ensemble", ["vote", "adaboost", {"stacking": {"kind": "logistic"}}])
def test_what_needs_classes_is_refused_before_anything_is_trained(folder, ensemble):
    with pytest.raises(SpecError, match="needs classes, and numbers are predicted"):
        run(folder, ensemble, {}, target="z")
    assert not Store(str(folder / "store")).list("members")
