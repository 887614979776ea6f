"""Check what the first pass says about rows: side, id, faults and where they stand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.arrow_frames import raw_schema
from fmray.data.hashing import row_hash
from fmray.data.identify import Recipe, hashes_of, identify, provenance, quarantine, sides_of, where
from fmray.data.pipeline import Pipeline, build
from fmray.data.scan import scan, work_items
from fmray.data.split import assign, define
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store


@pytest.fixture
def identified(tmp_path, write):
    """Identify the first work item of some columns."""

    def make(columns, split=None, slices=(), steps=("standardise",), **data):
        folder = write("p.parquet", pa.table(columns))
        asked = {"path": str(folder), "target": "y", **data}
        job = Job.from_json({"name": "t", "data": asked, "split": split or {}})
        dataset = scan(job.data, ".")
        definition = define(dataset, job.split, Store(str(tmp_path / "store")), "t")
        schema = raw_schema(dataset, job)
        recipe = Recipe(dataset, definition, schema, "regression", tuple(slices), 8, 1, str(tmp_path / "record"))
        for name in ("scratch", "quarantine"):
            (tmp_path / "record" / name).mkdir(parents=True)
        item = work_items(dataset)[0]
        found = identify(recipe, Pipeline(build([Ref(s) for s in steps]), schema), item)
        quarantine(recipe, item, found)
        return recipe, found

    return make


def some_columns(num_rows=200):
    rng = np.random.default_rng(1)
    return {"a": rng.standard_normal(num_rows), "y": rng.standard_normal(num_rows)}


def test_sound_rows_get_the_side_the_split_gives_them(identified):
    columns = some_columns()
    recipe, found = identified(columns)
    sides = assign(recipe.definition, pa.table(columns))
    assert np.array_equal(sides_of(recipe, 0), sides)
    assert found.sides == tuple(np.bincount(sides, minlength=3).tolist())
    assert found.reasons == {}


def test_a_row_is_named_by_all_its_columns_and_no_ignored_one(identified):
    columns = some_columns() | {"note": ["n"] * 200}
    recipe, _ = identified(columns, ignore=["note"])
    assert np.array_equal(hashes_of(recipe, 0), row_hash(pa.table(columns), ["a", "y"]))


def test_a_row_with_a_key_is_named_by_it_alone(identified):
    columns = some_columns() | {"id": np.arange(200)}
    recipe, _ = identified(columns, key="id")
    assert np.array_equal(hashes_of(recipe, 0), row_hash(pa.table(columns), ["id"]))


def test_a_row_without_target_is_unlabelled_and_no_fault(identified):
    columns = some_columns()
    columns["y"][:2] = [np.nan, -99.0]
    recipe, found = identified(columns, null_values=[-99])
    assert found.reasons == {"unlabelled": 2}
    assert sides_of(recipe, 0)[:2].tolist() == [3, 3]
    assert found.summary.target["moments"]["y"][0] == found.sides[0]


def test_quarantined_rows_keep_their_values_reason_and_place(identified):
    columns = some_columns()
    columns["a"][[5, 9]] = [np.inf, -np.inf]
    columns["y"][7] = np.inf
    recipe, found = identified(columns)
    assert found.reasons == {"'a' is infinite": 2, "'y' is infinite": 1}
    held = pq.read_table(f"{recipe.quarantine}/000000.parquet").to_pydict()
    assert held["quarantine_row"] == [5, 7, 9]
    assert held["quarantine_file"] == ["p.parquet"] * 3
    assert held["quarantine_reason"] == ["'a' is infinite", "'y' is infinite", "'a' is infinite"]
    assert held["a"] == columns["a"][[5, 7, 9]].tolist()


def test_a_row_with_two_faults_is_counted_once(identified):
    columns = some_columns()
    columns["a"][3] = columns["y"][3] = np.inf
    _, found = identified(columns)
    assert sum(found.reasons.values()) == 1


def test_the_first_step_learns_in_the_same_pass(identified):
    columns = some_columns()
    recipe, found = identified(columns)
    train = columns["a"][sides_of(recipe, 0) == 0]
    count, mean, *_ = found.summary.step["numbers"]["a"]
    assert (count, mean) == (len(train), pytest.approx(train.mean()))


def test_where_copies_may_go_nothing_is_learned_yet(identified):
    _, found = identified(some_columns(), dedup="exact")
    assert found.summary is None


def test_provenance_counts_rows_from_the_start_of_their_file(write):
    for number in range(3):
        folder = write(f"{number}.parquet", {"a": [0.0] * 10, "y": [0.0] * 10}, row_group_size=4)
    job = Job.from_json({"name": "t", "data": {"path": str(folder), "target": "y"}})
    dataset = scan(job.data, ".")
    items = work_items(dataset, target_bytes=150)
    for item in items:
        first = {}
        for file, _, _, row, _ in item.pieces:
            first.setdefault(dataset.files[file].path, row)
        names, places = provenance(dataset, item, np.arange(item.num_rows))
        expected = [(dataset.files[file].path, row + i) for file, _, _, row, count in item.pieces for i in range(count)]
        assert list(zip(names, places.tolist(), strict=True)) == expected
    assert len(items) > 1
    assert where(dataset, items[-1], items[-1].num_rows - 1) == "2.parquet row 9"
