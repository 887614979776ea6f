"""Say how much of the best score of many is luck, and what the winner is really worth.

The best of many validation scores is too good, because the same rows chose it. Here rows are drawn again with
replacement, the winner is chosen on the rows drawn and scored on those left out: no row both chooses and scores.
Shape legend: M members, N rows, C classes or T targets, R replicates.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from fmray.evaluate.resampled import Scorer, scorer_of
from fmray.metrics.metric import Metric, weights_of
from fmray.records import Json
from fmray.seeding import stream

CHUNK_NUMBERS = 4_000_000
"""Weights held at once: 32 MB."""
MOST_REPLICATES, FEWEST_REPLICATES = 500, 20


@dataclass(frozen=True)
class Selection:
    """Hold what choosing the best of many did to its score.

    Args:
        metric: Which score.
        winner: Place of the best among the members given; the first where several are.
        raw: Its score on all rows, as the leaderboard shows it.
        corrected: What a winner chosen this way scores on rows that did not choose it.
        low, high: Middle share (the level asked for) of the out-of-bag scores; wide, for they are of a third of the
            rows each.
        optimism: How much better `raw` looks than `corrected`, whichever way the metric runs.
        error: Standard error of `corrected` from the number of replicates alone.
        num_rows: Rows, or groups where rows come in groups.
        num_members: Members chosen from.
        replicates: Resamplings that counted.
    """

    metric: str
    winner: int
    raw: float
    corrected: float
    low: float
    high: float
    optimism: float
    error: float
    num_rows: int
    num_members: int
    replicates: int

    def to_json(self) -> Json:
        """Give the record as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> "Selection":
        """Read back what `to_json` gave."""
        return cls(**value)


class Outputs(Protocol):
    """Hold what each member says about all rows; an array (M, N, ...) or a list of M arrays (N, ...)."""

    def __len__(self) -> int: ...

    def __getitem__(self, member: int, /) -> np.ndarray: ...


def corrected(
    metric: Metric,
    outputs: Outputs,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    seed: int = 0,
    replicates: int | None = None,
    level: float = 0.95,
) -> Selection:
    """Score the choice of the best member by rows that had no part in it.

    A replicate that leaves out too little to be scored (no row, or one class for a ranking) does not count.

    Args:
        group: Which rows belong together (N,); they are drawn together.
        replicates: How many resamplings; as many as are quick if None, from 20 to 500.

    Shapes:
        outputs: (M, N, C) probabilities, or (M, N) or (M, N, T) numbers; target: (N,) or (N, T); weight: (N,).

    Source: Tsamardinos et al., "Bootstrapping the out-of-sample predictions for efficient and accurate
    cross-validation", Machine Learning 107, 2018 (BBC).
    """
    num_members = len(outputs)
    sign = 1.0 if metric.higher_is_better else -1.0
    scorer = scorer_of(metric, [np.asarray(outputs[m]) for m in range(num_members)], np.asarray(target))
    w = weights_of(len(target), weight)
    everyone = list(range(num_members))
    scores = sign * scorer(everyone, w[None])[:, 0]
    winner = int(np.argmax(_able(scores)))
    wanted = replicates or int(np.clip(scorer.quick // num_members, FEWEST_REPLICATES, MOST_REPLICATES))
    units, num_units = _units(group, len(target))
    found = []
    for counts in _resamplings(num_units, wanted, len(target), seed):
        drawn = counts if units is None else counts.take(units, 1)
        in_bag = _able(sign * scorer(everyone, w * drawn))
        chosen = np.where(np.isneginf(in_bag).all(0), -1, in_bag.argmax(0))
        found.append(_score_each(scorer, chosen, w * (drawn == 0)))
    return _record(
        metric,
        np.concatenate(found),
        winner=winner,
        raw=sign * float(scores[winner]),
        num_rows=num_units,
        num_members=num_members,
        level=level,
    )


def _record(
    metric: Metric, found: np.ndarray, winner: int, raw: float, num_rows: int, num_members: int, level: float
) -> Selection:
    found = found[np.isfinite(found)]
    middle, low, high, error = (float("nan"),) * 4
    if len(found):
        middle = float(found.mean())
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
    if len(found) > 1:
        error = float(found.std(ddof=1) / np.sqrt(len(found)))
    optimism = (raw - middle) * (1 if metric.higher_is_better else -1)
    return Selection(
        metric.name,
        winner,
        raw=raw,
        corrected=middle,
        low=low,
        high=high,
        optimism=optimism,
        error=error,
        num_rows=num_rows,
        num_members=num_members,
        replicates=len(found),
    )


def _score_each(score: Scorer, chosen: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Score in each replicate the member chosen there; NaN where none was."""
    found = np.full(len(chosen), np.nan)
    for member in np.unique(chosen[chosen >= 0]):
        where = chosen == member
        found[where] = score([int(member)], w[where])[0]
    return found


def _able(scores: np.ndarray) -> np.ndarray:
    """Put scores that are undefined last."""
    return np.where(np.isnan(scores), -np.inf, scores)


def _units(group: np.ndarray | None, num_rows: int) -> tuple[np.ndarray | None, int]:
    if group is None:
        return None, num_rows
    names, place = np.unique(group, return_inverse=True)
    return place, len(names)


def _resamplings(num_units: int, replicates: int, num_rows: int, seed: int) -> Iterator[np.ndarray]:
    """Give how often each unit is drawn, replicates side by side, as many as fit.

    Shapes:
        yields: (at most R, num_units), whole numbers; each row sums to num_units.
    """
    random = stream(seed, "selection")
    width = max(1, CHUNK_NUMBERS // max(num_rows, 1))
    for start in range(0, replicates, width):
        some = range(min(width, replicates - start))
        yield np.stack([np.bincount(random.integers(0, num_units, num_units), minlength=num_units) for _ in some])
