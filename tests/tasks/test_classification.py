from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fmray.errors import SpecError, TrainError
from fmray.records import Target
from fmray.tasks.classification import Classification, class_weights
from fmray.tasks.task import Batch, task_of

TARGET = Target(("y",), "class", classes=("a", "b", "c"), counts=(60, 30, 10))
SAMPLED = replace(TARGET, sampled=(30, 30, 40))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (17,), generator=generator)
    return Batch({"x": torch.zeros(17, 1)}, target, None, torch.arange(17))


def logits(members=1):
    return torch.randn(members, 17, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_equals_torch_with_label_smoothing(batch, smoothing):
    given = logits()
    loss = (
        task_of("classification", TARGET, [{"label_smoothing": smoothing}]).loss(lambda _: given, batch, "model").loss
    )
    expected = F.cross_entropy(given[0], batch.target, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(loss[0], expected)


def test_the_weighted_mean_equals_torch_with_class_weights(batch):
    given, weights = logits(), {"a": 0.5, "b": 2.0, "c": 7.0}
    losses = task_of("classification", TARGET, [{"class_weights": weights}]).loss(lambda _: given, batch, "model")
    loss, weight = losses.sums()
    expected = F.cross_entropy(given[0], batch.target, weight=torch.tensor([0.5, 2.0, 7.0]))
    torch.testing.assert_close((loss / weight)[0], expected)


def test_balanced_weights_are_n_over_c_times_the_class_count():
    assert class_weights(TARGET, "balanced") == pytest.approx([100 / 180, 100 / 90, 100 / 30])


def test_balanced_weights_refer_to_the_rows_in_the_lanes():
    assert class_weights(SAMPLED, "balanced") == pytest.approx([100 / 90, 100 / 90, 100 / 120])


def test_probabilities_after_sampling_are_those_that_bayes_gives_under_the_true_shares():
    given = logits(2)
    p = np.exp(given.double().numpy())
    p /= p.sum(-1, keepdims=True)
    likelihood = p / np.array([0.3, 0.3, 0.4])  # p(x | c) up to p(x), whose rows were drawn with these shares
    joint = likelihood * np.array([0.6, 0.3, 0.1])
    expected = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(
        task_of("classification", SAMPLED, [{}, {}]).predict(given, None).numpy(), expected, rtol=1e-12
    )
    chosen = task_of("classification", SAMPLED, [{}, {}]).select(torch.tensor([1]))
    np.testing.assert_allclose(chosen.predict(given[1:], None).numpy(), expected[1:], rtol=1e-12)


def test_sampling_every_class_alike_shifts_nothing():
    alike = replace(TARGET, sampled=(120, 60, 20))
    torch.testing.assert_close(
        Classification(alike).predict(logits(), None), Classification(TARGET).predict(logits(), None)
    )


def test_row_weights_and_class_weights_multiply(batch):
    given = logits()
    weighted = Batch(batch.inputs, batch.target, torch.linspace(0.1, 2, 17), batch.rows)
    loss, weight = (
        task_of("classification", TARGET, [{"class_weights": "balanced"}])
        .loss(lambda _: given, weighted, "model")
        .sums()
    )
    rows = torch.tensor(class_weights(TARGET, "balanced"))[batch.target] * weighted.weight
    expected = (F.cross_entropy(given[0], batch.target, reduction="none") * rows).sum() / rows.sum()
    torch.testing.assert_close((loss / weight)[0], expected)


def test_members_with_other_smoothing_and_weights_do_not_see_each_other(batch):
    members = [{}, {"label_smoothing": 0.2}, {"class_weights": {"c": 3}}]
    given = logits(3)
    together = task_of("classification", TARGET, members).loss(lambda _: given, batch, "model").sums()
    for place, params in enumerate(members):
        alone = (
            task_of("classification", TARGET, [params]).loss(lambda _, k=place: given[k : k + 1], batch, "model").sums()
        )
        torch.testing.assert_close(together[0][place] / together[1][place], (alone[0] / alone[1])[0])


def test_selecting_members_keeps_theirs(batch):
    task = task_of("classification", TARGET, [{}, {"label_smoothing": 0.2}, {"class_weights": "balanced"}])
    given = logits(3)
    whole = task.loss(lambda _: given, batch, "model").loss
    kept = task.select(torch.tensor([1, 2])).loss(lambda _: given[1:], batch, "model").loss
    assert torch.equal(kept, whole[1:])


PERCEPTRON = {"loss": "perceptron"}


def mistakes(scores, right):
    """Give the gradient of the perceptron's loss for rows of scores, of one member."""
    given = torch.tensor([scores], requires_grad=True)
    rows = Batch({}, torch.tensor(right), None, torch.arange(len(right)))
    loss = task_of("classification", TARGET, [PERCEPTRON]).loss(lambda _: given, rows, "model").loss
    loss.sum().backward()
    return loss.detach()[0].tolist(), given.grad[0].tolist()


@pytest.mark.parametrize(
    ("scores", "right", "lead", "moves"),
    [
        ([1.0, 3.0, 2.0], 1, 0.0, [0, 0, 0]),  # right
        ([1.0, 3.0, 2.0], 2, 1.0, [0, 1, -1]),  # wrong: the guess gives, the right class gets
        ([1.0, 3.0, 3.0], 1, 0.0, [0, -1, 1]),  # a tie with the right class is a mistake
        ([1.0, 3.0, 3.0], 0, 2.0, [-1, 1, 0]),  # of two wrong guesses the first
        ([0.0, 0.0, 0.0], 0, 0.0, [-1, 1, 0]),  # so weights of zero move, whichever class is right
        ([0.0, 0.0, 0.0], 2, 0.0, [1, 0, -1]),
    ],
)
def test_a_perceptron_moves_two_classes_wherever_the_right_one_is_not_strictly_ahead(scores, right, lead, moves):
    assert mistakes([scores], [right]) == ([lead], [moves])


def test_a_perceptrons_loss_that_is_not_finite_stays_so():
    given = torch.tensor([[[float("nan"), 0.0, 1.0], [0.0, float("inf"), 1.0]]])
    rows = Batch({}, torch.tensor([2, 2]), None, torch.arange(2))
    assert (
        not task_of("classification", TARGET, [PERCEPTRON]).loss(lambda _: given, rows, "model").loss.isfinite().any()
    )


def test_a_perceptron_of_two_classes_is_torchs_multi_margin_loss_without_a_margin(batch):
    given, two = logits()[:, :, :2], Target(("y",), "class", classes=("a", "b"), counts=(1, 1))
    rows = Batch({}, batch.target % 2, None, batch.rows)
    loss = task_of("classification", two, [PERCEPTRON]).loss(lambda _: given, rows, "model").loss[0]
    expected = 2 * F.multi_margin_loss(given[0], rows.target, margin=0.0, reduction="none")
    torch.testing.assert_close(loss, expected)


def test_perceptrons_with_their_own_class_weights_do_not_see_each_other(batch):
    given, members = logits(2), [PERCEPTRON, {**PERCEPTRON, "class_weights": "balanced"}]
    task = task_of("classification", TARGET, members)
    whole = task.loss(lambda _: given, batch, "model")
    kept = task.select(torch.tensor([1])).loss(lambda _: given[1:], batch, "model")
    assert torch.equal(kept.sums()[0], whole.sums()[0][1:])
    alone = task_of("classification", TARGET, members[:1]).loss(lambda _: given[:1], batch, "model").loss
    assert torch.equal(alone[0], whole.loss[0])


def test_predictions_of_a_perceptron_rank_classes_as_its_scores_do():
    given = logits() * 5
    ranked = task_of("classification", TARGET, [PERCEPTRON]).predict(given, None)
    assert torch.equal(ranked.argsort(-1), given.argsort(-1))


def test_probabilities_sum_to_one():
    assert torch.allclose(
        Classification(TARGET).predict(logits(), None).sum(-1), torch.ones(1, 17, dtype=torch.float64)
    )


@pytest.mark.parametrize("shape", [(1, 17, 1), (1, 17, 2), (1, 17, 4)])
def test_outputs_of_another_shape_are_refused_and_named(batch, shape):
    with pytest.raises(TrainError, match=r"outputs of shape .* Give one number per class: \(17, 3\)"):
        Classification(TARGET).loss(lambda _: torch.zeros(shape), batch, "model")


@pytest.mark.parametrize("params", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"class_weights": {"d": 2}},
                                    {"class_weights": {"a": 0}}, {"class_weights": "even"}, {"loss": "hinge"},
                                    {"loss": "perceptron", "label_smoothing": 0.1}])  # fmt: skip
def test_parameters_out_of_range_are_refused(params):
    with pytest.raises(SpecError, match=r"task\.classification"):
        task_of("classification", TARGET, [params])
