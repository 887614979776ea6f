"""Lists of words become ids, one per word, by what training rows hold."""

import itertools
import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.preview import preview
from fmray.data.tokenize_words import TokenizeWords
from fmray.errors import DataError, SpecError
from fmray.inference.model import open_model
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared
from fmray.spec.load import job_from

SCHEMA = Schema((Column("said", "words"), Column("n", "number")))
TWO = Schema((Column("said", "words"), Column("heard", "words")))
LISTS = [["The", "cat", "saw", "the", "dog"], None, [], ["a", "dog", None, "barks"], ["the", "cat"]]


def frame(lists, **others):
    named = {name: pl.Series(given, dtype=pl.List(pl.String)) for name, given in {"said": lists, **others}.items()}
    return pl.DataFrame({**named, "n": np.arange(float(len(lists)))})


def step(**params):
    return TokenizeWords(declared.TokenizeWords(**{"columns": "said", "min_count": 1, **params}))


def learned(made, rows, schema=SCHEMA):
    return made.learn(made.fit(rows, schema), schema)


def vocabulary(lists, part="whole", **params):
    return learned(step(parts=[part], **params), frame(lists)).state["vocabularies"][part]


def ids(made, lists, given):
    return made.apply(frame(given), learned(made, frame(lists)).state)["said"].to_list()


def test_the_most_frequent_words_come_first_and_equally_frequent_ones_by_spelling():
    assert vocabulary(LISTS) == ["the", "cat", "dog", "a", "barks", "saw"]


def test_words_that_training_rows_hold_too_rarely_have_no_id_of_their_own():
    assert vocabulary(LISTS, min_count=2) == ["the", "cat", "dog"]
    assert vocabulary(LISTS, min_count=3) == ["the"]


def test_ids_are_as_many_as_the_vocabulary_may_hold_with_two_for_padding_and_the_unknown():
    found = learned(step(vocabulary=4), frame(LISTS))
    assert found.state["vocabularies"]["whole"] == ["the", "cat"]
    assert found.schema.columns[0].width == 4


def test_a_row_has_an_id_per_word_whatever_it_holds():
    assert ids(step(), LISTS, LISTS) == [[2, 3, 7, 2, 4], [], [], [5, 4, 1, 6], [2, 3]]


def test_words_never_seen_and_missing_words_are_unknown():
    assert ids(step(min_count=2), LISTS, [["zebra", "cat", None], [None], ["barks"]]) == [[1, 3, 1], [1], [1]]


@pytest.mark.parametrize("lists", [[], [None], [[]]])
def test_training_rows_without_a_word_are_refused(lists):
    text = r"steps\.tokenize_words\.columns: no training row has any word in column 'said'\. Name another column"
    with pytest.raises(DataError, match=text):
        learned(step(parts=["whole", "shape"]), frame(lists))


def test_training_rows_of_missing_words_make_no_vocabulary():
    made = step(parts=["whole", "shape"])
    found = learned(made, frame([[None]]))
    assert found.state["vocabularies"] == {"whole": [], "shape": []}
    assert made.apply(frame([["a"], None]), found.state)["said"].to_list() == [[1], []]


def test_rows_without_a_word_are_counted_over_all_parts():
    made = step()
    parts = [made.fit(frame(lists), SCHEMA) for lists in (LISTS, [[], ["a"]])]
    for partial in (made.merge(*parts), made.merge(*parts[::-1])):
        assert made.learn(partial, SCHEMA).notes[0].endswith("; 3 of 7 training rows have no word")
    assert "no word" not in learned(made, frame([["a"]])).notes[0]


PARTS = [
    ("suffix3", ["Running", "ran", "no"], ["ing", "no", "ran"]),
    ("prefix2", ["Running", "ran", "X"], ["ra", "ru", "x"]),
    ("shape", ["Paris", "NATO", "covid-19", "x", "X", "d", "Ünïcode", "3.14", "?!"], None),
    ("whole", ["ﬁne", "FINE", "①"], ["fine", "1"]),  # compatibility forms are the letters they stand for
    ("suffix1", ["漢字", "字"], ["字"]),
]


@pytest.mark.parametrize(("part", "words", "expected"), PARTS)
def test_a_part_of_a_word_is_what_its_name_says(part, words, expected):
    expected = expected or ["x", "X", "Xx", "?!", "d.d", "x-d"]
    found = vocabulary([words], part)
    assert sorted(found) == sorted(expected)


def test_capital_letters_are_kept_where_the_job_says_so():
    assert vocabulary([["Rome", "rome"]], lowercase=False) == ["Rome", "rome"]
    assert vocabulary([["Rome", "rome"]]) == ["rome"]
    assert vocabulary([["Rome", "rome"]], "prefix1", lowercase=False) == ["R", "r"]


def test_a_part_is_counted_as_often_as_words_have_it():
    assert vocabulary([["sing", "sing", "ring", "seal", "seal"]], "suffix3", min_count=3) == ["ing"]


