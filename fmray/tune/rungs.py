"""Decide which members go on at a rung, over all members of a sweep.

A rung is an epoch at which members are compared by their best score so far. Each is judged once, when it arrives.
"""

from collections.abc import Mapping, Sequence

from fmray.spec.job import Job

NUM_RUNGS = 3
"""Comparisons that an unsaid first rung leaves room for."""
Scores = Mapping[int, float]
"""Member -> score, higher for better."""
Table = Mapping[int, Scores]
"""Epoch of a rung -> the scores there."""


def rungs_of(job: Job) -> tuple[int, ...]:
    """Give the epochs at which a job compares members to stop some; none where nobody is stopped."""
    search = job.search
    if not job.ranges or search.stop == "none" or search.by == "pbt":
        return ()
    return rung_epochs(job.train.num_epochs, search.eta, None if search.first_rung == "auto" else search.first_rung)


def rung_epochs(epochs: int, eta: int, first: int | None = None) -> tuple[int, ...]:
    """Give the epochs at which members are compared: the first, and eta times as many each time, before the last.

    Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020 (first at arXiv, 2018).
    """
    epoch = first or max(1, -(-epochs // eta**NUM_RUNGS))
    found = []
    while epoch < epochs:
        found.append(epoch)
        epoch *= eta
    return tuple(found)


def survivors(scores: Scores, arrived: Sequence[int], eta: int) -> set[int]:
    """Say which of the members that arrived go on: those among the best 1/eta of all that have a score here, or one.

    Of equal scores, that of the member with the smaller index is the better one.

    Args:
        scores: Of all members that have reached the rung, those that arrived included.
    """
    ranked = sorted(scores, key=lambda member: (-scores[member], member))
    return set(ranked[: max(1, len(ranked) // eta)]) & set(arrived)


def expected_epochs(members: int, epochs: int, rungs: Sequence[int], eta: int) -> int:
    """Count the epochs that members are trained for in all, if none stops for another reason."""
    total = 0
    alive = members
    before = 0
    for epoch in (*rungs, epochs):
        total += alive * (epoch - before)
        alive = max(1, alive // eta)
        before = epoch
    return total
