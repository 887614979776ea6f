"""The loss of a language model is torch's cross-entropy per token, and what it says is the chance of what is there."""

import pytest
import torch
from torch.nn import functional as F

from fmray.errors import SpecError
from fmray.records import Target
from fmray.tasks.task import Batch, by_entry, task_of
from fmray.train.ingest import NO_TARGET

TARGET = Target(("y",), "next", counts=(0, 1, 5, 4), rows=3)
LENGTHS = [3, 0, 5]


def batch(width=8):
    lengths = torch.tensor(LENGTHS)
    tokens = torch.randint(1, 4, (3, 8), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    target = F.pad(tokens.masked_fill(torch.arange(8) >= lengths[:, None], NO_TARGET), (0, width - 8), value=NO_TARGET)
    return Batch({"tokens": target.clamp_min(0), "tokens_lengths": lengths}, target, None, torch.arange(3))


def logits(members=2, width=8):
    given = torch.randn(members, 3, 8, 4, generator=torch.Generator().manual_seed(1))
    return F.pad(given, (0, 0, 0, width - 8), value=3.0)


def mean(losses):
    loss, weight = losses.sums()
    return loss / weight


@pytest.mark.parametrize("width", [8, 32])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_a_batch_is_torchs_mean_over_tokens_whatever_the_padding(smoothing, width):
    task = task_of("language_model", TARGET, [{"label_smoothing": smoothing}] * 2)
    found = mean(task.loss(lambda _: logits(width=width), batch(width), "model"))
    for own, loss in zip(logits(), found, strict=True):
        expected = F.cross_entropy(
            own.flatten(0, 1), batch().target.flatten().long(), ignore_index=NO_TARGET, label_smoothing=smoothing
        )
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [8, 32])
def test_what_is_said_of_a_token_is_the_probability_of_the_one_that_is_there(width):
    task = task_of("language_model", TARGET, [{}] * 2)
    rows = batch(width)
    said = by_entry(task.predict(logits(width=width), rows), rows)
    assert said.shape == (2, 8, 1)
    assert said.dtype == torch.float64
    tokens = rows.target[rows.target >= 0].long()
    p = by_entry(logits(width=width).double().softmax(-1), rows)
    torch.testing.assert_close(said[..., 0], p.gather(-1, tokens.expand(2, -1)[..., None])[..., 0], rtol=1e-6, atol=0)


def test_an_estimator_of_rows_is_refused_under_the_name_of_the_task():
    with pytest.raises(SpecError, match=r"task\.language_model: predicts something of each token"):
        task_of("language_model", TARGET, [{}]).objective(0)
