import numpy as np
import pytest
from scipy.stats import qmc

from fmray.spec.load import job_from
from fmray.tune.space import lots_of, num_members, points, shares


def job(search=None, model=None, **train):
    return job_from(
        {
            "data": {"path": "sample:digits", "target": "label"},
            "model": model or {"mlp": {"width": {"choice": [8, 16, 32]}, "dropout": {"uniform": [0, 0.5]}}},
            "train": {"optimizer": {"adam": {"lr": {"log_uniform": [1e-4, 1e-1]}}}, **train},
            "search": {"members": 20, **(search or {})},
        }
    )


def test_members_are_shared_equally_the_remainder_to_the_first():
    assert shares(20, 3) == [7, 7, 6]
    assert [len(lot.members) for lot in lots_of(job())] == [7, 7, 6]


def test_all_structures_are_tried_where_they_are_few():
    assert [lot.structural for lot in lots_of(job())] == [{("model", "mlp", "width"): w} for w in (8, 16, 32)]


def test_one_structure_is_tried_per_32_members_but_8_at_least():
    wide = {"mlp": {"width": {"int": [1, 10_000]}, "dropout": {"uniform": [0, 0.5]}}}
    assert len(lots_of(job({"members": 100}, wide))) == 8
    assert len(lots_of(job({"members": 640}, wide))) == 20
    assert len(lots_of(job({"members": 3}, wide))) == 3
    assert len(lots_of(job({"members": 100, "structures": 50}, wide))) == 50


def test_structures_are_distinct():
    wide = {"mlp": {"width": {"int": [1, 12]}, "dropout": {"uniform": [0, 0.5]}}}
    found = [tuple(lot.structural.values()) for lot in lots_of(job({"structures": 11}, wide))]
    assert len(set(found)) == 11


def test_members_of_a_structure_are_even_in_every_range():
    one = {"mlp": {"width": 8, "dropout": {"uniform": [0, 0.5]}}}
    (lot,) = lots_of(job({"members": 64}, one))
    drawn = np.array([list(values.values()) for values in lot.members])
    unit = np.stack([drawn[:, 0] / 0.5, (np.log10(drawn[:, 1]) + 4) / 3], axis=1)
    assert all(set(np.floor(column * 64).astype(int)) == set(range(64)) for column in unit.T)
    random = qmc.discrepancy(np.random.default_rng(0).random((64, 2)))
    assert qmc.discrepancy(unit) < random / 3


def test_the_same_job_draws_the_same_and_another_seed_another():
    assert lots_of(job()) == lots_of(job())
    assert lots_of(job(seed=1)) != lots_of(job())


@pytest.mark.parametrize("by", ["sobol", "random"])
def test_more_points_begin_with_the_same(by):
    assert np.array_equal(points(by, 3, 100, 5)[:37], points(by, 3, 37, 5))


def test_a_grid_tries_every_combination_once():
    model = {"mlp": {"width": {"choice": [8, 16]}, "dropout": {"choice": [0.0, 0.2, 0.4]}}}
    value = {
        "data": {"path": "sample:digits", "target": "label"},
        "model": model,
        "train": {"optimizer": {"adam": {"lr": {"choice": [0.1, 0.01]}}}},
        "search": {"by": "grid"},
    }
    lots = lots_of(job_from(value))
    assert [len(lot.members) for lot in lots] == [6, 6]
    assert num_members(job_from(value)) == 12
    assert len({tuple({**lot.structural, **values}.values()) for lot in lots for values in lot.members}) == 12


def test_more_members_come_after_those_before_and_differ_from_them():
    before, after = lots_of(job()), lots_of(job({"more": 9}))
    assert after[: len(before)] == before
    assert sum(len(lot.members) for lot in after[len(before) :]) == 9
    old = {tuple(v.values()) for lot in before for v in lot.members}
    assert not old & {tuple(v.values()) for lot in after[len(before) :] for v in lot.members}


def test_more_members_take_structures_that_were_not_tried_as_long_as_there_are_any():
    wide = {"mlp": {"width": {"int": [1, 12]}, "dropout": {"uniform": [0, 0.5]}}}
    lots = lots_of(job({"structures": 8, "more": 8}, wide))
    tried = [lot.structural for lot in lots]
    assert all(values not in tried[:8] for values in tried[8:12])
    assert sorted(lot.structure for lot in lots[:12]) == list(range(12))


def test_without_a_range_there_is_one_lot():
    plain = job_from({"data": {"path": "sample:digits", "target": "label"}, "model": "linear", "train": {"epochs": 1}})
    assert all(not values for lot in lots_of(plain) for values in lot.members)
