import numpy as np
import pytest
from ensemble.made import candidates, classes, numbers

from fmray.ensemble.voting import bagging, vote
from fmray.errors import SpecError
from fmray.spec.components import ensembles


def test_a_hard_vote_gives_each_class_the_share_of_members_that_name_it():
    outputs, target = classes(5)
    some = candidates(outputs, target)
    said = some.combined(vote(some))
    named = outputs.argmax(2)
    for row in range(0, len(target), 37):
        assert np.allclose(said[row], np.bincount(named[:, row], minlength=3) / 5)


def test_a_soft_vote_is_the_mean():
    outputs, target = classes(5)
    some = candidates(outputs, target)
    assert np.allclose(some.combined(vote(some, ensembles.Vote(kind="soft"))), outputs.mean(0))


def test_bagged_members_speak_by_their_mean_or_by_vote():
    outputs, target = classes(5)
    some = candidates(outputs, target)
    assert (bagging(some).combine, bagging(some, ensembles.Bagging(kind="hard")).combine) == ("mean", "vote")
    assert np.allclose(some.combined(bagging(some)), outputs.mean(0))


def test_numbers_have_no_vote():
    some = candidates(*numbers(), "r2")
    with pytest.raises(SpecError, match="vote needs classes"):
        vote(some)
    with pytest.raises(SpecError, match="vote needs classes"):
        bagging(some, ensembles.Bagging(kind="hard"))
    assert bagging(some).combine == "mean"
