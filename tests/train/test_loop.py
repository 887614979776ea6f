import copy
import math
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch

from fmray.errors import TrainError
from fmray.spec.ref import Ref
from fmray.spec.sections import EarlyStop, Order, Train
from fmray.train.loop import evaluate, fit, predict_rows, train_step
from fmray.train.pack import Pack
from fmray.train.state import State

ORDER = Order(chunk_rows=4, window_chunks=3, num_lanes=5)
PLAIN = Train(epochs=3, batch_rows=64, early_stop=None, order=ORDER)
BUSY = Train(
    epochs=9,
    batch_rows=64,
    optimizer=Ref("adamw"),
    schedule=Ref("plateau", {"patience": 2, "factor": 0.5}),
    warmup_steps=5,
    clip_norm=0.5,
    ema=0.9,
    early_stop=EarlyStop(patience=4),
    order=ORDER,
)
DROPOUT = {"dropout": 0.3}

PACKABLE = {
    "lr": lambda i: {"optimizer": {"lr": 0.002 * 3**i}},
    "weight decay": lambda i: {"optimizer": {"weight_decay": 0.05 * i}},
    "dropout": lambda i: {"model": {"dropout": 0.2 * i}},
    "all": lambda i: {"optimizer": {"lr": 0.002 * 3**i, "weight_decay": 0.05 * i}, "model": {"dropout": 0.2 * i}},
}
OF_TASK = {
    "label smoothing": lambda i: {"task": {"label_smoothing": 0.1 * i}},
    "class weights": lambda i: {"task": {"class_weights": [None, "balanced", {"2": 3.0}][i]}},
}


def history(pack, member):
    return [(e["epoch"], e["metric"], e["value"]) for e in pack.state.history if e["member"] == member]


def assert_same_member(one, member, other, place):
    torch.testing.assert_close(one.state.best[member], other.state.best[place], rtol=2e-3, atol=2e-4)
    index = one.plans[member].index
    ours, theirs = history(one, index), history(other, other.plans[place].index)
    assert [h[:2] for h in ours] == [h[:2] for h in theirs]
    assert [h[2] for h in ours if h[1] != "accuracy"] == pytest.approx(
        [h[2] for h in theirs if h[1] != "accuracy"], rel=1e-3
    )


@pytest.mark.parametrize("case", list(PACKABLE))
@pytest.mark.parametrize("by", ["sgd", "adam", "adamw"])
def test_packed_members_equal_their_solo_trainings(training, case, by):
    plans = [training.plan(i, by=by, **PACKABLE[case](i)) for i in range(3)]
    together = training.fit(plans, PLAIN)
    for i, plan in enumerate(plans):
        assert_same_member(together, i, training.fit([plan], PLAIN), 0)


@pytest.mark.parametrize("case", list(OF_TASK))
def test_packed_members_with_their_own_objective_equal_their_solo_trainings(classes, case):
    plans = [classes.plan(i, **OF_TASK[case](i)) for i in range(3)]
    together = classes.fit(plans, PLAIN)
    for i, plan in enumerate(plans):
        assert_same_member(together, i, classes.fit([plan], PLAIN), 0)


def test_members_with_their_own_huber_corner_equal_their_solo_trainings(numbers):
    plans = [numbers.plan(i, task={"loss": "huber", "delta": 0.3 + i}) for i in range(3)]
    together = numbers.fit(plans, PLAIN)
    for i, plan in enumerate(plans):
        assert_same_member(together, i, numbers.fit([plan], PLAIN), 0)


@pytest.mark.slow
def test_a_member_that_stops_early_leaves_the_others_as_they_would_be_alone(training):
    plans = [training.plan(i, model=DROPOUT, optimizer={"lr": [0.5, 0.01, 0.003][i]}) for i in range(3)]
    together = training.fit(plans, BUSY)
    for i, plan in enumerate(plans):
        alone = training.fit([plan], BUSY)
        assert_same_member(together, i, alone, 0)
        assert together.state.ends.get(str(i)) == alone.state.ends.get("0")


