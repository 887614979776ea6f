"""Train all members a job asks for: by search, by seeds, by folds and bags, or one boosted after the other."""

from dataclasses import replace

from fmray.catalogue import ENSEMBLES
from fmray.records import Prepared
from fmray.train.pack import Plan
from fmray.tune.boost import boost
from fmray.tune.plans import plans_of
from fmray.tune.resample import resampled, trials_of
from fmray.tune.search import Hunt
from fmray.tune.sweep import Sweep, Workers, sweep, sweep_trials


def train_members(hunt: Hunt, prepared: Prepared, workers: Workers, device: str) -> Sweep:
    """Give every member, searched ones first, then those of them that were trained again.

    Args:
        hunt: What is asked; its job may have no ranges.
        prepared: Rows of the job with the first value of each range.
        workers: On how many a pack trains, where nothing is searched.
        device: Where the driver lets members speak while it boosts.

    Raises:
        TrainError: If no member could be trained.
    """
    job, store = hunt.job, hunt.store
    if job.ranges:
        found = hunt.search()
        if job.train.seeds.n == 1 and job.train.folds is None and job.ensemble.name != "bagging":
            return found
        return found.joined(hunt.finals(found))

    def train(plan: Plan) -> Sweep:
        return sweep(job, [plan], prepared, hunt.metric, store, workers, attempt=hunt.attempt, report=hunt.report)

    plans = plans_of(job, hunt.task)
    if hunt.starts:
        plans = [replace(plan, start=hunt.starts[plan.index % len(hunt.starts)]) for plan in plans]
    if job.ensemble.name == "adaboost":
        return boost(plans, prepared, store, train, ENSEMBLES.read("adaboost", job.ensemble.params), device)
    trials = trials_of(job, resampled(job, plans), hunt.prepare)
    return sweep_trials(trials, hunt.metric, store, workers, attempt=hunt.attempt, report=hunt.report)
