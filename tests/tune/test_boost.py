"""Boost through real sweeps, and read out-of-fold predictions of members that folds were kept from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tune.kill import prepared_rows, write_data

from fmray.data.lanes import Lanes
from fmray.ensemble.adaboost import ALPHA
from fmray.ensemble.candidates import candidates_of, outputs_of
from fmray.ensemble.cost import cost_of
from fmray.ensemble.folds import configurations, oof_candidates, oof_outputs, with_folds
from fmray.ensemble.stacking import stacking
from fmray.errors import SpecError, TrainError
from fmray.metrics.find import find_metric
from fmray.records import Ensemble
from fmray.spec.components import ensembles
from fmray.spec.components.ensembles import Adaboost
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Folds
from fmray.store import Store
from fmray.train.combine import combine_outputs
from fmray.train.rowweights import fold_of
from fmray.tune.boost import boost
from fmray.tune.plans import plans_of, with_folds_and_bags
from fmray.tune.sweep import sweep

TASK = Ref("classification")


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("boost")
    job = write_data(folder)
    seeds = replace(job.train.seeds, n=1)
    train = replace(job.train, epochs=2, early_stop=None, seeds=seeds)
    job = replace(job, train=train, run=replace(job.run, checkpoint_seconds=60))
    prepared = prepared_rows(job, folder)
    return job, prepared, find_metric("roc_auc", prepared.target), Store(str(folder / "store"))


def boosted(setting, rounds=3):
    job, prepared, _, store = setting
    job = replace(job, model=Ref("linear"), ensemble=Ref("adaboost", {"rounds": rounds}))
    return boost(plans_of(job, TASK), prepared, store, trained(setting, job), Adaboost(**job.ensemble.params)), job


def trained(setting, job):
    _, prepared, metric, store = setting
    return lambda plan: sweep(job, [plan], prepared, metric, store)


def test_every_round_learns_from_the_mistakes_of_those_before_it(setting):
    """The alphas follow from what the members say on the training rows."""
    (found, _), (_, prepared, _, _) = boosted(setting), setting
    lanes = Lanes(prepared, "train")
    target, rows = lanes.load(["target"])["target"], np.arange(lanes.num_rows)
    weights = np.ones(len(target)) / len(target)
    assert len(found.members) == 3
    for member in found.members:
        wrong = outputs_of(member, prepared, "train", rows, TASK, "cpu").argmax(1) != target
        error = weights @ wrong
        assert member.params[ALPHA] == pytest.approx(max(np.log((1 - error) / error), 0), abs=1e-9)
        weights *= np.exp(member.params[ALPHA] * wrong)
        weights /= weights.sum()
    assert len({member.tensor_hash for member in found.members}) == 3


def test_a_boosting_that_was_finished_is_read_back_and_one_that_was_not_goes_on(setting):
    first, _ = boosted(setting, 2)
    again, _ = boosted(setting, 2)
    longer, _ = boosted(setting, 3)
    assert again.reused
    assert again.members == first.members == longer.members[:2]
    assert setting[3].list("boost") == []


def test_boosting_is_of_one_configuration(setting):
    job, prepared, _, store = setting
    with pytest.raises(SpecError, match="the job has 2"):
        two = plans_of(replace(job, train=replace(job.train, seeds=replace(job.train.seeds, n=2))), TASK)
        boost(two, prepared, store, trained(setting, job), Adaboost())


@pytest.fixture(scope="module")
def folded(setting):
    job, prepared, metric, store = setting
    job = replace(job, train=replace(job.train, folds=3, seeds=replace(job.train.seeds, n=2)))
    found = sweep(job, with_folds_and_bags(job, plans_of(job, TASK)), prepared, metric, store)
    return job, configurations(found.members, 3)


def test_members_that_differ_in_their_fold_alone_are_one_configuration(folded):
    _, whole = folded
    assert [[member.index for member in own] for own in whole] == [[0, 1, 2], [3, 4, 5]]
    lost = [replace(member, val_score=None) if member.index == 4 else member for own in whole for member in own]
    assert [own[0].index for own in configurations(lost, 3)] == [0]
    with pytest.raises(TrainError, match="no configuration has all of its 3 members"):
        configurations(lost[3:], 3)


def test_on_each_training_row_the_member_speaks_that_never_saw_it(setting, folded):
    (_, prepared, _, _), (job, whole) = setting, folded
    lanes = Lanes(prepared, "train")
    rows = np.arange(lanes.num_rows)
    found = oof_outputs(whole[1], job.train.seed, prepared, rows, TASK)
    ids = lanes.load(["row_id"])["row_id"].view(np.int64)
    salt = with_folds_and_bags(job, plans_of(job, TASK))[0].rows["salt"]
    fold = fold_of(torch.from_numpy(ids[:, 0].copy()), 3, salt).numpy()
    for number, member in enumerate(whole[1]):
        said = outputs_of(member, prepared, "train", rows, TASK, "cpu")
        assert np.allclose(found[fold == number], said[fold == number], atol=1e-6)
        assert not np.allclose(found[fold != number], said[fold != number], atol=1e-3)


@pytest.mark.parametrize("kind", ["nnls", "logistic"])
def test_stacked_configurations_speak_by_the_mean_of_their_members(setting, folded, kind):
    (_, prepared, metric, _), (job, whole) = setting, folded
    some = oof_candidates(whole, job.train.seed, prepared, TASK, metric)
    short = stacking(some, ensembles.Stacking(kind=kind))
    said = np.random.default_rng(0).dirichlet([1, 1], (6, 50))
    means = {own[0].index: said[[m.index for m in own]].mean(0) for own in whole}
    expected = combine_outputs(short, np.stack([means[index] for index in short.members]))
    full = with_folds(short, whole)
    assert sum(full.weights) == pytest.approx(1)
    assert np.allclose(combine_outputs(full, said[list(full.members)]), expected)


def test_a_vote_of_configurations_is_refused(folded):
    with pytest.raises(TrainError, match="'vote' does not combine means"):
        with_folds(Ensemble("vote", (0,), (1.0,), combine="vote"), folded[1])


def test_candidates_say_what_their_members_say_on_validation(setting, folded):
    (_, prepared, metric, _), (_, whole) = setting, folded
    members = [member for own in whole for member in own]
    some = candidates_of(members, prepared, TASK, metric)
    assert some.indices == tuple(range(6))
    assert [some.score(output) for output in some.outputs] == pytest.approx([m.val_score for m in members], abs=1e-6)
    pair = Ensemble("soup", (0, 1), (1.0, 0.0), combine="soup")
    assert np.allclose(some.combined(pair), some.outputs[0], atol=1e-6)


def test_costs_are_counted_and_measured(setting, folded):
    (_, prepared, _, _), (_, whole) = setting, folded
    one, three = (
        cost_of(own, Ensemble("average", tuple(m.index for m in own), (1 / len(own),) * len(own)), prepared, TASK)
        for own in (whole[0][:1], whole[0])
    )
    assert one["parameters"] == (5 * 8 + 8) + (8 * 8 + 8) + (8 * 2 + 2)
    assert three["parameters"] == 3 * one["parameters"]
    assert one["rows_per_second"] > 0


def test_a_job_is_known_by_its_folds():
    value = {"name": "j", "data": {"path": "x", "target": "y"}, "train": {"folds": 5}}
    assert Job.from_json(value).train.folds == Folds(n=5)
