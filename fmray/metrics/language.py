"""Score how well text is foretold, token by token.

Shape legend: T tokens of all rows.
"""

import numpy as np

from fmray.metrics.quotient import quotient

SMALLEST = 1e-12
KIND = "next"


def nats(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give -ln p of each token (T,), of which p is the output (T,), or its first number (T, n)."""
    p = (output if output.ndim == 1 else output[:, 0]).astype(np.float64)
    found: np.ndarray = -np.log(np.maximum(p, SMALLEST))
    return found


def _nats_per_token(output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return nats(output, target), np.ones(len(target))


NATS_PER_TOKEN = quotient("nats_per_token", KIND, _nats_per_token, higher_is_better=False, is_bounded=False)
