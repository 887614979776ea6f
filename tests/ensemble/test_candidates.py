import numpy as np
import pytest
from ensemble.made import candidates, classes, member, numbers

from fmray.ensemble.candidates import able, half_of
from fmray.errors import TrainError
from fmray.records import Ensemble


def ids(num, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, (num, 2)).astype(np.uint64)


def test_the_half_of_a_row_depends_on_nothing_but_the_row():
    rows = ids(1000)
    order = np.random.default_rng(1).permutation(1000)
    assert np.array_equal(half_of(rows, None)[order], half_of(rows[order], None))
    assert np.array_equal(half_of(rows[:10], None), half_of(rows, None)[:10])


def test_halves_are_about_equal():
    assert abs(half_of(ids(10_000), None).mean() - 0.5) < 0.02  # four standard deviations


def test_rows_of_a_group_are_in_one_half():
    group = np.random.default_rng(2).integers(0, 300, 5000).astype(np.uint64)
    half = half_of(ids(5000), group)
    assert all(len(set(half[group == value].tolist())) == 1 for value in np.unique(group))
    assert 0.3 < half.mean() < 0.7


def test_members_without_a_score_or_tensors_are_no_candidates():
    members = [member(0), member(1, val_score=None), member(2, root="")]
    assert able(members) == (members[0],)
    with pytest.raises(TrainError, match="no member has a validation score"):
        candidates(np.zeros((0, 4, 2)), [0, 1, 0, 1], members=())


@pytest.mark.parametrize("num_targets", [1, 2])
def test_squared_error_of_any_mean_follows_from_the_products_of_errors(num_targets):
    outputs, target = numbers(4, num_targets=num_targets)
    weight = np.random.default_rng(1).uniform(0.1, 3, len(target))
    weights = np.array([0.1, 0.4, 0.2, 0.3])
    gram = candidates(outputs, target, "mse", weight=weight).residual_gram()
    truth = target.reshape(len(target), -1)
    error = ((np.tensordot(weights, outputs, 1) - truth) / truth.std(0)) ** 2
    assert weights @ gram @ weights == pytest.approx(weight @ error.sum(1) / weight.sum())


def test_products_of_errors_of_probabilities_give_the_brier_score():
    outputs, target = classes(3)
    some = candidates(outputs, target, "brier")
    weights = np.array([0.2, 0.5, 0.3])
    mean = np.tensordot(weights, outputs, 1)
    expected = ((mean - np.eye(3)[target]) ** 2).sum(1).mean()
    assert weights @ some.residual_gram() @ weights == pytest.approx(expected)


def test_members_are_found_by_their_index_and_not_by_their_place():
    outputs, target = classes(3)
    some = candidates(outputs, target)
    assert np.allclose(
        some.combined(Ensemble("average", (12, 10), (0.25, 0.75))), 0.25 * outputs[2] + 0.75 * outputs[0]
    )


def test_an_undefined_metric_is_worse_than_any():
    some = candidates(np.full((1, 4, 2), 0.5), [1, 1, 1, 1], "roc_auc")
    assert some.signed(some.outputs[0]) == float("-inf")
