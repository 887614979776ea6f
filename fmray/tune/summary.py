"""Summarise a search: what was tried, what was stopped, and how reliable the score of its winner is."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fmray.data.lanes import Lanes
from fmray.evaluate.diversity import diversity
from fmray.evaluate.intervals import interval
from fmray.evaluate.selection import corrected
from fmray.metrics.metric import Metric, ranked
from fmray.records import Ensemble, Json, Member, Prepared, SearchAccount
from fmray.seeding import derive
from fmray.spec.explain import dotted
from fmray.spec.job import Job
from fmray.spec.packable import split_ranges
from fmray.spec.ranges import Range
from fmray.tune.sweep import MAX_KEPT_MEMBERS, Sweep

LEADERBOARD_SIZE = 20
MAX_COMPARED_MEMBERS = 30
"""Number of members of an ensemble that are compared pairwise."""
Truth = dict[str, np.ndarray]


def summarise_search(job: Job, trained: Sweep, prepared: Prepared, metric: Metric, ensemble: Ensemble) -> SearchAccount:
    """Summarise a search for the report, on the validation sample that all members predicted."""
    searched = [member for member in trained.members if member.role == "member"]
    best = ranked(searched, metric.higher_is_better)[:MAX_KEPT_MEMBERS]
    _, truth = Lanes(prepared, "val").sample()
    structural, _ = split_ranges(job)
    return SearchAccount(
        space={dotted(keys): _describe_range(found, keys not in structural) for keys, found in job.ranges.items()},
        num_members=len(searched),
        num_structures=len({member.structure for member in searched}),
        num_packs=len(trained.widths),
        member_epochs=sum(member.epochs for member in searched),
        full_epochs=sum(_epochs(job, member) for member in searched),
        seconds=trained.seconds,
        rungs=tuple(_rung(trained, epoch) for epoch in sorted(trained.rungs)),
        leaderboard=tuple(
            _leader(trained, member, truth=truth, metric=metric, job=job) for member in best[:LEADERBOARD_SIZE]
        ),
        selection=_selection(trained, best, truth=truth, metric=metric, job=job) if len(best) > 1 else {},
        finalists=tuple(_finalists(trained.members)),
        diversity=_diversity(trained, ensemble, truth, metric),
        failed=tuple(
            {"member": m.index, "params": dict(m.params), "reason": m.reason} for m in searched if m.status == "failed"
        ),
    )


def _squeeze_outputs(predictions: np.ndarray) -> np.ndarray:
    return predictions[..., 0] if predictions.shape[-1] == 1 else predictions


def _epochs(job: Job, member: Member) -> int:
    return int(member.params.get("train.epochs", job.train.num_epochs))


def _describe_range(found: Range, packable: bool) -> Json:
    bounds: Json = {"options": list(found.options)} if found.options else {"low": found.low, "high": found.high}
    return {"kind": found.kind, **bounds, "packable": packable}


def _rung(trained: Sweep, epoch: int) -> Json:
    scores = trained.rungs[epoch]
    survived = [scores[member.index] for member in trained.members if member.index in scores and member.epochs > epoch]
    return {"epoch": epoch, "reached": len(scores), "survived": len(survived), "cutoff": min(survived, default=None)}


def _leader(trained: Sweep, member: Member, truth: Truth, metric: Metric, job: Job) -> Json:
    predictions = _squeeze_outputs(trained.predictions_of([member.index])[0]).astype(np.float64)
    bounds = interval(
        metric, (predictions, truth["target"], truth.get("weight")), truth.get("group"), job.evaluate.level
    )
    return {"member": member.index, "score": member.val_score, "low": bounds.low, "high": bounds.high}


def _selection(trained: Sweep, best: Sequence[Member], truth: Truth, metric: Metric, job: Job) -> Json:
    predictions = _squeeze_outputs(trained.predictions_of([member.index for member in best]))
    rest = (truth["target"], truth.get("weight"), truth.get("group"))
    found = corrected(metric, predictions, *rest, seed=derive(job.train.seed, "selection"), level=job.evaluate.level)
    return {**found.to_json(), "winner": best[found.winner].index}


def _finalists(members: Sequence[Member]) -> list[Json]:
    """Return the spread over seeds of each configuration that was retrained."""
    scores = defaultdict[int, list[float]](list)
    by_index = {member.index: member for member in members}
    for member in members:
        if member.role == "finalist" and member.val_score is not None:
            scores[member.params["finalist of"]].append(member.val_score)
    return [
        {
            "member": origin,
            "params": dict(by_index[origin].params),
            "scores": found,
            "mean": statistics.fmean(found),
            "sd": statistics.stdev(found) if len(found) > 1 else None,
        }
        for origin, found in scores.items()
    ]


def _diversity(trained: Sweep, ensemble: Ensemble, truth: Truth, metric: Metric) -> Json:
    """Compare the members of the ensemble pairwise; of a large ensemble, those with the largest weights."""
    if len(set(ensemble.members)) < 2 or ensemble.combine != "mean":
        return {}
    heaviest = sorted(zip(ensemble.weights, ensemble.members, strict=True), reverse=True)[:MAX_COMPARED_MEMBERS]
    total = sum(weight for weight, _ in heaviest)
    shares = [weight / total for weight, _ in heaviest]
    members = [member for _, member in heaviest]
    predictions = _squeeze_outputs(trained.predictions_of(members)).astype(np.float64)
    return diversity(
        metric.kind, members, outputs=predictions, target=truth["target"], weight=truth.get("weight"), shares=shares
    ).to_json()
