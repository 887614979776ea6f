"""Describe in words what a search will try and how long that takes, before training starts; imports no torch."""

from fmray.spec.explain import dotted
from fmray.spec.job import Job
from fmray.spec.packable import split_ranges
from fmray.tune.halving import expected_epochs, rungs_of
from fmray.tune.space import trial_groups


def describe(job: Job) -> dict[str, str]:
    """Describe a search as {topic: text}: how it proceeds, its structural and packable parameters, and its epochs."""
    structural, packable = split_ranges(job)
    groups = trial_groups(job)
    search = job.search
    epochs = job.train.num_epochs
    members = sum(len(group.members) for group in groups)
    rungs = rungs_of(job)
    budgets = [f"{search.epochs:,} epochs"] if search.epochs else []
    budgets += [f"{search.time:,.0f} seconds"] if search.time else []
    described = {
        "structural": [f"{dotted(keys)} {found.to_json()}" for keys, found in structural.items()],
        "packable": [f"{dotted(keys)} {found.to_json()}" for keys, found in packable.items()],
    }
    stop = f"the best 1/{search.eta} continue at epochs {', '.join(map(str, rungs))}" if rungs else "none is stopped"
    if search.by == "pbt":
        stop = f"every {search.interval_in(epochs)} epochs the worst quarter continues from copies of the best"
    expected = expected_epochs(members, epochs, rungs, search.eta)
    return {
        "search": f"{members} members by {search.by} in {len(groups)} structures, at least {len(groups)} packs; {stop}",
        **{kind: "; ".join(found) or "none" for kind, found in described.items()},
        "epochs": f"about {expected:,} in total, {members * epochs:,} if none is stopped"
        + (f"; at most {' and '.join(budgets)}" if budgets else ""),
    }
