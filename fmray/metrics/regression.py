"""Judge numbers: squared and absolute errors and the share of variance explained.

Several targets count alike, as in scikit-learn's uniform average. All follow from a few sums per target.
Shape legend: N rows, T targets.
"""

import math
from fractions import Fraction

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


def _rmse(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    if not len(target):
        return float("nan")
    return float(np.sqrt(_mse_of(output, target, weights_of(len(target), weight))[1]).mean())


def _mae(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    if not len(target):
        return float("nan")
    return float(_means(np.abs(_columns(output) - _columns(target)), weights_of(len(target), weight)).mean())


def _spread(target: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = _columns(target) - _means(_columns(target), w)
    return centred**2, _means(centred**2, w)


def _r2(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
    if len(target) < 2:
        return float("nan")
    w = weights_of(len(target), weight)
    error = _mse_of(output, target, w)[1]
    variance = _spread(target, w)[1]
    if not (variance > 0).all():
        return float("nan")
    return float((1 - error / variance).mean())


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
    weight = sums["weight"][0]
    values = []
    if sums["rows"][0] < 2 or not weight:
        return float("nan")
    for errors, spread in zip(sums["errors"], _target_spreads(sums), strict=True):
        if spread <= 0:
            return float("nan")
        values.append(ratio(spread - errors, spread))
    return mean(values)


def _target_spreads(sums: Exact) -> list[Fraction]:
    """Give the weighted squared distances of each target from its mean."""
    pairs = zip(sums["target"], sums["target squared"], strict=True)
    return [squared - total * total / sums["weight"][0] for total, squared in pairs]


def _error_means(sums: Exact) -> np.ndarray:
    return np.array([float(errors / sums["weight"][0]) for errors in sums["errors"]])


def _mse_pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
    squares_NT = (_columns(output) - _columns(target)) ** 2
    return np.asarray(w * (squares_NT - _error_means(sums)).mean(1) / float(sums["weight"][0]))


def _rmse_pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
    squares_NT = (_columns(output) - _columns(target)) ** 2
    means_T = _error_means(sums)
    halves_T = np.divide(0.5, np.sqrt(means_T), out=np.zeros_like(means_T), where=means_T > 0)
    return np.asarray(w * ((squares_NT - means_T) * halves_T).mean(1) / float(sums["weight"][0]))


def _mae_pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
    errors_NT = np.abs(_columns(output) - _columns(target))
    return np.asarray(w * (errors_NT - _error_means(sums)).mean(1) / float(sums["weight"][0]))


def _r2_pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
    weight = sums["weight"][0]
    means_T = _error_means(sums)
    centre_T = np.array([float(total / weight) for total in sums["target"]])
    variance_T = np.array([float(v / weight) for v in _target_spreads(sums)])
    squares_NT = (_columns(output) - _columns(target)) ** 2
    around_NT = (_columns(target) - centre_T) ** 2
    pulled_NT = -(squares_NT - means_T) / variance_T + means_T / variance_T**2 * (around_NT - variance_T)
    return np.asarray(w * pulled_NT.mean(1) / float(weight))


MSE = Metric("mse", False, "number", _mse, sums=RowSums(_square_terms, _mean_of, _mse_pull))
RMSE = Metric("rmse", False, "number", _rmse, sums=RowSums(_square_terms, _root_mean_of, _rmse_pull))
MAE = Metric("mae", False, "number", _mae, sums=RowSums(_distance_terms, _mean_of, _mae_pull))
R2 = Metric("r2", True, "number", _r2, sums=RowSums(_r2_terms, _r2_of, _r2_pull))
