import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn
from tune.kill import prepared_rows, write_data
from tune.pbt_kill import populated

from fmray.records import Member
from fmray.spec.ranges import Range
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.device import set_up
from fmray.train.group import ALONE
from fmray.train.ingest import Steps
from fmray.train.loop import run_epoch
from fmray.train.workers import Worker
from fmray.tune.heir import LINEAGE, Cohort, Left, go_on, mutations, train_member, within
from fmray.tune.preview import describe
from fmray.tune.trial import Training

DONOR = {"model.mlp.dropout": 0.4, "train.optimizer.adamw.lr": 0.02}
HEIR = {"model.mlp.dropout": 0.1, "train.optimizer.adamw.lr": 0.005}


class Normed(nn.Module):
    """Hold one buffer that is learned, and one that is a parameter."""

    def __init__(self, schema, num_outputs, rate=0.0):
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(schema.width), nn.Linear(schema.width, num_outputs)
        self.register_buffer("rate", torch.tensor(float(rate)))

    def forward(self, x):
        return self.out(self.norm(x)) * (1 - self.rate)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    job = write_data(folder)
    return Cohort(populated(job), Ref("classification"), prepared_rows(job, folder))


@pytest.fixture
def place(cohort, tmp_path):
    """Give what training takes place with: training, rows, device."""
    job, store = cohort.job.at({}), Store(str(tmp_path / "store"))
    device = set_up(job.run, job.train)
    worker, home = Worker(ALONE, device, lambda event: None, job.run), store.path("checkpoints", "pbt")
    rows = (
        worker.rows(cohort.prepared, "train", job.train.epochs, (), job.train.order),
        worker.rows(cohort.prepared, "val", job.train.epochs),
    )
    with store.lease(home) as lease:
        yield Training("roc_auc", store, home, "member", lease.fence, True), rows, device


class PausedError(Exception):
    pass


def train(place, trial, hand_in, left=None, lineage=(), interval=2):
    training, rows, device = place
    train_member(training, trial, rows, device, lambda event: None, hand_in, interval, left, lineage)


def left_at(place, trial, epoch, folder):
    """Train until an epoch, and give what was left there, written and read back."""

    def hand_in(left, standing):
        if standing["epoch"] == epoch:
            left.write(str(folder))
            raise PausedError

    with pytest.raises(PausedError):
        train(place, trial, hand_in)
    return Left.read(str(folder))


@pytest.fixture
def left(cohort, place, tmp_path):
    return left_at(place, cohort.trial(3, DONOR), 4, tmp_path / "left")


def fresh(place, trial):
    return place[0].build(trial, place[2], trial.plans)


def test_an_heir_has_its_donors_weights_optimizer_and_best_state_bit_for_bit(cohort, place, left):
    pack = fresh(place, cohort.trial(1, HEIR))
    before = pack.population.flat.clone()
    go_on(pack, left)
    assert not torch.equal(before, left.state.flat)
    assert torch.equal(pack.population.flat, left.state.flat)
    assert torch.equal(pack.state.best, left.state.best)
    moments = pack.optimizer.state()
    assert moments.keys() == left.state.optimizer.keys() >= {"exp_avg", "exp_avg_sq", "step"}
    assert all(torch.equal(value, left.state.optimizer[name]) for name, value in moments.items())
    for name in ("epoch", "global_step", "best_score", "best_epoch", "bad_epochs"):
        assert getattr(pack.state, name) == getattr(left.state, name)
    assert (pack.state.epoch, left.member) == (4, 3)


def test_an_heirs_rate_of_dropout_and_learning_rate_are_its_own(cohort, place, left):
    pack = fresh(place, cohort.trial(1, HEIR))
    (name,) = [name for name in left.state.buffers if name.endswith("rate_K11")]
    assert left.state.buffers[name].item() == pytest.approx(0.4)
    go_on(pack, left)
    attached = [m for m in pack.population.module.modules() if hasattr(m, "rate_K11")]
    for rate in (pack.population.buffers[name], pack.state.best_buffers[name], attached[0].rate_K11):
        assert rate.item() == pytest.approx(0.1)
    assert pack.optimizer.parts[0].lr_K1.item() == pytest.approx(0.005)


