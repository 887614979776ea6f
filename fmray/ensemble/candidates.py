"""Hold what members say on validation, which is all that an ensemble is chosen by.

Rows fall into two halves by a hash of their group or identity, so that a choice made on one half is judged on the other
and no row, whoever prepared it and in whatever order, ever changes sides.
Shape legend: M members, N rows, C classes, T targets.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fmray.data.canonical import mix
from fmray.data.hashing import mixed_ids
from fmray.data.lanes import Lanes
from fmray.errors import TrainError
from fmray.metrics.metric import Metric, reasons_of, weights_of
from fmray.records import Ensemble, Member, Prepared, Split
from fmray.seeding import derive
from fmray.spec.ref import Ref
from fmray.targets.codec import codec_named
from fmray.train.combine import alone, combine_outputs
from fmray.train.predict import Inputs, Predictor, inputs_of

BLOCK_ROWS = 1 << 14
_HALF = np.uint64(derive(0, "half of validation"))

Predict = Callable[[Ensemble], np.ndarray]
"""Ensemble -> its outputs (N, C or T), where they do not follow from those of its members."""


@dataclass(frozen=True)
class Candidates:
    """Hold the members an ensemble may take, and what each predicts for the rows it is chosen by.

    Args:
        members: Those with a score on validation and tensors that are kept.
        outputs: (M, N, C) probabilities, or (M, N, T) numbers in target units; any float type.
        target: (N,) class indices or numbers, or (N, T).
        weight: (N,), or None where all rows count the same.
        group: (N,), which rows belong together, or None.
        half: (N,) bool, as `half_of` gives it.
        metric: The one that decides.
        predict: Gives the outputs of averaged parameters; None where there are no tensors at hand.
    """

    members: tuple[Member, ...]
    outputs: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None
    group: np.ndarray | None
    half: np.ndarray
    metric: Metric
    predict: Predict | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise TrainError("no member has a validation score and kept tensors. See their reasons.", "ensemble")

    @property
    def indices(self) -> tuple[int, ...]:
        """Name the members by their positions in the sweep."""
        return tuple(member.index for member in self.members)

    def some(self, rows: np.ndarray) -> "Candidates":
        """Give the same members on some of the rows, given as (N,) bool."""
        predict = self.predict
        return replace(
            self,
            outputs=self.outputs[:, rows],
            target=self.target[rows],
            weight=None if self.weight is None else self.weight[rows],
            group=None if self.group is None else self.group[rows],
            half=self.half[rows],
            predict=None if predict is None else lambda ensemble: predict(ensemble)[rows],
        )

    def combined(self, ensemble: Ensemble) -> np.ndarray:
        """Give the predictions of an ensemble of these members (N, C or T).

        Raises:
            TrainError: If it averages parameters and there are none at hand.
        """
        if ensemble.combine == "soup":
            if self.predict is None:
                raise TrainError("parameters are averaged, and no tensors are at hand. Take average.", "ensemble.soup")
            return self.predict(ensemble)
        place = {index: place for place, index in enumerate(self.indices)}
        return combine_outputs(ensemble, self.outputs[[place[index] for index in ensemble.members]])

    def score(self, output: np.ndarray) -> float:
        """Give the metric of a combined output (N, C or T); NaN where undefined."""
        shown = output[:, 0] if output.shape[1] == 1 else output
        return self.metric.value(shown, self.target, self.weight)

    def signed(self, output: np.ndarray) -> float:
        """Give the metric so that higher is better, and nothing worse than an undefined one."""
        value = self.score(output) * (1.0 if self.metric.higher_is_better else -1.0)
        return float("-inf") if np.isnan(value) else value

    def weights(self) -> np.ndarray:
        """Give each row's weight (N,), 1 where none is given."""
        return weights_of(self.outputs.shape[1], self.weight)

    def true_class(self) -> np.ndarray:
        """Give the probability that each member gave to the class of each row (M, N)."""
        return np.asarray(self.outputs[:, np.arange(len(self.target)), self.classes], np.float64)

    @property
    def classes(self) -> np.ndarray:
        """Class of each row (N,)."""
        return codec_named(self.metric.kind).true_class(self.target)

    def residual_gram(self) -> np.ndarray:
        """Give the weighted products of the members' errors, of which squared error of any mean follows: w' G w.

        Errors are of probabilities, or of numbers in standard deviations of their target.

        Shapes:
            returns: (M, M), float64.
        """
        num = len(self.members)
        rows = self.outputs.shape[1]
        weights = self.weights()
        gram = np.zeros((num, num))
        codec = codec_named(self.metric.kind)
        scale = codec.scale_of(self.target)
        scale = np.where(scale > 0, scale, 1.0)
        for start in range(0, rows, BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            predictions, true = codec.columns_of(self.outputs[:, block], self.target[block])
            error = (predictions - true) / scale
            error = (error * np.sqrt(weights[block])[:, None]).reshape(num, -1)
            gram += error @ error.T
        gram /= weights.sum()
        return gram


def half_of(row_id: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """Say which half of validation each row is in: by its group where rows are grouped, else by its identity.

    Shapes:
        row_id: (N, 2), uint64; group: (N,), uint64.
        returns: (N,), bool.
    """
    words = mixed_ids(row_id, _HALF) if group is None else mix(group.astype(np.uint64), _HALF)
    half: np.ndarray = (words & np.uint64(1)).astype(bool)
    return half


def able(members: Sequence[Member]) -> tuple[Member, ...]:
    """Give the members that have a score on validation and a folder of kept tensors."""
    return tuple(member for member in members if member.val_score is not None and member.root)


def candidates_of(
    members: Sequence[Member],
    prepared: Prepared,
    task: Ref,
    metric: Metric,
    device: str = "cpu",
    predictions_of: Callable[[Sequence[int]], np.ndarray] | None = None,
) -> Candidates:
    """Let members predict validation, or on a sample of it where it is large.

    Args:
        predictions_of: Indices of members -> their predictions for these rows, made when they were trained
            (M, N, C or T); None lets them predict anew.

    Raises:
        TrainError: If no member can predict.
        DataError: If the tensors of one do not load.
    """
    chosen = able(members)
    lanes = Lanes(prepared, "val")
    if not chosen:
        text = f"none of {len(members)} members has a validation score: {reasons_of(members)}."
        raise TrainError(text, "ensemble")
    rows, found = lanes.sample()

    def predict(ensemble: Ensemble) -> np.ndarray:
        by_index = {member.index: member for member in chosen}
        named = [by_index[index] for index in ensemble.members]
        return ensemble_outputs(ensemble, named, prepared, rows=rows, task=task, device=device)

    if predictions_of is None:
        outputs = np.stack(
            [outputs_of(member, prepared, split="val", rows=rows, task=task, device=device) for member in chosen]
        )
    else:
        outputs = predictions_of([member.index for member in chosen])
    group = found.get("group")
    half = half_of(found["row_id"], group)
    return Candidates(
        chosen,
        outputs,
        target=found["target"],
        weight=found.get("weight"),
        group=group,
        half=half,
        metric=metric,
        predict=predict,
    )


def ensemble_outputs(
    ensemble: Ensemble, members: Sequence[Member], prepared: Prepared, rows: np.ndarray, task: Ref, device: str
) -> np.ndarray:
    """Give the predictions of an ensemble for the rows at some positions of validation (N, C or T).

    Args:
        members: Those that the ensemble names, in its order.
    """
    predictor = Predictor(members, ensemble, prepared=prepared, task=task, device=device)
    return np.concatenate([predictor(x) for x in _inputs(members, prepared, "val", rows)])


def outputs_of(
    member: Member, prepared: Prepared, split: Split, rows: np.ndarray, task: Ref, device: str
) -> np.ndarray:
    """Give the predictions of one member for the rows at some positions of a split (N, C or T).

    Raises:
        DataError: If its tensors do not load.
    """
    predictor = Predictor([member], alone(member), prepared=prepared, task=task, device=device)
    return np.concatenate([predictor(x) for x in _inputs([member], prepared, split, rows)])


def _inputs(members: Sequence[Member], prepared: Prepared, split: Split, rows: np.ndarray) -> Iterator[Inputs]:
    for start in range(0, len(rows), BLOCK_ROWS):
        yield inputs_of(members, prepared, split, rows[start : start + BLOCK_ROWS])
