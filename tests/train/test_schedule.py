import math

import pytest

from fmray.catalogue import SCHEDULES
from fmray.errors import SpecError
from fmray.spec.components import schedules
from fmray.train.schedule import Cosine, Step, warmup


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_every_schedule_stays_between_zero_and_one(name):
    schedule = SCHEDULES.build(name, params={})
    assert all(0 <= schedule.factor(step, 100, 10) <= 1 for step in range(101))


def test_cosine_falls_from_one_through_the_middle_to_its_end():
    cosine = Cosine(schedules.Cosine(final=0.2))
    assert cosine.factor(0, 100, 10) == pytest.approx(1.0)
    assert cosine.factor(50, 100, 10) == pytest.approx(0.6)
    assert cosine.factor(25, 100, 10) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert cosine.factor(100, 100, 10) == pytest.approx(0.2)


def test_step_drops_at_whole_epochs_only():
    step = Step(schedules.Step(every=2, factor=0.1))
    assert [step.factor(s, 60, 10) for s in (0, 19, 20, 39, 40)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warm_up_is_linear_and_ends_at_one():
    assert [warmup(s, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup(0, 0) == 1


@pytest.mark.parametrize(
    ("name", "params"),
    [("cosine", {"final": 2}), ("step", {"every": 0}), ("step", {"factor": -1}), ("plateau", {"patience": 0})],
)
def test_values_out_of_range_are_refused_by_key(name, params):
    with pytest.raises(SpecError, match=rf"schedule\.{name}\.{next(iter(params))}: "):
        SCHEDULES.build(name, params=params)