@pytest.mark.parametrize("cuts", [[1], [2, 2], [1, 2, 3, 4]])
def test_learning_in_any_grouping_is_learning_at_once(cuts):
    made = step(parts=["whole", "suffix2", "shape"])
    whole = learned(made, frame(LISTS))
    bounds = [0, *cuts, len(LISTS)]
    parts = [made.fit(frame(LISTS)[a:b], SCHEMA) for a, b in itertools.pairwise(bounds)]
    for order in (parts, parts[::-1]):
        merged = order[0]
        for part in order[1:]:
            merged = made.merge(merged, part)
        assert made.learn(merged, SCHEMA) == whole
    tree = made.merge(parts[-1], parts[0]) if len(parts) == 2 else None
    assert tree is None or made.learn(tree, SCHEMA) == whole


def test_what_was_learned_survives_as_json():
    made = step(parts=["whole", "suffix2"])
    found = learned(made, frame(LISTS))
    state = json.loads(json.dumps(found.state))
    assert state == found.state
    assert made.apply(frame(LISTS), state).equals(made.apply(frame(LISTS), found.state))


@pytest.mark.parametrize(
    ("params", "blocks"),
    [
        ({}, ["tokens"]),
        ({"parts": ["whole", "shape"]}, ["tokens", "shape"]),
        ({"parts": ["suffix3"]}, ["suffix3"]),
        ({"block": "text", "parts": ["whole", "suffix3"]}, ["text", "suffix3"]),
    ],
)
def test_blocks_of_one_column_are_called_as_their_parts(params, blocks):
    assert list(learned(step(**params), frame(LISTS)).schema.blocks)[1:] == blocks


@pytest.mark.parametrize("block", [None, "text"])
def test_blocks_of_several_columns_bear_the_columns_names(block):
    made = step(columns=["said", "heard"], parts=["whole", "shape"], block=block)
    rows = frame(LISTS, heard=LISTS[::-1])
    found = learned(made, rows, TWO)
    own = block or "tokens"
    assert list(found.schema.blocks) == [f"{own}_said", f"shape_{own}_said", f"{own}_heard", f"shape_{own}_heard"]
    assert made.apply(rows, found.state).columns == ["said", "heard", "n", "said.shape", "heard.shape"]


def test_columns_share_one_vocabulary():
    made = step(columns=["said", "heard"])
    rows = frame([["a", "b"]], heard=[["b"]])
    assert learned(made, rows, TWO).state["vocabularies"]["whole"] == ["b", "a"]


def test_the_column_of_words_is_gone_where_no_block_is_of_whole_words():
    made = step(parts=["shape"])
    assert made.apply(frame(LISTS), learned(made, frame(LISTS)).state).columns == ["n", "said.shape"]


def test_the_note_says_how_many_words_have_no_id_of_their_own():
    (note,) = learned(step(min_count=2), frame(LISTS)).notes
    assert "block 'tokens' of 'said': 2.2 words per row, by 5 ids; 30.0% of training words" in note


def test_parts_are_named_once_and_by_a_known_name():
    assert "names a part twice" in declared.TokenizeWords.problems({"columns": "a", "parts": ["shape", "shape"]})[0][1]
    assert declared.TokenizeWords.problems({"columns": "a", "parts": ["suffix"]})[0][0] == "parts"
    assert declared.TokenizeWords.problems({"columns": "a", "parts": ["suffix9", "prefix1"]}) == []


def test_a_number_holds_no_words():
    with pytest.raises(SpecError, match="column 'said' holds number. Accepted: words, text"):
        step().fit(pl.DataFrame({"said": [1.0]}), Schema((Column("said", "number"),)))


TEXT = Schema((Column("said", "text"), Column("asked", "words"), Column("mood", "text")))


def of_text(texts, asked=None, mood=None):
    lists = pl.Series(asked or [None] * len(texts), dtype=pl.List(pl.String))
    moods = pl.Series(mood or [None] * len(texts), dtype=pl.String)
    return pl.DataFrame({"said": pl.Series(texts, dtype=pl.String), "asked": lists, "mood": moods})


def test_words_of_a_text_are_those_of_the_list_that_it_is_split_into():
    texts = ["At 7:30pm, Zoë!", None, "", "  ", "ﬁne  👍🏽"]
    lists = [["At", "7", ":", "30", "pm", ",", "Zoë", "!"], None, [], [], ["ﬁne", "👍", "🏽"]]
    made = step(parts=["whole", "suffix2", "shape"])
    found, listed = learned(made, of_text(texts), TEXT), learned(made, frame(lists))
    assert found.state == listed.state
    assert found.notes[0] == "words of 'said' are runs of letters, runs of digits and other single signs"
    for name in ("said", "said.suffix2", "said.shape"):
        ours, theirs = made.apply(of_text(texts), found.state), made.apply(frame(lists), listed.state)
        assert ours[name].to_list() == theirs[name].to_list()


