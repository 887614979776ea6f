"""The codec of spans: what lists of them mean, which are refused, what is learned of texts, and what people get."""

import unicodedata

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmray.data.scan import is_list_of_spans
from fmray.data.target import target_frame
from fmray.errors import DataError
from fmray.evaluate.table import read
from fmray.ragged import Ragged, entries_of
from fmray.records import Predictions, Target
from fmray.spec.sections import Data
from fmray.targets.codec import codec_for, codec_of
from fmray.targets.spans import MOST_TYPES, PREDICTION, Code, Spans, spans_in, tag_of, tags_of
from fmray.words import find_words

DATA = Data(path="x", target="y", text="text")
SPAN = pl.Struct({"slot": pl.String, "start": pl.Int32, "end": pl.Int32})
TYPES = ("day", "hour", "name")
PIECES = ["7", "pm", ":", "Kim", "é", "e\u0301", "ﬁn", "İ", "👍🏽", "½", " ", "\u2003", "-"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


def frame(rows):
    """Give a frame of (text, [(type, start, end)]) per row."""
    lists = [
        None if spans is None else [dict(zip(SPAN.to_schema(), one, strict=True)) for one in spans] for _, spans in rows
    ]
    texts = pl.Series([text for text, _ in rows], dtype=pl.String)
    return pl.DataFrame({"y": pl.Series(lists, dtype=pl.List(SPAN)), "text": texts})


def codec(rows=(("x y z", [(name, 0, 1) for name in TYPES]),)):
    target, _ = Spans.learn(Spans.summarise(frame(rows), DATA), DATA)
    return codec_of(target)


def tags(rows, found=None):
    """Give the names of the tags of each row's words."""
    made = found or codec()
    encoded = made.for_training(made.encode(frame(rows)))
    names = np.array(made.target.classes)
    return [names[encoded[[row]].compact().values].tolist() for row in range(len(rows))]


def told(texts, lists):
    """Let a codec decode tags that are certain; give (type, start, end, text, p) per row."""
    made = codec()
    codes = [made.target.classes.index(tag) for row in lists for tag in row]
    said = Ragged.of_lengths(
        np.eye(made.num_outputs)[codes].reshape(-1, made.num_outputs), np.array([*map(len, lists)])
    )
    series = pl.Series(texts, dtype=pl.String)
    (column,) = made.over(series).columns_for_people(said, np.zeros(len(texts), bool), pa.nulls(0), {})
    return [[tuple(one.values()) for one in row] for row in column.to_pylist()]


def test_spans_become_tags_of_whole_words():
    rows = [("Sunday at 7:30pm, Kim", [("hour", 10, 16), ("day", 0, 6), ("name", 18, 21)]), ("no", []), ("none", None)]
    assert tags(rows) == [["B-day", "O", "B-hour", "I-hour", "I-hour", "I-hour", "O", "B-name"], ["O"], ["O"]]


def test_two_spans_of_one_type_side_by_side_stay_two():
    assert tags([("Kim Lee", [("name", 0, 3), ("name", 4, 7)])]) == [["B-name", "B-name"]]


def test_types_are_learned_by_name_with_the_words_of_each():
    found = codec([("Sunday 7 pm", [("hour", 7, 11), ("day", 0, 6)]), ("so be it", []), ("Kim", None)])
    assert found.class_names == ("day", "hour")
    assert found.target.classes == ("O", "B-day", "I-day", "B-hour", "I-hour")
    assert found.target.counts == (4, 1, 0, 1, 1)
    assert found.constant().tolist() == pytest.approx([4 / 7, 1 / 7, 0, 1 / 7, 1 / 7])
    assert (found.num_outputs, found.target.rows) == (5, 3)
    assert found.describe() == "day 1, hour 1 spans of 3 rows"
    assert all(found.misfits().values())
    assert Target.from_json(found.target.to_json()) == found.target
    assert codec_for("span_extraction") is Spans


def test_a_target_whose_classes_are_no_tags_of_types_contradicts_itself():
    for classes in (("O",), ("O", "B-a"), ("B-a", "I-a", "O"), ("O", "B-a", "I-b")):
        target = Target(("y",), "spans", classes, counts=(3,) * len(classes), rows=2)
        assert not codec_of(target).misfits()["target.classes are not the tags of types"]


def test_what_words_cannot_mark_is_counted_and_said():
    rows = [
        ("7pm-8pm", [("hour", 0, 3), ("day", 0, 3), ("hour", 2, 7), ("hour", 0, 3)]),  # shared twice, and named twice
        ("Kim Lee", [("name", 1, 7)]),  # begins inside of Kim
        ("a  b", [("day", 1, 2)]),  # white space
        ("", [("day", 0, 0)]),
    ]
    _, notes = Spans.learn(Spans.summarise(frame(rows), DATA), DATA)
    assert notes[:3] == (
        "'y' holds 5 spans of 3 types in 'text'; 0 of 3 training rows have none",
        "1 of 5 training spans (20.00%) can be found, by whole words; of the others, which scores count as well, "
        "1 begin or end elsewhere than a word does, inside of one or at white space, 2 share a word with an earlier one, 1 hold no word",
        "1 training spans are named more than once in their row, which counts once",
    )


def test_parts_are_learned_in_any_order():
    rows = [
        ("Kim 7", [("name", 0, 3), ("hour", 4, 5)]),
        ("Lee", [("name", 0, 3)]),
        ("8", None),
        (" ", []),
        ("9", [("day", 0, 1)]),
    ]
    parts = [Spans.summarise(frame(own), DATA) for own in (rows[:1], rows[1:3], rows[3:])]
    one = Spans.learn(Spans.merge(Spans.merge(parts[0], parts[1]), parts[2]), DATA)
    assert one == Spans.learn(Spans.merge(parts[2], Spans.merge(parts[1], parts[0])), DATA)
    assert one == Spans.learn(Spans.summarise(frame(rows), DATA), DATA)


def test_training_rows_without_any_span_and_too_many_types_are_refused():
    with pytest.raises(DataError, match=r"'y' has no span in 2 training rows\. Give some\."):
        codec([("a", []), ("b", None)])
    many = [("a", [(f"t{i}", 0, 1) for i in range(MOST_TYPES + 1)])]
    with pytest.raises(DataError, match=rf"'y' has {MOST_TYPES + 1} types of spans in training rows, {MOST_TYPES} are"):
        codec(many)


def test_rows_whose_text_holds_no_word_have_no_target():
    rows = [("a", None), (None, []), ("", []), (" \n", []), ("-", [])]
    assert Spans.missing(frame(rows)).tolist() == [False, True, True, True, False]
    assert Spans.missing(frame([])).tolist() == []


def test_spans_that_cannot_be_are_named_by_what_is_wrong():
    rows = [
        ("ab", [("day", 0, 2)]),
        ("ab", [("day", 0, 3)]),
        ("ab", [("day", -1, 1)]),
        ("ab", [("day", 0, 1), ("day", 1, 1)]),
        ("ab", [("day", 2, 1)]),
        ("ab", [(None, 0, 1)]),
        ("ab", [("day", None, 1)]),
        (None, [("day", 0, 1)]),
        ("é👍", [("day", 0, 2)]),  # two characters, of six bytes
        ("ab", None),
    ]
    assert {why: np.flatnonzero(rows).tolist() for why, rows in Spans.faulty(frame(rows)).items()} == {
        "a span of 'y' lacks its type, start or end": [5, 6],
        "a span of 'y' ends where it begins, or before": [3, 4],
        "a span of 'y' lies outside of 'text'": [1, 2, 7],
    }
    assert not any(rows.any() for rows in Spans.faulty(frame([])).values())


def test_a_row_with_a_type_that_training_rows_lack_is_seen():
    found = codec()
    encoded = found.encode(
        frame([("a b", [("day", 0, 1)]), ("a b", [("day", 0, 1), ("place", 0, 1)]), ("a", [("x", 0, 1)])])
    )
    assert found.unknown(encoded).tolist() == [False, True, True]
    assert found.names_in([{"slot": "x", "start": 0, "end": 1}, {"slot": "day", "start": 0, "end": 1}]) == ["x", "day"]


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ([("slot", pa.string()), ("start", pa.int32()), ("end", pa.int32())], True),
        ([("end", pa.uint8()), ("type", pa.string()), ("start", pa.int64())], True),
        ([("slot", pa.string()), ("start", pa.int32())], False),
        ([("slot", pa.string()), ("start", pa.float64()), ("end", pa.int32())], False),
        ([("slot", pa.int64()), ("start", pa.int64()), ("end", pa.int64())], False),
        ([("a", pa.string()), ("b", pa.string()), ("start", pa.int32()), ("end", pa.int32())], False),
        ([("slot", pa.string()), ("begin", pa.int32()), ("end", pa.int32())], False),
    ],
)
def test_lists_of_spans_are_known_by_their_fields(fields, fits):
    assert is_list_of_spans(pa.list_(pa.struct(fields))) == fits


