import numpy as np
import pytest

from fmray.errors import DataError
from fmray.records import Ensemble
from fmray.train.combine import combine_outputs

OUTPUTS = np.array([[[0.6, 0.4], [0.2, 0.8]], [[0.1, 0.9], [0.3, 0.7]], [[0.9, 0.1], [0.5, 0.5]]])


def test_a_mean_is_weighted():
    found = combine_outputs(Ensemble("average", (0, 1, 2), (0.5, 0.25, 0.25)), OUTPUTS)
    assert np.allclose(found, [[0.5 * 0.6 + 0.25 * 0.1 + 0.25 * 0.9, 0.45], [0.3, 0.7]])


def test_a_vote_counts_the_classes_that_members_name_and_a_tie_names_the_first():
    found = combine_outputs(Ensemble("vote", (0, 1, 2), (0.2, 0.5, 0.3), combine="vote"), OUTPUTS)
    assert np.allclose(found, [[0.5, 0.5], [0.3, 0.7]])


def test_logistic_combination_is_the_softmax_of_sums_of_log_probabilities():
    params = {"coefficients": [[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]], "intercepts": [0.0, 0.5]}
    found = combine_outputs(Ensemble("stacking", (0, 1), (0.5, 0.5), combine="logistic", params=params), OUTPUTS[:2])
    first = np.array([0.6 * 0.1**2, 0.4 * 0.9**2 * np.exp(0.5)])
    assert np.allclose(found[0], first / first.sum())


def test_members_of_a_group_are_averaged_before_their_logarithm():
    params = {"coefficients": [[1.0, 0.0], [0.0, 1.0]], "intercepts": [0.0, 0.0], "groups": [0, 0, 0]}
    found = combine_outputs(Ensemble("stacking", (0, 1, 2), (1 / 3,) * 3, combine="logistic", params=params), OUTPUTS)
    assert np.allclose(found, OUTPUTS.mean(0))


def test_a_soup_is_one_voice():
    assert np.array_equal(
        combine_outputs(Ensemble("soup", (0, 1), (0.5, 0.5), combine="soup"), OUTPUTS[:1]), OUTPUTS[0]
    )


def test_more_or_fewer_outputs_than_voices_are_refused():
    with pytest.raises(DataError, match="2 outputs for 'average', which has 3 voices"):
        combine_outputs(Ensemble("average", (0, 1, 2), (0.5, 0.25, 0.25)), OUTPUTS[:2])
