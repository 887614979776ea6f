"""Join what members say on the training rows they were kept from, and combine configurations rather than members.

With `train.folds` a configuration is several members, each trained without one fold. On a training row the one that
never saw it speaks; on new rows the mean of all of them does.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fmray.data.folds import Fold, folds_of
from fmray.data.lanes import Lanes
from fmray.ensemble.candidates import Candidates, able, half_of, outputs_of
from fmray.errors import TrainError
from fmray.metrics.metric import Metric, reasons_of
from fmray.ragged import by_row, empty_rows, values_of
from fmray.records import Ensemble, Json, Member, Prepared
from fmray.spec.ref import Ref

FOLD = "train.folds"
"""Parameter of a member: the fold it was kept from."""
Configuration = tuple[Member, ...]
"""Its members, one per fold, in the order of the folds."""


def fold_rows(fold: int, num_folds: int, seed: int) -> Json:
    """Say which rows count for a member that is kept from a fold; see `train.rowweights`."""
    own = Fold.of(fold, num_folds, seed)
    return {"fold": own.number, "of": own.num_folds, "salt": own.salt}


def configurations(members: Sequence[Member], num_folds: int) -> tuple[Configuration, ...]:
    """Group members that differ in nothing but their fold; those of which a fold is missing are left out.

    Raises:
        TrainError: If none is whole.
    """
    found: dict[str, dict[int, Member]] = {}
    for member in able(members):
        same = {name: value for name, value in member.params.items() if name != FOLD}
        key = repr((sorted(same.items()), member.model, member.structure, member.seed))
        found.setdefault(key, {})[member.params[FOLD]] = member
    whole = [tuple(own[fold] for fold in range(num_folds)) for own in found.values() if len(own) == num_folds]
    if not whole:
        failed = [member for member in members if member.val_score is None]
        reasons = f": {reasons_of(failed)}" if failed else ""
        raise TrainError(f"no configuration has all of its {num_folds} members{reasons}.", "train.folds")
    return tuple(whole)


def oof_outputs(
    configuration: Configuration, seed: int, prepared: Prepared, rows: np.ndarray, task: Ref, device: str = "cpu"
) -> np.ndarray:
    """Give the predictions of a configuration for training rows, each by the member that was not trained on it.

    Args:
        seed: As given to `fold_rows`.
        rows: Positions in the training sequence (N,).

    Shapes:
        returns: (N, C or T), float64, an entry for each target where rows have several.

    Raises:
        DataError: If the tensors of a member do not load.

    Source: Wolpert, "Stacked Generalization", Neural Networks 5, 1992.
    """
    lanes = Lanes(prepared, "train")
    num_folds = len(configuration)
    known = lanes.take(rows, ["target", "row_id", *["group"] * prepared.grouped])
    fold = folds_of(known["row_id"], known.get("group"), num_folds, Fold.of(0, num_folds, seed).salt)
    found: Any = None
    for number, member in enumerate(configuration):
        own = np.flatnonzero(fold == number)
        if len(own):
            predictions = outputs_of(member, prepared, split="train", rows=rows[own], task=task, device=device)
            by_fold = by_row(predictions, known["target"][own])
            found = empty_rows(len(rows), by_fold) if found is None else found
            found[own] = by_fold
    if found is None:
        raise TrainError("no training row is left. See the row accounting.", "train.folds")
    return values_of(found)


def oof_candidates(
    chosen: Sequence[Configuration], seed: int, prepared: Prepared, task: Ref, metric: Metric, device: str = "cpu"
) -> Candidates:
    """Let configurations predict training rows that they did not learn from; the first member stands for each.

    Args:
        chosen: As `configurations` gives them.
        seed: As given to `fold_rows`.
    """
    rows, found = Lanes(prepared, "train").sample()
    outputs = np.stack(
        [oof_outputs(own, seed, prepared=prepared, rows=rows, task=task, device=device) for own in chosen]
    )
    group = found.get("group")
    half = half_of(found["row_id"], group)
    members = tuple(own[0] for own in chosen)
    return Candidates(
        members, outputs, target=found["target"], weight=found.get("weight"), group=group, half=half, metric=metric
    )


def with_folds(ensemble: Ensemble, chosen: Sequence[Configuration]) -> Ensemble:
    """Let all members of the configurations predict that an ensemble of `oof_candidates` names.

    A configuration is the mean of its members; what combines configurations stays as it is.

    Raises:
        TrainError: If it combines otherwise than by mean or logistic regression.
    """
    if ensemble.combine not in ("mean", "logistic"):
        raise TrainError(
            f"'{ensemble.name}' does not combine means of members. Take stacking or greedy.", "train.folds"
        )
    by_first = {own[0].index: own for own in chosen}
    own = [by_first[index] for index in ensemble.members]
    groups = [number for number, members in enumerate(own) for _ in members]
    return replace(
        ensemble,
        members=tuple(member.index for members in own for member in members),
        weights=tuple(ensemble.weights[number] / len(own[number]) for number in groups),
        params={**ensemble.params, "groups": groups} if ensemble.combine == "logistic" else ensemble.params,
    )
