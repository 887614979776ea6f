"""Say how much members differ, and what their differences are worth to the mean of them.

For squared errors this is no estimate but an identity: the mean errs by the mean error of its members minus their
spread around it. Brier's score is the squared error of probabilities, so it obeys the same.
Shape legend: M members, N rows, C columns (classes or targets).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from fmray.metrics.metric import weights_of
from fmray.records import Json
from fmray.targets.classes import predicted
from fmray.targets.codec import codec_named


@dataclass(frozen=True)
class Diversity:
    """Hold how members differ on the same rows.

    Args:
        members: Their indices, in the order of `matrix`.
        measure: "brier" or "mse".
        mean_member: Weighted mean of the members' errors.
        ambiguity: Weighted mean spread of the members around their mean.
        ensemble: Error of the weighted mean prediction, which is the first minus the second.
        compared: What `matrix` holds: "disagreement", the share of rows where two members name different classes, or
            "correlation" of the errors of two members (None where a member's errors are constant).
        matrix: One row per member.
    """

    members: tuple[int, ...]
    measure: str
    mean_member: float
    ambiguity: float
    ensemble: float
    compared: Literal["disagreement", "correlation"]
    matrix: tuple[tuple[float | None, ...], ...]

    def to_json(self) -> Json:
        """Give the record as plain values."""
        return {**asdict(self), "members": list(self.members), "matrix": [list(row) for row in self.matrix]}

    @classmethod
    def from_json(cls, value: Json) -> "Diversity":
        """Read back what `to_json` gave."""
        matrix = tuple(tuple(row) for row in value["matrix"])
        return cls(**{**value, "members": tuple(value["members"]), "matrix": matrix})


def diversity(
    kind: str,
    members: Sequence[int],
    outputs: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    shares: Sequence[float] | None = None,
) -> Diversity:
    """Compare members on the same rows.

    Args:
        members: Their indices.
        shares: Weights of the members in their mean, which sum to 1; equal ones if None.

    Shapes:
        outputs: (M, N, C) probabilities, or (M, N) or (M, N, C) numbers; target: (N,) or (N, C); weight: (N,).
    """
    mean_member, ambiguity, ensemble = decomposed(kind, outputs, target=target, weight=weight, shares=shares)
    codec = codec_named(kind)
    if codec.names_classes:
        matrix = disagreement(outputs, weight).tolist()
    else:
        matrix = [
            [None if np.isnan(v) else float(v) for v in row] for row in correlation(outputs, target, weight, kind=kind)
        ]
    return Diversity(
        tuple(members),
        codec.error,
        mean_member=mean_member,
        ambiguity=ambiguity,
        ensemble=ensemble,
        compared="disagreement" if codec.names_classes else "correlation",
        matrix=tuple(map(tuple, matrix)),
    )


def decomposed(
    kind: str,
    outputs: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    shares: Sequence[float] | None = None,
) -> tuple[float, float, float]:
    """Give the mean error of members, their ambiguity, and the error of their mean.

    Each is worked out by itself; that the first two differ by the third is for tests to find. Of two classes one column
    counts, as in `brier`; several targets count alike, as in `mse`.

    Source: Krogh & Vedelsby, "Neural Network Ensembles, Cross Validation, and Active Learning", NIPS 1995.
    """
    w = weights_of(len(target), weight) / weights_of(len(target), weight).sum()
    a = np.full(len(outputs), 1 / len(outputs)) if shares is None else np.asarray(shares, np.float64)
    predicted_CMN, true_CN = _columns(kind, outputs, target)
    together = a @ predicted_CMN  # (C, N)
    per_column = np.array(
        [
            [a @ ((predictions - true) ** 2 @ w), a @ ((predictions - mean) ** 2 @ w), (mean - true) ** 2 @ w]
            for predictions, true, mean in zip(predicted_CMN, true_CN, together, strict=True)
        ]
    )
    mean_member, ambiguity, ensemble = (
        per_column.sum(0) if codec_named(kind).names_classes else per_column.mean(0)
    ).tolist()
    return mean_member, ambiguity, ensemble


def disagreement(outputs: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Give the share of rows where two members name different classes (M, M)."""
    predictions = np.stack([predicted(output) for output in outputs])
    w = weights_of(predictions.shape[1], weight)
    return np.asarray(np.stack([(predictions != one) @ w for one in predictions]) / w.sum())


def correlation(
    outputs: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None, *, kind: str = "number"
) -> np.ndarray:
    """Give the correlation of two members' errors (M, M), averaged over targets; NaN where errors are constant."""
    w = weights_of(len(target), weight) / weights_of(len(target), weight).sum()
    predicted_CMN, true_CN = _columns(kind, outputs, target)
    found = []
    for predictions, true in zip(predicted_CMN, true_CN, strict=True):
        errors = predictions - true
        errors = errors - (errors @ w)[:, None]
        scale = np.sqrt(errors**2 @ w)
        scale = np.where(scale > 1e-12 * np.abs(predictions - true).max(), scale, np.nan)
        found.append((errors * w) @ errors.T / np.outer(scale, scale))
    return np.asarray(np.mean(found, 0))


def _columns(kind: str, outputs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give what was predictions (C, M, N) and what is true (C, N), column by column."""
    codec = codec_named(kind)
    said_MNC, true_NC = codec.columns_of(np.asarray(outputs, np.float64), np.asarray(target))
    # of two classes that exclude each other, one says all
    first = 1 if codec.names_classes and said_MNC.shape[2] == 2 else 0
    return np.moveaxis(said_MNC[..., first:], 2, 0), np.asarray(true_NC[:, first:].T, np.float64)
