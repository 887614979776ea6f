"""Check equal rows against a search through all pairs."""

import itertools
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest

from fmray.data import duplicates
from fmray.data.arrow_frames import raw_schema
from fmray.data.duplicates import find_key_repeats, find_repeats, kept_rows, num_buckets
from fmray.data.hashing import row_hash
from fmray.data.identify import Recipe, identify
from fmray.data.pipeline import Pipeline
from fmray.data.scan import scan, work_items
from fmray.data.split import Definition
from fmray.records import SPLITS
from fmray.spec.job import Job

SIZES = (70, 1, 40, 89)


@pytest.fixture
def identified(tmp_path, write):
    """Identify rows of few values, one work item per file."""

    def make(buckets, seed=0, levels=4, **data):
        rng = np.random.default_rng(seed)
        num_rows = sum(SIZES)
        columns = {name: rng.integers(0, levels, num_rows) for name in ("a", "b")}
        columns |= {"y": rng.integers(0, 2, num_rows), "side": rng.choice(SPLITS, num_rows)}
        columns |= {"id": np.arange(num_rows) % (num_rows - 3)}
        table = pa.table(columns)
        start = 0
        for number, size in enumerate(SIZES):
            folder = write(f"{number}.parquet", table.slice(start, size))
            start += size
        asked = {"path": str(folder), "target": "y", **data} | ({} if "key" in data else {"ignore": ["id"]})
        job = Job.from_json({"name": "t", "data": asked, "split": {"by": "given", "column": "side"}})
        dataset = scan(job.data, ".")
        definition = Definition("given", ("a", "b"), "side", 0.0, 0.0, (), 0)
        schema = raw_schema(dataset, job)
        recipe = Recipe(dataset, definition, schema, "classification", (), 8, buckets, str(tmp_path / "record"))
        (tmp_path / "record" / "scratch").mkdir(parents=True, exist_ok=True)
        items = work_items(dataset, target_bytes=1)
        for item in items:
            identify(recipe, Pipeline([], schema), item)
        return recipe, [item.index for item in items], table

    return make


@pytest.mark.parametrize("buckets", [1, 8])
@pytest.mark.parametrize("drop", [False, True])
def test_repeats_are_those_a_search_through_all_rows_finds(identified, buckets, drop):
    recipe, items, table = identified(buckets)
    found = [find_repeats(recipe, items, drop, bucket) for bucket in range(buckets)]
    rows = list(zip(*(table[name].to_pylist() for name in ("a", "b", "y")), table["side"].to_pylist(), strict=True))
    earlier, sides = defaultdict(int), defaultdict(set)
    for a, b, y, side in rows:
        sides[a, b, y].add(side)
    occurrence, gone, seen = [], [], set()
    for a, b, y, side in rows:
        occurrence.append(earlier[a, b, y, side])
        earlier[a, b, y, side] += 1
        copy = side == "train" and ((a, b, y) in seen or sides[a, b, y] - {"train"})
        gone.append(bool(copy) and drop)
        if side == "train":
            seen.add((a, b, y))
    kept = [kept_rows(recipe, item) for item in items]
    assert np.concatenate([occurrences for _, occurrences in kept]).tolist() == occurrence
    expected = [3 if out else SPLITS.index(side) for out, (*_, side) in zip(gone, rows, strict=True)]
    assert np.concatenate([side for side, _ in kept]).tolist() == expected
    dropped = {item: sum(part.dropped.get(item, 0) for part in found) for item in items}
    cuts = [0, *itertools.accumulate(SIZES)]
    assert dropped == {item: sum(gone[cuts[item] : cuts[item + 1]]) for item in items}


def test_counts_say_what_stands_twice_and_what_contradicts(identified):
    recipe, items, table = identified(8, seed=3, levels=9)
    found = [find_repeats(recipe, items, False, bucket) for bucket in range(8)]
    rows = list(zip(*(table[name].to_pylist() for name in ("a", "b", "y", "side")), strict=True))
    train = [row[:3] for row in rows if row[3] == "train"]
    targets = defaultdict(set)
    for a, b, y, _ in rows:
        targets[a, b].add(y)
    assert sum(part.in_train for part in found) == len(train) - len(set(train))
    assert sum(part.in_test for part in found) == sum(row[3] == "test" and row[:3] in train for row in rows)
    assert sum(part.in_val for part in found) == sum(row[3] == "val" and row[:3] in train for row in rows)
    assert sum(part.conflicts for part in found) == sum(len(targets[a, b]) > 1 for a, b, *_ in rows)


def test_repeated_keys_are_counted_with_the_first_of_them(identified):
    recipe, items, _ = identified(4, key="id")
    counts, shown = zip(*(find_key_repeats(recipe, items, bucket) for bucket in range(4)), strict=True)
    assert sum(counts) == 3
    pairs = {pair for part in shown for pair in part}
    begins = dict(zip(items, [0, *itertools.accumulate(SIZES)], strict=False))
    named = {tuple(begins[item] + row for item, row in pair) for pair in pairs}
    assert named == {(0, 197), (1, 198), (2, 199)}


def test_buckets_cover_all_rows_and_equal_rows_meet(identified):
    recipe, items, table = identified(8)
    hashes = row_hash(table, ["a", "b"])[:, 0]
    for bucket in range(8):
        rows = [duplicates.bucket_of(recipe, item, bucket) for item in items]
        words = np.concatenate([part[1] for part in rows])
        assert np.array_equal(words, hashes[hashes >> np.uint64(61) == bucket])


def test_the_number_of_buckets_is_the_power_of_two_that_keeps_them_small():
    limit = duplicates.BUCKET_ROWS
    assert [num_buckets(n) for n in (1, limit, limit + 1, 2 * limit, 2 * limit + 1, 5 * limit)] == [1, 1, 2, 2, 4, 8]
