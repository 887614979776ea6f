"""Train estimators where packs of networks train: weights, seeds, folds, resuming, kills."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tune import kill

from fmray.catalogue import ESTIMATORS
from fmray.data.lanes import Lanes
from fmray.errors import SpecError
from fmray.events import Resumed
from fmray.metrics.find import find_metric
from fmray.records import Member
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.artefacts import digest_of
from fmray.train.combine import alone
from fmray.train.group import ALONE, Group
from fmray.train.predict import Voice
from fmray.train.workers import Worker
from fmray.tune.plans import plans_of
from fmray.tune.sweep import sweep
from fmray.tune.trial import Training, Trial

TASK = Ref("classification")
PARAMS = {"rounds_per_epoch": 3, "num_leaves": 7, "learning_rate": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("boosted")


@pytest.fixture(scope="module")
def job(folder):
    value = kill.write_data(folder).to_json() | {"model": {"lightgbm": PARAMS}}
    value["train"] = {"epochs": 6, "early_stop": {"patience": 3}, "order": {"num_lanes": 5}}
    return Job.from_json(value)


@pytest.fixture(scope="module")
def prepared(job, folder):
    return kill.prepared_rows(job, folder)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def train(job, prepared, store, **options):
    metric = find_metric("roc_auc", prepared.target)
    plans = options.pop("plans", None) or plans_of(job, TASK)
    return sweep(job, plans, prepared, metric, store, **options)


def trained(job, changes):
    return replace(job, train=replace(job.train, **changes))


def rows_of(prepared, split):
    found = Lanes(prepared, split).take(np.arange(prepared.num_rows(split)), ["x", "target"])
    return found["x"], found["target"]


def test_the_score_of_an_epoch_is_scikit_learns_of_the_model_that_is_kept(job, prepared, store):
    (member,) = train(job, prepared, store).members
    x, target = rows_of(prepared, "val")
    voice = Voice([member], alone(member), prepared, TASK)
    assert member.val_score == pytest.approx(roc_auc_score(target, voice(x)[:, 1]), abs=1e-12)
    scores = [entry["value"] for entry in member.history if entry["metric"] == "roc_auc"]
    assert max(scores) == member.val_score
    assert scores.index(member.val_score) + 1 == member.best_epoch
    assert voice.populations[0].estimator.rounds == member.best_epoch * PARAMS["rounds_per_epoch"]


def test_a_member_names_its_artefact_and_the_digest_of_the_file(job, prepared, store):
    (member,) = train(job, prepared, store).members
    assert member.artefact == "lightgbm"
    with open(f"{member.root}/model.txt", "rb") as file:
        assert digest_of(file.read()) == member.tensor_hash
    assert Member.from_json(member.to_json()) == member
    network = replace(member, artefact="tensors")
    assert "artefact" not in network.to_json()
    assert Member.from_json(network.to_json()) == network


def test_seeds_are_members_that_draw_apart_and_repeat_themselves(job, prepared, store):
    job = trained(job, {"seeds": replace(job.train.seeds, n=3)})
    first = train(job, prepared, store)
    assert first.widths == (1, 1, 1)
    assert len({member.tensor_hash for member in first.members}) == 3
    again = train(job, prepared, store, attempt="again")
    assert [m.tensor_hash for m in again.members] == [m.tensor_hash for m in first.members]


def test_patience_counts_blocks_of_rounds(job, prepared, store):
    job = trained(job, {"epochs": 200, "early_stop": replace(job.train.early_stop, patience=2)})
    (member,) = train(job, prepared, store).members
    assert member.status == "stopped"
    assert member.reason == "no better on validation for 2 epochs"
    assert member.epochs == member.best_epoch + 2


def test_rows_of_weight_zero_are_as_if_they_were_not_there(job, prepared, store, tmp_path):
    """Leaves count rows, so a row that weighs nothing must not be among them."""
    import lightgbm

    weights = (np.arange(prepared.num_rows("train")) % 3 > 0).astype(np.float32) * 2
    np.save(tmp_path / "w.npy", weights)
    plain = {"feature_fraction": 1.0, "bagging_fraction": 1.0}
    job = replace(job, model=Ref("lightgbm", {**PARAMS, **plain}))
    (plan,) = plans_of(trained(job, {"early_stop": None, "epochs": 1}), TASK)
    plan = replace(plan, rows={"weights": str(tmp_path / "w.npy")})
    (member,) = train(trained(job, {"early_stop": None, "epochs": 1}), prepared, store, plans=[plan]).members
    x, target = rows_of(prepared, "train")
    kept = weights > 0
    params = {"objective": "binary", "num_leaves": 7, "learning_rate": 0.2, "num_threads": 1, "verbosity": -1}
    params |= {"deterministic": True, "force_row_wise": True, "seed": plan.seed & 0x7FFFFFFF}
    expected = lightgbm.train(params, lightgbm.Dataset(x[kept], target[kept], weight=weights[kept]), 3)
    voice = Voice([member], alone(member), prepared, TASK)
    np.testing.assert_allclose(voice(x)[:, 1], expected.predict(x), rtol=1e-12)


def test_class_weights_are_those_of_the_task(job, prepared, store):
    weighted = replace(job, task=Ref("classification", {"class_weights": {"1": 50.0}}))
    plain, heavy = (train(one, prepared, store).members[0] for one in (job, weighted))
    x, _ = rows_of(prepared, "val")
    means = [Voice([m], alone(m), prepared, TASK)(x)[:, 1].mean() for m in (plain, heavy)]
    assert means[1] > means[0] + 0.2


def test_numbers_are_learned_in_their_own_units(numbers, store):
    job = Job.from_json({"name": "n", "data": {"path": "d", "target": "y"}, "model": {"lightgbm": PARAMS}})
    prepared = numbers.prepared
    task = Ref("regression")
    (member,) = sweep(job, plans_of(job, task), prepared, numbers.metric, store).members
    x, target = rows_of(prepared, "val")
    said = Voice([member], alone(member), prepared, task)(x)[:, 0]
    assert member.val_score == pytest.approx(1 - np.mean((said - target) ** 2) / np.var(target), rel=1e-9)
    assert member.val_score > 0.6


class _KilledError(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("rounds", [1, 4, 5, 9, 14])
def test_a_training_that_is_left_after_any_round_resumes_to_the_same_file(job, prepared, store, rounds, monkeypatch):
    job = replace(trained(job, {"early_stop": None}), run=replace(job.run, checkpoint_seconds=0))
    whole = train(job, prepared, store, attempt="whole").members
    estimator = ESTIMATORS.find("lightgbm")
    grow, calls = estimator.grow, []

    def until(self, number):
        calls.append(number)
        if len(calls) == rounds + 1:
            raise _KilledError
        grow(self, number)

    monkeypatch.setattr(estimator, "grow", until)
    with pytest.raises(_KilledError):
        train(job, prepared, store)
    events = []
    again = train(job, prepared, store, report=events.append)
    # the round before the one that was under way is the last that was kept
    assert calls[rounds + 1 :] == list(range(rounds, 18))
    assert [event.same for event in events if isinstance(event, Resumed)] == ["exact"]
    facts = [(m.tensor_hash, m.val_score, m.history, m.best_epoch) for m in whole]
    assert [(m.tensor_hash, m.val_score, m.history, m.best_epoch) for m in again.members] == facts


def test_several_workers_that_do_not_know_each_other_are_refused(job, prepared, store):
    training = Training("roc_auc", store, home=store.path("checkpoints", "x"), role="member", fence=_Open())
    trial = Trial(0, 0, job=job, plans=tuple(plans_of(job, TASK)), prepared=prepared)
    pair = _Pair(0, 2)
    with pytest.raises(SpecError, match="2 workers, and lightgbm trains in one process as yet"):
        training.train([trial], Worker(pair, torch.device("cpu"), lambda event: None, job.run))


class _Open:
    def check(self):
        pass


class _Pair(Group):
    """Two workers of which the other says what this one says."""

    def tell(self, said):
        return said

    def collect(self, own):
        return [own, own]

    def sum(self, tensor):
        return tensor


def test_rows_that_do_not_fit_into_memory_are_refused(job, prepared, store):
    job = replace(job, run=replace(job.run, memory=100))
    with pytest.raises(
        SpecError, match=r"run.memory: the 5\d\d training rows do not fit, and lightgbm learns from all"
    ):
        train(job, prepared, store)
    assert ALONE.network == {}


@pytest.mark.slow
def test_kills_at_any_instant_change_nothing(job, folder):
    """Twenty instants, at which a child that trains becomes durable, and is killed by SIGKILL."""
    kill.child(lambda: kill.train(job, folder, "whole", None, kill.Ranks()) and None)
    whole = json.loads((folder / "whole.json").read_text())
    number = 20
    for place in range(number):
        name = f"killed-{place}"
        at = 1 + place * whole["calls"] // number
        assert not kill.child(lambda n=name, at=at: kill.train(job, folder, n, at, kill.Ranks()))
        assert kill.child(lambda n=name: kill.train(job, folder, n, None, kill.Ranks()))
        assert json.loads((folder / f"{name}.json").read_text())["members"] == whole["members"]
