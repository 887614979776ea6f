"""Check that preparation accounts for every row, moves none, and does the same wherever it runs."""

import shutil
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.hashing import row_hash
from fmray.data.lanes import Lanes, verify_lanes
from fmray.errors import DataError, SpecError
from fmray.events import to_json
from fmray.records import SPLITS, Prepared
from fmray.store import Store

N = 1200
CITIES = ("Ulm", "Bonn", "Jena")
KEEP_A = {"drop": {"columns": ["b", "age", "city", "paid"]}}


def rows(num_rows=N, seed=0):
    """Give rows that are all different, with numbers, text, a bool and missing values."""
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 90, num_rows)
    return pa.table(
        {
            "a": (rng.permutation(num_rows) + seed * 10_000) / 64,  # names the row, in float32 too
            "b": pa.array(rng.standard_normal(num_rows), mask=rng.random(num_rows) < 0.1),
            "age": pa.array(age, pa.int32()),
            "city": rng.choice(CITIES, num_rows),
            "paid": rng.random(num_rows) < 0.5,
            "y": rng.standard_normal(num_rows) + age,
        }
    )


def cut(table, *sizes):
    """Cut a table at the given rows."""
    edges = [0, *sizes, table.num_rows]
    return [table.slice(a, b - a) for a, b in pairwise(edges)]


def ids_of(prepared: Prepared, split="test"):
    return {tuple(row) for row in Lanes(prepared, split).load(["row_id"])["row_id"].tolist()}


def sides_by_a(prepared: Prepared):
    """Map the value of `a`, the only input that is kept, to the side of its row."""
    assert prepared.schema.feature_names() == ["a"]
    return {a: split for split in SPLITS for a in Lanes(prepared, split).load(["x"])["x"][:, 0].tolist()}


def test_what_steps_leave_out_that_learn_nothing_of_rows_is_said(write, prepared):
    found = prepared(write("a.parquet", rows()), steps=["auto", KEEP_A])
    assert [note for note in found.notes if note.startswith("drop ")] == [
        f"drop leaves out '{name}'" for name in KEEP_A["drop"]["columns"]
    ]


def test_a_group_that_holds_all_rows_is_said_to_do_so(write, prepared):
    table = rows().append_column("g", pa.array(["one"] * N))
    message = r"all rows are of one group in 'g', or of too few\. Name another data\.group, or leave it out"
    with pytest.raises(DataError, match=message):
        prepared(write("a.parquet", table), data={"group": "g"})


def test_every_row_is_accounted_for(write, prepared):
    table = rows()
    y, time_ = table["y"].to_pylist(), list(range(N))
    y[3], y[5], time_[7], time_[8] = None, float("nan"), None, None
    a = table["a"].to_pylist()
    a[11] = float("inf")
    table = table.set_column(0, "a", pa.array(a)).drop(["y"]).append_column("y", pa.array(y))
    table = table.append_column("when", pa.array(time_, pa.int64()))
    found = prepared(
        write("p.parquet", table), data={"time": "when"}, split={"by": "time"}, steps=[{"impute": {}}, "auto"]
    )
    assert found.rows["read"] == N
    assert (found.rows["quarantined"], found.rows["unlabelled"], found.rows["duplicates"]) == (3, 2, 0)
    assert sum(found.num_rows(split) for split in SPLITS) == N - 5
    assert all(found.rows[split] == found.num_rows(split) for split in SPLITS)
    assert found.quarantine == {"'a' is infinite": 1, "'when' is missing": 2}
    said = "rows cannot be used and are set aside ('a' is infinite: 1 rows; 'when' is missing: 2 rows)"
    assert f"3 of {found.rows['read']} {said}; data.max_quarantine: 0 refuses them" in found.notes
    held = pq.read_table(f"{found.root}/quarantine").select(["quarantine_reason", "quarantine_row"]).to_pydict()
    assert held == {
        "quarantine_reason": ["'when' is missing", "'when' is missing", "'a' is infinite"],
        "quarantine_row": [7, 8, 11],
    }


