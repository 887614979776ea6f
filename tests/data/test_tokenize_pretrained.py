"""Ids of a pretrained tokenizer are its own, special tokens included, whatever a text is cut to."""

import polars as pl
import pytest
import tiny_bert

from fmray.data import pipeline
from fmray.data.pipeline import Pipeline
from fmray.errors import SpecError
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared
from fmray.spec.ref import Ref

tokenizers = pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
SCHEMA = Schema((Column("text", "text"),))
TEXTS = ["Red green", "lost cards red card blue", None, "", "red unheard blue", "red " * 9]
OPENING, CLOSING = 2, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bert")
    tiny_bert.tokenizer(made / "tokenizer.json")
    return str(made)


def fitted(folder, **params):
    ref = Ref("tokenize", {"columns": "text", "pretrained": folder, **params})
    steps = Pipeline(pipeline.build([ref]), SCHEMA)
    frame = pl.DataFrame({"text": TEXTS})
    told = steps.learn_next([steps.fit_next(frame)])
    return told, steps.apply(frame)["text"].to_list()


def plain(folder):
    known = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
    known.no_padding()
    known.no_truncation()
    return known


def test_ids_are_those_of_the_library_and_no_row_is_padded(folder):
    told, rows = fitted(folder)
    assert rows == [plain(folder).encode(text or "").ids for text in TEXTS]
    assert told.schema.blocks["tokens"].width == plain(folder).get_vocab_size()


def test_what_no_text_has_stands_between_special_tokens_alone(folder):
    _, rows = fitted(folder)
    assert rows[2:4] == [[OPENING, CLOSING]] * 2


@pytest.mark.parametrize("most", [3, 4, 6])
def test_a_cut_text_keeps_the_token_that_closes_it(folder, most):
    told, rows = fitted(folder, max_tokens=most)
    for row, text in zip(rows, TEXTS, strict=True):
        whole = plain(folder).encode(text or "").ids
        expected = whole if len(whole) <= most else [*whole[: most - 1], CLOSING]
        assert row == expected
    lengths = [len(plain(folder).encode(text).ids) for text in TEXTS if text is not None]
    cut = sum(length > most for length in lengths)
    assert f"{cut} of 5 training texts are cut after {most} tokens (the longest has {max(lengths)}" in told.notes[0]


def test_what_was_learned_needs_the_folder_no_more(folder, tmp_path):
    moved = tmp_path / "gone"
    tiny_bert.tokenizer(moved / "tokenizer.json")
    told, rows = fitted(str(moved), max_tokens=4)
    (moved / "tokenizer.json").unlink()
    again = pipeline.build([Ref("tokenize", {"columns": "text", "pretrained": str(moved), "max_tokens": 4})])[0]
    assert again.apply(pl.DataFrame({"text": TEXTS}), told.state)["text"].to_list() == rows


def test_room_for_a_token_beside_special_ones_is_asked_for(folder):
    with pytest.raises(SpecError, match=r"steps.tokenize.max_tokens: 2 leaves no room beside 2 special tokens"):
        fitted(folder, max_tokens=2)


def test_a_damaged_tokenizer_is_refused_by_name(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(SpecError, match=r"tokenizer.json cannot be read as a tokenizer"):
        fitted(str(tmp_path))


@pytest.mark.parametrize("key", [{"kind": "words"}, {"vocabulary": 99}, {"lowercase": True}])
def test_what_the_tokenizer_says_itself_is_refused(key):
    (name,) = key
    text = "has no effect beside pretrained, whose tokenizer says it. Leave it out."
    assert declared.Tokenize.problems({"columns": "text", "pretrained": "f", **key}) == [(name, text)]
