"""Score how well text is foretold, token by token.

Shape legend: T tokens of all rows.
"""

import numpy as np

from fmray.metrics.quotient import quotient

SMALLEST = 1e-12
KIND, MASKED = "next", "masked"


def nats(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give -ln p of each token (T,), of which p is the output (T,), or the first of its numbers (T, n)."""
    p = output.reshape(len(target), -1)[:, 0].astype(np.float64) if len(target) else np.zeros(0)
    found: np.ndarray = -np.log(np.maximum(p, SMALLEST))
    return found


def is_chosen(target: np.ndarray) -> np.ndarray:
    """Tell which tokens a masked language model was asked for (T,), bool."""
    return np.asarray(target[:, 0] >= 0)


def _nats_per_token(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return nats(output, target), np.ones(len(target))


def _nats_per_masked_token(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    chosen = is_chosen(target)
    return np.where(chosen, nats(output, target), 0.0), chosen.astype(np.float64)


def _right(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    chosen = is_chosen(target)
    return np.where(chosen, output[:, 1], 0.0), chosen.astype(np.float64)


NATS_PER_TOKEN = quotient("nats_per_token", KIND, _nats_per_token, higher_is_better=False, is_bounded=False)
NATS_PER_MASKED_TOKEN = quotient(
    "nats_per_masked_token", MASKED, _nats_per_masked_token, higher_is_better=False, is_bounded=False
)
MASKED_TOKEN_ACCURACY = quotient("masked_token_accuracy", MASKED, _right)