def test_steps_learn_from_training_rows_only(write, prepared):
    table = rows().select(["a", "age", "y"])
    found = prepared(write("p.parquet", table), steps=["standardise"])
    parts = {split: Lanes(found, split).load(["x", "target"]) for split in SPLITS}
    raw = {float(y): (a, age) for a, age, y in zip(*(c.to_numpy() for c in table.columns), strict=True)}
    given = {split: np.array([raw[y] for y in part["target"].tolist()]) for split, part in parts.items()}
    mean, scale = given["train"].mean(0), given["train"].std(0)
    for split in SPLITS:
        np.testing.assert_allclose(parts[split]["x"], (given[split] - mean) / scale, atol=1e-5)
    assert found.target.mean[0] == pytest.approx(parts["train"]["target"].mean())


def test_the_sequence_is_the_order_of_rows_in_the_files(write, prepared):
    table = rows().select(["a", "y"])
    for number, part in enumerate(cut(table, 500, 501)):
        folder = write(f"{number}.parquet", part)
    found = prepared(folder)
    for split in SPLITS:
        targets = Lanes(found, split).load(["target"])["target"]
        places = [table["y"].to_pylist().index(y) for y in targets.tolist()]
        assert places == sorted(places)


def test_ids_sequence_and_sides_do_not_depend_on_the_number_of_work_items(tmp_path, write, prepared):
    table = pa.concat_tables([rows(), rows(300), rows(200)])  # with repeats, which need occurrence numbers
    for number, part in enumerate(cut(table, 400, 900, 1300)):
        folder = write(f"{number}.parquet", part, row_group_size=150)
    whole = prepared(folder, steps=["auto"])
    pieces = prepared(folder, steps=["auto"], store=Store(str(tmp_path / "other")), item_bytes=1)
    assert (len(whole.parts["train"]), len(pieces.parts["train"])) == (1, 13)
    assert (whole.test_identity, whole.rows, whole.slices) == (pieces.test_identity, pieces.rows, pieces.slices)
    for split in SPLITS:
        one, other = (Lanes(p, split).load(["x", "row_id", "target"]) for p in (whole, pieces))
        assert np.array_equal(one["row_id"], other["row_id"])
        assert np.array_equal(one["target"], other["target"])
        np.testing.assert_allclose(one["x"], other["x"], atol=1e-5)
        assert len(np.unique(one["row_id"], axis=0)) == len(one["row_id"])


def test_a_unique_row_is_named_by_its_hash(write, prepared):
    table = rows(100)
    found = prepared(write("p.parquet", table), steps=["auto"])
    named = set().union(*(ids_of(found, split) for split in SPLITS))
    assert named == {tuple(row) for row in row_hash(table, table.column_names).tolist()}


def test_a_second_call_reads_the_record_back(write, prepared):
    folder, events = write("p.parquet", rows()), []
    first = prepared(folder, steps=["auto"])
    assert prepared(folder, steps=["auto"], report=lambda event: events.append(to_json(event))) == first
    assert [event["event"] for event in events] == ["record"]
    assert prepared(folder, steps=["auto", "quantile"]).fingerprint != first.fingerprint


def test_a_column_that_is_ignored_later_still_decides_about_sides(write, prepared):
    folder = write("p.parquet", rows())
    before = prepared(folder, steps=[KEEP_A])
    after = prepared(folder, steps=[{"drop": {"columns": ["age", "city", "paid"]}}], data={"ignore": ["b"]})
    assert sides_by_a(before) == sides_by_a(after)


@pytest.mark.parametrize(
    "change",
    ["labels corrected", "column added", "renamed", "compacted", "appended", "int widened", "reordered"],
)
def test_no_row_changes_side(write, prepared, change):
    table = rows()
    for name, part in zip("ab", cut(table, 700), strict=True):
        folder = write(f"{name}.parquet", part)
    before = prepared(folder, steps=[KEEP_A])
    for path in folder.glob("*"):
        path.unlink()
    match change:
        case "labels corrected":
            table = table.set_column(5, "y", pa.array(table["y"].to_numpy() + 1))
        case "column added":
            table = table.append_column("z", pa.array(np.arange(float(N))))
        case "appended":
            table = pa.concat_tables([table, rows(50, seed=9)])
        case "int widened":
            table = table.set_column(2, "age", table["age"].cast(pa.int64()))
        case "reordered":
            table = table.take(np.random.default_rng(0).permutation(N))
    for name, part in zip("yx" if change == "renamed" else "ab", cut(table, 700), strict=True):
        write(f"{name}.parquet", table if change == "compacted" else part)
        if change == "compacted":
            break
    after = prepared(folder, steps=[{"drop": {"columns": [name for name in table.column_names if name not in "ay"]}}])
    assert after.fingerprint != before.fingerprint
    then, now = sides_by_a(before), sides_by_a(after)
    assert len(then) == N
    assert {a: now[a] for a in then} == then
    same_rows = change in ("renamed", "compacted", "int widened", "reordered")
    assert (after.test_identity == before.test_identity) == same_rows


