"""Compare influences with what they stand for: derivatives, and a jackknife."""

import numpy as np
import pytest

from fmray.evaluate.intervals import squares, standard_error


def check_influence(metric, p, target, group):
    """An influence is the derivative of the score by the weight of a row; rows are numbered from 0 in `group`."""
    num_rows = int(group.max()) + 1
    weight = np.repeat(np.random.default_rng(0).exponential(size=num_rows), np.bincount(group.astype(int)))
    influence = metric.influence(p, target, weight)
    step = 1e-5
    for row in range(0, num_rows, 7):
        own = group == row
        values = [metric.value(p, target, weight * np.where(own, 1 + sign * step, 1)) for sign in (1, -1)]
        assert influence[own].sum() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-9)


def check_standard_error(metric, p, target, group):
    """A standard error is that of scores which leave out one row each."""
    num_rows = int(group.max()) + 1
    error, pieces = standard_error(squares(metric.influence(p, target, None), group))
    left = [metric.value(p[group != row], target[group != row], None) for row in range(num_rows)]
    assert pieces == num_rows
    expected = np.sqrt((num_rows - 1) / num_rows * np.square(left - np.mean(left)).sum())
    assert error == pytest.approx(expected, rel=0.03)
