"""Members whose own code fails: they are left out with the reason, and all others are trained."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from leases import take_over
from train import bad_nets
from tune.kill import prepared_rows, write_data

from fmray.errors import ClusterError, FmrayError, SpecError, TrainError
from fmray.events import ignore, to_json
from fmray.metrics.find import find_metric
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Seeds
from fmray.store import Store
from fmray.store.fences import is_lease
from fmray.train.group import ALONE
from fmray.train.single_rows import smallest_part
from fmray.train.workers import Worker
from fmray.tune import train_trials
from fmray.tune.outcomes import write_failed_pack
from fmray.tune.plans import plans_of
from fmray.tune.search import MemberTrainer, train_members
from fmray.tune.sweep import sweep
from fmray.tune.trial import Trial, TrialContext

TASK = Ref("classification")
WIDTHS = [8, 13, 16]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    job = write_data(folder)
    return job, prepared_rows(job, folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def searched(job: Job, name: str, widths=WIDTHS, *, seeds=1, **search) -> Job:
    value = job.to_json()
    value["model"] = {f"train.bad_nets:{name}": {"width": {"choice": widths}}}
    value["search"] = {"by": "grid", "stop": "none", "finalists": 1, **search}
    value["train"] |= {"epochs": 2, "seeds": seeds, "schedule": "constant"}
    value["run"] |= {"workers": 0}
    return Job.from_json(value)


def search(rows, store, name, widths=WIDTHS, events=None, **asked):
    job, prepared = searched(rows[0], name, widths, **asked), rows[1]
    report = (lambda event: None) if events is None else lambda event: events.append(to_json(event))
    trainer = MemberTrainer(
        job, TASK, lambda job, fold=None: prepared, find_metric("roc_auc", prepared.target), store, report=report
    )
    return train_members(trainer, prepared, 0, "cpu")


def alone(rows, store, name, seeds=1, events=None, **params):
    job = replace(rows[0], model=Ref(f"train.bad_nets:{name}", params))
    job = replace(job, train=replace(job.train, epochs=2, seeds=Seeds(n=seeds), schedule=Ref("constant")))
    metric = find_metric("roc_auc", rows[1].target)
    report = (lambda event: None) if events is None else lambda event: events.append(to_json(event))
    return sweep(job, plans_of(job, TASK), rows[1], metric, store, report=report)


def ends(found):
    return {member.params["model." + member.model["name"] + ".width"]: member for member in found.members}


FAULTS = {
    "Unlucky": r"^ValueError: width 13 is unlucky \(bad_nets\.py:\d+ in __init__\)$",
    "FailsForward": r"^RuntimeError: this width does not work \(bad_nets\.py:\d+ in forward\)$",
    "FailsInEvaluation": r"^RuntimeError: cannot be evaluated \(bad_nets\.py:\d+ in forward\)$",
    "FailsBackward": r"modified by an inplace operation",
    "WrongShape": r"model: gave outputs of shape \(100, 4\) for 100 rows and 2 classes",
    "NotFinite": r"the loss was not finite at step 0",
    "NotFiniteInEvaluation": r"\d+ of \d+ sampled validation predictions are not finite",
    "Greedy": r"can't allocate memory|not enough memory|Storage size calculation overflowed",
    "GreedyForward": r"memory does not suffice for a step on one row",
    "Exits": r"^SystemExit: 3 \(bad_nets\.py:\d+ in forward\)$",
    "Interrupts": r"^KeyboardInterrupt \(bad_nets\.py:\d+ in forward\)$",
    "Stops": r"^Stop: enough \(bad_nets\.py:\d+ in forward\)$",
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(FAULTS)[2:]]


@pytest.mark.parametrize("name", [*list(FAULTS)[:2], *SLOW])
def test_a_member_of_a_search_whose_code_fails_is_left_out_with_the_reason_and_the_others_are_trained(
    rows, store, name
):
    found = ends(search(rows, store, name))
    assert found[13].status == "failed"
    assert re.search(FAULTS[name], found[13].reason), found[13].reason
    assert all(found[width].val_score is not None for width in (8, 16))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["random", "sobol", "optuna"])
def test_a_failing_structure_is_left_out_however_it_was_proposed(rows, store, by):
    widths = [8, 16, 13]  # in this order 13 is among what TPE draws at random first, whatever the scores are
    found = search(rows, store, "Unlucky", widths, by=by, members=12, structures=6).members
    failed = [member for member in found if member.status == "failed"]
    assert {member.params["model.train.bad_nets:Unlucky.width"] for member in failed} == {13}
    assert all("width 13 is unlucky" in member.reason for member in failed)
    assert all(member.val_score is not None for member in found if member not in failed)


def test_a_failing_member_is_told_at_once_with_its_parameters_and_once_more_in_the_end(rows, store):
    events = []
    search(rows, store, "Unlucky", events=events)
    told = [event["text"] for event in events if event["event"] == "failure"]
    assert len(told) == 1
    assert told[0].startswith("member 1 (model.train.bad_nets:Unlucky.width: 13): ValueError: width 13 is unlucky (bad")
    notes = [event["text"] for event in events if event["event"] == "note" and "failed" in event["text"]]
    assert notes[0].startswith("1 of 3 members failed: member 1 (model.train.bad_nets:Unlucky.width: 13): ValueError")
    stacks = [event for event in events if event["event"] == "stacks"]
    assert stacks[0]["path"] == next(event for event in events if event["event"] == "failure")["stacks"]
    assert 'raise ValueError("width 13 is unlucky")' in stacks[0]["text"]


def test_a_search_of_which_nothing_is_left_gives_the_reasons_and_tries_again_the_next_time(rows, store, monkeypatch):
    with pytest.raises(TrainError, match=r"all 3 members failed\. The first: ValueError: not written yet \(bad_nets"):
        search(rows, store, "Broken")
    monkeypatch.setattr(bad_nets.Broken, "forward", bad_nets.Good.forward)
    assert [member.status for member in search(rows, store, "Broken").members] == ["finished"] * 3


def test_a_training_of_one_member_whose_code_fails_says_file_and_line_and_where_the_traceback_is(rows, store):
    events = []
    with pytest.raises(TrainError) as caught:
        alone(rows, store, "FailsForward", events=events, width=13)
    assert re.search(
        r"^train: RuntimeError: this width does not work \(bad_nets.py:\d+ in forward\)\.", str(caught.value)
    )
    assert "Its traceback is in stacks/error-0-0.txt" in str(caught.value)
    assert [e["path"] for e in events if e["event"] == "stacks"] == ["stacks/error-0-0.txt"]


def test_a_seed_whose_constructor_fails_leaves_its_pack_to_the_others(rows, store):
    whole = alone(rows, store, "FailsForSeeds", seeds=3, fail=0)
    found = alone(rows, store, "FailsForSeeds", seeds=3, fail=1)
    assert [member.status for member in found.members].count("failed") == 1
    lost = next(member for member in found.members if member.status == "failed")
    assert "this seed does not work" in lost.reason
    assert [m.seed for m in found.members] == [m.seed for m in whole.members]
    left = [m.index for m in found.members if m is not lost]
    assert found.predictions_of(left).shape[0] == 2


def test_members_on_folds_are_left_out_one_by_one(rows, store):
    found = search(rows, store, "FailsForward", seeds=2).members
    assert [(m.role, m.status) for m in found if m.status == "failed"] == [("member", "failed")]
    assert len([m for m in found if m.role == "finalist" and m.val_score is not None]) == 2


def test_parameters_that_a_class_refuses_end_a_training_as_they_did(rows, store):
    with pytest.raises(SpecError, match="missing 1 required positional argument: 'depth'"):
        alone(rows, store, "TooFew", seeds=2)


WRONG = {
    "Tuple": r"model: Tuple \(bad_nets\.py:\d+\) gave tuple for 100 rows\. Give a tensor \(rows, outputs\)",
    "Whole": r"model: Whole \(bad_nets\.py:\d+\) gave outputs of type torch\.int64\. Give floating-point numbers",
    "Detached": r"no gradient flows from the outputs of Detached \(bad_nets\.py:\d+\) to its parameters",
    "InPlace": r"InPlace \(bad_nets\.py:\d+\) changes its input in place\. Let it work on a copy",
    "Elsewhere": r"gave outputs on meta\. Leave them on cpu",
    "Lazy": r"Lazy has parameters of no size yet \(last\.weight\)",
    "OtherName": r"has forward\(rows\), which cannot be called with x: missing a required argument: 'rows'",
    "NeedsMore": r"has forward\(x, mask\), which cannot be called with x: missing a required argument: 'mask'",
    "TooFew": r"missing 1 required positional argument: 'depth'",
    "OwnTypeError": r"TypeError: object of type 'int' has no len\(\) \(bad_nets\.py:\d+ in __init__\)",
    "Refuses": r"Accepted: a class derived from torch\.nn\.Module",
    "FixedBatch": r"RuntimeError: shape .* is invalid .* \(on a batch of \d+ rows, bad_nets\.py:\d+ in forward\)",
    "Broken": r"ValueError: not written yet \(bad_nets\.py:\d+ in forward\)",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_module_that_is_wrong_is_refused_in_one_clear_message(rows, store, name):
    with pytest.raises(FmrayError, match=WRONG[name]) as caught:
        alone(rows, store, name)
    assert "\n" not in str(caught.value)


def test_a_module_that_cannot_take_a_single_row_is_refused_before_training_where_the_last_batch_has_one(rows, store):
    job, prepared = rows
    size = next(size for size in range(20, 200) if prepared.num_rows("train") % size == 1)
    job = replace(job, train=replace(job.train, batch_rows=size))
    events = []
    with pytest.raises(
        SpecError, match=r"last batch of an epoch has 1 row.*bad_nets\.py:\d+ in forward.*batch_rows to "
    ):
        alone((job, prepared), store, "Normalised", events=events)
    assert not [event for event in events if event["event"] == "epoch"]
    better = int(re.search(r"train\.batch_rows to (\d+)", events[-1]["text"])[1])
    job = replace(job, train=replace(job.train, batch_rows=better))
    assert alone((job, prepared), store, "Normalised").members[0].status == "finished"


def test_a_module_that_takes_a_single_row_trains_to_the_same_tensors_as_without_being_tried(rows, store, monkeypatch):
    job, prepared = rows
    size = next(size for size in range(20, 200) if prepared.num_rows("train") % size == 1)
    job = replace(job, train=replace(job.train, batch_rows=size))
    tried = alone((job, prepared), store, "Dropping").members[0].tensor_hash
    monkeypatch.setattr(train_trials, "refuse_single_rows", lambda *given: None)
    assert alone((job, prepared), Store(f"{store.root}-other"), "Dropping").members[0].tensor_hash == tried


@pytest.mark.parametrize(
    ("num_rows", "batch_rows", "accumulate", "smallest"),
    [
        (62, 61, 1, 1),
        (61, 61, 1, 61),
        (122, 61, 1, 61),
        (10, 61, 1, 10),
        (1, 61, 1, 1),
        (61, 61, 60, 1),
        (65, 13, 4, 1),
    ],
)
def test_the_smallest_part_of_a_batch_is_counted(num_rows, batch_rows, accumulate, smallest):
    assert smallest_part(num_rows, batch_rows, accumulate) == smallest


@dataclass(frozen=True)
class Infinite:
    """Score one member of two as infinite; `sums` are those of a real metric."""

    sums: Any
    calls: list[int]

    def partial(self, output, target, weight=None):
        return self.sums.partial(output, target, weight)

    def merge(self, parts):
        return self.sums.merge(parts)

    def value(self, totals):
        self.calls.append(0)
        return math.inf if len(self.calls) % 2 else self.sums.value(totals)


def test_a_member_whose_score_is_infinite_has_none_and_fails_with_that_reason(rows, store, monkeypatch):
    real = find_metric("roc_auc", rows[1].target)
    monkeypatch.setattr("fmray.tune.trial.find_metric", lambda *_: replace(real, sums=Infinite(real.sums, [])))
    infinite, finite = alone(rows, store, "Good", seeds=2).members
    assert (infinite.status, infinite.val_score) == ("failed", None)
    assert infinite.reason.startswith("roc_auc is infinite on the validation rows")
    assert (finite.status, finite.val_score is None) == ("finished", False)


@pytest.fixture
def lost(store):
    """Give the context of a sweep whose lease another process has taken over."""
    home = store.path("checkpoints", "k")
    with pytest.raises(ClusterError, match="took over"), store.lease(home) as lease:
        take_over(home)
        yield TrialContext("roc_auc", store, home, "member", lease.fence, records_failed_members=True)
        lease.check()
    assert all(is_lease(path.rpartition("/")[2]) for path in store.list(home))


def test_a_process_that_has_lost_its_lease_does_not_write_a_pack_of_which_all_members_failed(rows, lost):
    plans = plans_of(rows[0], TASK)
    trial = Trial(0, 0, job=rows[0], plans=tuple(plans), prepared=rows[1])
    left_out = {plan.index: {"reason": "does not work", "class": "TrainError"} for plan in plans}
    with pytest.raises(ClusterError, match="took over"):
        write_failed_pack(lost, trial, 0, plans, left_out)


def test_a_process_that_has_lost_its_lease_does_not_write_how_members_are_laid_out(rows, lost):
    trial = Trial(0, 0, job=rows[0], plans=tuple(plans_of(rows[0], TASK)), prepared=rows[1])
    with pytest.raises(ClusterError, match="took over"):
        train_trials.train_trials(lost, [trial], Worker(ALONE, torch.device("cpu"), ignore, rows[0].run))


class Watched(Store):
    """Note what is done to the states of packs and to the lists of members that are left out."""

    def __init__(self, *given, **named):
        self.done = []
        super().__init__(*given, **named)

    def remove(self, path):
        self.done += [path] if path.endswith("/states") else []
        super().remove(path)

    def write_json(self, path, value):
        self.done += [path] if path.endswith(f"/{train_trials.LEFT_OUT_FILE}") else []
        super().write_json(path, value)


def test_states_that_hold_a_lost_member_are_gone_before_it_is_written_down_as_lost(rows, tmp_path):
    store = Watched(str(tmp_path / "store"))
    search(rows, store, "Unlucky", [8, 13])
    (place,) = [place for place, path in enumerate(store.done) if path.endswith(train_trials.LEFT_OUT_FILE)]
    assert store.done[place - 1] == store.done[place].replace(train_trials.LEFT_OUT_FILE, "states")
