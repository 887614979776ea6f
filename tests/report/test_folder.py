import json

import pyarrow.parquet as pq
import pytest

from fmray.records import Member
from fmray.report.folder import open_run, write_members
from fmray.report.identity import NOT_ASKED
from fmray.spec.job import Job
from fmray.spec.load import job_from
from fmray.store import Store

SMALL = {"data": {"path": "sample:iris", "target": "target"}}


def identity(tmp_path, fingerprint="rows", folder=".", **sections):
    return open_run(job_from({**SMALL, **sections}, folder), fingerprint, Store(str(tmp_path)), fresh=False).id


@pytest.mark.parametrize("sections", [{"track": {"tensorboard": True}}, {"run": {"threads": 2}}], ids=str)
def test_how_a_job_runs_and_who_hears_of_it_is_not_part_of_a_runs_id(tmp_path, sections):
    assert identity(tmp_path, **sections) == identity(tmp_path)


@pytest.mark.parametrize(
    "sections", [{"train": {"epochs": 3}}, {"model": "linear"}, {"evaluate": {"slices": ["a"]}}], ids=str
)
def test_what_is_asked_is_part_of_a_runs_id(tmp_path, sections):
    assert identity(tmp_path, **sections) != identity(tmp_path)


def test_the_rows_are_part_of_a_runs_id(tmp_path):
    assert identity(tmp_path, "other rows") != identity(tmp_path)


def test_what_is_left_out_of_a_runs_id_are_keys_of_a_job():
    assert set(NOT_ASKED) < set(Job.__dataclass_fields__)


def test_every_member_is_a_row_with_parameters_and_rungs_as_json(tmp_path):
    rungs = ({"epoch": 2, "score": 0.5, "survived": True}, {"epoch": 4, "score": 0.6, "survived": False})
    known = {"index": 0, "model": {"name": "mlp", "params": {}}, "seed": 2**62, "root": "", "best_epoch": 3,
             "tensor_hash": "ab"}  # fmt: skip
    members = [
        Member(**known, params={"model.mlp.width": 8, "train.optimizer.adam.lr": 0.1}, status="stopped", epochs=4,
               val_score=0.6, reason="rung", structure=3, pack=1, rungs=rungs),
        Member(**{**known, "index": 1}, params={}, status="failed", epochs=0, val_score=None, reason="not finite"),
    ]  # fmt: skip
    write_members(str(tmp_path), members)
    first, second = pq.read_table(tmp_path / "members.parquet").to_pylist()
    assert json.loads(first["params"]) == {"model.mlp.width": 8, "train.optimizer.adam.lr": 0.1}
    assert json.loads(first["rungs"]) == list(rungs)
    assert (first["structure"], first["pack"], first["role"], first["epochs"]) == (3, 1, "member", 4)
    assert (second["val_score"], second["status"], second["reason"]) == (None, "failed", "not finite")


def test_no_members_are_tables_without_rows(tmp_path):
    write_members(str(tmp_path), [])
    assert pq.read_table(tmp_path / "members.parquet").num_rows == 0
    assert pq.read_table(tmp_path / "history.parquet").column_names == ["member", "role", "epoch", "metric", "value"]
