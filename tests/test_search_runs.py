"""Searches from job to report, on data that come with fmray."""

import json
from pathlib import Path

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray import job_from, run
from fmray.inference.predict import predict
from fmray.report.card import read_card
from fmray.store import Store

pytestmark = pytest.mark.slow


def searched(**changes):
    value = {
        "name": "searched",
        "data": {"path": "sample:iris", "target": "target"},
        "steps": [{"clip": {"quantile": {"choice": [0.9, 0.99]}}}, "standardise"],
        "model": {"mlp": {"width": 8, "depth": 1, "dropout": {"uniform": [0, 0.3]}}},
        "train": {
            "epochs": 6,
            "batch_rows": 16,
            "early_stop": None,
            "optimizer": {"adamw": {"lr": {"log_uniform": [1e-3, 1e-1]}}},
            "seeds": 2,
        },
        "search": {"members": 12, "finalists": 2},
        "ensemble": {"greedy": {"keep": "always"}},
        "run": {"threads": 1, "prepare": "local", "workers": 0},
    }
    return job_from({**value, **changes})


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("searched") / "store"))
    return run(searched(), store), store


def test_a_search_over_steps_and_packable_parameters_ends_in_a_scored_report(found):
    done, store = found
    card = read_card(done.root, store)
    assert [member.role for member in card.members] == ["member"] * 12 + ["finalist"] * 4
    assert len({member.prepared for member in card.members if member.role == "member"}) == 2
    assert done.scores.looks == 1
    assert ">The sweep<" in Path(done.report).read_text()


def test_its_model_says_the_same_of_the_same_rows_by_their_ids(found, tmp_path):
    done, _ = found
    predict(done.root, "sample:iris", str(tmp_path / "out"))
    said, sealed = (
        pq.read_table(p) for p in (tmp_path / "out/part-000000.parquet", f"{done.root}/sealed/test.parquet")
    )
    place = {value: row for row, value in enumerate(said["row_id"].to_pylist())}
    same = said.take(pa.array([place[value] for value in sealed["row_id"].to_pylist()]))
    for mine, theirs in zip(
        [name for name in same.column_names if name[:2] == "p_"], ("p_0", "p_1", "p_2"), strict=True
    ):
        assert np.abs(same[mine].to_numpy() - sealed[theirs].to_numpy()).max() < 1e-6


def test_the_account_adds_up(found):
    done, store = found
    account = read_card(done.root, store).search
    members = [m for m in read_card(done.root, store).members if m.role == "member"]
    assert account.num_members == 12
    assert account.member_epochs == sum(member.epochs for member in members)
    assert account.full_epochs == 12 * 6
    assert [rung["epoch"] for rung in account.rungs] == [1, 3]
    assert [rung["reached"] for rung in account.rungs] == [12, 4]
    assert account.rungs[0]["survived"] == 4
    assert {name: space["packable"] for name, space in account.space.items()} == {
        "steps.0.clip.quantile": False,
        "model.mlp.dropout": True,
        "train.optimizer.adamw.lr": True,
    }
    assert [len(one["scores"]) for one in account.finalists] == [2, 2]
    assert account.selection["winner"] == account.leaderboard[0]["member"]


def test_members_and_their_rungs_are_in_tables_that_other_tools_read(found):
    done, _ = found
    rows = pq.read_table(f"{done.root}/members.parquet").to_pylist()
    assert len([row for row in rows if row["role"] == "member"]) == 12
    assert all(json.loads(row["rungs"])[0]["epoch"] == 1 for row in rows if row["role"] == "member")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(f"{done.root}/optuna.log"))
    study = optuna.load_study(study_name="searched", storage=storage)
    assert len(study.trials) >= 12


def test_a_search_that_is_extended_keeps_what_it_tried(found):
    done, store = found
    more = run(searched(search={"members": 12, "finalists": 2, "more": 6}), store)
    before, after = read_card(done.root, store), read_card(more.root, store)
    assert more.id != done.id
    assert [m.tensor_hash for m in after.members[:12]] == [m.tensor_hash for m in before.members[:12]]
    assert [m.role for m in after.members] == ["member"] * 18 + ["finalist"] * 4
    assert more.scores.looks == 2


def test_one_member_is_a_search_too(tmp_path):
    done = run(searched(search={"members": 1}, ensemble="auto"), str(tmp_path / "store"))
    assert done.status == "finished"