def test_the_target_is_read_with_the_text_behind_it_and_null_words_as_missing():
    data = Data(path="x", target="y", text="text", null_values=("-",))
    rows = frame([("a", [("day", 0, 1)]), ("-", None)])
    found = target_frame(pa.table({name: rows[name].to_arrow() for name in ("text", "y")}), data)
    assert found.columns == ["y", "text"]
    assert found["text"].to_list() == ["a", None]


@st.composite
def texts_with_spans(draw):
    text = draw(TEXTS)
    places = st.integers(0, len(text))
    spans = draw(st.lists(st.tuples(st.sampled_from(TYPES), places, places), max_size=5)) if text else []
    return text, [(name, min(a, b), max(a, b)) for name, a, b in spans if a != b]


def plainly(text, spans):
    """Mark words one by one, and give the tags and the spans that they mark, in plain Python."""
    words = find_words(pl.Series([text]))
    places = list(zip(words.starts.tolist(), words.ends.tolist(), strict=True))
    marked = ["O"] * len(places)
    exact = []
    for name, start, end in sorted(set(spans), key=lambda one: (one[1], -one[2], one[0])):
        own = [i for i, (a, b) in enumerate(places) if a < end and b > start]
        if own and all(marked[i] == "O" for i in own):
            marked[own[0] : own[-1] + 1] = [f"B-{name}"] + [f"I-{name}"] * (len(own) - 1)
            if (places[own[0]][0], places[own[-1]][1]) == (start, end):
                exact.append((name, start, end))
    return marked, exact


