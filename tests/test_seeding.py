"""Seeds against BLAKE2b spelled out, and random words against Philox4x64-10 written from its paper."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmray.seeding import derive, raw_bits, stream

NAMES = st.lists(st.text(max_size=8).filter(lambda name: "\x1f" not in name) | st.integers(), max_size=4)
MASK = 2**64 - 1


def philox(counter: int, key: int) -> list[int]:
    """Give the four words of one counter. Source: Salmon et al., SC 2011, section 3.3."""
    words = [counter >> (64 * place) & MASK for place in range(4)]
    keys = [key & MASK, key >> 64]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [second >> 64 ^ words[1] ^ keys[0], second & MASK, first >> 64 ^ words[3] ^ keys[1], first & MASK]
        keys = [keys[0] + 0x9E3779B97F4A7C15 & MASK, keys[1] + 0xBB67AE8584CAA73B & MASK]
    return words


def test_random_words_are_those_of_the_published_generator():
    key = derive(7, "order", 3)
    expected = [word for counter in range(1, 6) for word in philox(counter, key)]
    assert raw_bits(20, 7, "order", 3).tolist() == expected


def test_a_seed_is_the_hash_of_what_it_is_for():
    text = "int:5\x1fstr:member\x1fint:2"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    assert derive(5, "member", 2) == int.from_bytes(digest, "little") // 2


@given(st.integers(), NAMES, NAMES)
@settings(max_examples=200, deadline=None)
def test_seeds_fit_63_bits_and_other_purposes_have_other_seeds(seed, names, others):
    assert 0 <= derive(seed, *names) < 2**63
    same = [(type(name), name) for name in names] == [(type(name), name) for name in others]
    assert (derive(seed, *names) == derive(seed, *others)) == same


@pytest.mark.parametrize(("one", "other"), [((1, "2"), (1, 2)), (("ab", "c"), ("a", "bc")), (("a",), ("a", ""))])
def test_purposes_that_print_alike_are_told_apart(one, other):
    assert derive(0, *one) != derive(0, *other)


def test_a_stream_is_not_shifted_by_what_was_drawn_before():
    first = stream(1, "dropout", 4).random(5)
    stream(1, "init").random(1000)
    assert np.array_equal(stream(1, "dropout", 4).random(5), first)
    assert not np.array_equal(stream(1, "dropout", 5).random(5), first)


def test_streams_of_neighbours_do_not_correlate():
    draws = np.stack([stream(0, "member", index).random(4096) for index in range(8)])
    off_diagonal = np.corrcoef(draws)[~np.eye(8, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(4096)
