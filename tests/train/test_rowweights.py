"""Check that rows count for members as they are told, alone or packed."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression
from train.conftest import write_rows

from fmray.data.folds import folds_of
from fmray.data.lanes import Lanes
from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.errors import DataError, TrainError
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Order, Train
from fmray.store import Store
from fmray.tasks.task import Batch, Losses, mixed
from fmray.train.ingest import Rows
from fmray.train.loop import fit, train_step
from fmray.train.rowweights import RowWeights, bootstrap_weights, fold_of

TRAIN = Train(epochs=3, batch_rows=64, early_stop=None, order=Order(chunk_rows=4, window_chunks=3, num_lanes=5))
FOLD = {"fold": 1, "of": 3, "salt": 5}


def ids(num, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, (num, 2)))


def test_bootstrap_weights_are_poisson_with_mean_one():
    counts = np.bincount(bootstrap_weights(ids(50_000), [3])[0].long().numpy(), minlength=8)[:8]
    expected = 50_000 * np.append(scipy.stats.poisson.pmf(np.arange(7), 1), scipy.stats.poisson.sf(6, 1))
    assert scipy.stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_bootstrap_weights_follow_from_seed_and_row_alone():
    rows = ids(1000)
    whole = bootstrap_weights(rows, [3, 4])
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bootstrap_weights(rows[order], [4])[0], whole[1][order])
    assert abs(np.corrcoef(whole.numpy())[0, 1]) < 4 / np.sqrt(1000)


def test_folds_are_about_equal_and_each_row_is_in_one():
    fold = fold_of(ids(30_000)[:, 0], 5, 7)
    counts = np.bincount(fold.numpy())
    assert len(counts) == 5
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert not torch.equal(fold, fold_of(ids(30_000)[:, 0], 5, 8))


def batch(num=6, weight=None):
    known = ids(num)
    return Batch({"x": torch.zeros(num, 2)}, torch.zeros(num), weight, torch.arange(num), ids=known, entity=known[:, 0])


def test_weights_multiply_those_of_the_rows_and_of_each_other(tmp_path):
    np.save(tmp_path / "w.npy", np.arange(6) / 2)
    own = torch.tensor([1.0, 2, 3, 4, 5, 6])
    members = [{}, FOLD, {"weights": str(tmp_path / "w.npy")}, {"bootstrap": 9, **FOLD}]
    found = RowWeights(members).weigh(batch(6, own)).weight
    held = (fold_of(batch().entity, 3, 5) != 1).float()
    drawn = bootstrap_weights(batch().ids, [9])[0]
    assert torch.equal(found, torch.stack([own, own * held, own * torch.arange(6) / 2, own * held * drawn]))
    assert 0 < held.sum() < 6


def test_where_all_rows_count_the_same_a_batch_stays_as_it_is():
    assert RowWeights([{}, {}]).weigh(given := batch()) is given


def test_weights_follow_the_members_that_stay():
    members = [{"bootstrap": i} for i in range(4)]
    keep = torch.tensor([3, 1])
    found = RowWeights(members).weigh(batch()).weight
    assert torch.equal(RowWeights(members).select(keep).weigh(batch()).weight, found[keep])


def test_a_slice_of_a_batch_has_its_rows_of_every_members_weights():
    whole = RowWeights([{"bootstrap": 1}, {"bootstrap": 2}]).weigh(batch())
    assert torch.equal(whole.slice(2, 5).weight, whole.weight[:, 2:5])
    assert torch.equal(whole.slice(2, 5).entity, whole.entity[2:5])


def test_mixed_losses_weigh_each_row_and_partner_for_each_member():
    random = torch.Generator().manual_seed(0)
    own, partner = (Losses(torch.rand(2, 3, generator=random), torch.rand(2, 3, generator=random)) for _ in range(2))
    share = torch.tensor([0.2, 0.5, 1.0])
    found = mixed(own, partner, share)
    weight = share * own.weight + (1 - share) * partner.weight
    lost = share * own.weight * own.loss + (1 - share) * partner.weight * partner.loss
    assert torch.allclose(found.loss * found.weight, lost)
    assert torch.allclose(found.weight, weight)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({"boostrap": 3}, TrainError, "boostrap"),
        ({"weights": "/nowhere.npy"}, DataError, r"/nowhere\.npy is missing"),
    ],
)
def test_what_cannot_be_weighed_is_refused(rows, error, message):
    with pytest.raises(error, match=message):
        RowWeights([rows]).weigh(batch())


def test_a_file_with_too_few_weights_is_refused(tmp_path):
    np.save(tmp_path / "short.npy", np.ones(3))
    with pytest.raises(DataError, match="3 weights, and row 5"):
        RowWeights([{"weights": str(tmp_path / "short.npy")}]).weigh(batch())


def test_rows_without_identities_are_refused():
    with pytest.raises(TrainError, match="identified rows"):
        RowWeights([{"bootstrap": 1}]).weigh(replace(batch(), ids=None))


def weighed(training, index, rows, **changes):
    return replace(training.plan(index, **changes), rows=rows)


def trained(training, plans, train=TRAIN):
    pack = training.pack(plans, train)
    fit(pack, training.rows(identified=True), training.rows("val"), training.metric, 11)
    return pack


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_members_with_weights_of_their_own_learn_packed_what_they_learn_alone(training, accumulate, tmp_path):
    np.save(tmp_path / "w.npy", np.random.default_rng(0).uniform(0, 2, training.rows().num_rows).astype(np.float32))
    each = [{"bootstrap": 3}, {}, FOLD, {"weights": str(tmp_path / "w.npy")}]
    plans = [weighed(training, i, rows) for i, rows in enumerate(each)]
    train = replace(TRAIN, accumulate=accumulate)
    together = trained(training, plans, train)
    for place, plan in enumerate(plans):
        alone = trained(training, [plan], train)
        torch.testing.assert_close(together.state.best[place], alone.state.best[0], rtol=2e-3, atol=2e-4)
    unweighed = trained(training, [replace(plan, rows={}) for plan in plans], train)
    assert torch.equal(unweighed.state.best[1], together.state.best[1])
    assert not torch.allclose(unweighed.state.best[2], together.state.best[2], atol=1e-3)


def test_a_member_learns_nothing_from_the_fold_it_is_kept_from(training):
    """Rows of the fold are made absurd; the member ends where it ended."""
    plans = [weighed(training, 0, FOLD)]
    rows = training.rows(identified=True)
    fold = fold_of(rows._whole["row_id"][:, 0], 3, 5)
    before = training.pack(plans, TRAIN)
    fit(before, rows, training.rows("val"), training.metric, 11)
    rows._whole["x"][fold == 1] = 50.0
    after = training.pack(plans, TRAIN)
    fit(after, rows, training.rows("val"), training.metric, 11)
    torch.testing.assert_close(after.state.best, before.state.best)


def test_a_batch_without_a_row_that_counts_moves_nothing_and_breaks_nothing(numbers, tmp_path):
    np.save(tmp_path / "none.npy", np.zeros(numbers.rows().num_rows))
    plan = weighed(numbers, 0, {"weights": str(tmp_path / "none.npy")}, by="sgd", optimizer={"lr": 0.1})
    pack = numbers.pack([plan], TRAIN)
    before = pack.population.flat.detach().clone()
    batches = numbers.rows(identified=True).batches(TRAIN.order, 1, 0, 64)
    train_step(pack, next(batches), 1.0)
    assert torch.equal(pack.population.flat.detach(), before)


def linear(training, num_epochs, lr):
    plan = weighed(training, 0, {"bootstrap": 4}, name="linear", by="sgd")
    optimizer = Ref("sgd", {"lr": lr, "momentum": 0.9})
    plan = replace(plan, model=Ref("linear"), optimizer=optimizer)
    lanes = Lanes(training.prepared, "train")
    train = replace(TRAIN, epochs=num_epochs, batch_rows=lanes.num_rows)
    pack = training.pack([plan], train)
    rows = training.rows(identified=True)
    for epoch in range(num_epochs):
        for given in rows.batches(train.order, 1, epoch, train.batch_rows):
            train_step(pack, given, 1.0)
    found = lanes.load(["x", "target", "row_id"])
    weight = bootstrap_weights(torch.from_numpy(found["row_id"].view(np.int64)), [4])[0].numpy()
    pack.population.prepare_step(0, None)
    whole = Batch({"x": torch.from_numpy(found["x"])}, torch.zeros(len(weight)), None, torch.arange(len(weight)))
    return pack.task.predict(pack.population(whole), whole)[0].detach().numpy(), found["x"], found["target"], weight


def test_a_bootstrap_fit_of_numbers_is_weighted_least_squares(numbers):
    said, x, target, weight = linear(numbers, 150, 0.1)
    design = np.column_stack([x, np.ones(len(x))]) * np.sqrt(weight)[:, None]
    beta, *_ = np.linalg.lstsq(design, target * np.sqrt(weight), rcond=None)
    assert np.allclose(said[:, 0], np.column_stack([x, np.ones(len(x))]) @ beta, atol=1e-3 * target.std())


@pytest.mark.slow
def test_a_bootstrap_fit_of_classes_is_weighted_logistic_regression(classes):
    said, x, target, weight = linear(classes, 600, 0.5)
    drawn = weight > 0
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=5000).fit(x[drawn], target[drawn], weight[drawn])
    assert np.allclose(said, model.predict_proba(x), atol=5e-3)


def prepared_with(tmp_path, **data):
    write_rows(tmp_path / "data", 300, "class")
    table = pq.read_table(tmp_path / "data/a.parquet")
    who = pa.array([f"g{i // 7}" for i in range(300)])
    pq.write_table(table.append_column("who", who), tmp_path / "data/a.parquet")
    ignore = [] if "group" in data else ["who"]
    value = {"path": str(tmp_path / "data"), "target": "y", "key": "id", "ignore": ignore, **data}
    job = Job.from_json({"name": "rows", "data": value, "steps": [], "run": {"prepare": "local"}})
    store = Store(str(tmp_path / "store"))
    return prepare(scan(job.data, ".", store), job, Ref("classification"), store)


@pytest.mark.parametrize("memory", [None, 0], ids=["memory", "streaming"])
@pytest.mark.parametrize("data", [{"group": "who"}, {"sample": {"over": 1.0}}], ids=["group", "copies"])
def test_rows_of_a_group_and_copies_of_a_row_are_in_one_fold(tmp_path, data, memory):
    prepared = prepared_with(tmp_path, **data)
    rows = Rows(prepared, "train", "cpu", memory, identified=True)
    found = list(rows.batches(TRAIN.order, 1, 0, 64))
    places = torch.cat([one.rows for one in found]).numpy()
    fold = torch.cat([fold_of(one.entity, 3, 5) for one in found]).numpy()
    known = Lanes(prepared, "train").load(["row_id", *["group"] * prepared.grouped])
    assert np.array_equal(folds_of(known["row_id"], known.get("group"), 3, 5)[places], fold)
    together = known["group"] if prepared.grouped else known["row_id"][:, 0]
    together = together[places]
    assert len(np.unique(together)) < len(together)
    assert all(len(set(fold[together == one].tolist())) == 1 for one in np.unique(together))
    assert len(np.unique(fold)) == 3


def test_copies_of_a_row_are_drawn_one_by_one(tmp_path):
    rows = Rows(prepared_with(tmp_path, sample={"over": 1.0}), "train", "cpu", identified=True)
    batch = next(rows.batches(TRAIN.order, 1, 0, rows.num_rows))
    drawn = bootstrap_weights(batch.ids, [1])[0].numpy()
    copies = [drawn[(batch.entity == one).numpy()] for one in batch.entity.unique()]
    assert any(len(own) > 1 and len(set(own.tolist())) > 1 for own in copies)


def test_members_packed_through_vmap_take_weights_too(classes, tmp_path):
    """A module of one's own is packed by vmap, and alone it is called as it is."""
    plans = [replace(weighed(classes, i, {"bootstrap": i}), model=Ref("train.own_net:Net")) for i in range(2)]
    together = trained(classes, plans)
    for place, plan in enumerate(plans):
        torch.testing.assert_close(
            together.state.best[place], trained(classes, [plan]).state.best[0], rtol=2e-3, atol=2e-4
        )