def test_micro_batches_add_up_to_the_batch(training):
    plans = [training.plan(i, model=DROPOUT) for i in range(2)]
    whole = training.fit(plans, PLAIN)
    parts = training.fit(plans, replace(PLAIN, accumulate=5))
    for i in range(2):
        assert_same_member(whole, i, parts, i)


@pytest.mark.parametrize("members", [1, 3])
def test_bfloat16_learns_what_float32_learns(training, members):
    plans = [training.plan(i) for i in range(members)]
    wide = training.fit(plans, replace(PLAIN, epochs=8))
    narrow = training.fit(plans, replace(PLAIN, epochs=8, precision="bfloat16"))
    assert narrow.state.flat.dtype == torch.float32
    assert not torch.equal(wide.state.flat, narrow.state.flat)
    torch.testing.assert_close(narrow.state.best_score, wide.state.best_score, rtol=0.1, atol=0.1)


def test_every_row_is_trained_once_per_epoch_and_each_epoch_in_another_order(training):
    rows = training.rows()
    epochs = [torch.cat([b.rows for b in rows.batches(ORDER, 5, epoch, 64)]) for epoch in range(2)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(rows.num_rows))
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("batch_rows", [1, 64, 100, 10_000])
def test_streaming_gives_the_batches_that_memory_gives(training, batch_rows):
    memory, stream = training.rows(), training.rows(memory_bytes=0)
    assert memory.in_memory
    assert not stream.in_memory
    for epoch, first_step in ((0, 0), (1, 2)):
        pairs = zip(
            memory.batches(ORDER, 5, epoch, batch_rows, first_step),
            stream.batches(ORDER, 5, epoch, batch_rows, first_step),
            strict=True,
        )
        for one, other in pairs:
            assert torch.equal(one.rows, other.rows)
            assert torch.equal(one.inputs["x"], other.inputs["x"])
            assert torch.equal(one.target, other.target)
    wholes = [torch.cat([b.inputs["x"] for b in rows.in_sequence(50)]) for rows in (memory, stream)]
    assert torch.equal(*wholes)


def test_the_state_kept_is_the_best_on_validation_and_patience_is_obeyed(training):
    pack = training.fit([training.plan(0, optimizer={"lr": 0.3})], replace(BUSY, epochs=30))
    scores = [value for _, name, value in history(pack, 0) if name == training.metric.name]
    best = max(range(len(scores)), key=lambda e: (scores[e], -e))
    assert pack.state.best_epoch[0] == best + 1
    assert len(scores) == best + 1 + 4
    assert pack.state.ends["0"]["status"] == "stopped"
    fresh = training.pack(pack.plans, BUSY)
    fresh.population.load(pack.state.best, pack.state.best_buffers)
    predictions, _ = predict_rows(fresh, training.rows("val"))
    found = predictions[0][:, 0] if predictions.shape[2] == 1 else predictions[0]
    assert training.metric.value(found, training.rows("val").scored()["target"], None) == pytest.approx(scores[best])


@dataclass(frozen=True)
class Given:
    """Give numbers in place of a metric, one per member and epoch; `sums` are those of a real one."""

    sums: Any
    values: list[float]

    def partial(self, output, target, weight=None):
        return self.sums.partial(output, target, weight)

    def merge(self, parts):
        return self.sums.merge(parts)

    def value(self, totals):
        return self.values.pop(0)


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("score", [math.inf, -math.inf])
def test_an_infinite_score_stays_infinite_and_ranks_before_or_behind_all_finite_ones(classes, higher_is_better, score):
    sums = Given(classes.metric.sums, [score, 0.5, 1e300])
    metric = replace(classes.metric, sums=sums, higher_is_better=higher_is_better)
    plans = [classes.plan(i) for i in range(3)]
    pack = Pack(plans, classes.prepared.schema, classes.prepared.target, replace(PLAIN, epochs=1), higher_is_better)
    events = []
    fit(pack, classes.rows(), classes.rows("val"), metric, 11, report=events.append)
    sign = 1 if higher_is_better else -1
    assert pack.state.best_score.tolist() == [sign * score, sign * 0.5, sign * 1e300]
    assert events[-1].best == (1e300 if higher_is_better else 0.5)


