"""Classes by the thousand: tables hold lists, and predictions name the most probable ones."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.evaluate.table import read
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.promote.evidence import sealed_table
from fmray.records import Predictions, Target
from fmray.report.card import read_card
from fmray.spec.job import Job
from fmray.store import Store
from fmray.targets.classes import NUM_TOP, Class, top_of
from fmray.workflow import execute

MANY = 10_000


def target(number):
    return Target(("item",), "class", tuple(f"i{n:05d}" for n in range(number)), counts=(1,) * number)


def probabilities(rows, classes):
    odds = np.random.default_rng(0).random((rows, classes))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_the_top_are_those_of_a_full_sort_and_of_equal_ones_the_first(levels):
    output = np.random.default_rng(1).integers(0, levels, (50, 400)).astype(np.float64)
    expected = np.argsort(-output, axis=1, kind="stable")[:, :NUM_TOP]
    np.testing.assert_array_equal(top_of(output, NUM_TOP), expected)


def test_ten_columns_worth_of_items_are_predicted_in_place_of_ten_thousand_columns():
    codec = Class(target(MANY))
    said = probabilities(20, MANY)
    is_null = np.arange(20) == 3
    columns = codec.columns_for_people(said, is_null, pa.array(codec.target.classes), {})
    names = codec.names_for_people()
    assert names == ("prediction", "top", "p_top")
    assert [column.null_count for column in columns] == [1, 1, 1]
    prediction, top, p = (column.to_pylist() for column in columns)
    assert [row and row[0] for row in top] == prediction
    assert prediction[0] == f"i{said[0].argmax():05d}"
    assert p[0] == sorted(said[0], reverse=True)[:NUM_TOP]
    assert [len(row) for row in top if row] == [NUM_TOP] * 19


@pytest.mark.parametrize("as_before", [False, True], ids=["one list", "a column per class, as earlier versions wrote"])
def test_tables_of_many_classes_are_read_back(tmp_path, as_before):
    codec = Class(target(300))
    said = probabilities(7, 300)
    columns = (
        {f"p_{n}": pa.array(column) for n, column in enumerate(said.T)} if as_before else codec.table_columns(said, {})
    )
    ids = pa.array([bytes(16)] * 7, pa.binary(16))
    pq.write_table(pa.table({"row_id": ids, "target": np.arange(7), **columns}), tmp_path / "p.parquet")
    table = read(Predictions(str(tmp_path / "p.parquet"), "test", codec.columns, 7))
    np.testing.assert_array_equal(table.output, said)


@pytest.mark.slow
def test_a_job_of_three_hundred_items_runs_is_reported_and_predicted(tmp_path):
    rng = np.random.default_rng(2)
    item = rng.integers(0, 300, 6000)
    x = rng.normal(size=(300, 16))[item] + rng.normal(size=(6000, 16)) * 0.1
    table = pa.table({f"x{n}": column for n, column in enumerate(x.T)} | {"item": [f"i{n:03d}" for n in item]})
    pq.write_table(table, tmp_path / "rows.parquet")
    job = {
        "name": "items",
        "data": {"path": str(tmp_path / "rows.parquet"), "target": "item"},
        "train": {"epochs": 5, "optimizer": {"adamw": {"lr": 0.01}}},
        "rigour": {"profile": "draft"},
    }
    store = Store(str(tmp_path / "store"))
    done = execute(Job.from_json(job), store)
    assert done.scores.test["accuracy"].low > 0.8
    assert pq.read_schema(f"{done.root}/sealed/test.parquet").field("p").type == pa.list_(pa.float64(), 300)
    sealed = sealed_table(read_card(done.root, store), store)
    assert sealed.output.shape == (len(sealed), 300)
    predict(done.root, str(tmp_path / "rows.parquet"), str(tmp_path / "out"), place="local")
    written = pq.read_table(tmp_path / "out/part-000000.parquet")
    assert len(written.column_names) < 10
    outputs = open_model(done.root).outputs(table)
    assert written["p_top"].to_pylist()[5] == pytest.approx(sorted(outputs.said[5], reverse=True)[:NUM_TOP], rel=1e-6)
