"""Word pieces are laid out in rows of windows: every word begins once, and no window is longer than it may be."""

import numpy as np
import pytest
import torch

from fmray.pieces import begins_window, begins_word, entries, ids_of, laid_out, num_words, tokens_of
from fmray.ragged import Ragged


def drawn(source):
    """Draw rows of words of one piece or more, and special tokens."""
    lengths = source.integers(0, 7, source.integers(0, 6))
    sizes = source.integers(1, 6, lengths.sum())
    pieces = Ragged.of_lengths(source.integers(0, 50, sizes.sum()).astype(np.int32), sizes)
    before = [101] * int(source.integers(0, 3))
    after = [102] * int(source.integers(0, 3))
    return pieces, lengths, before, after, len(before) + len(after) + int(source.integers(1, 8))


def by_hand(pieces, lengths, before, after, most):
    """Give, for each row, (id, begins a word, begins a window) of each entry, word by word."""
    room = most - len(before) - len(after)
    words = iter(
        [pieces.values[start : start + min(n, room)] for start, n in zip(pieces.starts, pieces.lengths, strict=True)]
    )
    rows = []
    for length in lengths:
        windows = [[]]
        for _ in range(length):
            word = [(int(one), place == 0) for place, one in enumerate(next(words))]
            if len(windows[-1]) + len(word) > room:
                windows.append([])
            windows[-1] += word
        whole = [[(one, False) for one in before] + w + [(one, False) for one in after] for w in windows]
        rows.append([(*entry, place == 0) for window in whole for place, entry in enumerate(window)])
    return rows


@pytest.mark.parametrize("seed", range(100))
def test_rows_are_those_that_are_laid_out_word_by_word(seed):
    given = drawn(np.random.default_rng(seed))
    found = laid_out(*given)
    rows = [found.values[start : start + n] for start, n in zip(found.starts, found.lengths, strict=True)]
    told = [list(zip(*(f(r).tolist() for f in (ids_of, begins_word, begins_window)), strict=True)) for r in rows]
    assert told == by_hand(*given)
    assert (found.values > 0).all()  # padding alone is 0
    assert num_words(found).tolist() == given[1].tolist()


def test_ids_are_read_back_from_arrays_and_tensors_and_padding_has_none():
    ids = np.array([0, 7, 250_000], np.int32)
    assert ids_of(entries(ids)).tolist() == ids.tolist()
    codes = torch.tensor([0, *entries(ids).tolist()])
    assert ids_of(codes).tolist() == [-1, *ids.tolist()]
    assert not begins_word(codes).any() | begins_window(codes).any()


def test_what_has_something_said_of_it_are_words_of_pieces_and_all_entries_of_others():
    rows = laid_out(Ragged.of_lengths(np.arange(5), np.array([2, 3])), np.array([0, 2]), [9], [8], 16)
    assert tokens_of(rows, "pieces").tolist() == [0, 2]
    assert tokens_of(rows, "tokens").tolist() == [2, 7]
