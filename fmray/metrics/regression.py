"""Judge numbers: squared and absolute errors and the share of variance explained.

Several targets count alike, as in scikit-learn's uniform average. All follow from a few sums per target.
Shape legend: N rows, T targets.
"""

import math

import numpy as np

from fmray.metrics.exact import Exact, RowSums, Terms, mean, products, ratio
from fmray.metrics.metric import Metric, weights_of


def _columns(values: np.ndarray) -> np.ndarray:
    numbers = np.asarray(values, np.float64)
    return numbers[:, None] if numbers.ndim == 1 else numbers


def _means(values_NT: np.ndarray, w: np.ndarray) -> np.ndarray:
    return np.asarray(w @ values_NT / w.sum())


def _mse_of(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    squares_NT = (_columns(output) - _columns(target)) ** 2
    return squares_NT, _means(squares_NT, w)


def _mse(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    return float(_mse_of(output, target, weights_of(len(target), weight))[1].mean()) if len(target) else float("nan")


def _mse_influence(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    w = weights_of(len(target), weight)
    squares, means = _mse_of(output, target, w)
    return np.asarray(w * (squares - means).mean(1) / w.sum())


def _rmse(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    if not len(target):
        return float("nan")
    return float(np.sqrt(_mse_of(output, target, weights_of(len(target), weight))[1]).mean())


def _rmse_influence(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    w = weights_of(len(target), weight)
    squares, means = _mse_of(output, target, w)
    halves = np.divide(0.5, np.sqrt(means), out=np.zeros_like(means), where=means > 0)
    return np.asarray(w * ((squares - means) * halves).mean(1) / w.sum())


def _mae(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    if not len(target):
        return float("nan")
    return float(_means(np.abs(_columns(output) - _columns(target)), weights_of(len(target), weight)).mean())


def _mae_influence(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    w = weights_of(len(target), weight)
    errors = np.abs(_columns(output) - _columns(target))
    return np.asarray(w * (errors - _means(errors, w)).mean(1) / w.sum())


def _spread(target: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = _columns(target) - _means(_columns(target), w)
    return centred**2, _means(centred**2, w)


def _r2(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    if len(target) < 2:
        return float("nan")
    w = weights_of(len(target), weight)
    error, variance = _mse_of(output, target, w)[1], _spread(target, w)[1]
    if not (variance > 0).all():
        return float("nan")
    return float((1 - error / variance).mean())


def _r2_influence(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    w = weights_of(len(target), weight)
    squares, error = _mse_of(output, target, w)
    around, variance = _spread(target, w)
    inverse = np.divide(1.0, variance, out=np.zeros_like(variance), where=variance > 0)
    pulled_NT = -(squares - error) * inverse + error * inverse**2 * (around - variance)
    return np.asarray(w * pulled_NT.mean(1) / w.sum())


def _grouped(values_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    num_rows, num_targets = values_NT.shape
    return values_NT.ravel(), np.tile(np.arange(num_targets), num_rows), num_targets


def _square_terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
    squares_NT = (_columns(output) - _columns(target)) ** 2
    return {"errors": _grouped(w[:, None] * squares_NT), "weight": (w, None, 1)}


def _distance_terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
    distances_NT = np.abs(_columns(output) - _columns(target))
    return {"errors": _grouped(w[:, None] * distances_NT), "weight": (w, None, 1)}


def _r2_terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
    """Sum targets and their squares to the last bit: their variance is a small difference of large sums."""
    target_NT = _columns(target)
    first = products(np.broadcast_to(w[:, None], target_NT.shape), target_NT)
    second = [part for factor in first for part in products(factor, target_NT)]
    return {
        **_square_terms(output, target, w),
        "target": _grouped(np.concatenate(first)),
        "target squared": _grouped(np.concatenate(second)),
        "rows": (np.ones(len(w)), None, 1),
    }


def _mean_of(sums: Exact) -> float:
    return mean([ratio(errors, sums["weight"][0]) for errors in sums["errors"]])


def _root_mean_of(sums: Exact) -> float:
    return mean([math.sqrt(ratio(errors, sums["weight"][0])) for errors in sums["errors"]])


def _r2_of(sums: Exact) -> float:
    weight, values = sums["weight"][0], []
    if sums["rows"][0] < 2 or not weight:
        return float("nan")
    for errors, target, squared in zip(sums["errors"], sums["target"], sums["target squared"], strict=True):
        spread = squared - target * target / weight
        if spread <= 0:
            return float("nan")
        values.append(ratio(spread - errors, spread))
    return mean(values)


MSE = Metric("mse", False, "number", _mse, _mse_influence, sums=RowSums(_square_terms, _mean_of))
RMSE = Metric("rmse", False, "number", _rmse, _rmse_influence, sums=RowSums(_square_terms, _root_mean_of))
MAE = Metric("mae", False, "number", _mae, _mae_influence, sums=RowSums(_distance_terms, _mean_of))
R2 = Metric("r2", True, "number", _r2, _r2_influence, sums=RowSums(_r2_terms, _r2_of))
