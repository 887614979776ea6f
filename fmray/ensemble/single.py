"""Take the one member that is best on validation."""

from collections import defaultdict
from statistics import fmean

from fmray.ensemble.candidates import Candidates
from fmray.records import Ensemble
from fmray.train.combine import alone


def single(candidates: Candidates) -> Ensemble:
    """Take the member that is best on validation; the earlier one where two are equal.

    Of configurations that were trained again with several seeds, take the one that is best on average, and of its seeds
    the median: the best of many seeds is luck.

    Source: Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks", MLSys 2021.
    """
    scores = [candidates.signed(output) for output in candidates.outputs]
    seeds = defaultdict[int, list[int]](list)
    for place, member in enumerate(candidates.members):
        if member.role == "finalist":
            seeds[member.params["finalist of"]].append(place)
    if not seeds:
        best = candidates.members[scores.index(max(scores))]
        return alone(best, f"best of {len(scores)} on validation")
    origin = max(seeds, key=lambda one: fmean(scores[place] for place in seeds[one]))
    own = sorted(seeds[origin], key=lambda place: scores[place])
    reason = f"median of {len(own)} seeds of the configuration of member {origin}, on average the best of {len(seeds)}"
    return alone(candidates.members[own[(len(own) - 1) // 2]], reason)
