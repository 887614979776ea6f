"""Keep an ensemble only if it is better than the best single member, beyond what luck explains.

Weights and gain are cross-fitted: what is chosen on one half of validation, the best single member included, is judged
on the other half. So neither side is flattered by rows that it was chosen by.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fmray.catalogue import ENSEMBLES
from fmray.ensemble.candidates import Candidates
from fmray.ensemble.single import single
from fmray.errors import SpecError
from fmray.records import Ensemble, Interval

KEEP = ("when_better", "always")
WIDER = 1.14
"""Factor of the interval of a cross-fitted gain. The two halves' gains are no strangers: the member that is best on one
half is not the one judged there unless it is best on both, so gains are too low or too high together. Of equally good
members luck would keep up to 4.9 % (two members) where 2.5 % are meant; so widened it keeps at most 2.5 %."""

Method = Callable[[Candidates], Ensemble]
Gain = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None], Interval]
"""(ours, theirs, target, weight, group) -> how much better ours is, as `evaluate.intervals.paired` gives it."""


def choose(name: str, params: Mapping[str, Any], candidates: Candidates, gain: Gain) -> Ensemble:
    """Combine members by a method of the catalogue, or take the best single one where the method gains nothing.

    Args:
        params: Of the method, and `keep`: "when_better" (default) keeps an ensemble only if the interval of its gain
            over the best single member lies above 0, "always" keeps it in any case.
        gain: Compares two outputs on the same rows.

    Raises:
        SpecError: If the method is unknown, refuses its parameters, or `keep` is neither.
    """
    keep = params.get("keep", KEEP[0])  # of the user's own methods too
    if keep not in KEEP:
        raise SpecError(f"{keep!r}. Accepted: {' or '.join(KEEP)}.", f"ensemble.{name}.keep")
    own = {key: value for key, value in params.items() if key != "keep"}
    method: Method = partial(ENSEMBLES.find(name), **ENSEMBLES.arguments(name, own))
    alone = _scored(single(candidates), candidates)
    found = _scored(method(candidates), candidates)
    if len(set(found.members)) == 1:
        return found if name == "single" or len(candidates.members) == 1 else _noted(found, alone)
    measured = cross_fitted(method, candidates, gain)
    words = f"gain over the best single member {measured.value:.4g} ({measured.low:.4g} to {measured.high:.4g})"
    if keep == "always" or measured.low > 0:
        return replace(found, gain=measured, reason=f"{found.reason}; {words}")
    return replace(alone, reason=f"{alone.reason}; {found.name} was not kept: {words}")


def cross_fitted(method: Method, candidates: Candidates, gain: Gain) -> Interval:
    """Compare a method with the best single member on all rows, each judged by what was chosen without its half."""
    ours = []
    theirs = []
    order = [np.flatnonzero(candidates.half == side) for side in (False, True)]
    if min(len(rows) for rows in order) < 2:
        nothing = float("nan")
        return Interval(nothing, nothing, high=nothing, n=len(candidates.half), method="undefined")
    for side in (False, True):
        learned = candidates.some(candidates.half != side)
        judged = candidates.some(candidates.half == side)
        ours.append(judged.combined(method(learned)))
        theirs.append(judged.combined(single(learned)))
    back = np.argsort(np.concatenate(order))
    rows = (candidates.target, candidates.weight, candidates.group)
    found = gain(np.concatenate(ours)[back], np.concatenate(theirs)[back], *rows)
    low, high = (found.value + WIDER * (end - found.value) for end in (found.low, found.high))
    return replace(found, low=low, high=high, method=f"cross-fitted {found.method}")


def _noted(found: Ensemble, alone: Ensemble) -> Ensemble:
    return replace(alone, reason=f"{alone.reason}; {found.name} gave all weight to one member")


def _scored(ensemble: Ensemble, candidates: Candidates) -> Ensemble:
    return replace(ensemble, val_score=candidates.score(candidates.combined(ensemble)))
