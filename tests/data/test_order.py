"""Check the order of an epoch against its definition, written out row by row, with and without buckets."""

import itertools
from collections import Counter

import numpy as np
import pytest

from fmray.data.order import MIXED_SLABS, Share, epoch_order, lane_rows, num_windows, window_order, window_start
from fmray.seeding import raw_bits
from fmray.spec.sections import Order

SMALL = Order(chunk_rows=3, window_chunks=2, num_lanes=4)
SIZES = [0, 1, 3, 4, 5, 23, 24, 25, 96, 97, 101, 250]


def shuffled(values: list[int], seed: int, *names: str | int) -> list[int]:
    """Sort values by random words whose lowest bits are the value's place."""
    bits = max(len(values) - 1, 1).bit_length()
    words = [(int(word) >> bits << bits) | place for place, word in enumerate(raw_bits(len(values), seed, *names))]
    return [values[word & ((1 << bits) - 1)] for word in sorted(words)]


def lengths_of(num_rows: int, mean: float = 20.0) -> np.ndarray:
    return np.random.default_rng(num_rows).geometric(1 / mean, num_rows)


def bucketed(lanes: list[list[int]], lengths: np.ndarray, order: Order, *names: int) -> list[list[int]]:
    """Put the rows of one window, lane by lane, in slabs of similar length, which come in one turn for all lanes."""
    longest = len(lanes[0])
    slab = -(-order.bucket // order.num_lanes)
    turn = shuffled(list(range(-(-longest // slab))), names[0], "order", names[1], "slabs", names[2])
    ranks = [slab * place + rank for place in turn for rank in range(slab) if slab * place + rank < longest]
    found = []
    for rows in lanes:
        ascending = sorted(range(len(rows)), key=lambda place, rows=rows: (lengths[rows[place]], place))
        few = MIXED_SLABS * slab
        mixed = [place for i in range(0, len(rows), few) for place in sorted(ascending[i : i + few])]
        missing = ranks[-1] if len(rows) < longest else longest  # a shorter lane lacks what comes last
        found.append([rows[mixed[rank - (rank > missing)]] for rank in ranks if rank != missing])
    return found


def by_definition(num_rows: int, order: Order, seed: int, epoch: int, lengths: np.ndarray | None = None) -> list[int]:
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
        lanes.append([shuffled(w, seed, "order", epoch, lane, i) for i, w in enumerate(windows)])
    if lengths is not None:
        for i in range(len(lanes[0])):
            found = bucketed([lane[i] for lane in lanes if i < len(lane)], lengths, order, seed, epoch, i)
            for lane, rows in zip(lanes, found, strict=False):
                lane[i] = rows
    lanes = [list(itertools.chain.from_iterable(windows)) for windows in lanes]
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


BUCKETS = [Order(chunk_rows=3, window_chunks=2, num_lanes=4, bucket=bucket) for bucket in (1, 3, 4, 6, 9, 1000)]
BUCKETS += [Order(chunk_rows=4, window_chunks=30, num_lanes=4, bucket=3), Order(bucket=8)]


def order_of(num_rows, order, seed=7, epoch=2, **options):
    lengths = lengths_of(num_rows)
    return epoch_order(num_rows, order, seed, epoch, lengths=lambda places: lengths[places], **options)


@pytest.mark.parametrize("order", BUCKETS, ids=str)
@pytest.mark.parametrize("num_rows", SIZES)
def test_an_epoch_with_buckets_follows_its_definition(num_rows, order):
    found = order_of(num_rows, order).tolist()
    assert found == by_definition(num_rows, order, 7, 2, lengths_of(num_rows))
    assert sorted(found) == list(range(num_rows))
    assert found == order_of(num_rows, order).tolist()


@pytest.mark.parametrize("order", BUCKETS, ids=str)
@pytest.mark.parametrize("num_rows", [3, 25, 101, 250])
def test_shares_of_buckets_interleave_to_the_whole_epoch(num_rows, order):
    whole = order_of(num_rows, order)
    for size in range(1, 6):
        for rank in range(size):
            share = Share(rank, size)
            own = share.places(0, num_rows, order.num_lanes)
            assert np.array_equal(order_of(num_rows, order, share=share), whole[own])


def test_a_window_of_buckets_needs_no_other_window():
    order = BUCKETS[2]
    lengths = lengths_of(250)
    whole = order_of(250, order, seed=3, epoch=1)
    for window in range(num_windows(250, order)):
        alone = window_order(250, order, 3, 1, window, lengths=lambda places: lengths[places])
        start = window_start(order, window)
        assert np.array_equal(alone, whole[start : start + len(alone)])


@pytest.mark.parametrize("num_rows", SIZES)
def test_no_buckets_is_the_order_that_always_was(num_rows):
    def asked(places):
        raise AssertionError("lengths were asked for")

    found = epoch_order(num_rows, SMALL, 7, 2, lengths=asked)
    assert found.tolist() == by_definition(num_rows, SMALL, 7, 2)
    bucket = Order(chunk_rows=3, window_chunks=2, num_lanes=4, bucket=5)
    assert epoch_order(num_rows, bucket, 7, 2).tolist() == found.tolist()  # rows of one length have no lengths


def padded(order: np.ndarray, lengths: np.ndarray, batch_rows: int) -> float:
    """Give how many times as many tokens batches hold with their padding as without."""
    cuts = range(0, len(order), batch_rows)
    held = sum(len(rows) * rows.max() for rows in (lengths[order[i : i + batch_rows]] for i in cuts))
    return held / lengths.sum()


@pytest.mark.parametrize(("num_rows", "rows"), [(5000, 8), (5000, 16), (10_000, 32), (100_000, 32)])
@pytest.mark.parametrize("mean", [5, 20])
def test_buckets_hold_little_padding(num_rows, rows, mean):
    lengths = lengths_of(num_rows, mean)
    plain, short = (
        epoch_order(num_rows, Order(bucket=bucket), 1, 0, lengths=lambda places: lengths[places])
        for bucket in (0, rows)
    )
    assert padded(plain, lengths, rows) > 2.5
    assert padded(short, lengths, rows) < 1.5


def test_batches_of_another_epoch_bring_other_rows_together_and_come_in_another_turn():
    orders = [order_of(5000, Order(bucket=32), epoch=epoch) for epoch in range(3)]
    lengths = lengths_of(5000)
    batches = [[frozenset(order[i : i + 32].tolist()) for i in range(0, 5000, 32)] for order in orders]
    assert not set(batches[0]) & set(batches[1])
    beside: list[set[frozenset[int]]] = []
    for epoch in batches:
        beside.append({frozenset(pair) for batch in epoch for pair in itertools.combinations(sorted(batch), 2)})
    again = len(beside[0] & beside[1]) / len(beside[0])
    assert again < 0.2
    means = [[np.mean(lengths[sorted(batch)]) for batch in epoch] for epoch in batches]
    assert abs(np.corrcoef(means[0], means[1])[0, 1]) < 0.3
    assert abs(np.corrcoef(means[0], np.arange(len(means[0])))[0, 1]) < 0.3  # neither short ones first nor last
