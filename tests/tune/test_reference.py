import numpy as np
from tune.reference import (
    LATE_BLOOMER,
    at_random,
    curves,
    halve_in_packs,
    halve_together,
    one_after_another,
    side_by_side,
    top,
)

RUNGS = (1, 3, 9)


def test_a_third_of_those_who_reach_a_rung_go_on_and_at_least_one():
    scores = np.arange(9.0)
    assert top(scores, range(9), 3) == [8, 7, 6]
    assert top(scores, [2, 5], 3) == [5]
    assert top(scores, [], 3) == []


def test_of_equals_the_earlier_member_wins_and_what_is_no_number_loses():
    assert top(np.array([0.5, 0.5, np.nan, 0.5]), [3, 2, 1, 0], 2) == [0, 1]
    assert top(np.array([np.nan, np.nan]), [1, 0], 2) == [0]


def test_one_pack_of_all_is_halved_as_if_all_had_waited():
    field = curves(40, 20, 1, seed=0)
    whole = halve_in_packs(field, one_after_another([range(40)], 3), RUNGS, 3)
    assert whole == halve_together(field, RUNGS, 3)
    assert [len(members) for members in whole] == [13, 4, 1]


def test_a_member_alone_among_worse_ones_is_let_go_on_once_and_for_all():
    field = np.array([[0.1], [0.2], [0.3], [0.4]])
    assert halve_in_packs(field, [(0, [0]), (0, [1]), (0, [2]), (0, [3])], (1,), 2) == [[0, 1, 2, 3]]
    assert halve_in_packs(field, [(0, [3]), (0, [2]), (0, [1]), (0, [0])], (1,), 2) == [[3]]


def test_survivors_have_survived_every_rung_before_whatever_the_order():
    field = curves(60, 20, 1, seed=1, num_hopeless=10)
    packs = [range(start, start + 10) for start in range(0, 60, 10)]
    for order in (one_after_another(packs, 3), side_by_side(packs, 3), at_random(packs, 3, 2)):
        found = halve_in_packs(field, order, RUNGS, 3)
        assert set(found[2]) <= set(found[1]) <= set(found[0]) < set(range(60))
        assert found[2]


def test_the_late_bloomer_is_worst_at_the_first_rung_and_best_at_the_end():
    field = curves(30, 20, 1, seed=3, num_hopeless=5)
    assert field[:, 0].argmin() == field[:, -1].argmax() == LATE_BLOOMER
    assert field[1:6].max() < np.delete(field, range(6), axis=0).min()
    assert (np.diff(field, axis=1) >= 0).all()
