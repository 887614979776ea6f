"""The codec of tags: what lists mean, what stands in tables of predictions, and what people get."""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.target import class_values, target_frame
from fmray.errors import DataError
from fmray.evaluate.table import read
from fmray.ragged import Ragged
from fmray.records import Predictions
from fmray.spec.sections import Data
from fmray.targets.codec import codec_of
from fmray.targets.tags import MOST_TAGS, Tags, marks_entities

DATA = Data(path="x", target="y")
LISTS = [["N", "V", "N"], ["V"], None, [], ["N", None], ["A", "V"]]


def frame(lists, kind=pl.String):
    return pl.DataFrame({"y": pl.Series(lists, dtype=pl.List(kind))})


def codec(lists=LISTS, kind=pl.String):
    target, _ = Tags.learn(Tags.summarise(frame(lists, kind), DATA), DATA)
    return codec_of(target)


def rows_of(ragged):
    own = ragged.compact()
    return [own.values[s : s + n].tolist() for s, n in zip(own.starts, own.lengths, strict=True)]


def probabilities(lengths, num_tags=3, seed=0):
    p = np.random.default_rng(seed).random((sum(lengths), num_tags))
    return Ragged.of_lengths(p / p.sum(1, keepdims=True), np.array(lengths))


def test_tags_are_ordered_and_counted_by_token():
    found = codec()
    assert found.target.classes == ("A", "N", "V")
    assert found.target.counts == (1, 2, 3)
    assert found.target.rows == 3
    assert found.constant().tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert all(found.misfits().values())


def test_rows_without_a_list_with_an_empty_one_or_with_a_missing_tag_have_no_target():
    assert Tags.missing(frame(LISTS)).tolist() == [False, False, True, True, True, False]
    assert Tags.missing(frame([])).tolist() == []


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["B-P", "I-P", "E-P", "S-P", "O"], "'E-P', 'S-P' are not; data.labels can map them, e.g. {\"E-P\": I-P}"),
        (["B-P", "I-P", "L-P", "U-P", "O"], "'L-P', 'U-P' are not; data.labels can map them, e.g. {\"L-P\": I-P}"),
        (["b-p", "i-p", "o"], "'b-p', 'i-p', 'o' are not; data.labels can map them, e.g. {\"b-p\": B-p}"),
        (["B-P", "I-P", "o"], "'o' are not; data.labels can map them, e.g. {\"o\": O}"),
    ],
)
def test_marks_of_entities_in_another_scheme_are_said_with_the_way_to_score_them(tags, expected):
    _, notes = Tags.learn(Tags.summarise(frame([tags]), DATA), DATA)
    assert notes[-1] == f"entities are scored where all tags are O, B-TYPE or I-TYPE, and {expected}"


@pytest.mark.parametrize("tags", [["B-P", "I-P", "O"], ["NOUN", "VERB", "O"], ["B-P", "I-P"], ["A-B", "C", "o"]])
def test_tags_that_mark_nothing_are_not_taken_for_another_scheme(tags):
    _, notes = Tags.learn(Tags.summarise(frame([tags]), DATA), DATA)
    assert not any("entities are scored" in note for note in notes)


def test_lists_become_an_index_per_tag():
    encoded = codec().encode(frame(LISTS))
    assert rows_of(encoded) == [[1, 2, 1], [2], [], [], [], [0, 2]]
    assert encoded.dtype == np.int64


@pytest.mark.parametrize("lists", [[], [None], [[], None, [None]]])
def test_where_no_row_has_tags_there_are_none(lists):
    found = codec()
    encoded = found.encode(frame(lists))
    assert rows_of(encoded) == [[]] * len(lists)
    assert found.unknown(encoded).tolist() == [False] * len(lists)


def test_a_row_with_a_tag_that_training_rows_lack_is_seen():
    found = codec()
    encoded = found.encode(frame([["N", "X"], ["V", "V"], None, ["X"]]))
    assert rows_of(encoded) == [[1, -1], [2, 2], [], [-1]]
    assert found.unknown(encoded).tolist() == [True, False, False, True]
    assert found.unknown(encoded[[1, 0, 0]]).tolist() == [False, True, True]


