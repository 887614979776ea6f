"""Judge tables in which rows have a tag per token: part by part as at once, and by rows, never by tokens alone."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, log_loss

import fmray.evaluate.parts as module
from fmray.data.session import run_here
from fmray.evaluate.facts import Facts
from fmray.evaluate.intervals import interval, paired
from fmray.evaluate.parts import Board
from fmray.evaluate.resampled import scorer_of
from fmray.evaluate.score import _Result
from fmray.evaluate.selection import corrected
from fmray.evaluate.table import Table, read
from fmray.metrics.find import find_metric
from fmray.ragged import Ragged
from fmray.records import Predictions, Target
from fmray.rigour.gates.degenerate_output import shapes_and_degenerate_output
from fmray.rigour.gates.gate import Evidence
from fmray.rigour.recompute import recompute
from fmray.spec.sections import Rigour
from fmray.targets.codec import codec_of

TARGET = Target(("y",), "tags", ("B-X", "I-X", "O"), counts=(3, 3, 9), rows=9)
NAMES = ("entity_f1", "token_accuracy", "token_log_loss", "f1[O]")
NUM_ROWS = 300
EMPTY = Evidence(scores=None, facts={}, shown=None, num_classes=3, members=(), chosen=(), model="", health=())


def ragged(seed):
    """Draw lengths and tags of rows, and what a good and a bad model say of them."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 8, NUM_ROWS)
    truth = random.integers(0, 3, lengths.sum())
    outputs = {}
    for name, skill in (("model", 2.0), ("linear", 0.7)):
        p = np.exp(random.normal(size=(len(truth), 3)) + skill * np.eye(3)[truth])
        outputs[name] = p / p.sum(1, keepdims=True)
    return lengths, truth, outputs


def board_of(folder, grouped=False, weighted=False):
    lengths, truth, outputs = ragged(3)
    codec = codec_of(TARGET)
    ids = np.random.default_rng(1).integers(0, 2**63, (NUM_ROWS, 2)).astype(np.uint64)
    held = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), NUM_ROWS, [None, pa.py_buffer(ids.tobytes())])
    beside = {"slice_size": np.arange(NUM_ROWS).astype(np.int32) % 3}
    beside |= {"group": np.arange(NUM_ROWS, dtype=np.uint64) % 41 * 7919} if grouped else {}
    beside |= {"weight": np.linspace(0.2, 3, NUM_ROWS)} if weighted else {}
    tables = {}
    for name, output in outputs.items():
        columns = codec.target_columns(Ragged.of_lengths(truth, lengths)) | beside
        columns |= codec.table_columns(Ragged.of_lengths(output, lengths), {})
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({"row_id": held, **columns}), path, row_group_size=70 + len(name))
        tables[name] = Predictions(str(path), "test", ("p",), NUM_ROWS)
    metrics = tuple(find_metric(name, TARGET) for name in NAMES)
    return Board(tables, metrics, lambda start, stop: ids[start:stop], NUM_ROWS, TARGET, sliced=True)


def rows_of(table):
    return table.output, table.target, table.weight