def run_an_epoch(pack, rows):
    train = pack.train
    batches = rows.endless(train.order, 0, train.batch_rows, pack.state.global_step)
    run_epoch(pack, batches, Steps.of(train, rows.num_rows))


def test_an_heir_trains_on_as_a_member_with_its_own_parameters_would_from_those_weights(cohort, place, left):
    """The other one is put together by hand: built by the heir's plan, weights and moments copied into it."""
    _, rows, _ = place
    heir, other = (fresh(place, cohort.trial(1, HEIR)) for _ in range(2))
    go_on(heir, left)
    other.population.flat.copy_(left.state.flat)
    other.optimizer.load({name: value.clone() for name, value in left.state.optimizer.items()})
    other.state.epoch, other.state.global_step = left.state.epoch, left.state.global_step
    for pack in (heir, other):
        run_an_epoch(pack, rows[0])
    assert torch.equal(heir.population.flat, other.population.flat)
    assert not torch.equal(heir.population.flat, left.state.flat)


def test_smoothing_of_labels_is_the_heirs_own(cohort, place, left):
    task = Ref("classification", {"label_smoothing": 0.3})
    trial = cohort.trial(1, HEIR)
    smooth = replace(trial, plans=(replace(trial.plans[0], task=task),))
    after = []
    for each in (trial, smooth):
        pack = fresh(place, each)
        go_on(pack, left)
        run_an_epoch(pack, place[1][0])
        after.append(pack.population.flat.clone())
    assert not torch.equal(*after)


def test_buffers_that_were_learned_are_the_donors_and_those_that_hold_a_parameter_are_not(cohort, place, tmp_path):
    trials = []
    for index, rate in ((3, 0.5), (1, 0.25)):
        trial = cohort.trial(index, DONOR)
        plan = replace(trial.plans[0], model=Ref("tune.test_heir:Normed", {"rate": rate}))
        trials.append(replace(trial, plans=(plan,)))
    left = left_at(place, trials[0], 2, tmp_path / "left")
    pack = fresh(place, trials[1])
    go_on(pack, left)
    assert left.state.buffers["norm.num_batches_tracked"].item() > 0
    assert torch.equal(pack.population.buffers["norm.running_mean"], left.state.buffers["norm.running_mean"])
    assert pack.population.buffers["rate"].item() == 0.25


def test_whoever_goes_on_from_itself_is_as_if_it_had_never_stopped(cohort, place, left):
    training, _, _ = place
    trial = cohort.trial(3, DONOR)
    train(place, trial, lambda left, standing: None, left, left.heir(3, DONOR))
    (paused,) = training.outcome(3)[0]["members"]
    training.store.remove(training.folder(3))
    train(place, trial, lambda left, standing: None)
    assert training.outcome(3)[0]["members"][0] == paused


def test_the_record_of_an_heir_tells_its_own_parameters_its_lineage_and_every_epoch(cohort, place, left):
    lineage = left.heir(1, HEIR)
    train(place, cohort.trial(1, HEIR, lineage), lambda left, standing: None, left, lineage)
    (member,) = place[0].outcome(1)[0]["members"]
    assert lineage == ({"epoch": 4, "from": 3, "params": HEIR},)
    assert member["params"] == {**HEIR, LINEAGE: "epoch 4 from member 3"}
    assert (member["index"], member["epochs"], member["status"]) == (1, 8, "finished")
    values = [event["value"] for event in Member.from_json(member).history if event["metric"] == "roc_auc"]
    before = [event["value"] for event in left.state.history if event["metric"] == "roc_auc"]
    assert values[:4] == before
    assert len(values) == 8
    assert values[4] > before[-1] - 0.1  # from scratch it would be at 0.5