@settings(max_examples=80, deadline=None)
@given(st.lists(texts_with_spans(), min_size=1, max_size=4))
def test_tags_are_those_that_a_plain_walk_over_the_words_gives(rows):
    assert tags(rows) == [plainly(*row)[0] for row in rows]


@settings(max_examples=80, deadline=None)
@given(st.lists(texts_with_spans(), min_size=1, max_size=4))
def test_decoded_tags_are_the_spans_that_words_can_mark_and_equal_their_text(rows):
    texts = [text for text, _ in rows]
    found = told(texts, tags(rows))
    for (text, spans), said in zip(rows, found, strict=True):
        exact = plainly(text, spans)[1]
        assert {one[:3] for one in said} >= set(exact)
        assert len(said) == sum(tag[0] == "B" for tag in plainly(text, spans)[0])
        assert all(inner == text[start:end] and p == 1 for _, start, end, inner, p in said)


@settings(max_examples=80, deadline=None)
@given(st.lists(texts_with_spans(), min_size=1, max_size=4))
def test_no_span_is_lost_from_what_is_known_of_words(rows):
    codes = codec().encode(frame(rows)).values[:, 0]
    starts = tag_of(codes) % 2 == 1
    unmarked = (Code.read(codes, Code.TYPE) > 0) + Code.read(codes, Code.LOST)
    holding = [set(spans) for text, spans in rows if text.strip()]
    assert starts.sum() + unmarked.sum() == sum(map(len, holding))
    inexact = sum(len([t for t in plainly(*row)[0] if t[0] == "B"]) - len(plainly(*row)[1]) for row in rows)
    assert Code.read(codes, Code.INEXACT).sum() == inexact


