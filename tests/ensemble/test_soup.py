import numpy as np
import pytest
from ensemble.made import candidates, member, softmax

from fmray.ensemble.soup import soup
from fmray.errors import TrainError
from fmray.spec.components import ensembles

SOURCE = np.random.default_rng(0)
X = SOURCE.standard_normal((300, 4))
TRUE = SOURCE.standard_normal((4, 3))
TARGET = (X @ TRUE + 0.1 * SOURCE.standard_normal((300, 3))).argmax(1)


def pantry(noises, packs, scores=None):
    """Members are linear models, so what averaged parameters say follows from theirs by hand."""
    own = [TRUE + noise for noise in noises]
    members = tuple(member(i, pack=pack) for i, pack in enumerate(packs))

    def predict(ensemble):
        return softmax(X @ sum(w * own[i] for i, w in zip(ensemble.members, ensemble.weights, strict=True)))

    return candidates(softmax(np.stack([X @ table for table in own])), TARGET, members=members, predict=predict)


def test_a_soup_takes_members_of_the_best_ones_pack_only():
    noise = SOURCE.standard_normal((4, 4, 3)) * 0.3
    noise[2] = 0
    found = soup(pantry(noise, [0, 1, 1, 0]), ensembles.Soup(greedy=False))
    assert sorted(found.members) == [1, 2]
    assert found.weights == (0.5, 0.5)
    assert found.combine == "soup"


def test_a_greedy_soup_takes_in_what_helps_and_leaves_out_what_does_not():
    noise = SOURCE.standard_normal((4, 3))
    found = soup(pantry([noise, -noise, 40 * noise], [0, 0, 0]))
    assert sorted(found.members) == [0, 1]  # their mean is the truth


def test_a_soup_without_tensors_at_hand_is_refused():
    some = pantry(SOURCE.standard_normal((2, 4, 3)), [0, 0])
    with pytest.raises(TrainError, match="no tensors are at hand"):
        soup(candidates(some.outputs, TARGET, members=some.members))
