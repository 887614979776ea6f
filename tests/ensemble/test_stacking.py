import numpy as np
import pytest
import scipy.optimize
from ensemble.made import candidates, classes, numbers
from sklearn.linear_model import LogisticRegression

from fmray.catalogue import ENSEMBLES
from fmray.ensemble.stacking import simplex_weights, stacking
from fmray.errors import SpecError
from fmray.spec.components import ensembles


def weights_in(found, num):
    weights = np.zeros(num)
    weights[[index - 10 for index in found.members]] = found.weights
    return weights


@pytest.mark.parametrize("make", [lambda: (*numbers(7, 300), "mse"), lambda: (*classes(7, 300), "log_loss")])
def test_no_weights_on_the_simplex_have_less_squared_error(make):
    """Karush, Kuhn and Tucker: the slope is least, and equal, wherever a member has weight."""
    outputs, target, metric = make()
    some = candidates(outputs, target, metric)
    weights = weights_in(stacking(some), 7)
    slope = some.residual_gram() @ weights
    least = weights @ slope
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    assert np.count_nonzero(weights) > 1
    assert np.allclose(slope[weights > 0], least, rtol=1e-6)
    assert (slope >= least - 1e-9).all()


def test_weights_are_those_of_scipys_nnls_with_a_sum_held_to_one():
    outputs, target = numbers(5, 200)
    heavy = 1e5
    rows = np.vstack([outputs[:, :, 0].T, np.full(5, heavy)])
    expected, _ = scipy.optimize.nnls(rows, np.r_[target, heavy])
    assert np.allclose(weights_in(stacking(candidates(outputs, target, "mse")), 5), expected, atol=1e-5)


def test_independent_errors_are_weighted_by_their_inverse_variances():
    weights = simplex_weights(np.diag([1.0, 4.0, 16.0]))
    assert np.allclose(weights, np.array([1, 1 / 4, 1 / 16]) / (1 + 1 / 4 + 1 / 16))


def test_a_member_without_error_gets_all_weight():
    outputs, target = numbers(3, 100)
    outputs[1, :, 0] = target
    found = stacking(candidates(outputs, target, "mse"))
    assert found.members == (11,)
    assert found.weights == pytest.approx((1.0,))


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_stacking_is_scikit_learns_logistic_regression(num_classes, weighted):
    outputs, target = classes(3, 300, num_classes)
    weight = np.random.default_rng(0).uniform(0.2, 3, 300) if weighted else None
    some = candidates(outputs, target, weight=weight)
    said = some.combined(stacking(some, ensembles.Stacking(kind="logistic", l2=0.5)))
    features = np.log(np.concatenate(list(outputs), axis=1))
    # with two classes scikit-learn fits one column; of two opposite ones the penalty is half as large
    model = LogisticRegression(C=1 / 0.5 * (0.5 if num_classes == 2 else 1) ** -1, tol=1e-8, max_iter=10_000)
    model.fit(features, target, sample_weight=weight)
    assert np.allclose(said, model.predict_proba(features), atol=2e-4)


def test_logistic_stacking_says_the_same_when_its_record_is_read_back():
    some = candidates(*classes(3))
    found = stacking(some, ensembles.Stacking(kind="logistic"))
    assert np.array_equal(some.combined(type(found).from_json(found.to_json())), some.combined(found))
    assert sum(found.weights) == pytest.approx(1)


def test_numbers_are_not_learned_by_logistic_regression_and_a_penalty_is_above_zero():
    with pytest.raises(SpecError, match="stacking of kind logistic needs classes"):
        stacking(candidates(*numbers(), "r2"), ensembles.Stacking(kind="logistic"))
    with pytest.raises(SpecError, match="l2"):
        ENSEMBLES.read("stacking", {"kind": "logistic", "l2": 0.0})
