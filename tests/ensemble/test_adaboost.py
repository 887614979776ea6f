import numpy as np
import pytest
from ensemble.made import candidates, classes, member, numbers
from sklearn.datasets import load_iris
from sklearn.ensemble import AdaBoostClassifier
from sklearn.tree import DecisionTreeClassifier

from fmray.catalogue import ENSEMBLES
from fmray.ensemble.adaboost import ALPHA, adaboost, samme
from fmray.errors import SpecError, TrainError
from fmray.spec.components.ensembles import Adaboost

X, TARGET = load_iris(return_X_y=True)
X = X + 0.3 * np.random.default_rng(5).standard_normal(X.shape)  # no two splits are equally good
NOISY = np.where(np.random.default_rng(0).random(150) < 0.2, np.random.default_rng(1).integers(0, 3, 150), TARGET)


def stumps(target, depth=1):
    made = []

    def train_round(weights):
        made.append(DecisionTreeClassifier(max_depth=depth, random_state=0).fit(X, target, sample_weight=weights))
        return made[-1].predict_proba(X)

    return made, train_round


@pytest.mark.parametrize("rate", [1.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_votes_and_answers_are_those_of_scikit_learns_samme(rate, weighted):
    weight = np.random.default_rng(2).uniform(0.5, 2, 150) if weighted else None
    made, train_round = stumps(NOISY)
    alphas = samme(train_round, NOISY, 3, Adaboost(rounds=12, learning_rate=rate), weight)
    weak = DecisionTreeClassifier(max_depth=1, random_state=0)
    oracle = AdaBoostClassifier(weak, n_estimators=12, learning_rate=rate, random_state=0)
    oracle.fit(X, NOISY, sample_weight=weight)
    assert len(alphas) == 12
    assert np.allclose(alphas, oracle.estimator_weights_[:12])
    outputs = np.stack([one.predict_proba(X) for one in made])
    members = tuple(member(i, params={ALPHA: alpha}) for i, alpha in enumerate(alphas))
    some = candidates(outputs, NOISY, members=members)
    assert np.array_equal(some.combined(adaboost(some)).argmax(1), oracle.predict(X))


def test_a_member_without_mistakes_ends_it_and_votes_with_weight_one():
    _, train_round = stumps(TARGET, depth=None)
    assert samme(train_round, TARGET, 3, Adaboost(rounds=5)) == [1.0]


def test_it_ends_before_a_member_that_is_no_better_than_chance():
    answers = iter([np.eye(2)[[0, 0, 0, 1]], np.eye(2)[[1, 1, 0, 1]]])
    alphas = samme(lambda weights: next(answers), np.array([0, 0, 1, 1]), 2, Adaboost(rounds=5))
    assert alphas == pytest.approx([np.log(3)])


def test_a_first_member_no_better_than_chance_is_an_error():
    with pytest.raises(TrainError, match=r"wrong on 1\.000 of the weighted rows, chance on 0\.500"):
        samme(lambda weights: np.eye(2)[[1, 0]], np.array([0, 1]), 2, Adaboost(rounds=3))


def test_mistakes_count_for_half_in_the_next_round_of_two_classes():
    """After a round of AdaBoost its member is right on exactly half of the weight."""
    seen = []

    def train_round(weights):
        seen.append(weights.copy())
        return np.eye(2)[[0, 0, 0, 0, 1]]

    samme(train_round, np.array([0, 0, 0, 1, 1]), 2, Adaboost(rounds=2))
    assert seen[1][3] == pytest.approx(0.5)


def test_members_that_were_not_boosted_and_numbers_are_refused():
    with pytest.raises(TrainError, match="no member was boosted"):
        adaboost(candidates(*classes()))
    with pytest.raises(SpecError, match="adaboost needs classes"):
        adaboost(candidates(*numbers(), "r2"))


@pytest.mark.parametrize(("rounds", "rate"), [(0, 1.0), (3, 0.0), (3, float("nan"))])
def test_rounds_and_rates_out_of_range_are_refused(rounds, rate):
    with pytest.raises(SpecError, match=r"ensemble\.adaboost\.(rounds|learning_rate)"):
        ENSEMBLES.read("adaboost", {"rounds": rounds, "learning_rate": rate})
