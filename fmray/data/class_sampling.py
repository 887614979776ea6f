"""Decide how many copies of each training row go to the lanes, so that rare classes are seen more, common ones less.

The copies of a row follow from its id, its class's rate and the salt alone: not from its file, its work item, the rows
around it or who does the work.
"""

from collections.abc import Sequence

import numpy as np

from fmray.data.canonical import key
from fmray.data.duplicates import kept_rows
from fmray.data.hashing import mixed_ids, row_ids, uniform
from fmray.data.identify import OUT, Recipe, hashes_of, some
from fmray.data.scan import WorkItem, read_item
from fmray.data.scratch import load, save
from fmray.data.split import TRAIN
from fmray.data.target import encode_target
from fmray.errors import SpecError
from fmray.records import Target
from fmray.registry import nearest
from fmray.spec.sections import Sample

SHOWN = 10
"""Classes that a note names."""


def rates_of(sample: Sample, target: Target) -> tuple[float, ...]:
    """Give the mean number of copies of a row of each class, in class order.

    With n_c training rows of class c: `over: r` is max(1, r max(n) / n_c), `under: r` is min(1, min(n) / (r n_c)).

    Raises:
        SpecError: If a rate is given for what is no class.
    """
    if sample.over is not None:
        return tuple(max(1.0, sample.over * max(target.counts) / count) for count in target.counts)
    if sample.under is not None:
        return tuple(min(1.0, min(target.counts) / (sample.under * count)) for count in target.counts)
    rates = sample.rates or {}
    for name in rates:
        if name not in target.classes:
            raise SpecError(f"{name!r} is no class. {nearest(name, target.classes)}", "data.sample.rates")
    return tuple(rates.get(name, 1.0) for name in target.classes)


def num_copies(ids: np.ndarray, rates: np.ndarray, salt: int) -> np.ndarray:
    """Give each row floor(rate) copies, and one more with the chance that is left, by its id.

    Shapes:
        ids: (n, 2), uint64; rates: (n,).
        returns: (n,), int64.
    """
    whole = np.floor(rates)
    chance = uniform(mixed_ids(ids, key(0, "copies", "", salt))[:, None])
    return np.asarray(whole + (chance < rates - whole), np.int64)


def copy_item(recipe: Recipe, target: Target, rates: Sequence[float], salt: int, item: WorkItem) -> tuple[int, ...]:
    """Leave the copies of each row of an item in the scratch folder, and count those of each class."""
    data = recipe.dataset.data
    sides, occurrence = kept_rows(recipe, item.index)
    rows = np.flatnonzero(sides == TRAIN)
    encoded, _ = encode_target(some(read_item(recipe.dataset, item, data.target), sides == TRAIN), target, data)
    codes = np.asarray(encoded)
    ids = row_ids(np.asarray(hashes_of(recipe, item.index))[rows], occurrence[rows])
    copies = np.ones(len(sides), np.int64)
    copies[rows] = num_copies(ids, np.asarray(rates)[codes], salt)
    save(_path(recipe, item.index), copies)
    return tuple(np.bincount(codes, copies[rows], len(rates)).astype(np.int64).tolist())


def lane_copies(recipe: Recipe, index: int, sides: np.ndarray) -> np.ndarray:
    """Give how often each row of an item stands in the lanes: 0 if it goes nowhere, 1 unless it is sampled.

    Shapes:
        sides: (n,), once copies have gone.
        returns: (n,), int64.
    """
    goes = sides < OUT
    return goes.astype(np.int64) if recipe.dataset.data.sample is None else load(_path(recipe, index)) * goes


def about_rates(target: Target) -> str:
    """Say in words what sampling did."""
    changes = [
        f"{name} {count:,} -> {left:,}"
        for name, count, left in zip(target.classes, target.counts, target.sampled, strict=True)
    ]
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return (
        f"training rows by class, sampled: {', '.join(changes[:SHOWN])}{more}; "
        "probabilities are shifted back to the shares before"
    )


def _path(recipe: Recipe, index: int) -> str:
    return f"{recipe.scratch}/{index:06d}.copies.npy"
