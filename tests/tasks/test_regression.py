import pytest
import torch
from torch.nn import functional as F

from fmray.errors import SpecError, TrainError
from fmray.records import Target
from fmray.tasks.regression import Regression
from fmray.tasks.task import Batch, task_of

ONE = Target(("y",), "number", mean=(10.0,), scale=(2.0,))
TWO = Target(("y", "z"), "number", mean=(10.0, -1.0), scale=(2.0, 0.5))


def batch_of(num_targets):
    generator = torch.Generator().manual_seed(num_targets)
    return Batch({}, torch.randn(13, num_targets, generator=generator), None, torch.arange(13))


def outputs(num_targets, members=1):
    return 2 * torch.randn(members, 13, num_targets, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("target", [ONE, TWO])
def test_squared_error_equals_torch(target):
    batch, given = batch_of(len(target.columns)), outputs(len(target.columns))
    loss = Regression(target).loss(lambda _: given, batch, "model").loss
    torch.testing.assert_close(loss.mean(), F.mse_loss(given[0], batch.target))


@pytest.mark.parametrize("delta", [0.3, 1.0, 2.5])
def test_huber_equals_torch(delta):
    batch, given = batch_of(1), outputs(1)
    loss = task_of("regression", ONE, [{"loss": "huber", "delta": delta}]).loss(lambda _: given, batch, "model").loss
    torch.testing.assert_close(loss[0], F.huber_loss(given[0], batch.target, delta=delta, reduction="none")[:, 0])


def test_members_differ_in_delta_only():
    batch, given = batch_of(1), outputs(1, members=2)
    members = [{"loss": "huber", "delta": 0.3}, {"loss": "huber", "delta": 2.0}]
    loss = task_of("regression", ONE, members).loss(lambda _: given, batch, "model").loss
    for place, params in enumerate(members):
        alone = task_of("regression", ONE, [params]).loss(lambda _, k=place: given[k : k + 1], batch, "model").loss
        assert torch.equal(loss[place], alone[0])
    kept = task_of("regression", ONE, members).select(torch.tensor([1])).loss(lambda _: given[1:], batch, "model").loss
    assert torch.equal(kept[0], loss[1])


def test_predictions_come_back_in_target_units():
    given = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])
    expected = torch.tensor([[[10.0, -0.5], [8.0, -1.0]]], dtype=torch.float64)
    assert torch.equal(Regression(TWO).predict(given, None), expected)


def test_a_column_against_a_row_is_refused_and_not_broadcast():
    batch = Batch({}, torch.zeros(64, 1), None, torch.arange(64))
    with pytest.raises(TrainError, match=r"outputs of shape \(64,\).*never broadcast"):
        Regression(ONE).loss(lambda _: torch.zeros(1, 64), batch, "model")


@pytest.mark.parametrize(
    "members", [[{"loss": "mea"}], [{"loss": "huber", "delta": 0}], [{"loss": "mse"}, {"loss": "huber"}]]
)
def test_parameters_out_of_range_are_refused(members):
    with pytest.raises(SpecError, match=r"task\.regression"):
        task_of("regression", ONE, members)
