"""The loss of tags is torch's cross-entropy, averaged over tokens, however rows are padded and parted."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fmray.errors import SpecError, TrainError
from fmray.ragged import Ragged
from fmray.records import Target
from fmray.tasks.task import Batch, by_entry, task_of
from fmray.train.blocks import RaggedTensor
from fmray.train.ingest import NO_TARGET

TARGET = Target(("y",), "tags", ("a", "b", "c"), counts=(5, 4, 3), rows=6)
LENGTHS = [3, 1, 7, 2, 5, 4]


def batch(width=8, weight=None):
    """Give rows of tags, padded up to a width."""
    lengths = torch.tensor(LENGTHS)
    tags = torch.randint(0, 3, (6, 8), generator=torch.Generator().manual_seed(0))
    tags = tags.masked_fill(torch.arange(8) >= lengths[:, None], NO_TARGET)
    target = F.pad(tags, (0, width - 8), value=NO_TARGET)
    inputs = {"tokens": torch.zeros_like(target), "tokens_lengths": lengths}
    return Batch(inputs, target, weight, torch.arange(6))


def logits(members=2, width=8):
    given = torch.randn(members, 6, 8, 3, generator=torch.Generator().manual_seed(1))
    return F.pad(given, (0, 0, 0, width - 8), value=3.0)


def mean(losses):
    loss, weight = losses.sums()
    return loss / weight


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_of_a_batch_is_torchs_mean_over_tokens(smoothing):
    given, rows = logits(), batch()
    found = task_of("tagging", TARGET, [{"label_smoothing": smoothing}] * 2).loss(lambda _: given, rows, "model")
    for own, loss in zip(given, mean(found), strict=True):
        expected = F.cross_entropy(
            own.flatten(0, 1), rows.target.flatten(), ignore_index=NO_TARGET, label_smoothing=smoothing
        )
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_members_of_one_pack_smooth_each_by_its_own_share():
    given, rows = logits(3), batch()
    shares = [0.0, 0.2, 0.4]
    packed = task_of("tagging", TARGET, [{"label_smoothing": share} for share in shares])
    together = mean(packed.loss(lambda _: given, rows, "model"))
    kept = mean(packed.select(torch.tensor([2])).loss(lambda _: given[2:], rows, "model"))
    for place, share in enumerate(shares):
        alone = task_of("tagging", TARGET, [{"label_smoothing": share}])
        expected = mean(alone.loss(lambda _, place=place: given[place : place + 1], rows, "model"))[0]
        torch.testing.assert_close(together[place], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(kept[0], together[2], rtol=0, atol=0)


@pytest.mark.parametrize("width", [16, 64])
def test_padding_changes_neither_the_loss_nor_its_gradient(width):
    task = task_of("tagging", TARGET, [{"label_smoothing": 0.1}] * 2)

    def found(width):
        given = logits(width=width).requires_grad_()
        loss = mean(task.loss(lambda _: given, batch(width), "model"))
        loss.sum().backward()
        return loss, given.grad[:, :, :8], given.grad[:, :, 8:]

    loss, grad, _ = found(8)
    wide, wide_grad, beyond = found(width)
    torch.testing.assert_close(wide, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(wide_grad, grad, rtol=1e-6, atol=1e-9)
    assert not beyond.any()


def test_the_weight_of_a_row_is_that_of_each_of_its_tokens():
    given, weight = logits(1), torch.linspace(0.1, 2, 6)
    rows = batch(weight=weight)
    found = mean(task_of("tagging", TARGET, [{}]).loss(lambda _: given, rows, "model"))[0]
    each = F.cross_entropy(given[0].flatten(0, 1), rows.target.flatten(), ignore_index=NO_TARGET, reduction="none")
    expected = (each.view(6, 8) * weight[:, None]).sum() / (weight * torch.tensor(LENGTHS)).sum()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_parts_of_a_batch_add_up_to_the_mean_over_its_tokens():
    given, rows = logits(), batch()
    task = task_of("tagging", TARGET, [{}, {}])
    parts = [(0, 1), (1, 4), (4, 6)]
    sums = [task.loss(lambda _, a=a, b=b: given[:, a:b], rows.slice(a, b), "model").sums() for a, b in parts]
    whole = mean(task.loss(lambda _: given, rows, "model"))
    torch.testing.assert_close(sum(s for s, _ in sums) / sum(w for _, w in sums), whole, rtol=1e-6, atol=0)


def test_a_row_without_tokens_neither_counts_nor_breaks_the_loss():
    target = torch.full((1, 8), NO_TARGET)
    inputs = {"tokens": torch.zeros(1, 8, dtype=torch.long), "tokens_lengths": torch.zeros(1, dtype=torch.long)}
    given = torch.randn(1, 1, 8, 3).requires_grad_()
    rows = Batch(inputs, target, None, torch.arange(1))
    loss, weight = task_of("tagging", TARGET, [{}]).loss(lambda _: given, rows, "model").sums()
    loss.sum().backward()
    assert (loss.tolist(), weight.tolist(), bool(given.grad.any())) == ([0], [0], False)


@pytest.mark.parametrize("shape", [(1, 6, 3), (1, 6, 8, 4), (1, 6, 7, 3)])
def test_another_shape_of_outputs_is_refused_with_the_one_that_fits(shape):
    with pytest.raises(TrainError, match=r"for 6 rows of 8 tokens and 3 classes.*per token and class: \(6, 8, 3\)\."):
        task_of("tagging", TARGET, [{}]).loss(lambda _: torch.zeros(shape), batch(), "model")


def test_outputs_per_token_are_refused_where_a_row_has_one_class():
    target = Target(("y",), "class", ("a", "b", "c"), counts=(1, 1, 1))
    rows = Batch({}, torch.zeros(6, dtype=torch.long), None, torch.arange(6))
    with pytest.raises(TrainError, match=r"outputs of shape \(6, 8, 3\) for 6 rows and 3 classes"):
        task_of("classification", target, [{}]).loss(lambda _: logits(1), rows, "model")


def test_predictions_are_probabilities_of_each_token_for_itself():
    found = task_of("tagging", TARGET, [{}, {}]).predict(logits(), None)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, logits().double().softmax(-1))


def test_predictions_lie_token_behind_token_as_the_targets_of_rows_do():
    rows = batch(16)
    found = by_entry(task_of("tagging", TARGET, [{}, {}]).predict(logits(width=16), rows), rows)
    expected = torch.cat([logits()[:, row, :length] for row, length in enumerate(LENGTHS)], 1).double().softmax(-1)
    torch.testing.assert_close(found, expected)
    one_per_row = torch.rand(2, 6, 3)
    assert by_entry(one_per_row, rows) is one_per_row


def test_targets_of_rows_are_padded_with_what_no_tag_is():
    values = np.array([0, 2, 1, 1, 0])
    ragged = Ragged.of_lengths(values, np.array([2, 0, 3]))
    found = RaggedTensor(*(torch.from_numpy(a) for a in (ragged.values, ragged.starts, ragged.lengths)))
    expected = [[0, 2, *[-1] * 6], [-1] * 8, [1, 1, 0, *[-1] * 5]]
    assert found.padded(NO_TARGET).tolist() == expected


def test_trees_are_refused():
    with pytest.raises(SpecError, match=r"task\.tagging: predicts something of each token.*Take one\."):
        task_of("tagging", TARGET, [{}]).objective(0)