def test_what_stands_beside_is_one_id_of_each_word_of_its_row():
    rows = of_text(
        ["a b", "a", "b a", "a b c", "a"], [["x"], ["x", "y"], ["x"], None, []], ["good", "good", None, "bad", "good"]
    )
    made = step(beside=["asked", "mood"])
    found = learned(made, rows, TEXT)
    assert list(found.schema.blocks) == ["tokens", "beside_asked", "beside_mood"]
    assert found.state["beside"] == {"asked": ["", "x", "x\x1fy"], "mood": ["good", "", "bad"]}
    applied = made.apply(rows, found.state)
    assert applied["asked"].to_list() == [[3, 3], [4], [3, 3], [2, 2, 2], [2]]
    assert applied["mood"].to_list() == [[2, 2], [2], [3, 3], [4, 4, 4], [2]]
    strange = made.apply(of_text(["a b", "c"], [["y", "x"], None], ["ugly", ""]), found.state)
    assert strange["asked"].to_list() == [[1, 1], [2]]
    assert strange["mood"].to_list() == [[1, 1], [3]]
    assert {block.width for block in found.schema.blocks.values()} == {5}


def test_what_stands_beside_is_learned_in_any_grouping():
    rows = of_text(["a b", "a", "b a", "c"], [["x"], ["y"], ["x"], None])
    made = step(beside="asked")
    parts = [made.fit(rows[a:b], TEXT) for a, b in ((0, 1), (1, 3), (3, 4))]
    merged = made.merge(parts[2], made.merge(parts[1], parts[0]))
    assert made.learn(merged, TEXT) == learned(made, rows, TEXT)


def test_what_stands_beside_is_another_column_and_beside_one():
    problems = declared.TokenizeWords.problems
    assert "'a' is split into words as well" in problems({"columns": "a", "beside": "a"})[0][1]
    assert "stands beside the words of one column" in problems({"columns": ["a", "b"], "beside": ["c"]})[0][1]
    with pytest.raises(SpecError, match=r"steps\.tokenize_words\.beside: column 'n' holds number"):
        step(beside="n").fit(frame(LISTS), SCHEMA)


def job(folder, steps, model="linear", **data):
    folder.mkdir(exist_ok=True)
    lists = [["a", "b"], ["b"]] * 40
    rows = {"said": pa.array(lists, pa.list_(pa.string())), "n": np.arange(80.0), "y": ["no", "yes"] * 40}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    asked = {"name": "w", "data": {"path": "rows.parquet", "target": "y", **data}, "steps": steps, "model": model}
    asked |= {"train": {"epochs": 8, "batch_rows": 8, "optimizer": {"adam": {"lr": 0.05}}}, "split": {"test": 0.3}}
    return job_from({**asked, "run": {"workers": 0, "prepare": "local"}, "rigour": {"profile": "draft"}}, folder)


def test_a_column_of_lists_that_no_step_names_is_refused_by_name(tmp_path):
    with pytest.raises(SpecError, match=r"column 'said' holds list<.*: string>\..*Lists of words are read by tokenize"):
        preview(job(tmp_path, ["auto"]))
    assert preview(job(tmp_path, ["auto"], ignore=["said"])).inputs.width > 0


STORED = [
    pa.array([["a", "b"], ["b"]] * 40, pa.large_list(pa.large_string())),
    pa.array([["a", "b"], ["b"]] * 40, pa.list_view(pa.string())),
    pa.array([["a", "b"], ["b"]] * 40, pa.list_(pa.string_view())),
    pa.ListArray.from_arrays(pa.array(range(81), pa.int32()), pa.array(["a", "b"] * 40).dictionary_encode()),
]


@pytest.mark.parametrize("stored", STORED, ids=[str(values.type) for values in STORED])
def test_lists_of_text_are_words_however_they_are_stored(tmp_path, stored):
    asked = job(tmp_path, [{"tokenize_words": {"columns": "said"}}, "auto"])
    rows = pq.read_table(tmp_path / "rows.parquet")
    pq.write_table(rows.set_column(0, "said", stored), tmp_path / "rows.parquet")
    assert {column.name: column.kind for column in preview(asked).columns.columns}["said"] == "words"


@pytest.mark.slow
def test_lists_of_words_are_inputs_of_other_tasks_too(tmp_path):
    from fmray.workflow import run

    asked = job(tmp_path, [{"tokenize_words": {"columns": "said"}}, "auto"], "bag_of_embeddings")
    done = run(asked, str(tmp_path / "store"))
    table = pa.table({"said": pa.array([["a", "b"], ["b"]], pa.list_(pa.string())), "n": [1.0, 2.0]})
    assert open_model(done.root).predict(table)["prediction"].to_pylist() == ["no", "yes"]