def close(one, other):
    return (one.value, one.n, one.method) == (other.value, other.n, other.method) and np.allclose(
        (one.low, one.high), (other.low, other.high), rtol=1e-9, equal_nan=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_of_parts_are_those_of_the_whole(grouped, weighted, tmp_path, monkeypatch):
    board = board_of(tmp_path, grouped=grouped, weighted=weighted)
    tables = {name: read(predictions) for name, predictions in board.tables.items()}
    for part_rows in (NUM_ROWS, 97, 1):
        monkeypatch.setattr(module, "PART_ROWS", part_rows)
        result = _Result.of(board, 0.95, run_here)
        for name, table in tables.items():
            for metric in board.metrics:
                expected = interval(metric, rows_of(table), table.group, 0.95)
                assert close(result.intervals(name)[metric.name], expected), (part_rows, metric.name)
        small = tables["model"].some(np.flatnonzero(tables["model"].slices["size"] == 1))
        for metric in board.metrics:
            expected = interval(metric, rows_of(small), small.group, 0.95)
            assert close(result.intervals("model", "size", 1)[metric.name], expected)
        gain, p = result.versus("linear", 0.95)
        ours, theirs = rows_of(tables["model"]), rows_of(tables["linear"])
        expected, expected_p = paired(board.metrics[0], ours, theirs, tables["model"].group, 0.95)
        assert close(gain, expected)
        assert p == pytest.approx(expected_p, rel=1e-9)
        assert gain.low > 0


@pytest.mark.parametrize("part_rows", [NUM_ROWS, 97, 40])
def test_rows_are_counted_as_rows_and_shown_whole(part_rows, tmp_path, monkeypatch):
    board = board_of(tmp_path)
    monkeypatch.setattr(module, "PART_ROWS", part_rows)
    first = module.count(board, run_here)
    facts = first.facts
    assert (facts.num_rows, facts.num_expected, facts.num_other, facts.repeated) == (NUM_ROWS, NUM_ROWS, 0, False)
    table = read(board.tables["model"])
    row = np.cumsum(table.target[:, 1] == 0) - 1
    kept = row % -(-NUM_ROWS // part_rows) == 0
    assert np.array_equal(first.shown.row_id, table.row_id[kept])
    assert np.array_equal(first.shown.target, table.target[kept])


def test_a_row_of_another_id_is_noticed(tmp_path):
    board = board_of(tmp_path)
    other = partial(lambda start, stop: np.zeros((stop - start, 2), np.uint64))
    assert module.count(replace(board, expected_ids=other), run_here).facts.num_other == NUM_ROWS


def test_hits_of_tokens_are_shares_of_tokens(tmp_path):
    """Answers that are right as often as they are sure were squashed by nothing, however many a row has."""
    tags, said = np.arange(4000) % 3, np.random.default_rng(0).integers(0, 3, 4000)
    said = np.where(np.random.default_rng(1).random(4000) < 0.25, tags, said)  # half of them are right
    output = np.where(np.arange(3) == said[:, None], 0.48, 0.26)
    target = np.stack([tags, np.arange(4000) % 10], 1)
    ids = np.repeat(np.arange(800, dtype=np.uint64).reshape(-1, 2), 10, 0)
    facts = Facts.of(Table(ids, output, target, None, None, {}), ids[::10], codec_of(TARGET))
    assert facts.num_rows == 400
    evidence = replace(EMPTY, facts={"val": facts})
    assert shapes_and_degenerate_output(evidence, Rigour()).status == "pass"


def test_scores_of_tokens_are_computed_a_second_way(tmp_path):
    table = read(board_of(tmp_path, weighted=True).tables["model"])
    true, said = table.target[:, 0], table.output.argmax(1)
    assert recompute("token_accuracy", table, -1) == accuracy_score(true, said, sample_weight=table.weight)
    assert recompute("token_log_loss", table, -1) == log_loss(true, table.output, sample_weight=table.weight)
    assert recompute("entity_f1", table, -1) is None


@pytest.mark.parametrize("name", NAMES)
def test_rows_drawn_again_are_drawn_with_all_their_tokens(name, tmp_path):
    board = board_of(tmp_path)
    tables = [read(predictions) for predictions in board.tables.values()]
    metric = find_metric(name, TARGET)
    target, group = tables[0].target, tables[0].group
    outputs = np.stack([table.output for table in tables])
    times = np.random.default_rng(0).integers(0, 3, NUM_ROWS)
    row = np.cumsum(target[:, 1] == 0) - 1
    w = times[row].astype(float)
    again = np.concatenate([np.flatnonzero(row == r) for r in np.repeat(np.arange(NUM_ROWS), times)])
    scorer = scorer_of(metric, outputs, target)
    expected = [metric.value(table.output[again], target[again], None) for table in tables]
    assert scorer([0, 1], w[None])[:, 0].tolist() == pytest.approx(expected, rel=1e-9)
    found = corrected(metric, outputs, target, None, group, seed=1, replicates=50)
    assert found.winner == 0
