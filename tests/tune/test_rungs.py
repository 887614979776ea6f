import numpy as np
import pytest
from tune.reference import LATE_BLOOMER, at_random, curves, halve_in_packs, halve_together

from fmray.tune.halving import expected_epochs, rung_epochs, survivors

EPOCHS, ETA = 27, 3
RUNGS = rung_epochs(EPOCHS, ETA)


def carry(scores, packs, order):
    """Let packs pass rungs in an order, deciding by `survivors`."""
    table = [{} for _ in RUNGS]
    alive = [set(pack) for pack in packs]
    gone_on = [set() for _ in RUNGS]
    for rung, pack in order:
        place = packs.index(pack)
        arrived = sorted(alive[place])
        table[rung] |= {m: float(scores[m, RUNGS[rung] - 1]) for m in arrived}
        alive[place] = survivors(table[rung], arrived, ETA)
        gone_on[rung] |= alive[place]
    return [sorted(members) for members in gone_on]


@pytest.mark.parametrize("seed", range(20))
def test_decisions_in_any_order_of_arrival_match_the_plain_reference(seed):
    scores = curves(60, EPOCHS, RUNGS[0], seed, num_hopeless=5).round(2)  # with ties
    packs = [list(range(start, start + 10)) for start in range(0, 60, 10)]
    order = at_random(packs, len(RUNGS), seed)
    assert carry(scores, packs, order) == halve_in_packs(scores, order, RUNGS, ETA)


@pytest.mark.parametrize("seed", range(20))
def test_decisions_of_all_together_match_the_plain_reference(seed):
    scores, alive, found = curves(64, EPOCHS, RUNGS[0], seed).round(2), list(range(64)), []
    for epoch in RUNGS:
        alive = sorted(survivors({m: float(scores[m, epoch - 1]) for m in alive}, alive, ETA))
        found.append(alive)
    assert found == halve_together(scores, RUNGS, ETA)


def test_a_late_bloomer_is_lost_to_halving_and_hopeless_members_stop_at_the_first_rung():
    scores = curves(60, EPOCHS, RUNGS[0], 0, num_hopeless=5)
    first = survivors({m: float(scores[m, 0]) for m in range(60)}, range(60), ETA)
    assert np.argmax(scores[:, -1]) == LATE_BLOOMER
    assert not first & set(range(6))


def test_rungs_leave_room_for_three_comparisons_before_the_end():
    assert rung_epochs(20, 3) == (1, 3, 9)
    assert rung_epochs(27, 3) == (1, 3, 9)
    assert rung_epochs(100, 3) == (4, 12, 36)
    assert rung_epochs(100, 4, 10) == (10, 40)
    assert rung_epochs(1, 3) == ()


def test_someone_always_goes_on():
    assert survivors({4: -np.inf}, [4], 3) == {4}
    assert survivors({4: 0.5, 5: 0.5}, [4, 5], 3) == {4}


def test_expected_epochs_are_those_of_the_reference():
    scores = curves(81, EPOCHS, RUNGS[0], 3)
    alive, total, before = 81, 0, 0
    for epoch, left in zip([*RUNGS, EPOCHS], [*map(len, halve_together(scores, RUNGS, ETA)), 0], strict=True):
        total, alive, before = total + alive * (epoch - before), left, epoch
    assert expected_epochs(81, EPOCHS, RUNGS, ETA) == total
