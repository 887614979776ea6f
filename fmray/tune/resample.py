"""Multiply the members of a job: one per bootstrap sample, one per fold.

They differ in how much each training row counts, which changes no shape, so they train in one pack over one pass; but
for strict folds, where each has inputs of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from fmray.catalogue import ENSEMBLES
from fmray.ensemble.folds import FOLD, fold_rows
from fmray.records import Member, Prepared
from fmray.seeding import derive
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.train.pack import Plan
from fmray.tune.heir import LINEAGE
from fmray.tune.plans import job_at, plan_of
from fmray.tune.trial import Trial

BAG = "ensemble.bagging"
"""Parameter of a member: which bootstrap sample it learns from."""


def resampled(job: Job, plans: Sequence[Plan]) -> list[Plan]:
    """Give the members a job asks for by `train.folds` and `ensemble: bagging`, for each one it asks for otherwise.

    Raises:
        SpecError: If fewer than one bootstrap sample is asked for.
    """
    found = list(plans)
    if job.train.folds is not None:
        found = fold_plans(found, job.train.folds.n, job.train.seed)
    if job.ensemble.name == "bagging":
        found = bagging_plans(found, ENSEMBLES.read("bagging", job.ensemble.params).members, job.train.seed)
    return found


def final_plans(job: Job, task: Ref, member: Member, first: int) -> list[Plan]:
    """Give the members that train one of a search again: with every seed, on every fold and bag that the job asks for.

    Args:
        job: With its ranges.
        task: The objective, decided.
        member: Of the search.
        first: Index of the first.
    """
    concrete = job_at(job, member)
    shown = {name: value for name, value in member.params.items() if name != LINEAGE}  # its weights start anew
    shown["finalist of"] = member.index
    plans = [plan_of(concrete, task, seed, {**shown, "train.seeds": seed}) for seed in range(job.train.seeds.n)]
    return [
        replace(plan, seed=derive(plan.seed, member.index), index=index)
        for index, plan in enumerate(resampled(concrete, plans), first)
    ]


class Prepare(Protocol):
    """Give the rows of a job without ranges, as its steps prepare them."""

    def __call__(self, job: Job, fold: int | None = None) -> Prepared:
        """Give them.

        Args:
            fold: That the steps do not learn from.
        """
        ...


def trials_of(job: Job, plans: Sequence[Plan], prepare: Prepare) -> list[Trial]:
    """Give the trials of one configuration: a single one, or with strict folds one per fold on rows of its own."""
    if job.train.folds is None or not job.train.folds.strict:
        return [Trial(0, 0, job=job, plans=tuple(plans), prepared=prepare(job))]
    of_fold = [tuple(plan for plan in plans if plan.params[FOLD] == fold) for fold in range(job.train.folds.n)]
    return [
        Trial(fold, 0, job=job, plans=own, prepared=prepare(job, fold), total=len(of_fold))
        for fold, own in enumerate(of_fold)
    ]


def bagging_plans(plans: Sequence[Plan], n: int, seed: int) -> list[Plan]:
    """Give n members for each, with a bootstrap sample and an initialisation of its own."""
    return _numbered(
        replace(
            plan,
            seed=derive(plan.seed, "bag", bag),
            params={**plan.params, BAG: bag},
            rows={**plan.rows, "bootstrap": derive(seed, "bootstrap", plan.index, bag)},
        )
        for plan in plans
        for bag in range(n)
    )


def fold_plans(plans: Sequence[Plan], folds: int, seed: int) -> list[Plan]:
    """Give one member per fold for each, which learns from all rows but those of its fold."""
    return _numbered(
        replace(plan, params={**plan.params, FOLD: fold}, rows={**plan.rows, **fold_rows(fold, folds, seed)})
        for plan in plans
        for fold in range(folds)
    )


def _numbered(plans: Iterable[Plan]) -> list[Plan]:
    return [replace(plan, index=index) for index, plan in enumerate(plans)]
