"""Train all members a job asks for: by search, by seeds, by folds and bags, or one boosted after the other."""

from dataclasses import replace

from fmray.catalogue import ENSEMBLES
from fmray.records import Prepared
from fmray.train.pack import Plan
from fmray.tune.boost import boost
from fmray.tune.plans import plans_of
from fmray.tune.resample import resampled, trials_of
from fmray.tune.search import Search
from fmray.tune.sweep import Sweep, Workers, sweep, sweep_trials


def train_members(search: Search, prepared: Prepared, workers: Workers, device: str) -> Sweep:
    """Give every member, searched ones first, then those of them that were trained again.

    Args:
        search: What is asked; its job may have no ranges.
        prepared: Rows of the job with the first value of each range.
        workers: On how many a pack trains, where nothing is searched.
        device: Where the driver lets members predict while it boosts.

    Raises:
        TrainError: If no member could be trained.
    """
    job = search.job
    store = search.store
    if job.ranges:
        found = search.search()
        if job.train.seeds.n == 1 and job.train.folds is None and job.ensemble.name != "bagging":
            return found
        return found.joined(search.finals(found))

    def train(plan: Plan) -> Sweep:
        return sweep(
            job,
            [plan],
            prepared=prepared,
            metric=search.metric,
            store=store,
            workers=workers,
            attempt=search.attempt,
            report=search.report,
        )

    plans = plans_of(job, search.task)
    if search.starts:
        plans = [replace(plan, start=search.starts[plan.index % len(search.starts)]) for plan in plans]
    if job.ensemble.name == "adaboost":
        return boost(
            plans,
            prepared,
            store=store,
            train=train,
            params=ENSEMBLES.read("adaboost", job.ensemble.params),
            device=device,
        )
    trials = trials_of(job, resampled(job, plans), search.prepare)
    return sweep_trials(trials, search.metric, store, workers, attempt=search.attempt, report=search.report)
