"""Turn a job into the members that are trained, one plan each: per seed, per bootstrap sample, per fold.

Bootstrap samples and folds differ only in row weights, not in shapes, so their members train in one pack that reads the
data once. Only strict folds have inputs of their own, and hence a trial each.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from fmray.catalogue import ENSEMBLES
from fmray.ensemble.folds import FOLD, fold_rows
from fmray.records import Member, Prepared
from fmray.seeding import derive
from fmray.spec.explain import dotted
from fmray.spec.inputs import fitted
from fmray.spec.job import Job
from fmray.spec.pretrained import by_content
from fmray.spec.ranges import Values
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_for
from fmray.train.pack import Plan
from fmray.train.pretrained import pretrained_of
from fmray.tune.space import num_members
from fmray.tune.trial import Trial

LINEAR_LEARNING_RATES = (0.1, 0.02, 0.004, 0.0008)
"""Learning rates tried for the linear baseline."""
BAG = "ensemble.bagging"
"""Key in `Member.params`: the bootstrap sample that the member learns from."""
LINEAGE = "search.pbt.lineage"
"""Key in `Member.params` of a population based search: whose weights the member continued from, as text."""


def plans_of(job: Job, task: Ref) -> list[Plan]:
    """List the plans of a job without a search: one per seed."""
    seeds = job.train.seeds
    return [make_plan(job, task, i, {"train.seeds": i} if seeds.n > 1 else {}) for i in range(seeds.n)]


def make_plan(job: Job, task: Ref, index: int, params: dict[str, object]) -> Plan:
    """Plan a member of a job without ranges.

    Args:
        task: The task, `auto` already resolved; its parameters are the job's.
        params: Parameters that distinguish the member, by dotted path.
    """
    task = Ref(task.name, job.task.params)
    seed = derive(job.train.seed, "member", index)
    model = fitted(job.model, task.name)
    return Plan(
        index,
        seed,
        model=by_content(model),
        optimizer=job.train.optimizer,
        task=task,
        params=params,
        start=pretrained_of(model),
    )


def searched_plans(job: Job, task: Ref, structural: Values, members: Sequence[Values], first: int) -> list[Plan]:
    """Plan the members of one structure of a search.

    Args:
        first: Index of the first member.
    """
    named = {dotted(keys): value for keys, value in structural.items()}
    plans = []
    for index, values in enumerate(members, first):
        params = named | {dotted(keys): value for keys, value in values.items()}
        plans.append(make_plan(job.at({**structural, **values}), task, index, params))
    return plans


def job_of_member(job: Job, member: Member) -> Job:
    """Return the job of one member of a search, without ranges."""
    return job.at({keys: member.params[dotted(keys)] for keys in job.ranges})


def retrains_finalists(job: Job) -> bool:
    """Return whether the best members of a search are retrained: with more seeds, or with folds or bags."""
    return job.train.seeds.n > 1 or job.train.folds is not None or job.ensemble.name == "bagging"


def describe_members(job: Job) -> str:
    """Describe how many members a job trains, as in "256 search members, then up to 15 retrained finalists"."""
    folds = 1 if job.train.folds is None else job.train.folds.n
    bags = ENSEMBLES.read("bagging", job.ensemble.params).members if job.ensemble.name == "bagging" else 1
    per_configuration = job.train.seeds.n * folds * bags
    if job.ranges:
        searched = num_members(job)
        finalists = min(job.search.finalists, searched) * per_configuration
        retrained = f", then up to {finalists:,} retrained finalists" if retrains_finalists(job) else ""
        return f"{searched:,} search members{retrained}"
    if job.ensemble.name == "adaboost":
        return f"at most {ENSEMBLES.read('adaboost', job.ensemble.params).rounds:,} members, one per round"
    return f"{per_configuration:,} member{'s' * (per_configuration > 1)}"


def linear_plans(job: Job, task: Ref) -> list[Plan]:
    """List the plans behind the linear baseline: one per learning rate, so the baseline is tuned, too."""
    plain = Ref(task.name)
    return [
        Plan(
            i,
            derive(job.train.seed, "linear", i),
            model=Ref(codec_for(task.name).linear_model),
            optimizer=Ref("adam", {"lr": lr}),
            task=plain,
            params={"lr": lr},
        )
        for i, lr in enumerate(LINEAR_LEARNING_RATES)
    ]


def dropped_numeric_columns(prepared: Prepared) -> list[str]:
    """List the numeric columns that `auto` drops as row identifiers; a linear model can use them nevertheless."""
    return [name for step in prepared.steps for name in step["state"].get("left_out", [])]


def linear_job(job: Job, prepared: Prepared) -> Job:
    """Return the job of the linear baseline: same rows, batches and epochs, plain Adam, no schedule, clipping or ema.

    It also sees the numeric columns that `auto` drops for the model. If they would have helped, the gate that compares
    the model with its baselines has to notice.

    Args:
        prepared: Rows as the job prepares them.
    """
    steps = tuple(
        Ref(ref.name, {**ref.params, "keep": [*ref.params.get("keep", []), *left]})
        if (left := step["state"].get("left_out"))
        else ref
        for ref, step in zip(job.prepared_steps, prepared.steps, strict=True)
    )
    train = replace(
        job.train,
        optimizer=Ref("adam"),
        schedule=Ref("constant"),
        clip_norm=None,
        accumulate=1,
        ema=None,
        precision="float32",
        groups=(),
        phases={},
        start=None,
        warm_start=None,
    )
    return replace(job, train=train, steps=steps, ranges={})


def with_folds_and_bags(job: Job, plans: Sequence[Plan]) -> list[Plan]:
    """Replace each plan by one per fold and bootstrap sample that `train.folds` and `ensemble: bagging` ask for.

    Raises:
        SpecError: If the number of bootstrap samples is less than one.
    """
    expanded = list(plans)
    if job.train.folds is not None:
        expanded = fold_plans(expanded, job.train.folds.n, job.train.seed)
    if job.ensemble.name == "bagging":
        expanded = bagging_plans(expanded, ENSEMBLES.read("bagging", job.ensemble.params).members, job.train.seed)
    return expanded


def finalist_plans(job: Job, task: Ref, member: Member, first: int) -> list[Plan]:
    """Plan to retrain a finalist of a search: with every seed, fold and bootstrap sample that the job asks for.

    Args:
        job: The job, including its ranges.
        task: Name and parameters of the task; `auto` is already resolved.
        member: The finalist, as the search trained it.
        first: Index of the first member.
    """
    member_job = job_of_member(job, member)
    # it is retrained from scratch, so the lineage of its weights in the search does not apply
    params = {name: value for name, value in member.params.items() if name != LINEAGE}
    params["finalist of"] = member.index
    plans = [make_plan(member_job, task, seed, {**params, "train.seeds": seed}) for seed in range(job.train.seeds.n)]
    return [
        replace(plan, seed=derive(plan.seed, member.index), index=index)
        for index, plan in enumerate(with_folds_and_bags(member_job, plans), first)
    ]


class Prepare(Protocol):
    """Return the rows of a job without ranges, as its steps prepare them."""

    def __call__(self, job: Job, fold: int | None = None) -> Prepared:
        """Return the prepared rows.

        Args:
            fold: The fold that steps are not fitted on; None fits them on all training rows.
        """
        ...


def trials_of(job: Job, plans: Sequence[Plan], prepare: Prepare) -> list[Trial]:
    """Return one trial for a configuration; with strict folds, one per fold, each on rows prepared for that fold."""
    if job.train.folds is None or not job.train.folds.strict:
        return [Trial(0, 0, job=job, plans=tuple(plans), prepared=prepare(job))]
    plans_by_fold = [tuple(plan for plan in plans if plan.params[FOLD] == fold) for fold in range(job.train.folds.n)]
    return [
        Trial(fold, 0, job=job, plans=own_plans, prepared=prepare(job, fold), total=len(plans_by_fold))
        for fold, own_plans in enumerate(plans_by_fold)
    ]


def bagging_plans(plans: Sequence[Plan], n: int, seed: int) -> list[Plan]:
    """Return n plans per plan, each with its own bootstrap sample and initialisation."""
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
    """Return one plan per fold and plan; each member trains on all rows outside of its fold."""
    return _numbered(
        replace(plan, params={**plan.params, FOLD: fold}, rows={**plan.rows, **fold_rows(fold, folds, seed)})
        for plan in plans
        for fold in range(folds)
    )


def _numbered(plans: Iterable[Plan]) -> list[Plan]:
    return [replace(plan, index=index) for index, plan in enumerate(plans)]
