"""Check that members begin where the champion ended, and only where that is what it seems."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from fmray import workflow
from fmray.errors import DataError, SpecError
from fmray.promote.history import History, champion_of
from fmray.spec.load import job_from
from fmray.store import Store, fingerprint
from fmray.train.warm import Start

TINY = 1e-30
"""A learning rate that moves no float32."""


def write_rows(folder: Path, number: int, cities=("Ulm", "Bonn"), num_rows: int = 500) -> None:
    random = np.random.default_rng(number)
    a, b, city = random.normal(size=num_rows), random.normal(size=num_rows), random.choice(cities, num_rows)
    y = np.where(a - b + (city == "Ulm") + 0.3 * random.normal(size=num_rows) > 0.5, "yes", "no")
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"a": a, "b": b, "city": city, "y": y}), folder / f"{number}.parquet")


def train(folder: Path, store: Store, lr: float = 0.02, epochs: int = 5, seeds: int = 1, notes=None, **sections):
    options = {"epochs": epochs, "batch_rows": 64, "optimizer": {"sgd": {"lr": lr}}, "early_stop": None, "seeds": seeds}
    more = {"train": {**options, **sections.pop("train", {})}, **sections}
    asked = {
        "name": "w", "data": {"path": "rows", "target": "y"}, "model": {"mlp": {"width": 8, "depth": 1}},
        "evaluate": {"baselines": ["dummy"]}, "ensemble": {"average": {"keep": "always"}}, "rigour": {"profile": "draft"}, **more,
    }  # fmt: skip
    told = (lambda event: None) if notes is None else lambda event: notes.append(getattr(event, "text", ""))
    return workflow.execute(job_from(asked, folder), store, report=told)


def facts_of(run):
    return json.loads(Path(run.root, "run.json").read_text())


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A champion of two members, on one file."""
    folder = tmp_path_factory.mktemp("warm")
    write_rows(folder / "rows", 0)
    store = Store(str(folder / "store"))
    run = train(folder, store, seeds=2)
    history = History(store, "w")
    with history.alone():
        history.move(None, run.id, run.id, "first")
    assert champion_of("w", store) == run.id
    return folder, run


@pytest.fixture
def home(once, tmp_path):
    """A copy of the champion's store and rows, to grow."""
    folder, run = once
    shutil.copytree(folder, tmp_path / "own", symlinks=True)
    return tmp_path / "own", Store(str(tmp_path / "own" / "store")), run


@pytest.mark.slow
def test_without_learning_the_scores_are_the_champions(home):
    folder, store, champion = home
    run = train(folder, store, lr=TINY, epochs=1, seeds=2, train={"warm_start": "champion"})
    assert run.id != champion.id
    assert run.scores.test == champion.scores.test
    told = facts_of(run)["warm_start"]
    assert (told["from"], told["cold"]) == (champion.id, "")
    before = pq.read_table(Path(champion.root, "members.parquet")).to_pylist()
    after = pq.read_table(Path(run.root, "members.parquet")).to_pylist()
    assert [m["val_score"] for m in after] == [m["val_score"] for m in before]
    assert [m["tensor_hash"] for m in after] == [m["tensor_hash"] for m in before]
    assert [m["tensor_hash"] for m in told["members"]] == [m["tensor_hash"] for m in before]


@pytest.mark.slow
def test_on_grown_data_more_members_begin_with_the_champions_in_turn(home):
    folder, store, champion = home
    write_rows(folder / "rows", 1)
    notes: list[str] = []
    run = train(folder, store, lr=TINY, epochs=1, seeds=3, notes=notes, train={"warm_start": "champion"})
    assert f"3 members start from those of {champion.id}: 0, 1, in turn" in notes
    theirs = [load_file(f"{champion.root}/model/{index:05d}/model.safetensors") for index in range(2)]
    for index in json.loads(Path(run.root, "card.json").read_text())["ensemble"]["members"]:
        ours = load_file(f"{run.root}/model/{index:05d}/model.safetensors")
        assert all((ours[name] == tensor).all() for name, tensor in theirs[index % 2].items())


@pytest.mark.slow
def test_a_warm_start_saves_epochs(home):
    folder, store, champion = home
    write_rows(folder / "rows", 1)
    warm = train(folder, store, epochs=1, train={"warm_start": champion.root})
    cold = train(folder, store, epochs=1)
    assert warm.scores.test["log_loss"].value < cold.scores.test["log_loss"].value


