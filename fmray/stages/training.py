"""Train the members of a run, and its linear baseline."""

from dataclasses import replace
from functools import partial

from fmray.printable import in_yaml
from fmray.promote import started_from, starts_of
from fmray.stages.context import Context
from fmray.train.groups import described
from fmray.train.population import layout_of
from fmray.tune.plans import dropped_numeric_columns, linear_job, linear_plans
from fmray.tune.search import MemberTrainer
from fmray.tune.sweep import Sweep, sweep


def trainer_of(context: Context) -> MemberTrainer:
    """Say what members are to be trained, and what they begin with."""
    job = context.job
    if job.train.groups and not job.ranges:  # members of a search may name other parameters
        for text in described(job.train.groups, layout_of(job.model, context.prepared)):
            context.journal.note(text)
    trainer = MemberTrainer(
        job,
        context.task,
        prepare=context.prepare_as,
        metric=context.metric,
        store=context.store,
        attempt=context.run.id.partition("-")[2],
        report=context.journal,
    )
    if job.train.start is not None:
        find = partial(started_from, job, job.train.start)
    elif job.train.warm_start is not None:
        find = partial(starts_of, job, job.train.warm_start)
    else:
        return trainer
    starts = find(context.prepared, context.run, store=context.store, note=context.journal.note)
    return replace(trainer, starts=starts)


def with_variants(context: Context, trained: Sweep) -> Context:
    """Add every way in which the rows of trained members were prepared."""
    used = {member.prepared: member for member in trained.members if member.root and member.prepared}
    others = [used[name] for name in sorted(used.keys() - {context.prepared.fingerprint})]
    variants = {one.prepared: context.prepare_as(*context.way_of(one)) for one in others}
    return replace(context, prepared=replace(context.prepared, variants=variants)) if variants else context


def train_linear(context: Context) -> tuple[Context, Sweep]:
    """Train the linear baseline; add how its rows were prepared where that is not as the model's were."""
    job = linear_job(context.job, context.prepared)
    prepared = context.prepared
    plans = linear_plans(job, context.task) if "linear" in job.evaluate.baselines else []
    workers = 0 if context.job.ranges else context.workers
    if plans and (names := dropped_numeric_columns(prepared)):
        context.journal.note(
            f"the linear baseline also sees what auto leaves out for the model: {', '.join(map(in_yaml, names))}"
        )
        prepared = context.prepare_as(job)
    linear = sweep(
        job,
        plans,
        prepared=prepared,
        metric=context.metric,
        store=context.store,
        workers=workers,
        role="baseline",
        report=context.journal,
    )
    if prepared is context.prepared:
        return context, linear
    variants = {**context.prepared.variants, prepared.fingerprint: prepared}
    return replace(context, prepared=replace(context.prepared, variants=variants)), linear
