"""Judge whether generated rows are distributed as the real ones, row by row in no order.

The squared maximum mean discrepancy of a Gaussian kernel of several widths, by random Fourier features: then it follows
from sums over rows, adds up over workers and carries an interval as other metrics do.
Shape legend: N rows, T targets, F features.

Source: Gretton et al., "A Kernel Two-Sample Test", JMLR 2012; Rahimi & Recht, "Random Features for Large-Scale Kernel
Machines", NeurIPS 2007.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from fmray.metrics.exact import Exact, RowSums, Terms
from fmray.metrics.metric import Metric, weights_of

WIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Of the kernel, in standard deviations of the target."""
FREQUENCIES = 32
"""Per width; the features are their cosines and sines."""


@cache
def mmd(scale: tuple[float, ...]) -> Metric:
    """Give the squared discrepancy, 0 where distributions are equal.

    Args:
        scale: Standard deviation of each target.
    """
    waves_TF = _waves(scale)

    def difference(output: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.asarray(_features(output, waves_TF) - _features(target, waves_TF))

    def terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
        values_NF = w[:, None] * difference(output, target)
        num_rows, num_features = values_NF.shape
        group = np.tile(np.arange(num_features), num_rows)
        return {"difference": (values_NF.reshape(-1), group, num_features), "weight": (w, None, 1)}

    def of(sums: Exact) -> float:
        return float(np.square(_mean(sums)).sum()) if sums["weight"][0] else float("nan")

    def pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        mean_F = _mean(sums)
        return np.asarray(2 * w * ((difference(output, target) - mean_F) * mean_F).sum(1) / float(sums["weight"][0]))

    def value(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
        w = weights_of(len(target), weight)
        if not w.sum():
            return float("nan")
        return float(np.square(w @ difference(output, target) / w.sum()).sum())

    return Metric("mmd", False, "number", value, sums=RowSums(terms, of, pull))


def _waves(scale: Sequence[float]) -> np.ndarray:
    """Draw frequencies: normal, as the Fourier transform of the kernel is."""
    source = np.random.Generator(np.random.Philox(7))  # fixed: every run is judged by the same features
    drawn = source.standard_normal((len(WIDTHS), FREQUENCIES, len(scale))) / np.array(WIDTHS)[:, None, None]
    return np.asarray(drawn.reshape(-1, len(scale)).T / np.asarray(scale, np.float64)[:, None])


def _features(values: np.ndarray, waves_TF: np.ndarray) -> np.ndarray:
    # target by target, not as a product of matrices: its last bit would depend on how many rows there are
    numbers = np.asarray(values, np.float64)
    numbers_NT = numbers[:, None] if numbers.ndim == 1 else numbers
    angles = np.zeros((len(numbers_NT), waves_TF.shape[1]))
    for number, wave_F in zip(numbers_NT.T, waves_TF, strict=True):
        angles += number[:, None] * wave_F
    return np.asarray(np.concatenate([np.cos(angles), np.sin(angles)], 1) / np.sqrt(waves_TF.shape[1]))


def _mean(sums: Exact) -> np.ndarray:
    return np.array([float(total / sums["weight"][0]) for total in sums["difference"]])


MMD = mmd((1.0,))
"""Of one standardised target; `find_metric` gives that of a job's targets."""
