from dataclasses import replace

import pytest
import torch

from fmray.errors import SpecError
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.tune.plans import bagging_plans, describe_members, fold_plans, plans_of, trials_of, with_folds_and_bags

JOB = {"name": "j", "data": {"path": "x", "target": "y"}, "train": {"seeds": 2}}


def plans():
    return plans_of(Job.from_json(JOB), Ref("classification"))


def test_every_member_is_bagged_with_samples_and_initialisations_of_its_own():
    found = bagging_plans(plans(), 3, 7)
    assert [plan.index for plan in found] == list(range(6))
    assert len({plan.rows["bootstrap"] for plan in found}) == len({plan.seed for plan in found}) == 6
    assert [plan.params["ensemble.bagging"] for plan in found] == [0, 1, 2, 0, 1, 2]
    assert found == bagging_plans(plans(), 3, 7)


def test_every_member_has_one_that_is_kept_from_each_fold():
    found = fold_plans(plans(), 4, 7)
    assert [plan.index for plan in found] == list(range(8))
    assert [plan.params["train.folds"] for plan in found] == [0, 1, 2, 3] * 2
    assert {(plan.rows["of"], plan.rows["salt"]) for plan in found} == {(4, found[0].rows["salt"])}
    assert [plan.seed for plan in found[::4]] == [plan.seed for plan in plans()]


def test_members_are_counted_in_words_as_they_are_planned():
    for changes in (
        {},
        {"train": {"seeds": 2, "folds": 3}},
        {"train": {"folds": 3}, "ensemble": {"bagging": {"members": 2}}},
    ):
        job = Job.from_json({**JOB, **changes})
        planned = len(with_folds_and_bags(job, plans_of(job, Ref("classification"))))
        assert describe_members(job) == f"{planned} members"
    assert describe_members(Job.from_json({**JOB, "train": {"seeds": 1}})) == "1 member"


def test_what_is_not_known_before_training_is_counted_as_a_bound():
    boosted = Job.from_json({**JOB, "train": {"seeds": 1}, "ensemble": {"adaboost": {"rounds": 7}}})
    assert describe_members(boosted) == "at most 7 members, one per round"
    searched = {
        **JOB,
        "model": {"mlp": {"dropout": {"uniform": [0, 0.5]}}},
        "search": {"members": 12, "finalists": 3},
    }
    assert describe_members(Job.from_json({**searched, "train": {"seeds": 1}})) == "12 search members"
    several = {**searched, "train": {"seeds": 2, "folds": 5}}
    assert describe_members(Job.from_json(several)) == "12 search members, then up to 30 retrained finalists"


def test_a_job_asks_for_folds_and_bags_together_or_for_neither():
    job = Job.from_json(JOB)
    assert with_folds_and_bags(job, plans()) == plans()
    both = Job.from_json({**JOB, "train": {"folds": 3}, "ensemble": {"bagging": {"members": 2}}})
    found = with_folds_and_bags(both, plans())
    assert len(found) == 12
    assert all(plan.rows.keys() == {"fold", "of", "salt", "bootstrap"} for plan in found)
    with pytest.raises(SpecError, match=r"ensemble\.bagging\.members"):
        with_folds_and_bags(replace(job, ensemble=Ref("bagging", {"members": 0})), plans())


def test_seeds_of_bags_fit_into_sixty_four_bits():
    torch.tensor([plan.rows["bootstrap"] for plan in bagging_plans(plans(), 5, 7)], dtype=torch.int64)


def test_strict_folds_are_trials_of_their_own_on_rows_of_their_own():
    def rows(job, fold=None):
        return f"rows without {fold}"

    value = {**JOB, "train": {"seeds": 2, "folds": {"n": 3, "strict": True}}}
    for strict in (True, False):
        value["train"]["folds"]["strict"] = strict
        job = Job.from_json(value)
        trials = trials_of(job, with_folds_and_bags(job, plans()), rows)
        assert sorted(plan.index for trial in trials for plan in trial.plans) == list(range(6))
        if strict:
            assert [trial.prepared for trial in trials] == ["rows without 0", "rows without 1", "rows without 2"]
            assert [{plan.rows["fold"] for plan in trial.plans} for trial in trials] == [{0}, {1}, {2}]
        else:
            assert [trial.prepared for trial in trials] == ["rows without None"]
