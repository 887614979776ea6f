"""Check that every worker gets its share of every batch, whatever their number and wherever the rows come from."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from train.conftest import Training

from fmray.data.hashing import sample_of
from fmray.data.lanes import Lanes
from fmray.data.order import Share
from fmray.records import Prepared
from fmray.spec.sections import Order
from fmray.train.ingest import Rows
from fmray.train.stream import Pieces, Windows

ORDER = Order(chunk_rows=4, window_chunks=3, num_lanes=5)


@pytest.fixture
def prepared(prepared_rows: Callable[[str], Prepared]) -> Prepared:
    return prepared_rows("number")


def batches(prepared: Prepared, rank: int, size: int, epoch: int, first_step: int = 0, batch_rows: int = 64, **options):
    rows = Rows(prepared, "train", "cpu", share=Share(rank, size), **options)
    return list(rows.batches(ORDER, 7, epoch, batch_rows, first_step))


def together(parts: list) -> dict[str, torch.Tensor]:
    """Put the shares of one batch in the order of their places."""
    order = torch.cat([part.places.values for part in parts]).argsort()
    assert torch.equal(torch.cat([part.places.values for part in parts])[order], torch.arange(len(order)).int())
    return {
        "rows": torch.cat([part.rows for part in parts])[order],
        "x": torch.cat([part.inputs["x"] for part in parts])[order],
        "target": torch.cat([part.target for part in parts])[order],
    }


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
@pytest.mark.parametrize("batch_rows", [1, 3, 64, 700])
@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_the_shares_of_any_number_of_workers_make_up_the_batches_of_one(prepared, size, batch_rows, memory):
    whole = batches(prepared, 0, 1, 2, batch_rows=batch_rows)
    shares = [batches(prepared, rank, size, 2, batch_rows=batch_rows, memory_bytes=memory) for rank in range(size)]
    assert {len(share) for share in shares} == {len(whole)}
    for batch, *parts in zip(whole, *shares, strict=True):
        found = together(parts)
        assert torch.equal(found["rows"], batch.rows)
        assert torch.equal(found["x"], batch.inputs["x"])
        assert torch.equal(found["target"], batch.target)


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
@pytest.mark.parametrize("first_step", [1, 4, 10])
def test_a_cursor_seeks_to_the_batches_that_come_next(prepared, first_step, memory):
    for rank in range(3):
        whole = batches(prepared, rank, 3, 1, memory_bytes=memory)[first_step:]
        found = batches(prepared, rank, 3, 1, first_step, memory_bytes=memory)
        assert [part.rows.tolist() for part in found] == [part.rows.tolist() for part in whole]
        assert [part.places.values.tolist() for part in found] == [part.places.values.tolist() for part in whole]


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
def test_every_row_is_evaluated_once_by_one_worker(prepared, memory):
    found = []
    for rank in range(3):
        rows = Rows(prepared, "val", "cpu", memory, Share(rank, 3))
        own = [batch.rows for batch in rows.in_sequence(10)]
        assert (
            sum(map(len, own))
            == Share(rank, 3).before(rows.num_rows, rows.lanes.num_lanes)
            == len(rows.scored()["target"])
        )
        found += own
    assert torch.cat(found).sort().values.tolist() == list(range(rows.num_rows))


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_sample_is_of_the_same_rows_for_any_number_of_workers(prepared, memory, size):
    """Those whose ids hash low, as the choice of an ensemble takes them."""
    ids = Lanes(prepared, "val").load(["row_id"])["row_id"]
    expected = np.flatnonzero(sample_of(ids, len(ids), 40))
    assert 20 < len(expected) < 70 < len(ids)
    targets = Lanes(prepared, "val").load(["target"])["target"]
    found = []
    for rank in range(size):
        sample = Rows(prepared, "val", "cpu", memory, Share(rank, size)).sample(40)
        own = list(sample.in_sequence(7))
        positions = torch.cat([batch.rows for batch in own]).numpy()
        np.testing.assert_array_equal(sample.scored()["target"], targets[positions])
        scaled = torch.cat([batch.target for batch in own]).numpy()[:, 0]
        np.testing.assert_allclose(np.corrcoef(scaled, targets[positions])[0, 1], 1)
        found += positions.tolist()
    assert sorted(found) == expected.tolist()


def test_all_rows_are_their_own_sample(prepared):
    rows = Rows(prepared, "val", "cpu")
    assert all(rows.sample(most) is rows for most in (None, rows.num_rows, 10**9))


def test_equal_places_have_one_key_and_others_another(prepared):
    keys: dict[tuple[int, ...], list[int]] = {}
    for rank in range(3):
        for batch in batches(prepared, rank, 3, 0, batch_rows=7):
            assert keys.setdefault(batch.places.key, batch.places.values.tolist()) == batch.places.values.tolist()
    assert len(keys) > 3


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_the_items_of_a_stream_make_up_the_windows_of_every_epoch_that_is_left(prepared, rank, num_parts):
    lanes, share = Lanes(prepared, "train"), Share(rank, 3)
    plan = Windows(lanes, ("x", "target"), share, ORDER, 7, 1, 2, 4, num_parts)
    read = [plan.read(item) for item in range(len(plan))]
    windows = [read[start : start + num_parts] for start in range(0, len(read), num_parts)]
    places = [(1 + (2 + i) // plan.num_windows, (2 + i) % plan.num_windows) for i in range(len(windows))]
    assert places[-1] == (3, plan.num_windows - 1)
    for epoch in (1, 2, 3):
        joined = [plan.join(w, parts) for (e, w), parts in zip(places, windows, strict=True) if e == epoch]
        first = 2 * ORDER.chunk_rows * ORDER.window_chunks * ORDER.num_lanes if epoch == 1 else 0
        expected = list(lanes.stream(ORDER, 7, epoch, first, ["x", "target"], share))
        for name in ("x", "target", "row"):
            assert np.array_equal(
                np.concatenate([a[name] for a in joined]), np.concatenate([a[name] for a in expected])
            )


@pytest.mark.parametrize("piece_rows", [1, 30, 1000])
def test_the_pieces_of_a_share_are_the_share_in_sequence_order(prepared, piece_rows):
    lanes, share = Lanes(prepared, "train"), Share(1, 3)
    plan = Pieces(lanes, ("x", "row_id"), share, piece_rows)
    read = [plan.read(item) for item in range(len(plan))]
    expected = lanes.take(share.places(0, lanes.num_rows, lanes.num_lanes), ["x", "row_id"])
    for name in ("x", "row_id"):
        assert np.array_equal(np.concatenate([arrays[name] for arrays in read if name in arrays]), expected[name])


def test_a_plan_weighs_nothing_however_many_rows_and_epochs_it_covers(training: Training):
    """64 ranks, a billion rows: the plan of each is its parameters, and any item is known without the others."""
    lanes = Lanes(training.prepared, "train")
    lanes.num_rows = 1_000_000_000
    lanes.num_lanes = 64
    order = Order()
    for rank in range(64):
        plan = Windows(lanes, ("x",), Share(rank, 64), order, 0, 3, 0, 20, 4)
        assert len(plan) == plan.num_windows * 17 * 4
        assert plan.num_windows == -(-1_000_000_000 // (64 * 1024 * 64))


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_partners_are_the_same_for_any_number_of_workers_and_none_is_left_out(prepared, size, memory):
    options = {"identified": True, "paired": True}
    expected: dict[int, bytes] = {}
    for batch in batches(prepared, 0, 1, 2, **options):
        expected |= dict(
            zip(batch.rows.tolist(), [x.numpy().tobytes() for x in batch.partner.inputs["x"]], strict=True)
        )
    assert len(set(expected.values())) == len(expected) == Lanes(prepared, "train").num_rows
    for rank in range(size):
        for batch in batches(prepared, rank, size, 2, memory_bytes=memory, **options):
            for row, x in zip(batch.rows.tolist(), batch.partner.inputs["x"], strict=True):
                assert x.numpy().tobytes() == expected[row]


def test_a_row_and_its_partner_carry_identities_and_targets_that_belong_together(prepared):
    lanes = Lanes(prepared, "train").load(["x", "row_id"])
    known = {x.tobytes(): row.tobytes() for x, row in zip(lanes["x"], lanes["row_id"], strict=True)}
    for batch in batches(prepared, 1, 3, 0, identified=True, paired=True):
        for rows in (batch, batch.partner):
            for x, row in zip(rows.inputs["x"].numpy(), rows.ids.numpy(), strict=True):
                assert known[x.tobytes()] == row.tobytes()
