"""The codec of next tokens: what is known of texts, what stands in tables of predictions, and what people get."""

import math

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.evaluate.table import read
from fmray.ragged import Ragged
from fmray.records import Predictions, Target
from fmray.spec.sections import Data
from fmray.targets.codec import codec_for, codec_of
from fmray.targets.next_token import NextToken

DATA = Data(path="x", target="y")
TARGET = Target(("y",), "next", counts=(0, 1, 3, 4), rows=3)


def frame(texts):
    return pl.DataFrame({"y": pl.Series(texts, dtype=pl.String)})


def rows_of(ragged):
    own = ragged.compact()
    return [own.values[s : s + n].tolist() for s, n in zip(own.starts, own.lengths, strict=True)]


def probabilities(lengths, seed=0):
    return Ragged.of_lengths(np.random.default_rng(seed).random((sum(lengths), 1)), np.array(lengths))


def test_rows_without_a_text_or_with_an_empty_one_have_no_target():
    assert NextToken.missing(frame(["a", None, "", " ", "ä"])).tolist() == [False, True, True, False, False]
    assert NextToken.missing(frame([])).tolist() == []


def test_texts_are_counted_in_any_order():
    parts = [NextToken.summarise(frame(texts), DATA) for texts in (["a", None], ["b", "c"], [])]
    merged = NextToken.merge(NextToken.merge(parts[2], parts[1]), parts[0])
    target, said = NextToken.learn(merged, DATA)
    assert (target.kind, target.rows, target.counts, said) == ("next", 3, (), ())
    assert NextToken.learn(NextToken.summarise(frame(["a", None, "b", "c"]), DATA), DATA)[0] == target


def test_a_target_has_an_output_per_id_and_reads_the_same_from_json():
    found = codec_of(TARGET)
    assert found.num_outputs == 4
    assert all(found.misfits().values())
    assert Target.from_json(TARGET.to_json()) == TARGET
    assert found.describe() == "8 tokens of 3 texts"
    assert found.outline() == "the next of 4 tokens"
    assert not all(codec_of(Target(("y",), "next", counts=(3,), rows=1)).misfits().values())


def test_the_dummy_gives_laplaces_share_of_each_id():
    found = codec_of(TARGET)
    assert found.constant().tolist() == [1 / 12, 2 / 12, 4 / 12, 5 / 12]
    said = found.constant_for(np.array([[2, 0], [0, 1], [3, 0]]))
    assert said.tolist() == [[4 / 12], [1 / 12], [5 / 12]]
    assert codec_of(Target(("y",), "next", counts=(0,) * 5)).constant().tolist() == [0.2] * 5  # nothing was counted


def test_the_dummy_is_worth_the_entropy_of_the_letters():
    from fmray.metrics.find import find_metric

    counts = (0, 0, 600, 300, 100)
    target = Target(("y",), "next", counts=counts, rows=9)
    tokens = np.stack([np.repeat(np.arange(5), counts), np.zeros(1000, np.int64)], 1)
    said = codec_of(target).constant_for(tokens)
    expected = -sum(count * math.log((count + 1) / 1005) for count in counts) / 1000
    assert find_metric("nats_per_token", target).value(said, tokens, None) == pytest.approx(expected, rel=1e-12)


LENGTHS = [3, 1, 2, 4, 1, 1, 5]


@pytest.mark.parametrize("row_group_size", [3, 100])
def test_a_table_of_predictions_is_read_back_token_by_token(tmp_path, row_group_size):
    found = codec_of(TARGET)
    said = probabilities(LENGTHS)
    target = Ragged.of_lengths((np.arange(sum(LENGTHS)) % 4).astype(np.int32), np.array(LENGTHS))
    ids = np.arange(14, dtype=np.uint64)
    held = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), 7, [None, pa.py_buffer(ids.tobytes())])
    beside = {"weight": np.arange(7.0), "group": np.array([5, 5, 5, 6, 6, 6, 6], np.uint64)}
    columns = found.target_columns(target) | beside | found.table_columns(said, {})
    pq.write_table(pa.table({"row_id": held, **columns}), tmp_path / "p.parquet", row_group_size=row_group_size)
    table = read(Predictions(str(tmp_path / "p.parquet"), "test", found.columns, 7))
    row = np.repeat(np.arange(7), LENGTHS)
    assert np.array_equal(table.output, said.values)
    assert table.target.tolist() == [[token, place] for tokens in rows_of(target) for place, token in enumerate(tokens)]
    assert table.row_id[:, 0].tolist() == (2 * row).tolist()
    assert table.weight.tolist() == row.tolist()
    assert np.array_equal(table.group, beside["group"][row])  # windows of a text belong together
    assert np.flatnonzero(NextToken.opens_row(table.target)).tolist() == target.starts.tolist()


def test_people_get_nats_tokens_and_probabilities_and_null_where_there_is_no_prediction():
    said = Ragged.of_lengths(np.array([[0.5], [0.25], [0.1], [1.0], [0.0]]), np.array([2, 0, 1, 1, 0, 1]))
    is_null = np.array([False, True, True, False, False, False])  # the third row is faulty, and has an output
    nats, tokens, p = codec_of(TARGET).columns_for_people(said, is_null, pa.array([], pa.string()), {})
    assert nats.to_pylist() == pytest.approx([math.log(8) / 2, None, None, 0, None, -math.log(1e-12)])
    assert tokens.to_pylist() == [2, None, None, 1, 0, 1]
    assert p.to_pylist() == [[0.5, 0.25], None, None, [1.0], [], [0.0]]
    for column in (nats, tokens, p):
        column.validate(full=True)


def test_what_people_get_is_written_and_read_back(tmp_path):
    found = codec_of(TARGET)
    said = probabilities([2, 0, 1, 3, 4])
    columns = found.columns_for_people(said, np.array([False, True, False, True, False]), pa.array([], pa.string()), {})
    table = pa.table(columns, names=list(found.names_for_people()))
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=2)
    flat = [[p for (p,) in row] for row in rows_of(said)]
    expected = [flat[0], None, flat[2], None, flat[4]]
    assert pq.read_table(tmp_path / "p.parquet")["p"].to_pylist() == expected
    part = pa.concat_tables([table, table]).slice(2, 6)
    assert part["p"].to_pylist() == (expected * 2)[2:8]
    assert part["tokens"].to_pylist() == [1, None, 4, 2, None, 1]


def test_no_rows_are_no_lists():
    found = codec_of(TARGET)
    columns = found.columns_for_people(probabilities([]), np.zeros(0, bool), pa.array([], pa.string()), {})
    assert [len(column) for column in columns] == [0, 0, 0]


def test_only_language_models_make_their_targets_of_inputs():
    assert codec_for("language_model") is NextToken
    tasks = ("classification", "regression", "multi_label", "tagging", "gan", "language_model", "masked_language_model")
    assert [name for name in tasks if codec_for(name).from_inputs] == ["language_model", "masked_language_model"]
    assert not any(codec_for(name).generates for name in tasks)
