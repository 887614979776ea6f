"""Turn a job into the members that are to be trained, one plan each."""

from collections.abc import Sequence
from dataclasses import replace

from fmray.records import Member, Prepared
from fmray.seeding import derive
from fmray.spec.explain import dotted
from fmray.spec.job import Job
from fmray.spec.ranges import Values
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_for
from fmray.train.pack import Plan

LINEAR_RATES = (0.1, 0.02, 0.004, 0.0008)


def plans_of(job: Job, task: Ref) -> list[Plan]:
    """List the members of a job that searches nothing: one per seed."""
    seeds = job.train.seeds
    return [plan_of(job, task, i, {"train.seeds": i} if seeds.n > 1 else {}) for i in range(seeds.n)]


def plan_of(job: Job, task: Ref, index: int, params: dict[str, object]) -> Plan:
    """Plan a member of a job without ranges.

    Args:
        task: The objective, decided; its parameters are the job's.
        params: What sets the member apart, by dotted path.
    """
    own = Ref(task.name, job.task.params)
    seed = derive(job.train.seed, "member", index)
    return Plan(index, seed, model=job.model, optimizer=job.train.optimizer, task=own, params=params)


def searched_plans(job: Job, task: Ref, structural: Values, members: Sequence[Values], first: int) -> list[Plan]:
    """Plan the members of one structure of a search.

    Args:
        first: Index of the first.
    """
    named = {dotted(keys): value for keys, value in structural.items()}
    plans = []
    for index, values in enumerate(members, first):
        params = named | {dotted(keys): value for keys, value in values.items()}
        plans.append(plan_of(job.at({**structural, **values}), task, index, params))
    return plans


def job_at(job: Job, member: Member) -> Job:
    """Give the job of one member of a search, without ranges."""
    return job.at({keys: member.params[dotted(keys)] for keys in job.ranges})


def linear_plans(job: Job, task: Ref) -> list[Plan]:
    """List the members behind the linear baseline: one per learning rate, so that none can be called badly tuned."""
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
        for i, lr in enumerate(LINEAR_RATES)
    ]


def left_out_numbers(prepared: Prepared) -> list[str]:
    """Name the number columns that `auto` leaves out as names of rows, which a linear model can use all the same."""
    return [name for step in prepared.steps for name in step["state"].get("left_out", [])]


def linear_job(job: Job, prepared: Prepared) -> Job:
    """Give the job by which the linear baseline trains: same rows and batches, patient, nothing fancy.

    It sees the numbers that `auto` leaves out for the model too: where they would have helped, the gate that compares
    the model with its baselines must be able to tell.

    Args:
        prepared: As the job prepares its rows.
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
