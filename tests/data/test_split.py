import datetime
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from fmray.data.scan import read_item, scan, work_items
from fmray.data.split import EXCLUDED, TEST, TRAIN, VAL, assign, define
from fmray.errors import DataError, SpecError
from fmray.spec.sections import Data, Split

NUM = 4000


def people(num_rows=NUM, seed=0):
    random = np.random.default_rng(seed)
    return {
        "age": random.integers(18, 90, num_rows).astype(np.int32),
        "income": random.normal(50, 20, num_rows),
        "city": np.array(["Oslo", "Bonn", "Rome"])[random.integers(0, 3, num_rows)],
        "label": np.array(["yes", "no"])[random.integers(0, 2, num_rows)],
        "who": random.integers(0, 300, num_rows),
        "at": np.datetime64("2024-01-01") + random.integers(0, 365, num_rows).astype("timedelta64[D]"),
        "n": np.arange(num_rows),
    }


def data(folder, **changes):
    return Data(**{"path": str(folder), "target": "label", "ignore": ("n",), **changes})


def sides(folder, store, split=None, name="job", **changes):
    """Give the side of each row by its number n."""
    dataset = scan(data(folder, **changes), ".", store)
    definition = define(dataset, split or Split(), store, name)
    tables = [read_item(dataset, item) for item in work_items(dataset)]
    found = np.concatenate([assign(definition, table) for table in tables])
    numbers = np.concatenate([table["n"].to_numpy() for table in tables])
    return dict(zip(numbers.tolist(), found.tolist(), strict=True))


def changed(before, after):
    return {n for n, side in before.items() if after[n] != side}


def test_shares_are_what_was_asked_for(store, write):
    found = list(sides(write("a.parquet", people()), store, Split(val=0.15, test=0.25)).values())
    for side, share in ((VAL, 0.15), (TEST, 0.25), (TRAIN, 0.6)):
        assert found.count(side) / NUM == pytest.approx(share, abs=5 * (share * (1 - share) / NUM) ** 0.5)