@pytest.mark.parametrize(("kind", "lists"), [(pl.Int64, [[10, 9], [2]]), (pl.Boolean, [[True, False]])])
def test_tags_of_other_types_are_ordered_by_value_and_read_back(kind, lists):
    found = codec(lists, kind)
    assert found.target.classes == (("2", "9", "10") if kind == pl.Int64 else ("False", "True"))
    arrow = pa.int64() if kind == pl.Int64 else pa.bool_()
    values = class_values(found.target, DATA, arrow)
    assert [[values[i].as_py() for i in row] for row in rows_of(found.encode(frame(lists, kind)))] == lists


def test_tags_are_mapped_as_the_job_means_them():
    data = Data(path="x", target="y", labels={"PROPN": "N", "AUX": "V"})
    table = pa.table({"y": pa.array([["PROPN", "V"], None, ["AUX", None, "N"]], pa.list_(pa.string()))})
    assert target_frame(table, data)["y"].to_list() == [["N", "V"], None, ["V", None, "N"]]


def test_parts_are_learned_in_any_order():
    parts = [Tags.summarise(frame(lists), DATA) for lists in (LISTS[:1], LISTS[1:5], LISTS[5:])]
    one = Tags.learn(Tags.merge(Tags.merge(parts[0], parts[1]), parts[2]), DATA)
    assert one == Tags.learn(Tags.merge(parts[2], Tags.merge(parts[1], parts[0])), DATA)
    assert one == Tags.learn(Tags.summarise(frame(LISTS), DATA), DATA)


@pytest.mark.parametrize(("lists", "text"), [([["a", "a"]], r"has 1 tags .*\['a'\]"), ([None], r"has 0 tags .*\[\]")])
def test_fewer_than_two_tags_are_refused(lists, text):
    with pytest.raises(DataError, match=rf"'y' {text}\. Give two or more\."):
        codec(lists)


def test_too_many_tags_are_refused_where_they_are_counted_and_where_they_are_merged():
    one, other = ([[f"{half}{i}" for i in range(MOST_TAGS // 2 + 1)]] for half in "ab")
    with pytest.raises(DataError, match=rf"'y' has {MOST_TAGS + 2} tags in training rows, {MOST_TAGS} are the most"):
        codec(one + other)
    parts = [Tags.summarise(frame(lists), DATA) for lists in (one, other)]
    with pytest.raises(DataError, match=rf"'y' has {MOST_TAGS + 2} tags in training rows"):
        Tags.learn(Tags.merge(*parts), DATA)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("B-PER", "I-PER", "O"), True),
        (("B-LOC", "O"), True),
        (("B-PER", "I-PER"), False),  # without O
        (("O",), False),
        (("B-PER", "O", "X"), False),
        (("NOUN", "VERB"), False),
    ],
)
def test_tags_that_mark_entities_are_known_by_their_names(classes, expected):
    assert marks_entities(classes) == expected


def test_entities_are_what_is_scored_where_tags_mark_them():
    assert codec().metrics == ("token_accuracy", "token_log_loss")
    assert codec([["O", "B-PER"]]).metrics == ("entity_f1", "token_accuracy", "token_log_loss")
    assert codec([["O", "B-PER"]]).figures == ("confusion", "entities")


LENGTHS = [3, 1, 2, 4, 1, 1, 5]


def written(path, found, row_group_size):
    """Write a table of predictions of rows of several tokens, with weights and a slice; give what was written."""
    said = probabilities(LENGTHS)
    target = Ragged.of_lengths(np.arange(sum(LENGTHS)) % 3, np.array(LENGTHS))
    ids = np.arange(2 * len(LENGTHS), dtype=np.uint64).reshape(-1, 2)
    held = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(LENGTHS), [None, pa.py_buffer(ids.tobytes())])
    beside = {"weight": np.arange(7.0), "slice_kind": np.arange(7) % 2}
    columns = found.target_columns(target) | beside | found.table_columns(said, {})
    pq.write_table(pa.table({"row_id": held, **columns}), path, row_group_size=row_group_size)
    return Predictions(str(path), "test", found.columns, len(LENGTHS)), said, target


