"""Plant copies of test rows in train, over families of data: gates must see them, and leave honest data alone."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.catalogue import GATES
from fmray.data.duplicates import Groups
from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.errors import GateError
from fmray.evaluate.table import Table
from fmray.metrics.find import find_metric
from fmray.records import Prepared, Target
from fmray.report.gates import data_gates
from fmray.rigour.gates import DataEvidence, run_gates
from fmray.rigour.gates.content_duplicate import with_scores
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Rigour
from fmray.store import Store

SEEDS = range(20)
TRAIN, TEST = 10_000, 5_000


def continuous(random):
    return random.normal(size=(TRAIN + TEST, 5))


def six_columns_of_ten_levels(random):
    return random.integers(0, 10, (TRAIN + TEST, 6))


def five_columns_of_five_levels(random):
    return random.integers(0, 5, (TRAIN + TEST, 5))


def grouped_series(random):
    """Sensors that often repeat their last reading, a tenth of the time; whole sensors go one way."""
    readings = random.normal(size=(TRAIN + TEST, 3))
    again = np.flatnonzero(random.random(TRAIN + TEST) < 0.1)
    again = again[again % 50 > 0]
    readings[again] = readings[again - 1]
    return readings


def popular_texts(random):
    """Short answers that many people give beside long ones that nobody repeats."""
    texts = random.integers(10**9, 10**12, TRAIN + TEST)
    popular = random.random(TRAIN + TEST) < 0.05
    texts[popular] = random.zipf(1.5, popular.sum())
    return texts[:, None]


FAMILIES = (continuous, six_columns_of_ten_levels, grouped_series, popular_texts)


def counted(rows, num_train=TRAIN, grouped=False):
    """Count what preparation counts, of training rows before test rows; a group has 50 rows."""
    is_train = np.arange(len(rows)) < num_train
    words = np.ascontiguousarray(rows.astype(np.float64)).view(np.uint64)
    inputs = Groups(*words.T)
    alike = inputs.sums(is_train)
    groups = np.arange(len(rows), dtype=np.uint64) // np.uint64(50 if grouped else 1)
    others = alike - Groups(*words.T, groups).sums(is_train)
    return {
        "train": num_train,
        "test": len(rows) - num_train,
        "overlapping": int((~is_train & (alike > 0)).sum()),
        "repeated": int((is_train & (others > 0)).sum()),
        "pairs": int((is_train & (alike == 2) & (others > 0)).sum()) // 2,
        "copied_rows": 0,
        "copied_files": [],
    }


def with_copies(rows, share, random):
    """Append some test rows to the training rows, which stand first."""
    copies = rows[TRAIN:][random.choice(TEST, int(share * TEST), replace=False)]
    return np.concatenate([rows[:TRAIN], copies, rows[TRAIN:]]), TRAIN + len(copies)


def status(gate, overlap, **options):
    found = run_gates("data", DataEvidence(overlap), Rigour(**options))
    return next(one for one in found if one["gate"] == gate)


def statuses(family, share):
    found = []
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        rows, num_train = family(random), TRAIN
        if share:
            rows, num_train = with_copies(rows, share, random)
        overlap = counted(rows, num_train, grouped=family is grouped_series)
        found.append(status("G03", overlap)["status"])
    return found


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_honest_rows_are_left_alone(family):
    found = statuses(family, 0.0)
    print(f"G03, {family.__name__}, no copies: {found.count('fail')} of 20 fail")
    assert found.count("fail") <= 1
    assert found.count("pass") >= 19


COPIED = (
    (continuous, 0.01),
    (continuous, 0.005),
    (grouped_series, 0.01),
    (popular_texts, 0.02),
    (six_columns_of_ten_levels, 0.02),
)


@pytest.mark.parametrize(("family", "share"), COPIED)
def test_copies_of_test_rows_in_train_are_seen(family, share):
    found = statuses(family, share)
    print(f"G03, {family.__name__}, copies of {share:.1%} of test rows: {found.count('fail')} of 20 fail")
    assert found.count("fail") >= 19


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_where_inputs_repeat_by_chance_nothing_is_claimed(share):
    assert set(statuses(five_columns_of_five_levels, share)) == {"inconclusive"}


def test_few_copies_are_not_seen_and_what_would_be_is_said():
    random = np.random.default_rng(0)
    rows, num_train = with_copies(continuous(random), 0.001, random)
    found = status("G03", counted(rows, num_train))
    assert found["status"] == "pass"
    assert "copies of 0.20% of them would show" in found["text"]


def test_a_copied_file_fails_and_nothing_excuses_it():
    overlap = {**counted(continuous(np.random.default_rng(0))), "copied_rows": 1, "copied_files": [["a", "b"]]}
    assert status("G02", overlap)["status"] == "fail"
    assert status("G02", {**overlap, "copied_rows": 0})["status"] == "pass"


def test_a_waived_gate_keeps_its_finding():
    random = np.random.default_rng(0)
    rows, num_train = with_copies(continuous(random), 0.01, random)
    found = status("G03", counted(rows, num_train), waive={"G03": "resent by the customer"})
    assert found["status"] == "waived"
    assert "resent by the customer" in found["text"]


def test_rows_of_an_earlier_version_are_not_judged():
    assert {found["status"] for found in run_gates("data", DataEvidence(None), Rigour())} == {"not_run"}


def test_every_gate_of_the_data_has_a_planted_fault():
    assert {name for name in GATES if GATES.find(name).stage == "data"} == {"G02", "G03"}


@dataclass
class Made:
    job: Job
    store: Store
    prepared: Prepared


@pytest.fixture
def made(tmp_path):
    """Prepare rows whose split is the name of their folder."""

    def make(train, test, **data):
        random = np.random.default_rng(1)
        for name, rows in {"train": train, "test": test, "val": random.normal(size=(50, 2))}.items():
            folder = tmp_path / "data" / f"split={name}"
            folder.mkdir(parents=True)
            columns = {"a": rows[:, 0], "b": rows[:, 1], "y": (rows[:, 0] > 0).astype(int)}
            pq.write_table(pa.table(columns), folder / "rows.parquet")
        asked = {"path": str(tmp_path / "data"), "target": "y", **data}
        job = Job.from_json(
            {"name": "t", "data": asked, "split": {"by": "given", "column": "split"}, "steps": ["auto"]}
        )
        store = Store(str(tmp_path / "store"))
        return Made(job, store, prepare(scan(job.data, ".", store), job, task=Ref("classification", {}), store=store))

    return make


def gates_of(made, **options):
    notes = []
    root = made.store.path("runs", "t", "one")
    made.store.write_json(f"{root}/run.json", {})
    job = Job.from_json({**made.job.to_json(), "rigour": options})
    return {gate["gate"]: gate for gate in data_gates(made.prepared, job, root, made.store, notes.append)}, notes


def test_counts_of_prepared_rows_are_those_of_a_search_through_all_pairs(made):
    random = np.random.default_rng(0)
    train, test = random.integers(0, 12, (300, 2)) * 1.0, random.integers(0, 12, (100, 2)) * 1.0
    found = made(train, test).prepared.overlap
    rows = [tuple(row) for row in train.tolist()]
    assert found["overlapping"] == sum(tuple(row) in rows for row in test.tolist())
    assert found["repeated"] == sum(rows.count(row) > 1 for row in rows)
    assert found["pairs"] == sum(rows.count(row) == 2 for row in set(rows))
    assert (found["train"], found["test"]) == (300, 100)


def test_a_run_with_copied_test_rows_is_stopped_and_the_waiver_lets_it_on(made):
    random = np.random.default_rng(0)
    train, test = random.normal(size=(600, 2)), random.normal(size=(300, 2))
    ready = made(np.concatenate([train, test[:60]]), test)
    with pytest.raises(GateError, match=r"G03 content duplicate: 60 of 300 test rows"):
        gates_of(ready)
    kept = ready.store.read_json("runs/t/one/gates.json")
    assert [gate["status"] for gate in kept] == ["pass", "fail"]
    assert ready.store.read_json("runs/t/one/run.json")["failed_gates"] == ["G03"]
    found, notes = gates_of(ready, waive={"G03": "agreed"})
    assert found["G03"]["status"] == "waived"
    assert any(note.startswith("gate G03, content duplicate: waived. 60 of 300 test rows") for note in notes)


def test_training_copies_that_dedup_removes_do_not_count(made):
    random = np.random.default_rng(0)
    train, test = random.normal(size=(600, 2)), random.normal(size=(300, 2))
    ready = made(np.concatenate([train, test[:60]]), test, dedup="exact")
    assert gates_of(ready)[0]["G03"]["status"] == "pass"
    assert ready.prepared.overlap["overlapping"] == 0


def test_a_file_that_lies_under_train_and_test_is_named(made):
    rows = np.random.default_rng(0).normal(size=(200, 2))
    with pytest.raises(GateError, match=r"G02 provenance: 200 rows are in two splits.*split=test/rows.parquet"):
        gates_of(made(rows, rows))


def test_the_score_is_told_apart_on_overlapping_rows(made):
    random = np.random.default_rng(0)
    train, test = random.normal(size=(600, 2)), random.normal(size=(300, 2))
    ready = made(np.concatenate([train, test[:60]]), test)
    (name,) = ready.prepared.overlap["files"]
    ids = np.load(f"{ready.prepared.root}/{name}")
    assert ids.shape == (60, 2)
    others = random.integers(0, 2**63, (40, 2)).astype(np.uint64)
    target = np.ones(100, int)
    output = np.eye(2)[np.r_[np.ones(60, int), np.zeros(40, int)]]
    shown = Table(np.concatenate([ids, others]), output, target, None, None, {})
    metric = find_metric("accuracy", Target(("y",), "class", classes=("a", "b"), counts=(1, 1)))
    waived = ({"gate": "G03", "status": "waived", "text": "60 of 300."},)
    (told,) = with_scores(waived, ids, shown, metric)
    assert told["text"].endswith("accuracy is 1.0000 on 60 overlapping test rows and 0.0000 on 40 other test rows.")


def test_a_record_of_an_earlier_version_is_read(made):
    plain = json.loads(json.dumps(made(*np.random.default_rng(0).normal(size=(2, 99, 2))).prepared.to_json()))
    del plain["overlap"]
    assert Prepared.from_json(plain).overlap == {}
    assert "overlap" not in Prepared.from_json(plain).to_json()