def test_a_plateau_lowers_the_rate_of_the_member_that_stands_still(training):
    train = replace(BUSY, epochs=5, early_stop=None)
    pack = training.fit([training.plan(0, optimizer={"lr": 1e-9}), training.plan(1)], train)
    scores = [[v for _, name, v in history(pack, i) if name == training.metric.name] for i in range(2)]
    for place, curve in enumerate(scores):
        factor, best, bad = 1.0, -math.inf, 0
        for value in curve:
            bad = 0 if value > best else bad + 1
            best = max(best, value)
            if bad >= 2:
                factor, bad = factor / 2, 0
        assert pack.state.plateau_factor[place] == pytest.approx(factor)


def test_an_epoch_in_which_all_members_failed_is_none(classes):
    events = []
    pack = classes.fit([classes.plan(0, optimizer={"lr": 1e30})], PLAIN, report=events.append)
    assert len(pack) == 0
    assert events == []


def test_a_member_that_diverges_is_stopped_and_named_and_the_pack_goes_on(training):
    plans = [training.plan(0), training.plan(1, by="adamw", optimizer={"lr": 1e30}), training.plan(2)]
    pack = training.fit(plans, PLAIN)
    end = pack.state.ends["1"]
    assert end["status"] == "failed"
    assert "not finite at step" in end["reason"]
    assert "positions [" in end["reason"]
    assert pack.state.health[0]["member"] == 1
    for i in (0, 2):
        assert_same_member(pack, i, training.fit([plans[i]], PLAIN), 0)


class StoppedError(Exception):
    pass


class Keep:
    """Keep every state the loop offers, and stop it after one of them."""

    def __init__(self, stop_after=None):
        self.states, self.stop_after = [], stop_after

    def due(self):
        return True

    def save(self, state):
        self.states.append(copy.deepcopy(state.to_files()))
        if len(self.states) == self.stop_after:
            raise StoppedError


def members(training):
    return [training.plan(i, model=DROPOUT, optimizer={"lr": [1e-9, 0.01, 0.003][i]}) for i in range(3)]


def equal_states(one, other):
    return one.to_files() == other.to_files()