@pytest.mark.parametrize("row_group_size", [3, 100])
def test_a_table_of_predictions_is_read_back_token_by_token(tmp_path, row_group_size):
    predictions, said, target = written(tmp_path / "p.parquet", codec(), row_group_size)
    table = read(predictions)
    row = np.repeat(np.arange(7), LENGTHS)
    assert np.array_equal(table.output, said.values)
    assert table.target.tolist() == [[tag, place] for tags in rows_of(target) for place, tag in enumerate(tags)]
    assert table.row_id[:, 0].tolist() == (2 * row).tolist()
    assert table.weight.tolist() == row.tolist()
    assert table.slices["kind"].tolist() == (row % 2).tolist()
    assert np.array_equal(table.group, table.row_id[:, 0])  # tokens of a row belong together


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (2, 5), (3, 7), (7, 7)])
def test_some_rows_of_a_table_are_those_rows_with_all_their_tokens(tmp_path, start, stop):
    predictions, said, target = written(tmp_path / "p.parquet", codec(), 3)
    table = read(predictions, start, stop)
    assert table.target[:, 0].tolist() == target[start:stop].compact().values.tolist()
    assert table.output.tolist() == said[start:stop].compact().values.tolist()
    assert np.flatnonzero(Tags.opens_row(table.target)).tolist() == target[start:stop].compact().starts.tolist()


def test_people_get_a_list_of_tags_per_row_and_null_where_there_is_none():
    found = codec()
    said = Ragged.of_lengths(np.eye(3)[[0, 1, 2, 2, 1]], np.array([2, 0, 1, 2, 0]))
    is_null = np.array([False, True, False, True, False])
    tags, p = found.columns_for_people(said, is_null, pa.array(["A", "N", "V"]), {})
    assert tags.to_pylist() == [["A", "N"], None, ["V"], None, []]
    assert p.to_pylist() == [[[1, 0, 0], [0, 1, 0]], None, [[0, 0, 1]], None, []]
    tags.validate(full=True)
    p.validate(full=True)


@pytest.mark.parametrize("values", [pa.array(["A", "N", "V"]), pa.array([1, 2, 30], pa.int8())])
def test_what_people_get_is_written_and_read_back(tmp_path, values):
    found = codec()
    said = probabilities([2, 0, 1, 3])
    is_null = np.array([False, True, False, True])
    columns = found.columns_for_people(said, is_null, values, {})
    assert columns[0].type == pa.list_(values.type)
    pq.write_table(pa.table(columns, names=list(found.names_for_people())), tmp_path / "p.parquet")
    back = pq.read_table(tmp_path / "p.parquet")["p"].to_pylist()
    assert back == [rows_of(said)[0], None, rows_of(said)[2], None]


def test_rows_in_another_order_come_back_in_it():
    found = codec()
    said = probabilities([2, 1, 3])[np.array([2, 0, 1])]
    columns = found.columns_for_people(said, np.zeros(3, bool), pa.array(["A", "N", "V"]), {})
    table = pa.concat_tables([pa.table(columns, names=["prediction", "p"])] * 2).slice(1, 4)
    assert table["p"].to_pylist() == rows_of(said[np.array([1, 2, 0, 1])])


def test_no_rows_are_no_lists():
    found = codec()
    columns = found.columns_for_people(probabilities([]), np.zeros(0, bool), pa.array(["A", "N", "V"]), {})
    assert [len(column) for column in columns] == [0, 0]


def test_outputs_of_another_model_are_laid_out_in_our_tags():
    ours, theirs = codec(), codec([["V", "X", "A"]])
    output = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
    assert ours.as_ours(output, theirs.target).tolist() == [[0.1, 0, 0.2], [0.5, 0, 0.3]]
    assert ours.as_ours(output, ours.target).tolist() == output.tolist()


def test_decisions_are_counted_by_token():
    said = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    found = codec().decisions(said, np.array([[0, 0], [2, 1], [2, 0]]))
    assert (found.hits, found.said.tolist(), found.actual.tolist()) == (2, [1, 1, 1], [1, 0, 2])
    assert (found.surest, found.sureness) == (0.8, pytest.approx(2.1))
    assert found.furthest < 1e-12


def test_a_side_is_tried_with_the_tags_it_holds():
    output, truth = codec().made_up({"rows": 10, **Tags.held(frame([["N", "V"], None, ["V"], ["A", None]]))})
    assert truth.tolist() == [[1, 0], [2, 0]]
    assert output.shape == (2, 3)
    assert output.sum(1) == pytest.approx(1)


def test_tags_that_a_side_lacks_are_named_in_plain_plural():
    found = codec([list("abcdefgh")])
    empty = {split: {"rows": 2, "counts": {}} for split in ("train", "val", "test")}
    told = found.lack(empty, "val", weighted=False)
    assert "tag 'a' (train 1, validation 0, test 0)" in told
    assert told.endswith("; and 3 more tags")
