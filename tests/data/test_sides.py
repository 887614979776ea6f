"""Check what is known of each side of a split before anything is trained on it."""

import numpy as np
import pyarrow as pa
import pytest

from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.data.split import Definition, define
from fmray.errors import DataError
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store

N = 300


@pytest.fixture
def prepared(tmp_path, write):
    """Prepare a table, in one store for all tables of a test."""
    store = Store(str(tmp_path / "store"))

    def make(columns, task="classification", split=None, notes=None, **data):
        value = {"name": "t", "data": {"path": str(write("p.parquet", pa.table(columns))), "target": "y", **data}}
        value |= {"split": split or {}, "steps": ["standardise"], "run": {"prepare": "local"}}
        job = Job.from_json(value)
        report = (lambda event: None) if notes is None else lambda event: notes.append(getattr(event, "text", ""))
        return prepare(scan(job.data, "."), job, Ref(task), store, report)

    make.store = store
    return make


def columns(**more):
    rng = np.random.default_rng(4)
    x = rng.standard_normal(N)
    return {"x": x, "id": np.arange(N), "y": np.where(x + rng.standard_normal(N) > 0, "yes", "no"), **more}


def grouped(missing=None):
    groups = [f"g{i % 120}" for i in range(N)]
    return columns(g=[missing if i % 3 == 0 else name for i, name in enumerate(groups)])


@pytest.mark.parametrize("missing", [None, "NA", "", " "])
def test_rows_without_a_group_are_refused_with_their_number(prepared, missing):
    with pytest.raises(DataError, match=r"^data.group: 100 of 300 rows have no 'g'.*data.group_nulls: own"):
        prepared(grouped(missing), group="g", null_values=["NA"])


def test_numbers_that_are_none_are_no_group(prepared):
    with pytest.raises(DataError, match="1 of 300 rows have no 'g'"):
        prepared(columns(g=[float("nan"), *(float(i % 120) for i in range(N - 1))]), group="g")


def test_rows_without_a_group_are_groups_of_their_own_if_the_job_says_so_and_it_is_told(prepared):
    notes = []
    found = prepared(grouped(), group="g", group_nulls="own", notes=notes)
    assert "100 of 300 rows have no 'g': each is a group of its own (data.group_nulls: own)" in notes
    assert any("each is a group of its own" in note for note in found.notes)
    assert found.rows["val"] > 10
    assert found.rows["test"] > 30


def test_a_job_that_was_refused_for_its_groups_goes_on_without_another_split(prepared):
    with pytest.raises(DataError):
        prepared(grouped(), group="g")
    refused = Definition.from_json(prepared.store.read_json(prepared.store.path("splits", "t.json"))["definition"])
    prepared(grouped(), group="g", group_nulls="own")
    kept = prepared.store.read_json(prepared.store.path("splits", "t.json"))
    assert not kept["history"]
    assert Definition.from_json(kept["definition"]).columns == refused.columns


def test_a_split_without_such_rows_is_recorded_as_it_always_was(prepared, write):
    job = Job.from_json({"name": "u", "data": {"path": str(write("p.parquet", pa.table(columns()))), "target": "y"}})
    definition = define(scan(job.data, "."), job.split, prepared.store, "u")
    assert "own" not in definition.to_json()


def test_rows_with_a_group_stay_on_their_side_when_others_become_groups_of_their_own(prepared):
    whole = {**columns(), "g": [f"g{i % 120}" for i in range(N)]}
    before = prepared(whole, group="g")
    after = prepared(whole, group="g", group_nulls="own")
    assert [before.rows[s] for s in ("train", "val", "test")] == [after.rows[s] for s in ("train", "val", "test")]


def test_rows_without_a_key_are_refused_with_their_number(prepared):
    with pytest.raises(DataError, match=r"^data.key: 1 of 300 rows have no 'k'"):
        prepared(columns(k=[None, *range(N - 1)]), key="k")


def test_a_part_of_a_key_may_be_missing(prepared):
    assert prepared(columns(k=[None, *range(N - 1)]), key=["k", "id"]).rows["read"] == N


def test_a_side_of_which_no_row_counts_is_refused(prepared):
    side = ["train", "val", "test"] * (N // 3)
    weight = [0.0 if s == "val" else 1.0 for s in side]
    with pytest.raises(DataError, match=r"^data.weight: all 100 rows of validation have weight 0 in 'w'"):
        prepared(columns(w=weight, s=side), weight="w", split={"by": "given", "column": "s"})


def test_training_rows_of_one_class_are_refused_with_where_the_others_are(prepared):
    side = ["train", "val", "test"] * (N // 3)
    held = columns(s=side) | {"y": ["no" if s == "train" or i > 100 else "yes" for i, s in enumerate(side)]}
    with pytest.raises(
        DataError, match=r"all training rows are of class 'no'.*no row of 'yes' \(34 in val.*33 in test\)"
    ):
        prepared(held, split={"by": "given", "column": "s"})


def test_a_target_that_no_row_has_is_refused_by_name(prepared):
    with pytest.raises(DataError, match=r"^data.target: no row that can be used has a value of 'y'"):
        prepared(columns() | {"y": pa.array([None] * N, pa.string())})


def test_a_side_without_rows_names_the_column_that_gives_sides(prepared):
    side = ["train", "test"] * (N // 2)
    with pytest.raises(DataError, match=r"no rows are left for val: .* mark other rows in 's'"):
        prepared(columns(s=side), split={"by": "given", "column": "s", "val": 0.0})


def test_a_given_side_that_is_missing_is_said_as_such(prepared):
    side = [None, None, *["train", "val", "test", "holdout"] * 75][:N]
    with pytest.raises(DataError, match=r"'s' has 'holdout' in 74 rows, no value in 2 rows\. Accepted: train, val"):
        prepared(columns(s=side), split={"by": "given", "column": "s"})


def test_what_each_side_holds_of_the_target_is_recorded(prepared):
    side = ["train"] * 200 + ["val"] * 50 + ["test"] * 50
    found = prepared(columns(s=side), split={"by": "given", "column": "s"})
    assert found.held["train"] == {"rows": 200}
    assert sum(found.held["val"]["counts"].values()) == found.held["val"]["rows"] == 50
    numbers = prepared(columns(s=side) | {"y": np.arange(N) * 1.5}, "regression", split={"by": "given", "column": "s"})
    assert numbers.held["test"] == {"rows": 50, "low": [375.0], "high": [448.5]}
