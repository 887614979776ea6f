"""Judge numbers: squared and absolute errors and the share of variance explained.

Several targets count alike, as in scikit-learn's uniform average. All follow from a few sums per target.
Shape legend: N rows, T targets.
"""

import numpy as np

from fmray.metrics.metric import Metric, weights_of


def _columns(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(len(values), -1)


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


MSE = Metric("mse", False, "number", _mse, _mse_influence)
RMSE = Metric("rmse", False, "number", _rmse, _rmse_influence)
MAE = Metric("mae", False, "number", _mae, _mae_influence)
R2 = Metric("r2", True, "number", _r2, _r2_influence)
