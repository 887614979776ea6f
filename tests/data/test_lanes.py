"""Check that rows come back from lanes as they went in, in whatever order they are asked for."""

import dataclasses
import pickle
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fmray.data import lanes
from fmray.data.lanes import Lanes, lane_order, write_part
from fmray.data.order import epoch_order
from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.data.target import decide
from fmray.errors import DataError
from fmray.records import Part, Prepared, Target
from fmray.schema import Column, Schema
from fmray.spec.load import job_from
from fmray.spec.sections import Order
from fmray.store import Store

WIDTH = 3
COLUMNS = ["x", "target", "row_id", "weight", "group", "slice_sex"]


def arrays_of(num_rows: int, width: int = WIDTH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(num_rows)
    return {
        "x": rng.standard_normal((num_rows, width), np.float32),
        "target": rng.standard_normal((num_rows, 2)),
        "row_id": rng.integers(0, 2**64, (num_rows, 2), np.uint64),
        "weight": rng.random(num_rows, np.float32),
        "group": rng.integers(0, 2**64, num_rows, np.uint64),
        "slice_sex": rng.integers(0, 2, num_rows, np.int32),
    }


def record(folder: Path, arrays: dict[str, np.ndarray], sizes: list[int], num_lanes: int) -> Prepared:
    """Write rows as parts of the given sizes."""
    parts, start = [], 0
    for number, size in enumerate(sizes):
        order = start + lane_order(start, size, num_lanes)
        write_part(f"{folder}/{number}.arrow", {name: values[order] for name, values in arrays.items()})
        parts.append(Part(f"{number}.arrow", start, size))
        start += size
    schema = Schema((Column("v", "vector", arrays["x"].shape[1]),))
    target = Target(("a", "b"), "number", mean=(0, 0), scale=(1, 1))
    splits = {"train": tuple(parts), "val": (), "test": ()}
    return Prepared("f", str(folder), schema, target, num_lanes, splits, (), {}, {}, "t", weighted=True, grouped=True)


LAYOUTS = [([17], 4), ([5, 1, 11], 4), ([3, 3, 3, 40], 7), ([2, 60, 1], 64), ([10, 10], 1), ([64, 64], 64)]


@pytest.mark.parametrize(("sizes", "num_lanes"), LAYOUTS)
def test_load_gives_every_column_in_sequence_order(tmp_path, sizes, num_lanes):
    arrays = arrays_of(sum(sizes))
    loaded = Lanes(record(tmp_path, arrays, sizes, num_lanes), "train").load(COLUMNS)
    for name in COLUMNS:
        assert loaded[name].dtype == arrays[name].dtype
        assert np.array_equal(loaded[name], arrays[name])


@pytest.mark.parametrize(("sizes", "num_lanes"), LAYOUTS)
def test_a_file_holds_its_rows_by_lane_and_then_by_position(tmp_path, sizes, num_lanes):
    arrays = arrays_of(sum(sizes))
    arrays["weight"] = np.arange(sum(sizes), dtype=np.float32)  # the row's position
    prepared = record(tmp_path, arrays, sizes, num_lanes)
    for part in prepared.parts["train"]:
        with pa.memory_map(f"{tmp_path}/{part.file}") as source:
            positions = pa.ipc.open_file(source).read_all()["weight"].to_numpy().astype(int)
        expected = sorted(range(part.start, part.start + part.num_rows), key=lambda p: (p % num_lanes, p))
        assert positions.tolist() == expected


def test_sequence_gives_each_row_once_with_its_position(tmp_path):
    arrays = arrays_of(53)
    chunks = list(Lanes(record(tmp_path, arrays, [20, 33], 4), "train").sequence(8))
    assert [len(chunk["x"]) for chunk in chunks] == [8] * 6 + [5]
    assert np.concatenate([chunk["position"] for chunk in chunks]).tolist() == list(range(53))
    for name in COLUMNS:
        assert np.array_equal(np.concatenate([chunk[name] for chunk in chunks]), arrays[name])


def test_only_the_columns_asked_for_are_read(tmp_path):
    chunk = next(Lanes(record(tmp_path, arrays_of(9), [9], 2), "train").sequence(4, ["x"]))
    assert set(chunk) == {"x", "position"}


@pytest.mark.parametrize("first_row", [0, 1, 23, 24, 25, 100, 149, 150])
def test_stream_and_memory_see_the_same_rows_from_any_place_on(tmp_path, monkeypatch, first_row):
    monkeypatch.setattr(lanes, "PIECE_BYTES", 1000)  # pieces smaller than a window, and not aligned with it
    arrays, order = arrays_of(150), Order(chunk_rows=3, window_chunks=2, num_lanes=4)
    opened = Lanes(record(tmp_path, arrays, [50, 1, 70, 29], 4), "train")
    expected = epoch_order(150, order, 5, 2)[first_row:]
    pieces = list(opened.stream(order, 5, 2, first_row, COLUMNS))
    assert sum(len(piece["row"]) for piece in pieces) == len(expected)
    for name in [*COLUMNS, "row"] if pieces else []:
        values = np.concatenate([piece[name] for piece in pieces])
        assert np.array_equal(values, expected if name == "row" else arrays[name][expected])


def test_a_piece_of_a_stream_stays_small_however_large_the_window(tmp_path):
    opened = Lanes(record(tmp_path, arrays_of(40_000, width=500), [40_000], 64), "train")
    sizes = [piece["x"].nbytes for piece in opened.stream(Order(), 0, 0, 0, COLUMNS)]
    assert max(sizes) <= lanes.PIECE_BYTES < sum(sizes)


def test_rows_can_be_taken_in_any_order_and_more_than_once(tmp_path):
    arrays = arrays_of(30)
    positions = np.array([29, 0, 7, 7, 15, 3])
    taken = Lanes(record(tmp_path, arrays, [4, 20, 6], 5), "train").take(positions, ["row_id"])
    assert np.array_equal(taken["row_id"], arrays["row_id"][positions])


def test_a_split_without_rows_gives_none(tmp_path):
    opened = Lanes(record(tmp_path, arrays_of(4), [4], 2), "val")
    assert (opened.num_rows, opened.columns(), opened.load(["x"])) == (0, [], {})
    assert list(opened.sequence(10)) == list(opened.stream(Order(), 0, 0, 0, COLUMNS)) == []


def test_lanes_travel_to_other_processes(tmp_path):
    arrays = arrays_of(12)
    opened = Lanes(record(tmp_path, arrays, [12], 4), "train")
    opened.load(["x"])
    assert np.array_equal(pickle.loads(pickle.dumps(opened)).load(["x"])["x"], arrays["x"])


def test_a_truncated_file_is_named(tmp_path):
    prepared = record(tmp_path, arrays_of(200), [100, 100], 4)
    path = tmp_path / "1.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"1\.arrow is damaged or missing"):
        Lanes(prepared, "train").load(["x"])


def test_a_missing_file_is_named(tmp_path):
    prepared = record(tmp_path, arrays_of(20), [10, 10], 4)
    (tmp_path / "0.arrow").unlink()
    with pytest.raises(DataError, match=r"0\.arrow is damaged or missing"):
        Lanes(prepared, "train").load(["x"])


def test_a_file_of_another_record_is_refused(tmp_path):
    prepared = record(tmp_path, arrays_of(20), [10, 10], 4)
    fewer = dataclasses.replace(prepared, parts={**prepared.parts, "train": (Part("0.arrow", 0, 9),)})
    with pytest.raises(DataError, match=r"0\.arrow has 10 rows where its record says 9"):
        Lanes(fewer, "train").load(["x"])
    wider = dataclasses.replace(prepared, schema=Schema((Column("v", "vector", WIDTH + 1),)))
    with pytest.raises(DataError, match=r"has 3 inputs per row where its record says 4"):
        Lanes(wider, "train").load(["x"])


@pytest.mark.slow
def test_a_million_rows_of_32_numbers_load_in_the_time_of_a_few_copies(tmp_path):
    rows = {"x": np.ones((1_000_000, 32), np.float32), "target": np.ones(1_000_000)}
    prepared = record(tmp_path, rows, [500_000, 500_000], 64)
    order = np.random.default_rng(0).permutation(1_000_000)

    def seconds(do):
        start = time.perf_counter()
        do()
        return time.perf_counter() - start

    copies = min(seconds(lambda: rows["x"][order]) for _ in range(3))
    assert min(seconds(lambda: Lanes(prepared, "train").load(["x", "target"])) for _ in range(3)) < 4 * copies


@pytest.mark.parametrize("name", ["train-000000.arrow", "test-000000.arrow"])
def test_a_flipped_bit_in_a_lane_is_named_on_the_first_read_and_after_any_change(tmp_path, name):
    job = job_from({"data": {"path": "sample:iris", "target": "target"}}, tmp_path)
    store = Store(str(tmp_path / "store"))
    dataset = scan(job.data, ".", store)
    prepared = prepare(dataset, job, decide(dataset, job.data, job.task), store)
    split = name.partition("-")[0]
    before = Lanes(prepared, split).load(["x"])["x"].copy()
    path, data = Path(prepared.root, name), bytearray(Path(prepared.root, name).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{name} is damaged: crc32 is"):
        Lanes(prepared, split).load(["x"])
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert np.array_equal(Lanes(prepared, split).load(["x"])["x"], before)