CHANGES = {
    "a column is added": lambda t: {**t, "height": np.linspace(0, 1, NUM)},
    "an integer widens": lambda t: {**t, "age": t["age"].astype(np.int64)},
    "an integer becomes a float": lambda t: {**t, "age": t["age"].astype(np.float64)},
    "a label is corrected": lambda t: {**t, "label": np.where(np.arange(NUM) < 50, "yes", t["label"])},
    "columns change places": lambda t: dict(reversed(t.items())),
    "text is encoded otherwise": lambda t: {**t, "city": pa.array(t["city"]).dictionary_encode()},
    "rows change places": lambda t: {k: np.asarray(v)[::-1] for k, v in t.items()},
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_no_row_changes_side_when(store, write, change):
    folder = write("a.parquet", people())
    before = sides(folder, store)
    write("a.parquet", CHANGES[change](people()))
    assert changed(before, sides(folder, store)) == set()


def test_no_row_changes_side_when_rows_are_appended(store, write):
    folder = write("a.parquet", people())
    before = sides(folder, store)
    more = people(500, seed=1)
    write("b.parquet", {**more, "n": more["n"] + NUM})
    after = sides(folder, store)
    assert len(after) == NUM + 500
    assert changed(before, after) == set()


def test_no_row_changes_side_when_files_are_renamed_cut_or_compacted(store, write):
    table = people()
    folder = write("a.parquet", table)
    before = sides(folder, store)
    (folder / "a.parquet").unlink()
    for part in range(4):
        write(f"z{part}.parquet", {k: np.asarray(v)[part::4] for k, v in table.items()}, row_group_size=100)
    assert changed(before, sides(folder, store)) == set()


def test_a_column_added_later_has_no_say_even_for_new_rows(store, write):
    folder = write("a.parquet", people())
    sides(folder, store)
    definition = define(scan(data(folder), ".", store), Split(), store, "job")
    write("a.parquet", {**people(), "height": np.linspace(0, 1, NUM)})
    assert define(scan(data(folder), ".", store), Split(), store, "job") == definition
    assert "height" not in definition.columns
    assert "label" not in definition.columns


def test_rows_of_a_group_stay_together(store, write):
    table = people()
    found = sides(write("a.parquet", table), store, Split(by="group"), group="who")
    for who in np.unique(table["who"]):
        assert len({found[n] for n in np.flatnonzero(table["who"] == who)}) == 1


def test_the_key_decides_where_there_is_one(store, write):
    table = people()
    keyed = {**table, "key": np.arange(NUM)}
    folder = write("a.parquet", keyed)
    before = sides(folder, store, key=("key",))
    write("a.parquet", {**keyed, "income": table["income"] * 2})
    assert changed(before, sides(folder, store, key=("key",))) == set()


def test_time_orders_the_sides(store, write):
    table = people()
    found = sides(write("a.parquet", table), store, Split(by="time", val=0.1, test=0.2), time="at")
    side = np.array([found[n] for n in range(NUM)])
    assert table["at"][side == TRAIN].max() < table["at"][side == VAL].min()
    assert table["at"][side == VAL].max() < table["at"][side == TEST].min()
    assert (side == TEST).mean() == pytest.approx(0.2, abs=0.01)


def test_time_cuts_may_be_given_and_a_row_at_the_cut_is_after_it(store, write):
    table = people()
    split = Split(by="time", val_from="2024-06-01", test_from="2024-09-01")
    found = sides(write("a.parquet", table), store, split, time="at")
    for n, side in found.items():
        day = table["at"][n].astype(datetime.date)
        expected = TRAIN if day < datetime.date(2024, 6, 1) else VAL if day < datetime.date(2024, 9, 1) else TEST
        assert side == expected


def test_rows_without_a_time_are_on_no_side(store, write):
    table = people()
    at = pa.array([None if n % 10 == 0 else value for n, value in enumerate(table["at"].tolist())], pa.date32())
    found = sides(write("a.parquet", {**table, "at": at}), store, Split(by="time"), time="at")
    assert {n for n, side in found.items() if side == EXCLUDED} == set(range(0, NUM, 10))


def test_a_job_says_what_other_values_of_a_given_column_stand_for(store, write):
    """A published validation set is the test set, and validation is cut from train; the definition is kept."""
    published = np.array(["train", "Dev ", "spare"])[np.arange(NUM) % 3]
    folder = write("a.parquet", {**people(), "split": published})
    split = Split(by="given", column="split", sides={"dev": "test", "Spare": "train"}, val=0.2)
    found = sides(folder, store, split)
    side = np.array([found[n] for n in range(NUM)])
    assert set(side[published == "Dev "]) == {TEST}
    assert set(side[published != "Dev "]) == {TRAIN, VAL}
    assert sides(folder, store, split) == found
    with pytest.raises(SpecError, match="this job asks for .*sides"):
        sides(folder, store, replace(split, sides={"dev": "val", "spare": "test"}))
    with pytest.raises(SpecError, match=r"split.sides: no row has 'devv' in 'split'. Did you mean 'dev'"):
        sides(folder, store, replace(split, sides={"devv": "test", "spare": "train"}), name="other")
    with pytest.raises(DataError, match=r"has 'spare' in .*split.sides gives a side to others"):
        sides(folder, store, replace(split, sides={"dev": "test"}), name="third")


def test_a_given_column_is_obeyed_and_a_missing_val_is_cut_from_train(store, write):
    table = people()
    table["split"] = np.where(np.arange(NUM) % 4 == 0, " Test", "TRAIN")
    found = sides(write("a.parquet", table), store, Split(by="given", column="split", val=0.2))
    assert {n for n, side in found.items() if side == TEST} == set(range(0, NUM, 4))
    rest = [side for n, side in found.items() if n % 4]
    assert rest.count(VAL) / len(rest) == pytest.approx(0.2, abs=0.04)


def test_a_definition_once_made_stays_until_it_is_redefined(store, write):
    folder = write("a.parquet", people())
    before = sides(folder, store)
    with pytest.raises(
        SpecError,
        match=r"split: this job asks for \{salt: 7\}, but the rows of .*split\.redefine: true.* another job of the same name",
    ):
        sides(folder, store, Split(salt=7))
    after = sides(folder, store, Split(salt=7, redefine=True))
    assert len(changed(before, after)) > NUM / 10
    assert sides(folder, store, Split(salt=7)) == after


def test_jobs_of_other_names_have_definitions_of_their_own(store, write):
    folder = write("a.parquet", people())
    assert sides(folder, store, name="a") == sides(folder, store, name="b")
    sides(folder, store, Split(salt=1), name="c")


@pytest.mark.parametrize(
    ("split", "changes", "message"),
    [
        (Split(by="given", column="splt"), {}, "column 'splt' is not in the data"),
        (Split(by="given", column="city"), {}, r"column 'city' has .* Accepted: train, val"),
        (Split(by="group"), {}, "'group' needs a column"),
        (Split(by="time"), {}, "'time' needs a column"),
        (Split(by="time", val_from="soon", test_from="later"), {"time": "at"}, "'soon' is no point"),
        (
            Split(by="time", val_from="2024-09-01", test_from="2024-06-01"),
            {"time": "at"},
            "Validation comes before test",
        ),
        (Split(val=0.5, test=0.5), {}, "leave nothing to train on"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(store, write, split, changes, message):
    with pytest.raises((SpecError, DataError), match=message):
        sides(write("a.parquet", people()), store, split, **changes)


def test_a_column_of_the_definition_that_is_gone_is_named(store, write):
    folder = write("a.parquet", people())
    sides(folder, store)
    table = people()
    del table["income"]
    write("a.parquet", table)
    with pytest.raises(DataError, match=r"split: column 'income' decides which side a row is on and is gone"):
        sides(folder, store)


def test_a_definition_made_by_another_hash_is_refused(store, write):
    folder = write("a.parquet", people())
    sides(folder, store)
    path = store.path("splits", "job.json")
    record = store.read_json(path)
    store.write_json(path, {**record, "definition": {**record["definition"], "hash_version": "v0"}})
    with pytest.raises(DataError, match="uses hash v0, this fmray knows v1"):
        sides(folder, store)


def test_another_share_of_val_leaves_the_test_set_as_it_was(store, write):
    folder = write("a.parquet", people())
    one, other = (sides(folder, store, Split(val=val), name=f"v{val}") for val in (0.1, 0.3))
    tests = [{n for n, side in found.items() if side == TEST} for found in (one, other)]
    assert tests[0] == tests[1]
    assert replace(Split(), val=0.3).val == 0.3