def test_a_new_category_is_refused_by_name_or_starts_cold_where_the_job_says_so(home):
    folder, store, champion = home
    write_rows(folder / "rows", 1, ("Ulm", "Bonn", "Jena"))
    with pytest.raises(
        SpecError, match=rf"train.warm_start: {champion.id} has other inputs: changed city .*level Jena"
    ):
        train(folder, store, train={"warm_start": "champion"})
    notes: list[str] = []
    warm = {"model": "champion", "otherwise": "cold"}
    run = train(folder, store, epochs=1, notes=notes, train={"warm_start": warm})
    assert any(note.startswith("members start cold: ") and "Jena" in note for note in notes)
    assert "Jena" in facts_of(run)["warm_start"]["cold"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"path": "rows", "target": "y", "ignore": ["b"]}}, "has other inputs: gone b"),
        ({"model": "linear"}, "is a mlp, this job trains a linear"),
        ({"model": {"mlp": {"width": 9, "depth": 1}}}, "has other tensors than member 0"),
        ({"data": {"path": "rows", "target": "city", "ignore": ["y"]}}, "predicts y: no, yes, this job city: Bonn, Ulm"),
        ({"split": {"salt": 1, "redefine": True}}, "rows were divided otherwise .*salt 0 -> 1"),
        ({"steps": [{"one_hot": {"columns": ["city"]}}, "standardise"]}, "(other inputs|other steps)"),
    ],
)  # fmt: skip
def test_what_is_not_the_same_is_refused_with_the_difference(home, sections, message):
    folder, store, _ = home
    with pytest.raises(SpecError, match=message):
        train(folder, store, epochs=1, train={"warm_start": "champion"}, **sections)


def test_before_there_is_a_champion_members_start_cold_and_say_so(tmp_path):
    write_rows(tmp_path / "rows", 0)
    notes: list[str] = []
    store = Store(str(tmp_path / "store"))
    run = train(tmp_path, store, epochs=1, notes=notes, train={"warm_start": "champion"})
    assert "members start cold: job 'w' has no champion yet" in notes
    assert facts_of(run)["warm_start"]["from"] == ""
    plain = train(tmp_path, store, epochs=1)
    assert plain.scores.test == run.scores.test


@pytest.mark.slow
def test_a_run_that_goes_on_begins_with_the_champion_it_began_with(home, monkeypatch):
    folder, store, champion = home
    asked = {"lr": TINY, "epochs": 1, "seeds": 2, "train": {"warm_start": "champion"}}
    monkeypatch.setattr("fmray.workflow.train_members", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(folder, store, **asked)
    monkeypatch.undo()
    other = train(folder, store, lr=0.01, seeds=2)
    monkeypatch.setattr("fmray.promote.warm.champion_of", lambda job, store: other.id)
    run = train(folder, store, **asked)
    assert facts_of(run)["warm_start"]["from"] == champion.id
    assert run.scores.test == champion.scores.test
    assert other.scores.test != champion.scores.test


def test_a_folder_without_a_run_is_refused(home, tmp_path):
    folder, store, champion = home
    shutil.copytree(f"{champion.root}/model", tmp_path / "alone" / "model")
    for path in (tmp_path / "alone" / "model", tmp_path / "nowhere"):
        with pytest.raises(DataError, match="which rows it learned from is unknown"):
            train(folder, store, epochs=1, train={"warm_start": str(path)})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"warm_start": "champion", "folds": 3}}, "train.folds keeps from members"),
        ({"train": {"warm_start": "champion"}, "ensemble": "adaboost"}, "adaboost keeps from members"),
        ({"train": {"warm_start": "champion"}, "model": {"mlp": {"dropout": {"uniform": [0, 0.5]}}}}, "without ranges"),
        ({"train": {"warm_start": {"model": "champion", "otherwise": "warm"}}}, "otherwise"),
    ],
)
def test_what_a_warm_start_would_spoil_is_refused_in_the_job(tmp_path, sections, message):
    with pytest.raises(SpecError, match=message):
        job_from({"name": "w", "data": {"path": "rows", "target": "y"}, **sections}, tmp_path)


def test_where_tensors_lie_decides_nothing_and_whose_they_are_does():
    one = Start(0, "aa", "/here")
    assert fingerprint(one) == fingerprint(replace(one, root="/there"))
    assert fingerprint(one) != fingerprint(replace(one, tensor_hash="bb"))
