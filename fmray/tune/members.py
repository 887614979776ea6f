"""Train all members a job asks for: by search, by seeds, by folds and bags, or one boosted after the other."""

from fmray.metrics.metric import Metric
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.boost import boost
from fmray.tune.plans import plans_of
from fmray.tune.resample import resampled
from fmray.tune.search import Prepare, finals, search
from fmray.tune.sweep import Report, Sweep, Workers, sweep


def train_members(
    job: Job,
    task: Ref,
    prepared: Prepared,
    prepare: Prepare,
    metric: Metric,
    store: Store,
    workers: Workers,
    *,
    attempt: str = "",
    report: Report = lambda event: None,
    device: str = "cpu",
) -> Sweep:
    """Give every member, searched ones first, then those of them that were trained again.

    Args:
        task: The objective, decided.
        prepared: Rows of the job with the first value of each range.
        prepare: Gives the rows of a structure.
        workers: On how many a pack trains, where nothing is searched.
        device: Where the driver lets members speak while it boosts.

    Raises:
        TrainError: If no member could be trained.
    """
    if job.ranges:
        asked = (job, task, prepare)
        found = search(*asked, metric, store, attempt=attempt, report=report)
        if job.train.seeds.n == 1 and job.train.folds is None and job.ensemble.name != "bagging":
            return found
        return found.joined(finals(*asked, found, metric, store, attempt=attempt, report=report))
    plans, where = plans_of(job, task), (prepared, metric, store, workers)
    if job.ensemble.name == "adaboost":
        return boost(job, plans, *where, attempt=attempt, report=report, device=device)
    return sweep(job, resampled(job, plans), *where, attempt=attempt, report=report)
