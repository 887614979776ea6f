"""Decide how many copies of each training row go to the lanes, so that rare classes are seen more, common ones less.

The copies of a row follow from its id, its class's rate and the salt alone: not from its file, its work item, the rows
around it or who does the work.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Rates:
    """Say how many copies of a row there are.

    Args:
        by_class: Mean number of copies of a row of each class, in class order.
        salt: Another salt keeps and copies other rows.
        first: Smallest number drawn for a row of each class, which keeps that row whatever the rate; none where rates
            alone decide.
    """

    by_class: tuple[float, ...]
    salt: int
    first: tuple[float, ...] = ()


def rates_of(sample: Sample, target: Target) -> tuple[float, ...]:
    """Give the mean number of copies of a row of each class, in class order.

    With n_c training rows of class c: `over: r` is max(1, r max(n) / n_c), `under: r` is min(1, min(n) / (r n_c)),
    `share: r` is r.

    Raises:
        SpecError: If a rate is given for what is no class.
    """
    if sample.over is not None:
        return tuple(max(1.0, sample.over * max(target.counts) / count) for count in target.counts)
    if sample.under is not None:
        return tuple(min(1.0, min(target.counts) / (sample.under * count)) for count in target.counts)
    if sample.share is not None:
        return (sample.share,) * len(target.counts)
    rates = sample.rates or {}
    for name in rates:
        if name not in target.classes:
            raise SpecError(f"{name!r} is no class. {nearest(name, target.classes)}", "data.sample.rates")
    return tuple(rates.get(name, 1.0) for name in target.classes)


def draws_of(ids: np.ndarray, salt: int) -> np.ndarray:
    """Draw a number in [0, 1) for each row, by its id.

    Shapes:
        ids: (n, 2), uint64.
        returns: (n,), float64.
    """
    return uniform(mixed_ids(ids, key(0, "copies", "", salt))[:, None])


def num_copies(ids: np.ndarray, rates: np.ndarray, salt: int) -> np.ndarray:
    """Give each row floor(rate) copies, and one more with the chance that is left, by its id.

    Shapes:
        ids: (n, 2), uint64; rates: (n,).
        returns: (n,), int64.
    """
    whole = np.floor(rates)
    return np.asarray(whole + (draws_of(ids, salt) < rates - whole), np.int64)


def first_in_item(recipe: Recipe, target: Target, salt: int, item: WorkItem) -> tuple[float, ...]:
    """Give the smallest number drawn for a row of each class in an item, 1 where it has none."""
    _, codes, ids = _training_rows(recipe, target, item)
    found = np.ones(len(target.classes))
    np.minimum.at(found, codes, draws_of(ids, salt))
    return tuple(found.tolist())


def copy_item(recipe: Recipe, target: Target, rates: Rates, item: WorkItem) -> tuple[int, ...]:
    """Leave the copies of each row of an item in the scratch folder, and count those of each class."""
    rows, codes, ids = _training_rows(recipe, target, item)
    found = num_copies(ids, np.asarray(rates.by_class)[codes], rates.salt)
    if rates.first:
        found = np.maximum(found, draws_of(ids, rates.salt) == np.asarray(rates.first)[codes])
    copies = np.ones(len(np.asarray(hashes_of(recipe, item.index))), np.int64)
    copies[rows] = found
    save(_path(recipe, item.index), copies)
    return tuple(np.bincount(codes, found, len(target.classes)).astype(np.int64).tolist())


def _training_rows(recipe: Recipe, target: Target, item: WorkItem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the training rows of an item and their classes (n,), and the ids that copies are drawn by (n, 2).

    Where a share of labels is kept, equal rows of a class have one id: which of those with other labels is kept must
    not follow from their order.
    """
    data = recipe.dataset.data
    sides, occurrence = kept_rows(recipe, item.index)
    rows = np.flatnonzero(sides == TRAIN)
    encoded, _ = encode_target(some(read_item(recipe.dataset, item, data.target), sides == TRAIN), target, data)
    codes = np.asarray(encoded)
    by_label = data.sample is not None and data.sample.share is not None
    ids = row_ids(np.asarray(hashes_of(recipe, item.index))[rows], codes if by_label else occurrence[rows])
    return rows, codes, ids


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


def about_share(share: float, before: Target, after: Target) -> str:
    """Say in words how many labels are learned from."""
    of_all = f"{sum(after.counts):,} of {sum(before.counts):,} training rows"
    of_each = f"{min(after.counts):,} to {max(after.counts):,} of each of {len(after.classes):,} classes"
    text = f"data.sample.share {share:g}: the model learns from targets of {of_all}, {of_each}"
    return f"{text}; steps saw all rows, and auto all targets"


def _path(recipe: Recipe, index: int) -> str:
    return f"{recipe.scratch}/{index:06d}.copies.npy"