def test_a_member_hands_in_what_it_has_after_every_interval_but_the_last(cohort, place):
    seen = []
    train(place, cohort.trial(0, DONOR), lambda left, standing: seen.append(standing), interval=3)
    (member,) = place[0].outcome(0)[0]["members"]
    values = {
        event["epoch"]: event["value"] for event in Member.from_json(member).history if event["metric"] == "roc_auc"
    }
    assert seen == [{"epoch": epoch, "score": values[epoch]} for epoch in (3, 6)]


def test_a_member_that_diverges_may_be_given_the_state_of_another_until_the_end_and_fails_if_it_is_not(cohort, place):
    seen = []
    trial = cohort.trial(0, DONOR)
    wild = Ref("sgd", {"lr": 1e38})
    trial = replace(trial, plans=(replace(trial.plans[0], optimizer=wild),))
    train(place, trial, lambda left, standing: seen.append((left, standing)))
    assert [standing for _, standing in seen] == [{"epoch": epoch, "score": -math.inf} for epoch in (2, 4, 6)]
    place[0].store.remove(place[0].folder(0))
    again = []
    train(place, trial, lambda left, standing: again.append(standing["epoch"]), seen[1][0])  # after being paused at 4
    assert again == [6]
    (member,) = place[0].outcome(0)[0]["members"]
    assert member["status"] == "failed"
    assert "the loss was not finite" in member["reason"]


def test_weights_that_pass_through_many_hands_tell_all_of_them(left):
    second = replace(left, member=1, lineage=left.heir(1, HEIR), state=replace(left.state, epoch=6))
    assert second.heir(1, HEIR) == second.lineage
    assert [(step["epoch"], step["from"]) for step in second.heir(0, DONOR)] == [(4, 3), (6, 1)]


def test_a_value_is_drawn_anew_from_the_law_it_was_first_drawn_from():
    laws = {
        ("a",): Range("uniform", -1.0, 3.0),
        ("b",): Range("log_uniform", 1e-4, 1e-1),
        ("c",): Range("int", 2.0, 5.0),
    }
    drawn = {name: np.array([draw() for _ in range(2000)]) for name, draw in mutations(laws, seed=7).items()}
    assert kstest((drawn["a"] + 1) / 4, "uniform").pvalue > 1e-3
    assert kstest(np.log10(drawn["b"]) / 3 + 4 / 3, "uniform").pvalue > 1e-3
    assert np.bincount(drawn["c"])[2:] == pytest.approx(np.full(4, 500), abs=100)
    again = mutations(laws, seed=7)["a"]
    assert [again() for _ in range(5)] == drawn["a"][:5].tolist()


def test_options_are_what_a_choice_is_shifted_among():
    assert mutations({("a",): Range("choice", options=(0.1, 0.2, 0.4))}, seed=0) == {"a": [0.1, 0.2, 0.4]}


def test_a_value_that_was_scaled_out_of_its_range_comes_back_to_its_end():
    ranges = {
        ("a",): Range("uniform", 0.0, 0.5),
        ("b",): Range("int", 2.0, 5.0),
        ("c",): Range("choice", options=("x", "y")),
    }
    assert within(ranges, {"a": 0.54, "b": 6, "c": "y", "index": 9}) == {"a": 0.5, "b": 5, "c": "y", "index": 9}
    assert within(ranges, {"a": -0.1, "b": 1, "c": "x"}) == {"a": 0.0, "b": 2, "c": "x"}


def test_a_preview_tells_when_members_are_compared_and_that_nobody_is_stopped(cohort):
    told = describe(cohort.job)
    assert "5 members by pbt" in told["search"]
    assert "every 2 epochs the worst quarter goes on from the best" in told["search"]
    assert told["epochs"] == "about 40 over all members, 40 if nobody stopped"