def test_exact_dedup_removes_training_copies_and_never_a_test_row(write, prepared):
    table = rows(400).select(["a", "y"])
    marks = ["train"] * 300 + ["val"] * 50 + ["test"] * 50
    copies = pa.concat_tables([table.slice(0, 20), table.slice(350, 10), table.slice(300, 5), table.slice(390, 4)])
    copied = ["train"] * 20 + ["train"] * 10 + ["train"] * 5 + ["test"] * 4
    both = pa.concat_tables([table, copies]).append_column("split", pa.array(marks + copied))
    folder, given = write("p.parquet", both), {"by": "given", "column": "split"}
    reported = prepared(folder, split=given)
    assert (reported.rows["train"], reported.rows["val"], reported.rows["test"]) == (335, 50, 54)
    assert "20 training rows repeat an earlier training row" in reported.notes
    assert "10 of 54 test rows also stand in train; dedup: exact removes the training copies" in reported.notes
    assert "5 of 50 validation rows also stand in train; dedup: exact removes the training copies" in reported.notes
    exact = prepared(folder, split=given, data={"dedup": "exact"})
    assert (exact.rows["train"], exact.rows["val"], exact.rows["test"], exact.rows["duplicates"]) == (300, 50, 54, 35)
    assert Lanes(exact, "train").load(["target"])["target"].tolist() == table["y"].to_pylist()[:300]
    assert exact.test_identity == reported.test_identity


def test_copies_are_found_under_another_key_and_another_spelling_of_the_label(write, prepared):
    side = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    table = {
        "id": list(range(8)),
        "a": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0],
        "y": ["yes", "no", "yes", "no", "yes", "no", "yes.", "yes."],
        "split": side,
    }
    data = {"key": "id", "labels": {"yes.": "yes"}}
    found = prepared(write("p.parquet", table), data=data, split={"by": "given", "column": "split"})
    assert "1 of 2 test rows also stand in train; dedup: exact removes the training copies" in found.notes
    assert "2 rows have the inputs of another row and a different target" in found.notes


