"""Check that numbers made of parts of a table are those of the whole table."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fmray.evaluate.parts as module
from fmray.catalogue import METRICS
from fmray.data.session import run_here, run_over_ray, session
from fmray.errors import DataError
from fmray.evaluate.intervals import interval, paired
from fmray.evaluate.parts import Board
from fmray.evaluate.score import _Result
from fmray.evaluate.table import Table, read
from fmray.metrics.find import find_metric
from fmray.records import Predictions, Target

NUM_ROWS = 1237
NUMBERS = ("mse", "rmse", "mae", "r2", "mmd")
TARGETS = {
    "binary": Target(("y",), "class", classes=("no", "yes"), positive=1, counts=(7, 3)),
    "classes": Target(("y",), "class", classes=("a", "b", "c", "d"), counts=(1, 1, 1, 1)),
    "number": Target(("y",), "number", mean=(0.0,), scale=(1.0,)),
    "numbers": Target(("y", "z"), "number", mean=(0.0, 0.0), scale=(1.0, 1.0)),
}
LEVELS = ("tiny", "small", "large")


def table_of(family: str, weighted: bool, grouped: bool) -> dict[str, Table]:
    """Give what a model and a worse one say of the same rows; the rows of a group lie far from each other."""
    random = np.random.default_rng(5)
    num_targets = len(TARGETS[family].columns)
    if TARGETS[family].kind == "number":
        target = random.normal(size=(NUM_ROWS, num_targets)) * 3 + 50
        outputs = [target + noise * random.normal(size=target.shape) for noise in (1, 2)]
        target, *outputs = (a[:, 0] if num_targets == 1 else a for a in (target, *outputs))
    else:
        num_classes = len(TARGETS[family].classes)
        target = random.integers(0, num_classes, NUM_ROWS)
        outputs = []
        for skill in (2, 1):
            p = np.exp(np.round(random.normal(size=(NUM_ROWS, num_classes)) + skill * np.eye(num_classes)[target], 1))
            outputs.append((p / p.sum(1, keepdims=True)).astype(np.float32))
    return {
        name: Table(
            row_id=np.arange(2 * NUM_ROWS, dtype=np.uint64).reshape(-1, 2),
            output=output,
            target=target,
            weight=random.uniform(0.1, 3, NUM_ROWS) if weighted and name == "model" else None,
            group=np.arange(NUM_ROWS, dtype=np.uint64) % 211 * 7919 if grouped else None,
            slices={
                "size": np.arange(NUM_ROWS).astype(np.int32) * 3 // NUM_ROWS,
                "rare": (np.arange(NUM_ROWS) % 60 == 0).astype(np.int32),
            },
        )
        for name, output in zip(("model", "linear"), outputs, strict=True)
    }


def write(table: Table, path, row_group_size: int) -> Predictions:
    columns = {"row_id": pa.array([row.tobytes() for row in table.row_id], pa.binary(16))}
    targets = table.target.reshape(len(table), -1)
    columns |= {f"target_{i}" if targets.shape[1] > 1 else "target": c for i, c in enumerate(targets.T)}
    columns |= {name: getattr(table, name) for name in ("weight", "group") if getattr(table, name) is not None}
    columns |= {f"slice_{name}": codes for name, codes in table.slices.items()}
    letter = "p" if table.target.dtype.kind == "i" else "y"
    outputs = {f"{letter}_{i}": c for i, c in enumerate(table.output.reshape(len(table), -1).T)}
    pq.write_table(pa.table(columns | outputs), path, row_group_size=row_group_size)
    return Predictions(str(path), "test", tuple(outputs), len(table))


def ids(table: Table, start: int, stop: int) -> np.ndarray:
    return table.row_id[start:stop]


def board_of(family: str, tables: dict[str, Table], folder) -> Board:
    target = TARGETS[family]
    names = [name for name in METRICS if getattr(METRICS.find(name), "kind", "") == target.kind]
    names += [f"f1[{target.classes[1]}]"] if target.classes else []
    written = {name: write(t, folder / f"{name}.parquet", 100 + len(name)) for name, t in tables.items()}
    metrics = tuple(find_metric(name, target) for name in names)
    return Board(written, metrics, partial(ids, tables["model"]), NUM_ROWS, target, sliced=True)


def whole(metric, table, rows, level=0.95):
    some = table.some(rows)
    return interval(metric, (some.output, some.target, some.weight), some.group, level)


def require_equal(found, expected):
    """Want values of the same bits, and ends that differ by rounding."""
    assert found.value == expected.value or (math.isnan(found.value) and math.isnan(expected.value))
    assert (found.n, found.method) == (expected.n, expected.method)
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high), rtol=1e-9, atol=1e-12)


def require_the_whole(result, board, tables):
    everything = np.arange(NUM_ROWS)
    for name, table in tables.items():
        for metric in board.metrics:
            require_equal(result.intervals(name)[metric.name], whole(metric, table, everything))
    for column, codes in tables["model"].slices.items():
        for level in np.unique(codes).tolist():
            rows = np.flatnonzero(codes == level)
            if len(rows) < 30:
                assert ("model", column, level) not in result.slopes
                continue
            for metric in board.metrics:
                require_equal(
                    result.intervals("model", column, level)[metric.name], whole(metric, tables["model"], rows)
                )
    require_the_gain(result, board, tables)


def require_the_gain(result, board, tables):
    ours, theirs = ((t.output, t.target, t.weight) for t in (tables["model"], tables["linear"]))
    gain, p = result.versus("linear", 0.95)
    expected, expected_p = paired(board.metrics[0], ours, theirs, tables["model"].group, 0.95)
    require_equal(gain, expected)
    assert p == pytest.approx(expected_p, rel=1e-9)


CASES = [(family, weighted, grouped) for family in TARGETS for weighted in (False, True) for grouped in (False, True)]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "weighted", "grouped"), CASES)
def test_metrics_intervals_slices_and_gains_of_parts_are_those_of_the_whole(
    family, weighted, grouped, tmp_path, monkeypatch
):
    tables = table_of(family, weighted, grouped)
    if weighted:
        tables["linear"] = replace(tables["linear"], weight=tables["model"].weight)
    board = board_of(family, tables, tmp_path)
    for part_rows in (NUM_ROWS, 400):  # one part; three and a shorter one
        monkeypatch.setattr(module, "PART_ROWS", part_rows)
        require_the_whole(_Result.of(board, 0.95, run_here), board, tables)
    for metric in board.metrics[1:]:
        alone = replace(board, metrics=(metric,), sliced=False)
        require_the_gain(_Result.of(alone, 0.95, run_here), alone, tables)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linear.parquet", "model.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("part_rows", [1, 97, 1236, 1237, 1238])
def test_no_row_is_lost_at_uneven_ends_and_rounds(part_rows, tmp_path, monkeypatch):
    tables = (
        {name: table.some(np.arange(NUM_ROWS)[-150:]) for name, table in table_of("binary", False, True).items()}
        if part_rows == 1
        else table_of("binary", False, True)
    )
    num_rows = len(tables["model"])
    board = replace(board_of("binary", tables, tmp_path), num_expected=num_rows)
    monkeypatch.setattr(module, "PART_ROWS", part_rows)
    monkeypatch.setattr(module, "ROUND_PARTS", 3)
    monkeypatch.setattr(module, "BUCKET_BYTES", 40_000)  # so that groups are spread over several buckets
    result = _Result.of(board, 0.95, run_here)
    facts = result.first.facts
    assert (facts.num_rows, facts.num_expected, facts.num_other, facts.repeated) == (num_rows, num_rows, 0, False)
    for metric in board.metrics:
        require_equal(result.intervals("model")[metric.name], whole(metric, tables["model"], np.arange(num_rows)))
    step = -(-num_rows // part_rows)
    assert np.array_equal(result.first.shown.row_id, tables["model"].row_id[::step])


def test_rows_are_read_from_any_place_to_any_other(tmp_path):
    table = table_of("classes", True, True)["model"]
    found = write(table, tmp_path / "t.parquet", 64)
    for start, stop in ((0, 1), (63, 65), (64, 128), (700, NUM_ROWS), (NUM_ROWS - 1, NUM_ROWS), (0, NUM_ROWS)):
        part, rows = read(found, start, stop), np.arange(start, stop)
        assert np.array_equal(part.row_id, table.row_id[rows])
        assert np.array_equal(part.output, table.output[rows])
        assert np.array_equal(part.weight, table.weight[rows])
        assert np.array_equal(part.slices["size"], table.slices["size"][rows])


def test_tables_of_other_rows_in_one_part_alone_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 300)
    tables = table_of("binary", False, False)
    moved = np.arange(NUM_ROWS)
    moved[[1000, 1001]] = 1001, 1000
    board = board_of("binary", {**tables, "linear": tables["linear"].some(moved)}, tmp_path)
    with pytest.raises(DataError, match="model and linear: predictions of 300 and 300 rows are not of the same rows"):
        module.count(board, run_here)
    fewer = board_of("binary", {**tables, "linear": tables["linear"].some(moved[:-1])}, tmp_path)
    with pytest.raises(DataError, match=f"model and linear: predictions of {NUM_ROWS} and {NUM_ROWS - 1} rows"):
        module.count(fewer, run_here)


def test_a_row_of_another_id_in_any_part_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 300)
    tables = table_of("binary", False, False)
    board = board_of("binary", tables, tmp_path)
    other = replace(tables["model"], row_id=np.where(np.arange(NUM_ROWS)[:, None] == 777, 5, tables["model"].row_id))
    assert module.count(replace(board, expected_ids=partial(ids, other)), run_here).facts.num_other == 1


@pytest.mark.cluster
def test_tasks_of_ray_give_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 500)
    tables = table_of("classes", True, True)
    tables["linear"] = replace(tables["linear"], weight=tables["model"].weight)
    board = board_of("classes", tables, tmp_path)
    here = _Result.of(board, 0.95, run_here)
    with session():
        there = _Result.of(board, 0.95, run_over_ray)
    require_the_whole(there, board, tables)
    assert there.intervals("model") == here.intervals("model")
    assert there.versus("linear", 0.9) == here.versus("linear", 0.9)
