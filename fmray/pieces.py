"""Lay the word pieces of a pretrained tokenizer out in rows that know where each word begins.

A row is one window or several, each with the special tokens around it that the model was trained with. Every word of a
row has one piece at least in exactly one window, so there is a place to say something of each, however long a row is.
An entry holds the id of a piece and two flags; padding, which is 0, is no entry.
Shape legend: N rows, W words of all rows, V windows of all rows, T entries of all rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fmray.ragged import Ragged

BEGINS_WORD, BEGINS_WINDOW = 1, 2
SHIFT = 2
"""Bits below an id, which is counted from 1."""


def entries(ids: Any) -> Any:
    """Give ids, of arrays or tensors, as entries without flags."""
    return (ids + 1) << SHIFT


def ids_of(codes: Any) -> Any:
    """Give the ids of entries, -1 of padding."""
    return (codes >> SHIFT) - 1


def begins_word(codes: Any) -> Any:
    """Tell the first pieces of words, bool."""
    return (codes & BEGINS_WORD) != 0


def begins_window(codes: Any) -> Any:
    """Tell the first entries of windows, bool."""
    return (codes & BEGINS_WINDOW) != 0


def num_words(rows: Ragged) -> np.ndarray:
    """Count the words of each row (N,), int64."""
    own = rows.compact()
    row = np.repeat(np.arange(len(own)), own.lengths)
    return np.bincount(row[begins_word(own.values)], minlength=len(own)).astype(np.int64)


def tokens_of(rows: Ragged, kind: str) -> np.ndarray:
    """Count what has something said of it in each row of a block (N,): its words where these are pieces, else all.

    Args:
        kind: Of the block, see `fmray.schema.Block`.
    """
    return num_words(rows) if kind == "pieces" else rows.lengths


def laid_out(pieces: Ragged, lengths: np.ndarray, before: Sequence[int], after: Sequence[int], most: int) -> Ragged:
    """Lay the pieces of words out in rows of windows; a window ends where the next word would not fit in.

    Args:
        pieces: Ids of each word, one at least; of a word with more than a window holds, the first are kept.
        lengths: Words of each row; a row without any is a window of special tokens alone.
        before, after: Special tokens around each window.
        most: Entries of a window, special tokens included.

    Shapes:
        pieces: W rows.
        lengths: (N,).
        returns: N rows of entries, int32.
    """
    room = most - len(before) - len(after)
    own = Ragged(pieces.values, pieces.starts, np.minimum(pieces.lengths, room)).compact()
    window_W, row_V = _windows(own.lengths, lengths, room)
    pieces_V = np.bincount(window_W, weights=own.lengths, minlength=len(row_V)).astype(np.int64)
    ends_V = np.cumsum(pieces_V + len(before) + len(after))
    starts_V = ends_V - (pieces_V + len(before) + len(after))
    codes = np.zeros(int(ends_V[-1]) if len(ends_V) else 0, np.int32)
    for place, special in enumerate(before):
        codes[starts_V + place] = entries(special)
    for place, special in enumerate(after):
        codes[ends_V - len(after) + place] = entries(special)
    window_T = np.repeat(window_W, own.lengths)
    at = np.arange(len(own.values)) + (window_T + 1) * len(before) + window_T * len(after)
    codes[at] = entries(own.values)
    codes[at[own.starts]] |= BEGINS_WORD
    codes[starts_V[ends_V > starts_V]] |= BEGINS_WINDOW
    in_row = np.bincount(row_V, weights=ends_V - starts_V, minlength=len(lengths))
    return Ragged.of_lengths(codes, in_row.astype(np.int64))


def _windows(pieces: np.ndarray, lengths: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the window of each word (W,), counted over all rows, and the row of each window (V,)."""
    ends = np.cumsum(lengths)
    firsts = ends - lengths
    total = np.r_[0, np.cumsum(pieces)]
    opens = np.zeros(len(pieces), bool)
    opens[firsts[lengths > 0]] = True
    for row in np.flatnonzero(total[ends] - total[firsts] > room):  # few: most rows are one window
        at = int(firsts[row])
        while total[ends[row]] - total[at] > room:
            at = int(np.searchsorted(total, total[at] + room, side="right")) - 1
            opens[at] = True
    row_W = np.repeat(np.arange(len(lengths)), lengths)
    per_row = np.maximum(1, np.bincount(row_W[opens], minlength=len(lengths)))
    before = np.cumsum(per_row) - per_row
    number = np.cumsum(opens)
    in_row = number - number[firsts[row_W]] if len(row_W) else number
    return before[row_W] + in_row, np.repeat(np.arange(len(lengths)), per_row)