@pytest.mark.parametrize(
    "text", ["Zoë é e\u0301 Kim", "👩‍👧 Kim", "ﬁne ½ Kim", "İstanbul ẞ Kim", "\u2003\u2003Kim", "𝔘𝔫 Kim"]
)
def test_offsets_are_of_the_text_as_it_was_read_whatever_normalising_would_make_of_it(text):
    assert len(unicodedata.normalize("NFKC", text.lower())) != len(text) or not text.isascii()
    start = text.index("Kim")
    row = (text, [("name", start, start + 3)])
    assert told([text], tags([row])) == [[("name", start, start + 3, "Kim", 1.0)]]


REPAIRED = [
    (["I-day", "I-day", "O"], [("day", 0, 2)]),  # an I without a B begins a span
    (["B-day", "I-hour", "O"], [("day", 0, 1), ("hour", 1, 2)]),  # so does one of another type
    (["B-day", "B-day", "I-day"], [("day", 0, 1), ("day", 1, 3)]),
    (["O", "O", "O"], []),
]


@pytest.mark.parametrize(("marks", "expected"), REPAIRED)
def test_tags_that_make_no_sense_are_read_by_rule(marks, expected):
    names = tags_of(("day", "hour"))
    kind, ends = spans_in(np.array([names.index(mark) for mark in marks]), np.array([True, False, False]))
    assert [
        (("day", "hour")[k], i, int(e)) for i, (k, e) in enumerate(zip(kind, ends, strict=True)) if k >= 0
    ] == expected


def test_a_span_ends_with_its_row():
    kind, ends = spans_in(np.array([1, 2, 2]), np.array([True, False, True]))
    assert (kind.tolist(), ends.tolist()) == ([0, -1, 0], [2, 2, 3])


def test_people_get_spans_with_the_probability_of_their_tags_and_null_where_there_are_none():
    found = codec()
    p = np.full((4, 7), 0.05)
    p[[0, 1, 2, 3], [1, 2, 0, 3]] = [0.5, 0.7, 0.7, 0.7]
    p[0, 0] = 0.25
    said = Ragged.of_lengths(p, np.array([2, 0, 1, 0, 1]))
    texts = pl.Series(["so be", "gone", "it", None, "7"])
    is_null = np.array([False, True, False, False, False])
    (column,) = found.over(texts).columns_for_people(said, is_null, pa.nulls(0), {})
    column.validate(full=True)
    assert column.type == pa.list_(PREDICTION)
    assert column.to_pylist() == [
        [{"type": "day", "start": 0, "end": 5, "text": "so be", "p": pytest.approx(0.5 * 0.7)}],
        None,
        [],
        [],
        [{"type": "hour", "start": 0, "end": 1, "text": "7", "p": pytest.approx(0.7)}],
    ]
    (none,) = found.over(pl.Series([], dtype=pl.String)).columns_for_people(
        said[:0], np.zeros(0, bool), pa.nulls(0), {}
    )
    assert len(none) == 0


def test_a_text_that_was_changed_on_the_way_to_tokens_is_refused():
    said = Ragged.of_lengths(np.ones((2, 7)) / 7, np.array([2]))
    with pytest.raises(DataError, match=r"row 0 has 2 tokens and 1 words\. Let no step change the text before"):
        codec().over(pl.Series(["one"])).columns_for_people(said, np.zeros(1, bool), pa.nulls(0), {})


