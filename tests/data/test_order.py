"""Check the order of an epoch against its definition, written out row by row."""

import itertools
from collections import Counter

import numpy as np
import pytest

from fmray.data.order import epoch_order, lane_rows, num_windows, window_order, window_start
from fmray.seeding import raw_bits
from fmray.spec.sections import Order

SMALL = Order(chunk_rows=3, window_chunks=2, num_lanes=4)
SIZES = [0, 1, 3, 4, 5, 23, 24, 25, 96, 97, 101, 250]


def shuffled(values: list[int], seed: int, *names: str | int) -> list[int]:
    """Sort values by random words whose lowest bits are the value's place."""
    bits = max(len(values) - 1, 1).bit_length()
    words = [(int(word) >> bits << bits) | place for place, word in enumerate(raw_bits(len(values), seed, *names))]
    return [values[word & ((1 << bits) - 1)] for word in sorted(words)]


def by_definition(num_rows: int, order: Order, seed: int, epoch: int) -> list[int]:
    """Permute the chunks of each lane, shuffle windows of them, then deal rows from the lanes in turn."""
    window_rows = order.chunk_rows * order.window_chunks
    lanes = []
    for lane in range(order.num_lanes):
        rows = list(range(lane, num_rows, order.num_lanes))
        if len(rows) > window_rows:
            chunks = [rows[i : i + order.chunk_rows] for i in range(0, len(rows), order.chunk_rows)]
            permuted = shuffled(list(range(len(chunks))), seed, "order", epoch, lane, "chunks")
            rows = list(itertools.chain.from_iterable(chunks[chunk] for chunk in permuted))
        windows = [rows[i : i + window_rows] for i in range(0, len(rows), window_rows)]
        lanes.append([row for i, w in enumerate(windows) for row in shuffled(w, seed, "order", epoch, lane, i)])
    dealt = itertools.zip_longest(*lanes)
    return [row for turn in dealt for row in turn if row is not None]


@pytest.mark.parametrize("num_rows", SIZES)
def test_an_epoch_follows_its_definition(num_rows):
    assert epoch_order(num_rows, SMALL, 7, 2).tolist() == by_definition(num_rows, SMALL, 7, 2)


@pytest.mark.parametrize("num_rows", SIZES)
def test_every_row_comes_exactly_once(num_rows):
    assert sorted(epoch_order(num_rows, SMALL, 0, 0).tolist()) == list(range(num_rows))


@pytest.mark.parametrize("num_rows", [5, 101, 250])
def test_place_q_belongs_to_lane_q_as_long_as_no_lane_has_run_out(num_rows):
    order = epoch_order(num_rows, SMALL, 1, 0)
    full = num_rows // SMALL.num_lanes * SMALL.num_lanes
    assert np.array_equal(order[:full] % SMALL.num_lanes, np.arange(full) % SMALL.num_lanes)


def test_a_window_needs_no_other_window():
    whole = epoch_order(250, SMALL, 3, 1)
    for window in range(num_windows(250, SMALL)):
        start = window_start(SMALL, window)
        alone = window_order(250, SMALL, 3, 1, window)
        assert np.array_equal(alone, whole[start : start + len(alone)])


def test_rows_of_a_window_come_from_whole_chunks():
    order = Order(chunk_rows=5, window_chunks=2, num_lanes=1)
    for window in range(num_windows(100, order)):
        chunks = Counter((window_order(100, order, 0, 0, window) // 5).tolist())
        assert set(chunks.values()) == {5}


def test_seed_and_epoch_give_other_orders_and_are_repeated_exactly():
    orders = [tuple(epoch_order(101, SMALL, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert orders == [tuple(epoch_order(101, SMALL, seed, epoch)) for seed in range(3) for epoch in range(3)]


def test_lanes_that_no_row_reaches_change_nothing():
    few = Order(chunk_rows=4, window_chunks=4, num_lanes=64)
    assert sorted(epoch_order(5, few, 0, 0).tolist()) == [0, 1, 2, 3, 4]


def test_all_permutations_of_a_short_lane_are_equally_likely():
    order = Order(chunk_rows=8, window_chunks=1, num_lanes=1)
    counts = Counter(tuple(epoch_order(4, order, seed, 0)) for seed in range(4800))
    expected = 4800 / 24
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(counts) == 24
    assert chi_square < 49.7  # 99.9 % of a chi-square with 23 degrees of freedom


def test_lane_rows_counts_positions_of_the_lane():
    for num_rows, lanes in [(0, 3), (1, 3), (7, 3), (9, 3), (2, 5)]:
        for lane in range(lanes):
            assert lane_rows(num_rows, lanes, lane) == len(range(lane, num_rows, lanes))
