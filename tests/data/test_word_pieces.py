"""Pieces of words are those of the pretrained tokenizer, whatever stands beside a word and however long its row is."""

import json

import numpy as np
import polars as pl
import pytest
import tiny_bert

from fmray.data import pipeline
from fmray.data.pipeline import Pipeline
from fmray.data.tokenize_words import TokenizeWords
from fmray.data.word_pieces import reader_of
from fmray.errors import SpecError
from fmray.pieces import begins_window, begins_word, ids_of
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared
from fmray.spec.ref import Ref

tokenizers = pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
SCHEMA = Schema((Column("said", "words"),))
LISTS = [["Red", "cards", "zebra"], None, [], ["lost", None, "", "reders", "red"], ["red"] * 9, ["red", "red"]]
OPENING, CLOSING, UNKNOWN = 2, 3, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bert")
    tiny_bert.tokenizer(made / "tokenizer.json")
    return str(made)


def frame(lists=LISTS):
    return pl.DataFrame({"said": pl.Series(lists, dtype=pl.List(pl.String))})


def params(folder, **others):
    return {"columns": "said", "parts": ["pieces"], "pretrained": folder, **others}


def fitted(folder, **others):
    steps = Pipeline(pipeline.build([Ref("tokenize_words", params(folder, **others))]), SCHEMA)
    told = steps.learn_next([steps.fit_next(frame())])
    rows = steps.apply(frame())["said.pieces"].to_list()
    return told, [np.array(row, np.int64) for row in rows]


def plain(folder):
    known = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    known.no_padding()
    known.no_truncation()
    return known


def test_pieces_and_first_pieces_are_those_of_the_library(folder):
    told, rows = fitted(folder)
    known = plain(folder)
    for words, row in zip(LISTS, rows, strict=True):
        if words is not None and all(words):  # the library gives words without letters no place
            theirs = known.encode(words, is_pretokenized=True)
            assert ids_of(row).tolist() == theirs.ids
            firsts = [theirs.word_ids.index(place) for place in range(len(words))]
            assert np.flatnonzero(begins_word(row)).tolist() == firsts
    assert told.schema.blocks["pieces"].width == known.get_vocab_size()
    assert told.schema.blocks["pieces"].kind == "pieces"


def test_a_word_without_a_piece_stands_as_unknown_and_a_row_without_words_between_special_tokens_alone(folder):
    told, rows = fitted(folder)
    assert [ids_of(row).tolist() for row in rows[1:3]] == [[OPENING, CLOSING]] * 2
    assert ids_of(rows[3]).tolist()[1:4] == [plain(folder).token_to_id("lost"), UNKNOWN, UNKNOWN]
    assert "1 words have no piece and stand as unknown" in told.notes[0]  # a sample leaves missing words out


@pytest.mark.parametrize("lists", [[], [None], [[]], [None, []]], ids=str)
def test_rows_without_any_word_stand_between_special_tokens(folder, lists):
    steps = Pipeline(pipeline.build([Ref("tokenize_words", params(folder))]), SCHEMA)
    steps.learn_next([steps.fit_next(frame())])
    rows = steps.apply(frame(lists))["said.pieces"].to_list()
    assert [begins_word(np.array(row, np.int64)).sum() for row in rows] == [0] * len(lists)


def test_a_row_that_is_longer_than_a_window_loses_no_word(folder):
    told, rows = fitted(folder, max_tokens=5)
    (long,) = (row for row, words in zip(rows, LISTS, strict=True) if words and len(words) == 9)
    red = plain(folder).token_to_id("red")
    assert ids_of(long).tolist() == [OPENING, red, red, red, CLOSING] * 3
    assert np.flatnonzero(begins_window(long)).tolist() == [0, 5, 10]
    for row, words in zip(rows, LISTS, strict=True):
        assert begins_word(row).sum() == len(words or ())
    assert "3 of 4 training rows are read in windows of 5 that end between words" in told.notes[0]
    assert "(the longest row has 11;" in told.notes[0]


def test_a_word_of_more_pieces_than_a_window_is_told_by_the_first(folder):
    told, rows = fitted(folder, max_tokens=3)
    assert all(begins_word(row).sum() == len(words or ()) for row, words in zip(rows, LISTS, strict=True))
    assert "2 words have more pieces than a window, of which the first 1 are read" in told.notes[0]


def test_what_was_learned_needs_the_folder_no_more_and_survives_as_json(folder, tmp_path):
    tiny_bert.tokenizer(tmp_path / "tokenizer.json")
    told, rows = fitted(str(tmp_path), max_tokens=5)
    (tmp_path / "tokenizer.json").unlink()
    step = TokenizeWords(declared.TokenizeWords(**params(str(tmp_path), max_tokens=5)))
    again = step.apply(frame(), json.loads(json.dumps(told.state)))
    assert again["said.pieces"].to_list() == [row.tolist() for row in rows]


def test_learning_in_any_grouping_is_learning_at_once(folder):
    step = TokenizeWords(declared.TokenizeWords(**params(folder, parts=["pieces", "shape"], min_count=1)))
    whole = step.learn(step.fit(frame(), SCHEMA), SCHEMA)
    parts = [step.fit(frame()[a:b], SCHEMA) for a, b in ((0, 1), (1, 4), (4, 4), (4, 6))]
    merged = step.merge(step.merge(parts[3], parts[0]), step.merge(parts[2], parts[1]))
    assert step.learn(merged, SCHEMA) == whole
    assert step.apply(frame()[3:4], whole.state).equals(step.apply(frame(), whole.state)[3:4])


def test_words_of_a_byte_level_tokenizer_are_those_behind_a_space():
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["the red cards, the red card"] * 3, trainer)
    reader = reader_of(made.to_str())
    words = ["the", "red", "cards", "the"]
    pieces, _ = reader.pieces(pl.Series(words))
    assert pieces.compact().values.tolist() == made.encode(" " + " ".join(words)).ids
    assert (reader.before, reader.after) == ((), ())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"parts": ["pieces"], "pretrained": None}, "parts"),
        ({"parts": ["whole"]}, "parts"),
        ({"parts": ["shape"], "pretrained": None, "max_tokens": 9}, "max_tokens"),
    ],
)
def test_pieces_and_a_pretrained_tokenizer_go_together(given, named):
    assert declared.TokenizeWords.problems(params("f", **given))[0][0] == named


def test_room_for_a_piece_beside_special_tokens_is_asked_for(folder):
    with pytest.raises(SpecError, match=r"steps.tokenize_words.max_tokens: 2 leaves no room beside 2 special tokens"):
        fitted(folder, max_tokens=2)
