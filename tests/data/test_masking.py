"""Validation hides the same tokens of a text wherever it stands: 15 % of them, of which 8 of 10 are masked."""

import numpy as np
import pytest

from fmray.data.cut import cut, masked, masked_share
from fmray.data.masking import MASK, NOT_ASKED, hide, num_chosen
from fmray.ragged import Ragged
from fmray.spec.ref import Ref

NUM_IDS = 500


def drawn(lengths: list[int] | np.ndarray, seed: int = 0) -> Ragged:
    lengths = np.asarray(lengths)
    ids = np.random.default_rng(seed).integers(2, NUM_IDS, lengths.sum())
    return Ragged.of_lengths(ids.astype(np.int32), lengths)


def hidden(tokens: Ragged, share: float = 0.15) -> tuple[Ragged, Ragged]:
    return hide(tokens, share, num_ids=NUM_IDS, is_kept=np.zeros(len(tokens), bool))


def rows_of(ragged: Ragged) -> list[list[int]]:
    return [row.values.tolist() for row in (ragged[place : place + 1].compact() for place in range(len(ragged)))]


def test_the_share_is_rounded_and_a_row_with_tokens_has_one():
    assert num_chosen(np.array([0, 1, 2, 9, 10, 20, 100]), 0.15).tolist() == [0, 1, 1, 1, 2, 3, 15]
    assert num_chosen(np.array([3]), 1.0).tolist() == [3]


def test_targets_are_the_tokens_that_were_chosen_and_others_stay():
    tokens = drawn([20, 0, 1, 7, 40])
    inputs, target = hidden(tokens)
    chosen = target.values != NOT_ASKED
    assert np.array_equal(target.values[chosen], tokens.values[chosen])
    assert np.array_equal(inputs.values[~chosen], tokens.values[~chosen])
    numbers = [sum(id_ != NOT_ASKED for id_ in row) for row in rows_of(target)]
    assert numbers == [3, 0, 1, 1, 6]


def test_eight_of_ten_are_masked_one_is_another_token_and_one_stays():
    tokens = drawn(np.full(4000, 40))
    inputs, target = hidden(tokens)
    chosen = target.values != NOT_ASKED
    assert chosen.mean() == pytest.approx(0.15)
    given, true = inputs.values[chosen], tokens.values[chosen]
    four_sigma = 4 * np.sqrt(0.8 * 0.2 / chosen.sum())
    assert (given == MASK).mean() == pytest.approx(0.8, abs=four_sigma)
    assert (given == true).mean() == pytest.approx(0.1, abs=four_sigma)
    others = given[(given != MASK) & (given != true)]
    assert others.min() >= 2
    assert others.max() < NUM_IDS
    places = np.tile(np.arange(40), 4000)
    assert np.bincount(places[chosen]) == pytest.approx(600, abs=4 * np.sqrt(4000 * 0.15 * 0.85))


def test_what_is_hidden_of_a_row_does_not_depend_on_the_rows_around_it():
    tokens = drawn([20, 3, 64, 11, 20])
    whole = [rows_of(part) for part in hidden(tokens)]
    some = [rows_of(part) for part in hidden(tokens[np.array([3, 0])].compact())]
    for one, other in zip(whole, some, strict=True):
        assert other == [one[3], one[0]]
    twice = [rows_of(part) for part in hidden(tokens[np.array([2, 2])].compact())]
    assert twice[0][0] == twice[0][1]


def test_rows_that_differ_in_a_token_or_its_place_have_other_tokens_hidden():
    one = drawn([64])
    other = one.values.copy()
    other[[5, 6]] = other[[6, 5]]
    pair = [hidden(Ragged.of_lengths(values, np.array([64])))[1].values for values in (one.values, other)]
    assert not np.array_equal(pair[0] == NOT_ASKED, pair[1] == NOT_ASKED)


def test_training_windows_stay_whole_and_every_token_is_a_target():
    windows = cut(drawn([30, 10]), 16)
    is_kept = np.array([True, True, False])
    found = masked(windows, 0.15, num_ids=NUM_IDS, is_kept=is_kept)
    assert rows_of(found.inputs)[:2] == rows_of(found.target)[:2] == rows_of(windows.target)[:2]
    assert rows_of(found.target)[2].count(NOT_ASKED) == 8


def test_only_a_masked_language_model_hides_tokens():
    assert masked_share(Ref("masked_language_model", {})) == 0.15
    assert masked_share(Ref("masked_language_model", {"share": 0.4})) == 0.4
    assert [masked_share(Ref(name, {})) for name in ("language_model", "classification", "mine:Task")] == [0, 0, 0]
