"""Split text into words that know where they stand in it.

A word is a run of letters, a run of digits, or any other single sign that is not white space; marks that combine with a
sign stay with it. Words, in order, are the text without its white space: no sign is lost, changed or counted twice, so
a word equals the text from its start to its end. Places are counted in characters (code points), as Python does.
Shape legend: N texts, W words of all texts.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

WORD = r"\p{L}[\p{L}\p{M}]*|\p{N}[\p{N}\p{M}]*|\S\p{M}*"
_SPACE = r"\s+"
RULE = "runs of letters, runs of digits and other single signs"
"""What a word is, for messages."""


@dataclass(frozen=True)
class Words:
    """Hold where the words of some texts stand.

    Shapes:
        starts, ends: (W,), int64, in characters of the own text; lengths: (N,), int64, words of each text.
    """

    starts: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray


def split_words(texts: pl.Series) -> pl.Series:
    """Give the words of each text as a list, null where there is no text."""
    return texts.str.extract_all(WORD)


def find_words(texts: pl.Series) -> Words:
    """Find where the words of each text stand; a text that is missing has none."""
    # words and white space are the whole text, so lengths add up to places
    pieces = texts.fill_null("").str.extract_all(f"{_SPACE}|{WORD}")
    num_pieces_N = pieces.list.len().to_numpy().astype(np.int64)
    flat = pieces.filter(pieces.list.len() > 0).list.explode()
    sizes = flat.str.len_chars().to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(texts)), num_pieces_N)
    ends = np.cumsum(sizes)
    before_N = np.r_[0, ends][np.cumsum(num_pieces_N) - num_pieces_N]
    ends -= before_N[row]
    is_word = ~flat.str.contains(rf"^{_SPACE}").to_numpy().astype(bool)
    lengths = np.bincount(row[is_word], minlength=len(texts))
    return Words((ends - sizes)[is_word], ends[is_word], lengths.astype(np.int64))