def test_repeated_keys_are_refused_with_file_and_row(write, prepared):
    write("a.parquet", {"id": [1, 2, 3], "x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.5]})
    folder = write("b.parquet", {"id": [4, 2], "x": [4.0, 5.0], "y": [1.0, None]})
    with pytest.raises(DataError, match=r"data.key: 1 rows repeat the id .* a.parquet row 1 and b.parquet row 1"):
        prepared(folder, data={"key": "id"})


def test_too_many_faulty_rows_stop_the_run_and_name_the_reasons(write, prepared):
    table = {"a": [float("inf")] * 10 + [float(i) for i in range(90)], "y": [float(i) for i in range(100)]}
    folder = write("p.parquet", table)
    with pytest.raises(DataError, match=r"max_quarantine: 10 of 100 rows cannot be used \('a' is infinite: 10 rows\)"):
        prepared(folder)
    assert prepared(folder, data={"max_quarantine": 0.1}).rows["quarantined"] == 10


def test_weights_must_be_numbers_from_zero_on(write, prepared):
    weight = [1.0] * 300
    weight[4:9] = [None, -1.0, float("nan"), float("inf"), 1e308]
    table = rows(300).select(["a", "y"]).append_column("w", pa.array(weight))
    found = prepared(write("p.parquet", table), data={"weight": "w", "max_quarantine": 0.1})
    assert found.quarantine == {"'w' is missing, negative or infinite": 5}
    assert found.weighted
    assert set(Lanes(found, "train").load(["weight"])["weight"].tolist()) == {1.0}
    assert [column.name for column in found.schema.columns] == ["a"]


def test_rows_of_a_group_stay_together_and_carry_its_hash(write, prepared):
    table = rows().select(["a", "y"]).append_column("who", pa.array([f"p{i % 100}" for i in range(N)]))
    found = prepared(write("p.parquet", table), data={"group": "who"}, split={"by": "group"})
    groups = {split: set(Lanes(found, split).load(["group"])["group"].tolist()) for split in SPLITS}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 100


def test_an_empty_split_is_an_error_that_says_what_to_change(write, prepared):
    folder = write("p.parquet", rows(50).select(["a", "y"]))
    with pytest.raises(DataError, match=r"no rows are left for val: .*other shares"):
        prepared(folder, split={"val": 0.0})


def test_a_class_that_training_lacks_is_named_with_its_rows(write, prepared):
    table = {
        "a": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "y": ["u", "v", "u", "w", "w", "v"],
        "s": ["train"] * 3 + ["val"] + ["test"] * 2,
    }
    folder = write("p.parquet", table)
    with pytest.raises(DataError, match=r"data.target: .*'w': 2 rows, the first in p.parquet row 3"):
        prepared(folder, split={"by": "given", "column": "s"})


LISTED = {
    "multi_label": ("labels", {}),
    "tagging": ("tags", {"steps": [{"tokenize_words": {"columns": "a"}}], "model": "tagger"}),
}


@pytest.mark.parametrize("task", list(LISTED))
def test_of_a_list_only_what_training_lacks_is_named(write, prepared, task):
    nouns, others = LISTED[task]
    lists = [["u", "v"], ["v", "u"], ["u"], ["v", "w"], ["old", "w"], ["u", "x"], ["v"]]
    table = {
        "a": pa.array([[f"word{i}"] * len(row) for i, row in enumerate(lists)]) if task == "tagging" else range(7),
        "y": pa.array(lists),
        "s": ["train"] * 3 + ["val"] + ["test"] * 3,
    }
    folder = write("p.parquet", table)
    data = {"labels": {"old": "u"}}
    expected = (
        rf"data.target: {nouns} of 'y' in .*: 'w': 2 rows, the first in p.parquet row 3; 'x': 1 row, the first in "
    )
    with pytest.raises(DataError, match=expected):
        prepared(folder, task=task, data=data, split={"by": "given", "column": "s"}, **others)


def test_slices_carry_levels_in_order_of_value(write, prepared):
    table = rows().append_column("grade", pa.array([(None, 10, 9, 2)[i % 4] for i in range(N)], pa.int64()))
    found = prepared(write("p.parquet", table), steps=["auto"], evaluate={"slices": ["grade", "city", "paid"]})
    assert found.slices == {
        "grade": ("2", "9", "10", "<missing>"),
        "city": ("Bonn", "Jena", "Ulm"),
        "paid": ("False", "True"),
    }
    codes = np.concatenate([Lanes(found, split).load(["slice_grade"])["slice_grade"] for split in SPLITS])
    assert Counter(codes.tolist()) == dict.fromkeys(range(4), N // 4)


def test_slices_by_an_unknown_column_or_by_too_many_levels_are_refused(write, prepared):
    folder = write("p.parquet", rows())
    with pytest.raises(SpecError, match=r"evaluate.slices: column 'citi' .*Did you mean 'city'"):
        prepared(folder, steps=["auto"], evaluate={"slices": ["citi"]})
    with pytest.raises(DataError, match=r"evaluate.slices: column 'a' has 1200 or more levels"):
        prepared(folder, steps=["auto"], evaluate={"slices": ["a"]})


def test_columns_and_levels_named_like_secrets_are_kept_as_they_are(write, prepared):
    table = rows().rename_columns(["token", "password", "api_key", "secret", "paid", "y"])
    table = table.set_column(3, "secret", pa.array(["token=abc", "https://me:pw@host/x", "c"] * (N // 3)))
    found = prepared(write("p.parquet", table), steps=["auto"], evaluate={"slices": ["secret"]})
    assert found.slices["secret"] == ("c", "https://me:pw@host/x", "token=abc")
    state = {entry["name"]: entry for entry in found.steps[0]["state"]["plan"]}
    assert isinstance(state["token"]["shift"][0], float)
    assert "token=abc" in state["secret"]["levels"]


def test_numbers_no_float32_holds_are_named(write, prepared):
    table = {"a": [1e300] + [float(i) for i in range(99)], "y": [float(i) for i in range(100)]}
    with pytest.raises(DataError, match=r"steps: 'a' is inf after the steps in p.parquet row 0"):
        prepared(write("p.parquet", table))


def test_lanes_that_do_not_fit_the_disk_are_refused_before_they_are_written(write, prepared, store, monkeypatch):
    usage = shutil.disk_usage(store.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"hashes of all rows need 100,800 bytes, 1,000 are free"):
        prepared(write("p.parquet", rows()), steps=["auto"])
    assert store.list("prepared") == [] or not any(
        name.startswith("draft") for key in store.list("prepared") for name in store.list(f"prepared/{key}")
    )


def test_a_flipped_byte_is_found_by_verification(write, prepared, store):
    found = prepared(write("p.parquet", rows()), steps=["auto"])
    verify_lanes(found, store)
    path = Path(found.root) / found.parts["train"][0].file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{path.name} is damaged"):
        verify_lanes(found, store)


def test_a_record_whose_file_was_cut_is_refused(write, prepared):
    folder = write("p.parquet", rows())
    found = prepared(folder, steps=["auto"])
    path = Path(found.root) / found.parts["train"][0].file
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=path.name):
        prepared(folder, steps=["auto"])


def test_a_store_elsewhere_holds_lanes_too(write, prepared):
    remote = Store("memory://fmray-prepare", single_writer=True)
    folder = write("p.parquet", rows())
    there, here = prepared(folder, steps=["auto"], store=remote), prepared(folder, steps=["auto"])
    for split in SPLITS:
        one, other = (Lanes(found, split).load(["x", "row_id"]) for found in (there, here))
        assert np.array_equal(one["x"], other["x"])
        assert np.array_equal(one["row_id"], other["row_id"])


@pytest.mark.slow
def test_ten_thousand_small_files_cost_ten_times_what_a_thousand_do(tmp_path, prepared):
    table = rows(20_000).select(["a", "age", "y"])
    seconds = {}
    for num_files in (1_000, 10_000):
        folder = tmp_path / str(num_files)
        folder.mkdir()
        for number in range(num_files):
            pq.write_table(table.slice(2 * number, 2), folder / f"{number:05}.parquet")
        start = time.process_time()  # others may use the cores meanwhile
        found = prepared(folder, steps=["standardise"])
        seconds[num_files] = time.process_time() - start
        assert found.rows["read"] == 2 * num_files
    assert seconds[10_000] < 15 * seconds[1_000], seconds
    assert sum(map(len, found.parts.values())) < 100


def test_a_small_job_runs_here_and_says_why(write, prepared):
    events = []
    prepared(
        write("p.parquet", rows()),
        steps=["auto"],
        run={"prepare": "auto"},
        report=lambda event: events.append(to_json(event)),
    )
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any("in this process (over 256 MB goes to Ray)" in note for note in notes)
    assert {event["stage"] for event in events if event["event"] == "progress"} == {
        "identify rows", "find equal rows", "write lanes",
    }  # fmt: skip


def test_a_real_data_set_is_prepared_as_polars_reads_it(real_data, prepared):
    folder = real_data("california_housing")
    found = prepared(folder, data={"target": "median_house_value"}, steps=["auto"])
    frame = pl.read_parquet(f"{folder}/*.parquet")
    targets = np.concatenate([Lanes(found, split).load(["target"])["target"] for split in SPLITS])
    assert np.array_equal(np.sort(targets), frame["median_house_value"].sort().to_numpy())
    flags = found.schema.feature_names().index("total_bedrooms_missing")
    missing = sum(Lanes(found, split).load(["x"])["x"][:, flags].sum() for split in SPLITS)
    assert missing == frame["total_bedrooms"].null_count()


def test_a_live_step_changes_nothing_about_what_is_prepared(write, prepared):
    folder = write("a.parquet", {"x": [float(i) for i in range(200)], "y": [i % 2 for i in range(200)]})
    plain = prepared(folder, steps=["standardise"])
    assert prepared(folder, steps=["standardise", {"noise": {"columns": ["x"]}}]) == plain
