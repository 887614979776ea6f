import numpy as np
import pytest
from scipy.stats import qmc

from fmray.spec.load import job_from
from fmray.tune import space
from fmray.tune.space import num_members, points, shares, trial_groups


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
    assert [len(group.members) for group in trial_groups(job())] == [7, 7, 6]


def test_all_structures_are_tried_where_they_are_few():
    assert [group.structural for group in trial_groups(job())] == [{("model", "mlp", "width"): w} for w in (8, 16, 32)]


def test_one_structure_is_tried_per_32_members_but_8_at_least():
    wide = {"mlp": {"width": {"int": [1, 10_000]}, "dropout": {"uniform": [0, 0.5]}}}
    assert len(trial_groups(job({"members": 100}, wide))) == 8
    assert len(trial_groups(job({"members": 640}, wide))) == 20
    assert len(trial_groups(job({"members": 3}, wide))) == 3
    assert len(trial_groups(job({"members": 100, "structures": 50}, wide))) == 50


def test_structures_are_distinct():
    wide = {"mlp": {"width": {"int": [1, 12]}, "dropout": {"uniform": [0, 0.5]}}}
    found = [tuple(group.structural.values()) for group in trial_groups(job({"structures": 11}, wide))]
    assert len(set(found)) == 11


@pytest.mark.parametrize("by", ["random", "sobol"])
def test_a_structure_that_is_drawn_twice_is_one_structure(by, monkeypatch):
    monkeypatch.setattr(space, "TRIES", 1)  # as if all other draws had been equal, too
    wide = {"mlp": {"width": {"int": [1, 13]}, "dropout": {"uniform": [0, 0.5]}}}
    groups = trial_groups(job({"structures": 12, "members": 30, "by": by}, wide))
    assert len(groups) < 12
    assert len({tuple(group.structural.values()) for group in groups}) == len(groups)
    assert [group.structure for group in groups] == list(range(len(groups)))
    assert sum(len(group.members) for group in groups) == 30


def test_members_of_a_structure_are_even_in_every_range():
    one = {"mlp": {"width": 8, "dropout": {"uniform": [0, 0.5]}}}
    (group,) = trial_groups(job({"members": 64}, one))
    drawn = np.array([list(values.values()) for values in group.members])
    unit = np.stack([drawn[:, 0] / 0.5, (np.log10(drawn[:, 1]) + 4) / 3], axis=1)
    assert all(set(np.floor(column * 64).astype(int)) == set(range(64)) for column in unit.T)
    random = qmc.discrepancy(np.random.default_rng(0).random((64, 2)))
    assert qmc.discrepancy(unit) < random / 3


def test_the_same_job_draws_the_same_and_another_seed_another():
    assert trial_groups(job()) == trial_groups(job())
    assert trial_groups(job(seed=1)) != trial_groups(job())


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
    groups = trial_groups(job_from(value))
    assert [len(group.members) for group in groups] == [6, 6]
    assert num_members(job_from(value)) == 12
    assert len({tuple({**group.structural, **values}.values()) for group in groups for values in group.members}) == 12


def test_more_members_come_after_those_before_and_differ_from_them():
    before, after = trial_groups(job()), trial_groups(job({"more": 9}))
    assert after[: len(before)] == before
    assert sum(len(group.members) for group in after[len(before) :]) == 9
    old = {tuple(v.values()) for group in before for v in group.members}
    assert not old & {tuple(v.values()) for group in after[len(before) :] for v in group.members}


def test_more_members_take_structures_that_were_not_tried_as_long_as_there_are_any():
    wide = {"mlp": {"width": {"int": [1, 12]}, "dropout": {"uniform": [0, 0.5]}}}
    groups = trial_groups(job({"structures": 8, "more": 8}, wide))
    tried = [group.structural for group in groups]
    assert all(values not in tried[:8] for values in tried[8:12])
    assert sorted(group.structure for group in groups[:12]) == list(range(12))


def test_without_a_range_there_is_one_lot():
    plain = job_from({"data": {"path": "sample:digits", "target": "label"}, "model": "linear", "train": {"epochs": 1}})
    assert all(not values for group in trial_groups(plain) for values in group.members)
