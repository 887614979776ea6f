"""Words of a text know where they stand in it, whatever signs it holds."""

import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmray.words import find_words, split_words

SPACES = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
"""White space as Unicode's property White_Space has it."""
ODD = [
    "é",
    "e\u0301",
    "\u0301",
    "ﬁ",
    "½",
    "İ",
    "ẞ",
    "१",
    "5\ufe0f\u20e3",
    "👩‍👧",
    "🇳🇴",
    "\u200d",
    "_",
    "’",
    "\x00",
    "\u2028",
]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*ODD, " ", "7", "pm", "A"]), st.characters(exclude_categories=("Cs", "Cn"))), max_size=30
).map("".join)


def plainly(text: str) -> list[tuple[int, int]]:
    """Walk over the signs one by one."""
    found = []
    place = 0
    while place < len(text):
        start = place
        kind = unicodedata.category(text[place])[0]
        place += 1
        if ord(text[start]) in SPACES:
            continue
        goes_on = {"L": "LM", "N": "NM"}.get(kind, "M")
        while place < len(text) and unicodedata.category(text[place])[0] in goes_on:
            place += 1
        found.append((start, place))
    return found


def places(texts: list[str | None]) -> list[list[tuple[int, int]]]:
    found = find_words(pl.Series(texts, dtype=pl.String))
    flat = iter(zip(found.starts.tolist(), found.ends.tolist(), strict=True))
    rows = [[next(flat) for _ in range(length)] for length in found.lengths.tolist()]
    assert next(flat, None) is None
    return rows


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.none(), TEXTS), max_size=5))
def test_words_are_those_that_a_walk_over_the_signs_finds(texts):
    assert places(texts) == [plainly(text or "") for text in texts]


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXTS, max_size=5))
def test_a_word_is_the_text_between_its_places(texts):
    lists = split_words(pl.Series(texts, dtype=pl.String)).to_list()
    assert lists == [[text[start:end] for start, end in row] for text, row in zip(texts, places(texts), strict=True)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("7:30pm", ["7", ":", "30", "pm"]),
        ("it’s O'Neil", ["it", "’", "s", "O", "'", "Neil"]),
        ("cafe\u0301 né", ["cafe\u0301", "né"]),
        ("ﬁne ½x", ["ﬁne", "½", "x"]),
        ("👍🏽ok", ["👍", "🏽", "ok"]),
        ("a_b\t\n c", ["a", "_", "b", "c"]),
        (" \u3000", []),
    ],
)
def test_letters_digits_and_other_signs_are_words_of_their_own(text, words):
    assert split_words(pl.Series([text]))[0].to_list() == words


def test_a_missing_text_is_no_list_and_an_empty_one_has_no_words():
    assert split_words(pl.Series([None, ""], dtype=pl.String)).to_list() == [None, []]
    assert places([None, "", "a"]) == [[], [], [(0, 1)]]
    assert places([]) == []