@pytest.mark.parametrize("row_group_size", [1, 100])
def test_a_table_of_predictions_is_read_back_word_by_word(tmp_path, row_group_size):
    found = codec()
    rows = [("7 pm", [("hour", 0, 4), ("day", 0, 4)]), ("Kim", [("name", 0, 2)]), ("a b c", [])]
    target = found.encode(frame(rows))
    p = np.random.default_rng(0).random((6, 7))
    columns = found.target_columns(target) | found.table_columns(Ragged.of_lengths(p, target.lengths), {})
    ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), 3, [None, pa.py_buffer(bytes(48))])
    pq.write_table(pa.table({"row_id": ids, **columns}), tmp_path / "p.parquet", row_group_size=row_group_size)
    table = read(Predictions(str(tmp_path / "p.parquet"), "test", found.columns, 3))
    assert np.array_equal(table.output, p)
    assert np.array_equal(table.target[:, :3], target.values)
    assert found.true_class(table.target).tolist() == [1, 2, 5, 0, 0, 0]
    assert found.counts(table.target).tolist() == [4, 1, 0, 1]
    assert found.rows_per_class(table.target).tolist() == [1, 1]
    assert found.opens_row(table.target).tolist() == [True, False, True, True, False, False]


def test_tables_of_predictions_show_the_spans_that_people_get_but_their_text():
    made = codec()
    texts = ["Kim at 7:30 pm", "", "👍🏽 so", "7"]
    target = made.encode(frame([(text, []) for text in texts]))
    p = np.random.default_rng(1).random((len(target.values), 7)) ** 4
    said = Ragged.of_lengths(p / p.sum(1, keepdims=True), target.lengths)
    order = np.array([2, 0, 1, 3])  # rows as they are chosen, not as they lie
    shown = made.shown_columns(said[order], target[order])
    people = made.over(pl.Series(texts).gather(order)).columns_for_people(
        said[order], np.zeros(4, bool), pa.nulls(0), {}
    )
    assert list(shown) == ["spans"]
    expected = [[{**one, "text": None} for one in row] for row in people[0].to_pylist()]
    assert shown["spans"].to_pylist() == expected
    assert sum(map(len, expected)) > 3


def test_decisions_are_counted_by_span_among_all_words():
    made = codec()
    target = entries_of({"target": made.encode(frame([("7 pm", [("hour", 0, 4), ("day", 0, 4)])]))})["target"]
    found = made.decisions(np.eye(7)[[1, 0]] * 0.9 + 0.1 / 7, target)
    assert (found.hits, found.said.tolist(), found.actual.tolist()) == (1, [1, 1, 0, 0], [1, 1, 0, 0])


def test_a_side_is_tried_with_the_types_it_holds():
    held = {"rows": 3, **Spans.held(frame([("7", [("hour", 0, 1)]), ("Kim", [("name", 0, 3)]), ("x", None)]))}
    output, truth = codec().made_up(held)
    assert held["counts"] == {"hour": 1, "name": 1}
    assert truth[:, 0].tolist() == [3, 5, 0]
    assert codec().opens_row(truth).all()
    assert output.argmax(1).tolist() == [3, 5, 0]


def test_types_that_a_side_lacks_or_has_little_of_are_named():
    held = {"train": {"rows": 1}, "val": {"rows": 2, "counts": {"day": 9}}, "test": {"rows": 2, "counts": {"day": 7}}}
    assert codec().lack(held, "val", weighted=False) == (
        "none of its 2 rows is of type 'hour' (train 0, validation 0, test 0); "
        "type 'name' (train 0, validation 0, test 0)"
    )
    assert codec().few(held)[0].startswith("fewer than 5 spans to judge by: type 'hour' (train 0,")


def test_outputs_of_another_model_are_laid_out_in_our_tags():
    ours, theirs = codec([("7 Kim", [("hour", 0, 1), ("name", 2, 5)])]), codec([("a b", [("name", 0, 1), ("x", 2, 3)])])
    output = np.array([[0.1, 0.2, 0.3, 0.15, 0.25]])
    assert ours.as_ours(output, theirs.target).tolist() == [[0.1, 0, 0, 0.2, 0.3]]
