"""Sample the configurations of a search: structures, and members that differ in packable parameters only.

A draw is a pure function of the job: its seed, its ranges and the index of the draw. So a search that was killed draws
the same again, and one that is extended draws what it has not tried. Nothing here imports torch: `fmray check` draws.
"""

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from fmray.seeding import derive, stream
from fmray.spec.job import Job
from fmray.spec.packable import split_ranges
from fmray.spec.ranges import Keys, Range, Values

MEMBERS_PER_STRUCTURE = 32
MIN_STRUCTURES = 8
TRIES = 50
"""Draws per structure wanted; if too many of them are equal, the search has fewer structures."""
Ranges = dict[Keys, Range]


@dataclass(frozen=True)
class TrialGroup:
    """The members that are tried with one structure.

    Args:
        structure: Number of the structure in the search.
        structural: Values of the structural parameters.
        members: Values of the packable parameters, one mapping per member.
    """

    structure: int
    structural: Values
    members: tuple[Values, ...]


def trial_groups(job: Job) -> list[TrialGroup]:
    """Draw all groups of a search, or one group of one member for a job without ranges.

    With `by: optuna`, only the number of groups and members is valid: structures are proposed as results come in, see
    `tune.proposals`.
    """
    structural, packable = split_ranges(job)
    if job.search.by == "grid":
        members = tuple(_product(packable))
        return [TrialGroup(number, values, members) for number, values in enumerate(_product(structural))]
    groups = _generation(job, structural, packable=packable, members=job.search.members, generation=0, before=[])
    if job.search.more:
        groups += _generation(
            job,
            structural,
            packable=packable,
            members=job.search.more,
            generation=1,
            before=[group.structural for group in groups],
        )
    return groups


def num_members(job: Job) -> int:
    """Count the members a job's search tries."""
    return sum(len(group.members) for group in trial_groups(job))


def num_structures(job: Job, members: int) -> int:
    """Count the structures among which `members` are shared."""
    structural, _ = split_ranges(job)
    requested = job.search.structures
    distinct = math.prod(found.num_values for found in structural.values())
    wanted = max(MIN_STRUCTURES, members // MEMBERS_PER_STRUCTURE) if requested == "auto" else requested
    return int(min(distinct, wanted, members))


def shares(members: int, structures: int) -> list[int]:
    """Divide members equally among structures; the first structures get one of the remainder each."""
    each, remainder = divmod(members, structures)
    return [each + (index < remainder) for index in range(structures)]


def packable_draws(job: Job, packable: Ranges, num: int, *names: str | int) -> tuple[Values, ...]:
    """Draw the members of one structure.

    Args:
        names: Names of the random stream, see `seeding.derive`.
    """
    by = "random" if job.search.by == "random" else "sobol"
    seed = derive(job.train.seed, "search", *names)
    return tuple(_values(packable, point) for point in points(by, len(packable), num, seed))


def points(by: str, dimensions: int, num: int, seed: int) -> np.ndarray:
    """Draw points of the unit cube; with the same seed, a longer sequence begins with the shorter one.

    Shapes:
        returns: (num, dimensions), in [0, 1).

    Source: Owen, "Scrambling Sobol' and Niederreiter-Xing Points", 1998.
    """
    if not dimensions:
        return np.zeros((num, 0))
    if by == "random":
        return stream(seed, "points").random((num, dimensions))
    # scipy warns unless num is a power of two; other numbers of points only cover the cube less evenly
    with warnings.catch_warnings(action="ignore"):
        found: np.ndarray = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed)).random(num)
    return found


def _generation(
    job: Job, structural: Ranges, packable: Ranges, members: int, generation: int, before: Sequence[Values]
) -> list[TrialGroup]:
    """Draw `members` members; prefer structures that are not in `before`.

    Args:
        generation: 0 for a search, 1 for what `search.more` adds to it.
    """
    known = list(before)
    num = num_structures(job, members)
    fresh = _new_structures(job, structural, num=num, generation=generation, known=known)
    # reuse known structures if there are too few new ones
    chosen = [*fresh, *known[: num - len(fresh)]]
    groups = []
    for index, (structural_values, share) in enumerate(zip(chosen, shares(members, len(chosen)), strict=True)):
        number = known.index(structural_values) if structural_values in known else len(known) + index
        groups.append(TrialGroup(number, structural_values, packable_draws(job, packable, share, generation, index)))
    return groups


def _new_structures(job: Job, structural: Ranges, num: int, generation: int, known: Sequence[Values]) -> list[Values]:
    """Draw up to `num` different structures that are not among the known ones."""
    if math.prod(found.num_values for found in structural.values()) <= num + len(known):
        return [values for values in _product(structural) if values not in known][:num]
    by = "random" if job.search.by == "random" else "sobol"
    seed = derive(job.train.seed, "search structures", generation)
    found: list[Values] = []
    for point in points(by, len(structural), num * TRIES, seed):
        values = _values(structural, point)
        if values not in found and values not in known:
            found.append(values)
        if len(found) == num:
            break
    return found


def _values(ranges: Ranges, point: np.ndarray) -> dict[Keys, Any]:
    return {keys: found.at(float(share)) for (keys, found), share in zip(ranges.items(), point, strict=True)}


def _product(ranges: Ranges) -> Iterator[Values]:
    for values in itertools.product(*(found.values() for found in ranges.values())):
        yield dict(zip(ranges, values, strict=True))
