"""Make one model of the members of a job, by the method it names."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fmray.data.lanes import Lanes
from fmray.ensemble.candidates import able, candidates_of, ensemble_outputs
from fmray.ensemble.cost import cost_of
from fmray.ensemble.folds import configurations, oof_candidates, with_folds
from fmray.ensemble.keep import Gain, choose
from fmray.metrics.metric import Metric, ranked
from fmray.records import Ensemble, Member, Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_of

PredictionsOf = Callable[[Sequence[int]], np.ndarray]
"""Indices of members -> their predictions for the sample of validation rows (M, n, C or T)."""
CHOOSY = ("greedy", "stacking")
"""Methods that weigh members, so they may be given every one that is kept."""


def combine(
    job: Job,
    members: Sequence[Member],
    prepared: Prepared,
    task: Ref,
    metric: Metric,
    gain: Gain,
    device: str,
    predictions_of: PredictionsOf | None = None,
) -> Ensemble:
    """Choose the members of the ensemble, and how their predictions are combined, on validation.

    Args:
        prepared: The rows that members learned from.
        gain: Compares two outputs on the same rows.
        predictions_of: Reads predictions made when members were trained; None lets them predict anew.

    Raises:
        TrainError: If no member can predict.
        DataError: If the tensors of one do not load.
    """
    pool = pool_of(job, members, metric)
    folds = job.train.folds
    seed = job.train.seed
    named = job.ensemble.name, job.ensemble.params
    if folds is not None and job.ensemble.name == "stacking":
        whole = configurations(pool, folds.n)
        found = with_folds(
            choose(
                *named, oof_candidates(whole, seed, prepared=prepared, task=task, metric=metric, device=device), gain
            ),
            whole,
        )
    else:
        found = choose(
            *named,
            candidates_of(pool, prepared, task=task, metric=metric, device=device, predictions_of=predictions_of),
            gain,
        )
    by_index = {member.index: member for member in pool}
    chosen = [by_index[index] for index in found.members]
    found = settled(found, chosen, prepared=prepared, task=task, device=device)
    return replace(found, cost=cost_of(chosen, found, prepared=prepared, task=task, device=device))


def settled(ensemble: Ensemble, members: Sequence[Member], prepared: Prepared, task: Ref, device: str) -> Ensemble:
    """Give the ensemble with what its decisions need, chosen on validation, or on a sample of it where it is large.

    Args:
        members: Those that the ensemble names, in its order.
    """
    codec = codec_of(prepared.target)
    if not codec.settles:
        return ensemble
    rows, found = Lanes(prepared, "val").sample()
    output = ensemble_outputs(ensemble, members, prepared, rows=rows, task=task, device=device)
    settings = codec.settle(output, found["target"], found.get("weight"), dict(task.params))
    return replace(ensemble, params={**ensemble.params, **settings})


def pool_of(job: Job, members: Sequence[Member], metric: Metric) -> list[Member]:
    """Give the members that may be combined: of a search, those that were trained again, or else its best.

    Methods that weigh members get all whose tensors are kept, unless members differ by fold.
    """
    if not job.ranges:
        return list(members)
    best = ranked(able(members), metric.higher_is_better)
    if job.ensemble.name in CHOOSY and job.train.folds is None:
        return best
    again = [member for member in best if member.role == "finalist"]
    return again or best[: job.search.finalists]