@pytest.mark.parametrize("counted", [{}, {"steps": 47, "validate_every": 11}, {"steps": 45, "validate_every": 3}])
def test_a_training_continued_from_any_step_ends_in_the_same_bits(training, counted):
    """Whether it scores validation after each pass of 8 steps, in mid-pass, or several times a pass."""
    train = replace(BUSY, **counted)
    uninterrupted = Keep()
    whole = training.fit(members(training), train, checkpoints=uninterrupted)
    expected = whole.snapshot()
    for files in uninterrupted.states[:: max(1, len(uninterrupted.states) // 12)]:
        pack = training.pack(members(training), train)
        pack.restore(State.from_files(copy.deepcopy(files)))
        fit(pack, training.rows(), training.rows("val"), training.metric, 11)
        assert equal_states(pack.snapshot(), expected)


def per_pass(training):
    return -(-training.rows().num_rows // PLAIN.batch_rows)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_as_many_steps_as_passes_have_are_the_same_training(training, schedule):
    train = replace(PLAIN, schedule=Ref(schedule))
    counted = replace(train, epochs=1, steps=3 * per_pass(training), validate_every=per_pass(training))
    whole, other = (training.fit(members(training), one) for one in (train, counted))
    assert equal_states(whole.snapshot(), other.snapshot())


@pytest.mark.parametrize("every", [1, 3, 8, 13, 500])
def test_how_often_validation_is_scored_changes_no_step(training, every):
    """21 steps are two passes and a part of a third: the parameters after them are the same in any case."""
    expected = training.fit([training.plan(0)], replace(PLAIN, steps=21, validate_every=21)).state
    found = training.fit([training.plan(0)], replace(PLAIN, steps=21, validate_every=min(every, 21))).state
    assert (found.global_step, found.epoch) == (21, math.ceil(21 / min(every, 21)))
    assert torch.equal(found.flat, expected.flat)
    assert [e["epoch"] for e in found.history if e["metric"] == "val_loss"] == list(range(1, found.epoch + 1))


def test_epochs_are_scored_on_the_sample_they_are_given(training):
    """The score that is kept is that of the sample's rows alone, and no step is another one."""
    whole = training.fit([training.plan(0)], PLAIN)
    sample = training.rows("val").sample(40)
    pack = training.pack([training.plan(0)], PLAIN)
    fit(pack, training.rows(), sample, training.metric, 11)
    assert torch.equal(pack.state.flat, whole.state.flat)
    (score,), _ = evaluate(pack, sample, training.metric)
    said, _ = predict_rows(pack, training.rows("val"))
    positions = torch.cat([batch.rows for batch in sample.in_sequence()]).numpy()
    output = said[0, positions]
    target = sample.scored()["target"]
    expected = training.metric.value(output[:, 0] if output.shape[1] == 1 else output, target, None)
    assert score == pytest.approx(expected, rel=1e-6)  # sums in float32, in batches of other sizes
    last = [entry["value"] for entry in pack.state.history if entry["metric"] == training.metric.name][-1]
    assert last == score


def test_a_tenth_of_the_steps_lies_between_two_scores_by_default():
    assert [(t.steps_per_epoch, t.num_epochs) for t in (Train(steps=n) for n in (1, 7, 10, 95, 1000))] == [
        (1, 1), (1, 7), (1, 10), (10, 10), (100, 10),
    ]  # fmt: skip
    assert (Train().steps_per_epoch, Train(epochs=7).num_epochs) == (0, 7)


def _freshened(state, fresh, name):
    """Give the state with one field as it was before training."""
    value = getattr(fresh, name)
    if name in ("flat", "optimizer", "loss_sum", "weight_sum"):  # those still training are fewer than those who began
        kept = state.alive
        value = {k: v[kept] if v.dim() else v for k, v in value.items()} if isinstance(value, dict) else value[kept]
    return replace(state, **{name: value})


TOUCHED = [f.name for f in fields(State) if f.name not in ("buffers", "best_buffers", "rng", "health")]


@pytest.fixture(scope="module")
def uninterrupted(classes):
    """Train once for all mutants; give every state on the way, and the last."""
    keep = Keep()
    whole = classes.fit(members(classes), BUSY, checkpoints=keep)
    return keep.states, whole.snapshot().to_files()


@pytest.mark.parametrize("name", TOUCHED)
def test_leaving_out_any_field_of_the_state_is_noticed(classes, uninterrupted, name):
    """A mutant that forgets one field must end in another state, or fail; buffers, rng and health have tests below."""
    states, expected = uninterrupted
    noticed = False
    for files in states[5 :: max(1, len(states) // 8)]:
        pack = classes.pack(members(classes), BUSY)
        fresh = State.from_files(copy.deepcopy(pack.snapshot().to_files()))
        fresh.optimizer = {} if name == "optimizer" else fresh.optimizer
        try:
            state = _freshened(State.from_files(copy.deepcopy(files)), fresh, name)
            pack.restore(state)
            fit(pack, classes.rows(), classes.rows("val"), classes.metric, 11)
            noticed = pack.snapshot().to_files() != expected
        except (RuntimeError, IndexError, TrainError):
            noticed = True
        if noticed:
            return
    pytest.fail(f"nothing noticed that {name} was not restored")


def test_torchs_own_generator_is_part_of_the_state(classes):
    pack = classes.pack([classes.plan(0)], PLAIN)
    torch.manual_seed(3)
    state = State.from_files(copy.deepcopy(pack.snapshot().to_files()))
    expected = torch.rand(4)
    torch.manual_seed(4)
    pack.restore(state)
    assert torch.equal(torch.rand(4), expected)


def test_the_gradient_is_the_mean_over_the_batch_whatever_its_size(numbers):
    pack = numbers.pack([numbers.plan(0, by="sgd", optimizer={"lr": 1.0})], PLAIN)
    batch = next(iter(numbers.rows().batches(ORDER, 0, 0, 50)))
    before = pack.population.flat.detach().clone()
    train_step(pack, batch, 1.0)
    module = pack.plans[0].blueprint.module(numbers.prepared.schema, 1)
    torch.nn.functional.mse_loss(module(batch.inputs["x"])[0], batch.target).backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
    torch.testing.assert_close((before - pack.population.flat.detach())[0], gradient, rtol=1e-4, atol=1e-6)
