"""Learn from validation, or from out-of-fold predictions, how much each member's word counts.

Shape legend: M members, N rows, C classes, F = M * C log probabilities.
"""

import numpy as np
import scipy.optimize

from fmray.ensemble.candidates import Candidates
from fmray.ensemble.voting import refuse_numbers
from fmray.errors import TrainError
from fmray.records import Ensemble
from fmray.spec.components import ensembles as declared
from fmray.train.combine import log_features, softmax

MOST_STEPS = 1000
TOLERANCE = 1e-7
"""Of the gradient of the mean loss, at which logistic regression is done."""


def stacking(candidates: Candidates, params: declared.Stacking = declared.Stacking()) -> Ensemble:
    """Weight members by non-negative least squares, or learn classes from their log probabilities.

    Of kind "nnls", weights are at least 0, sum to 1 and minimise squared error, of probabilities (Brier score) or of
    numbers. "logistic" is multinomial logistic regression, for classes; its penalty is l2 / 2 times the squared
    coefficients, beside the summed loss of all rows.

    Raises:
        SpecError: If numbers are to be learned by logistic regression.

    Source: Wolpert, "Stacked Generalization", 1992; Breiman, "Stacked Regressions", 1996 (weights of at least 0);
    van der Laan et al., "Super Learner", 2007.
    """
    if params.kind == "logistic":
        return _logistic(candidates, params.l2)
    weights = simplex_weights(candidates.residual_gram())
    kept = np.flatnonzero(weights)
    return Ensemble(
        "stacking",
        tuple(candidates.indices[place] for place in kept),
        tuple(weights[kept].tolist()),
        reason=f"{len(kept)} of {len(weights)} members, weighted by non-negative least squares",
    )


def simplex_weights(gram: np.ndarray) -> np.ndarray:
    """Give the weights of at least 0, summing to 1, with the least w' G w.

    With u = t w, the least of |R u|^2 + (sum u - 1)^2 over t at given w is q / (1 + q), q = |R w|^2: it rises with q,
    so plain non-negative least squares finds the same w, exactly.

    Shapes:
        gram: (M, M), symmetric, R' R.
        returns: (M,).

    Source: Lawson & Hanson, "Solving Least Squares Problems", 1974, chapter 23.
    """
    values, vectors = np.linalg.eigh(gram / max(np.trace(gram) / len(gram), 1e-300))  # its scale changes no weight
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    free, _ = scipy.optimize.nnls(np.vstack([root, np.ones(len(gram))]), np.r_[np.zeros(len(gram)), 1.0])
    weights: np.ndarray = free / free.sum()
    return weights


def _logistic(candidates: Candidates, l2: float) -> Ensemble:
    refuse_numbers("stacking", {"kind": "logistic"}, candidates.metric.kind)
    features = log_features(candidates.outputs)
    num_classes = candidates.outputs.shape[2]
    coefficients, intercepts = fit_logistic(
        features, candidates.classes, weight=candidates.weights(), num_classes=num_classes, l2=l2
    )
    num = len(candidates.members)
    size = np.abs(coefficients).reshape(num, -1).sum(1)
    shares = size / size.sum() if size.sum() else np.full(num, 1 / num)
    return Ensemble(
        "stacking",
        candidates.indices,
        tuple(shares.tolist()),
        reason=f"logistic regression on the log probabilities of {num} members; weights are shares of coefficients",
        combine="logistic",
        params={"coefficients": coefficients.tolist(), "intercepts": intercepts.tolist()},
    )


def fit_logistic(
    features: np.ndarray, target: np.ndarray, weight: np.ndarray, num_classes: int, l2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit multinomial logistic regression by L-BFGS; intercepts are not penalised.

    Shapes:
        features: (N, F); target: (N,), class indices; weight: (N,).
        returns: coefficients (F, C), intercepts (C,).

    Raises:
        TrainError: If it does not converge.
    """
    num_rows, num_features = features.shape
    centre = features.mean(0)
    scale = features.std(0)
    total = weight.sum()
    scale = np.where(scale > 0, scale, 1.0)
    scaled = (features - centre) / scale  # converges in tens of steps rather than hundreds

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        table = flat.reshape(num_features + 1, num_classes)
        own = table[:-1] / scale[:, None]
        free = table[-1]
        shares = softmax(scaled @ table[:-1] + free)
        lost = -(weight @ np.log(np.maximum(shares[np.arange(num_rows), target], 1e-300)))
        shares[np.arange(num_rows), target] -= 1
        shares *= weight[:, None]
        slope = np.vstack([scaled.T @ shares + l2 * own / scale[:, None], shares.sum(0)])
        return (lost + l2 / 2 * float((own * own).sum())) / total, slope.ravel() / total

    start = np.zeros((num_features + 1) * num_classes)
    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "gtol": TOLERANCE, "ftol": 1e-14, "maxcor": 30}
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    if not np.isfinite(found.fun):
        raise TrainError(f"logistic regression ended at a loss of {found.fun}. Take kind: nnls.", "ensemble.stacking")
    table = found.x.reshape(num_features + 1, num_classes)
    coefficients = table[:-1] / scale[:, None]
    return coefficients, table[-1] - centre @ coefficients
