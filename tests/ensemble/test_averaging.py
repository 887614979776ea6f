import numpy as np
from ensemble.made import candidates, classes

from fmray.ensemble.averaging import auto, average


def test_an_average_gives_every_member_the_same_weight():
    outputs, target = classes(4)
    found = average(candidates(outputs, target))
    assert found.members == (10, 11, 12, 13)
    assert found.weights == (0.25,) * 4
    assert found.combine == "mean"


def test_by_itself_the_better_of_average_and_best_member_is_taken():
    outputs, target = classes(4)
    assert auto(candidates(outputs, target)).name == "average"
    sure = np.eye(3)[target] * 0.97 + 0.01
    found = auto(candidates(np.concatenate([outputs, sure[None]]), target))
    assert (found.name, found.members) == ("single", (14,))
