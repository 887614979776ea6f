import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tune.kill import prepared_rows, write_data

from fmray.errors import TrainError
from fmray.events import Epoch, to_json
from fmray.metrics.find import find_metric
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune import train_trials
from fmray.tune.plans import dropped_numeric_columns, linear_job, linear_plans, plans_of
from fmray.tune.sweep import sweep
from fmray.tune.width import PackLayout

TASK = Ref("classification")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = write_data(tmp_path)
    return replace(job, train=replace(job.train, epochs=2), run=replace(job.run, checkpoint_seconds=60))


@pytest.fixture
def prepared(job: Job, tmp_path: Path) -> Prepared:
    return prepared_rows(job, tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def train(job, prepared, store, **options):
    metric = find_metric("roc_auc", prepared.target)
    plans = options.pop("plans", None) or plans_of(job, TASK)
    return sweep(job, plans, prepared, metric, store, **options)


def test_a_finished_sweep_is_read_back_and_not_trained_again(job, prepared, store):
    events = []
    first = train(job, prepared, store)
    again = train(job, prepared, store, report=lambda event: events.append(to_json(event)))
    assert not first.reused
    assert again.reused
    assert again.members == first.members
    assert [event["event"] for event in events] == ["record"]


def test_another_attempt_trains_anew_to_the_same_tensors(job, prepared, store):
    first, other = train(job, prepared, store), train(job, prepared, store, attempt="b")
    assert not other.reused
    assert [m.tensor_hash for m in other.members] == [m.tensor_hash for m in first.members]


def test_checkpoints_are_gone_once_the_members_are_a_record(job, prepared, store):
    train(job, prepared, store)
    assert store.list("checkpoints") == []


def test_members_are_their_seeds_and_each_learns_something_else(job, prepared, store):
    members = train(job, prepared, store).members
    assert len({m.seed for m in members}) == len({m.tensor_hash for m in members}) == job.train.seeds.n
    assert [m.params for m in members] == [{"train.seeds": i} for i in range(3)]


def test_seeds_that_also_vary_the_order_train_in_packs_of_their_own(job, prepared, store):
    job = replace(job, train=replace(job.train, seeds=replace(job.train.seeds, order=True)))
    assert train(job, prepared, store).widths == (1, 1, 1)


@pytest.fixture
def by_twos(job, monkeypatch):
    """Give a job of seven members in packs of two, and what lets so many packs train side by side."""

    def lanes(number: int) -> None:
        monkeypatch.setattr(train_trials, "choose_layout", lambda *_, single_worker: PackLayout(2, 1, number))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)

    return replace(job, train=replace(job.train, seeds=replace(job.train.seeds, n=7))), lanes


def test_packs_side_by_side_come_to_the_bits_of_packs_one_after_the_other(by_twos, prepared, store):
    job, lanes = by_twos
    found = {}
    for number in (1, 2, 4):
        lanes(number)
        events = []
        found[number] = train(job, prepared, store, attempt=f"x{number}", report=events.append)
        epochs = [(event.place.pack, event.epoch) for event in events if isinstance(event, Epoch)]
        assert sorted(epochs) == [(pack, epoch) for pack in range(4) for epoch in (1, 2)]
        assert found[number].widths == (2, 2, 2, 1)
    facts = {n: [(m.tensor_hash, m.val_score, m.history) for m in one.members] for n, one in found.items()}
    assert facts[1] == facts[2] == facts[4]


def test_an_interrupt_ends_all_packs_at_once_and_what_follows_comes_to_the_same_bits(by_twos, prepared, store):
    job, lanes = by_twos
    lanes(1)
    whole = train(job, prepared, store, attempt="whole")
    lanes(2)
    started = []

    def interrupt(event):
        started.append(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, prepared, store, report=lambda event: interrupt(event) if isinstance(event, Epoch) else None)
    assert len(started) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fmray-pack")]
    again = train(job, prepared, store)
    assert [m.tensor_hash for m in again.members] == [m.tensor_hash for m in whole.members]


def test_the_width_chosen_from_sizes_alone_is_the_same_every_time(job, prepared, store):
    widths = {train(job, prepared, store, attempt=letter).widths for letter in "bc"}
    assert widths == {(3,)}


def test_the_linear_baseline_is_tried_at_several_rates_and_the_best_on_validation_counts(job, prepared, store):
    linear = train(linear_job(job, prepared), prepared, store, plans=linear_plans(job, TASK), role="baseline")
    metric = find_metric("roc_auc", prepared.target)
    assert {m.role for m in linear.members} == {"baseline"}
    assert linear.best(metric).val_score == max(m.val_score for m in linear.members)


def test_the_linear_baseline_sees_the_numbers_that_auto_leaves_out_for_the_model(job, prepared):
    plain = linear_job(job, prepared)
    assert plain.steps == job.prepared_steps
    left = tuple({**step, "state": {**step["state"], "left_out": ["id"]}} for step in prepared.steps)
    kept = linear_job(job, replace(prepared, steps=left))
    assert [step.params.get("keep") for step in kept.steps] == [["id"]] * len(left)
    assert dropped_numeric_columns(replace(prepared, steps=left)) == ["id"] * len(left)


def test_a_sweep_without_plans_is_no_members_and_no_error(job, prepared, store):
    metric = find_metric("roc_auc", prepared.target)
    assert sweep(job, [], prepared, metric, store).members == ()


def test_a_sweep_whose_members_all_diverge_says_why_the_first_did(job, prepared, store):
    job = replace(job, train=replace(job.train, optimizer=Ref("sgd", {"lr": 1e30}), clip_norm=None, warmup_steps=0))
    with pytest.raises(TrainError, match=r"all 3 members failed\. The first: the loss was not finite at step"):
        train(job, prepared, store)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [["0"], ["1"], ["3"], ["4"], ["0", "steps"], ["2", "steps"], ["0", "windows"]])
def test_a_sweep_killed_at_any_instant_ends_as_if_nobody_had(tmp_path: Path, ranks: list[str], num_kills) -> None:
    """SIGKILL at 20 instants, or a sample of them: inside checkpoints, between steps and epochs, twice in a row; members and rows are equal.

    In the driver itself, and with 1, 3 and 4 ranks below it, where a rank dies or the driver does; by passes, by steps, and by
    steps over windows of texts in buckets.
    """
    script = Path(__file__).with_name("kill.py")
    kills = num_kills(20)
    command = [sys.executable, str(script), str(tmp_path / "kills"), str(kills), *ranks]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["results"]) == kills
    assert all(result["same members"] and result["same rows"] for result in found["results"]), found["results"]
    assert sum(not kill["ended"] for result in found["results"] for kill in result["kills"]) >= kills
