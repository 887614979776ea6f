"""Judge probabilities themselves: log loss and Brier score, both means over rows.

Shape legend: N rows, C classes.
"""

from collections.abc import Callable

import numpy as np

from fmray.metrics.exact import Exact, RowSums, Terms, ratio
from fmray.metrics.metric import Metric, mean_pull

Scores = Callable[[np.ndarray, np.ndarray], np.ndarray]
SMALLEST = float(np.finfo(np.float64).eps)  # as scikit-learn clips float64


def log_losses(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give -ln p of each row's true class, in nats; p is clipped to [eps, 1 - eps].

    Shapes:
        returns: (N,), float64.
    """
    p = np.take_along_axis(output, np.asarray(target, np.int64)[:, None], 1)[:, 0]
    losses: np.ndarray = -np.log(np.clip(p.astype(np.float64), SMALLEST, 1 - SMALLEST))
    return losses


def brier_scores(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give each row's squared distance to the truth, of one class if there are two, summed over classes if more.

    Shapes:
        returns: (N,), float64.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    rows = np.arange(len(target))
    if output.shape[1] == 2:
        return np.asarray((output[:, 1].astype(np.float64) - target) ** 2)
    true = output[rows, target].astype(np.float64)
    return np.asarray((output.astype(np.float64) ** 2).sum(1) - 2 * true + 1)


def _mean_of(name: str, scores: Scores) -> Metric:
    def value(output: np.ndarray, target: np.ndarray, weight: np.ndarray | None) -> float:
        return float(np.average(scores(output, target), weights=weight)) if len(target) else float("nan")

    def terms(output: np.ndarray, target: np.ndarray, w: np.ndarray) -> Terms:
        return {"score": (w * scores(output, target), None, 1), "weight": (w, None, 1)}

    def pull(sums: Exact, output: np.ndarray, target: np.ndarray, w: np.ndarray) -> np.ndarray:
        return mean_pull(scores(output, target), w, sums["score"][0], sums["weight"][0])

    return Metric(name, False, "class", value, sums=RowSums(terms, _quotient, pull))


def _quotient(sums: Exact) -> float:
    return ratio(sums["score"][0], sums["weight"][0])


LOG_LOSS = _mean_of("log_loss", log_losses)
BRIER = _mean_of("brier", brier_scores)
