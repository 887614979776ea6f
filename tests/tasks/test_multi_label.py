"""The loss of labels is torch's binary cross-entropy, a label at a time, and shapes are never broadcast."""

import pytest
import torch

from fmray.errors import TrainError
from fmray.records import Target
from fmray.tasks.multi_label import MultiLabel
from fmray.tasks.task import Batch

TARGET = Target(("y",), "labels", ("a", "b", "c"), counts=(2, 1, 1), rows=4)


def batch(num_rows=7, weight=None):
    target = (torch.rand(num_rows, 3, generator=torch.manual_seed(0)) < 0.4).float()
    return Batch({"x": torch.zeros(num_rows, 1)}, target, weight, torch.arange(num_rows))


def test_the_loss_is_the_mean_over_labels_of_binary_cross_entropy():
    rows = batch()
    logits = torch.randn(2, 7, 3, generator=torch.manual_seed(1))
    found = MultiLabel(TARGET).loss(lambda _: logits, rows, "model")
    p = logits.double().sigmoid()
    expected = -(rows.target * p.log() + (1 - rows.target) * (1 - p).log()).mean(-1)
    torch.testing.assert_close(found.loss.double(), expected, rtol=1e-6, atol=1e-6)
    assert found.weight is None


def test_probabilities_are_of_each_label_for_itself():
    logits = torch.tensor([[[0.0, 100.0, -100.0]]])
    assert MultiLabel(TARGET).predict(logits, None).tolist() == [[[0.5, 1.0, pytest.approx(0.0, abs=1e-40)]]]


def test_another_number_of_outputs_is_refused():
    with pytest.raises(TrainError, match=r"outputs of shape \(7, 1\) for 7 rows and 3 labels"):
        MultiLabel(TARGET).loss(lambda _: torch.zeros(1, 7, 1), batch(), "model")


def test_the_task_of_some_members_is_that_of_all():
    task = MultiLabel(TARGET)
    assert task.select(torch.tensor([0])).num_outputs == 3
