"""Ids come back as the text they were made of, a character at a time and never half of one."""

import unicodedata

import numpy as np
import pytest
from inference.speakers import vocabulary

from fmray.data.vocabulary import STRANGE, GrowingText, Vocabulary
from fmray.errors import SpecError

TEXTS = [
    "Hello wörld, it's  fine.\nNext line — ok 🙂 \t end ",
    " leading, ﬁligature and １２ wide, e\u0301 combined",
    "def f(x):\n    return x  # ▁ß 漢字",
    "",
]


def ids_of(words, text):
    return words.encode([text]).compact().values.tolist()


@pytest.mark.parametrize("kind", ["bytes", "byte_bpe", "characters"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_bytes_and_characters_come_back_as_they_were_normalised(kind, lowercase):
    words = vocabulary(*TEXTS[:3], kind=kind, lowercase=lowercase)
    for text in TEXTS:
        normal = unicodedata.normalize("NFKC", text)
        expected = normal.lower() if lowercase else normal
        assert words.decode(ids_of(words, text)) == expected == words.normal(text)


@pytest.mark.parametrize("kind", ["bytes", "byte_bpe"])
def test_bytes_spell_any_text_whatever_was_learned(kind):
    words = vocabulary("abc", kind=kind, size=300)
    source = np.random.default_rng(0)
    for _ in range(50):
        points = source.integers(32, 0x2FFFF, 20)
        text = unicodedata.normalize("NFKC", "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000))
        assert words.decode(ids_of(words, text)) == text


def test_pieces_of_words_come_back_with_their_spaces():
    text = "the cat sat on the mat, the cat"
    words = vocabulary(text, kind="bpe", size=40)
    assert words.decode(ids_of(words, text)) == text
    assert words.decode(ids_of(words, "the mat"), begins=False) == " the mat"
    first, *rest = ids_of(words, "the cat sat")
    assert words.decode([first]) + words.decode(rest, begins=False) == "the cat sat"


def test_pieces_of_bytes_join_the_spaces_of_an_indent():
    text = "if x:\n        return x\n" * 3
    words = vocabulary(text, kind="byte_bpe", size=300)
    pieces = [words.bytes_of(number) for number in ids_of(words, text)]
    assert b"\n       " in pieces
    assert b"".join(pieces).decode() == text


def test_fewer_ids_than_bytes_are_refused():
    with pytest.raises(ValueError, match="257 is less than the 258 ids of bytes"):
        vocabulary("abc", kind="byte_bpe", size=257)


def test_words_come_back_with_a_space_between_any_two():
    words = vocabulary("the cat sat, on", kind="words")
    assert words.decode(ids_of(words, "the cat,  sat")) == "the cat , sat"
    assert words.decode(ids_of(words, "on cat"), begins=False) == " on cat"


@pytest.mark.parametrize("kind", ["words", "bpe", "characters"])
def test_what_the_vocabulary_lacks_comes_back_as_a_sign_for_it(kind):
    words = vocabulary("the cat sat", kind=kind)
    ids = ids_of(words, "Ж")
    assert words.unknown in ids
    assert STRANGE in words.decode(ids)
    assert words.decode([0, 0]) == ""


def test_a_growing_text_never_ends_within_a_character():
    text = "aß漢🙂é"
    words = vocabulary(text, kind="bytes")
    growing = GrowingText(words, begins=True)
    shown = []
    for number in ids_of(words, text):
        growing.add(number)
        shown.append(growing.settled)
    assert sorted(set(shown), key=len) == ["a", "aß", "aß漢", "aß漢🙂", "aß漢🙂é"]
    assert len(shown) == len(text.encode())
    growing.end()
    assert growing.text == text


def test_half_a_character_at_the_end_and_bytes_that_are_none_become_a_sign():
    words = vocabulary("漢", kind="bytes")
    first, second, third = ids_of(words, "漢")
    assert words.decode([first, second]) == STRANGE
    assert words.decode([third, first, second, third]) == STRANGE + "漢"
    assert words.decode([first, first, second, third]) == STRANGE + "漢"


def test_a_copy_grows_by_itself_from_within_a_character():
    words = vocabulary("漢字", kind="bytes")
    ids = ids_of(words, "漢字")
    whole = GrowingText(words, begins=True)
    for number in ids[:4]:
        whole.add(number)
    other = whole.copy()
    for number in ids[4:]:
        whole.add(number)
    assert (whole.text, other.text) == ("漢字", "漢")
    for number in ids[4:]:
        other.add(number)
    assert other.text == "漢字"


def test_the_first_of_several_stops_ends_a_text_also_across_tokens():
    words = vocabulary("abcdefgh\n", kind="characters")
    growing = GrowingText(words, begins=True, stops=("def", "\n\n", "bcdx"))
    settled = []
    for number in ids_of(words, "abcdeabcdefgh"):
        growing.add(number)
        settled.append(growing.settled)
    assert growing.is_stopped
    assert growing.text == "abcdeabc"
    # "bcd" may become a stop, until an e comes behind it
    assert settled[:6] == ["a", "a", "a", "a", "abc", "abcdea"]
    assert settled[-1] == "abcdeabc"


def test_a_stop_is_looked_for_as_words_write_it():
    words = vocabulary("romeo: hello, world! juliet: so it is.", kind="words", lowercase=True)
    stop = words.normal("Hello,world")
    assert stop == "hello , world"
    whole = GrowingText(words, begins=True, stops=(stop,))
    for number in ids_of(words, "romeo: hello, world! so"):
        whole.add(number)
    assert "hello" not in whole.text


def test_ids_of_a_pretrained_tokenizer_are_refused():
    steps = [{"name": "tokenize", "params": {"pretrained": "/x"}, "state": {"columns": ["t"], "tokenizer": "{}"}}]
    with pytest.raises(SpecError, match="those of a pretrained tokenizer"):
        Vocabulary(steps)


def test_a_stop_within_a_piece_cuts_the_piece():
    words = vocabulary("xx abc abc abc", kind="bpe", size=30)
    growing = GrowingText(words, begins=True, stops=("b",))
    for number in ids_of(words, "xx abc"):
        growing.add(number)
    assert growing.text == "xx a"


def test_a_model_without_a_step_that_makes_tokens_of_one_column_is_refused():
    with pytest.raises(SpecError, match="0 steps of the model are tokenize"):
        Vocabulary([{"name": "standardise", "state": {}}])
