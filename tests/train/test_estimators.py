"""Train estimators where packs of networks train: weights, seeds, folds, resuming, kills."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from train.estimators_kill import PARAMS, boosted
from tune.kill import prepared_rows

from fmray.catalogue import ESTIMATORS
from fmray.data.lanes import Lanes
from fmray.errors import SpecError
from fmray.events import Resumed
from fmray.metrics.find import find_metric
from fmray.records import Member
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.artefacts import digest_of, read_bytes
from fmray.train.combine import alone
from fmray.train.predict import Predictor
from fmray.tune.plans import plans_of
from fmray.tune.sweep import sweep

TASK = Ref("classification")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("boosted")


@pytest.fixture(scope="module")
def job(folder):
    return boosted(folder)


@pytest.fixture(scope="module")
def prepared(job, folder):
    return prepared_rows(job, folder)


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
    predictor = Predictor([member], alone(member), prepared, TASK)
    assert member.val_score == pytest.approx(roc_auc_score(target, predictor(x)[:, 1]), abs=1e-12)
    scores = [entry["value"] for entry in member.history if entry["metric"] == "roc_auc"]
    assert max(scores) == member.val_score
    assert scores.index(member.val_score) + 1 == member.best_epoch
    assert predictor.populations[0].estimator.rounds == member.best_epoch * PARAMS["rounds_per_epoch"]


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
    assert member.reason == "no improvement on validation for 2 epochs"
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
    predictor = Predictor([member], alone(member), prepared, TASK)
    np.testing.assert_allclose(predictor(x)[:, 1], expected.predict(x), rtol=1e-12)


def test_class_weights_are_those_of_the_task(job, prepared, store):
    weighted = replace(job, task=Ref("classification", {"class_weights": {"1": 50.0}}))
    plain, heavy = (train(one, prepared, store).members[0] for one in (job, weighted))
    x, _ = rows_of(prepared, "val")
    means = [Predictor([m], alone(m), prepared, TASK)(x)[:, 1].mean() for m in (plain, heavy)]
    assert means[1] > means[0] + 0.2


def test_numbers_are_learned_in_their_own_units(numbers, store):
    job = Job.from_json({"name": "n", "data": {"path": "d", "target": "y"}, "model": {"lightgbm": PARAMS}})
    prepared = numbers.prepared
    task = Ref("regression")
    (member,) = sweep(job, plans_of(job, task), prepared, numbers.metric, store).members
    x, target = rows_of(prepared, "val")
    said = Predictor([member], alone(member), prepared, task)(x)[:, 0]
    assert member.val_score == pytest.approx(1 - np.mean((said - target) ** 2) / np.var(target), rel=1e-9)
    assert member.val_score > 0.6


class _KilledError(KeyboardInterrupt):
    pass


@pytest.mark.slow
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


def test_rows_that_do_not_fit_into_memory_are_refused(job, prepared, store):
    job = replace(job, run=replace(job.run, memory=100))
    with pytest.raises(
        SpecError, match=r"run.memory: the 5\d\d training rows do not fit, and lightgbm learns from all"
    ):
        train(job, prepared, store)


@pytest.mark.cluster
def test_two_workers_of_ray_grow_trees_on_the_rows_of_both(job, prepared, tmp_path):
    """Two members, one after the other, whose connections must not be in each other's way."""
    job = trained(job, {"seeds": 2})
    job = replace(job, run=replace(job.run, workers=2))
    alone = train(job, prepared, Store(str(tmp_path / "alone"))).members
    both = train(job, prepared, Store(str(tmp_path / "both")), workers=2).members
    for here, there in zip(alone, both, strict=True):
        assert there.val_score == pytest.approx(here.val_score, abs=0.1)  # other bins, judged on 145 rows
        text = read_bytes(there).decode()
        rows = [int(line.partition("=")[2].split()[0]) for line in text.splitlines() if "internal_count=" in line]
        assert min(rows) > 0.7 * prepared.num_rows("train")  # of which a round takes four fifths, and a share has half


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "wanted"), [(0, 20), (2, 8)])
def test_kills_at_any_instant_change_nothing(tmp_path, ranks, wanted, num_kills):
    """Instants at which a process that trains becomes durable, and is killed by SIGKILL."""
    kills = num_kills(wanted)
    script = Path(__file__).with_name("estimators_kill.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "kills"), str(kills), str(ranks)],
        capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": str(script.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # LightGBM says that it listens
    assert len(found["results"]) == kills
    assert all(result["same members"] and not result["ended"] for result in found["results"]), found["results"]
    # the same rows, in as many shares as there are ranks: sums in another order, and trees as good
    assert found["scores"] == pytest.approx(found["alone"], abs=0.02)
    assert (found["hashes"] == found["hashes alone"]) == (ranks == 0)
