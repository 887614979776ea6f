"""Hold fmray's training against the perceptron's rule, carried out row by row in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fmray.data.order import epoch_order
from fmray.spec.ref import Ref
from fmray.spec.sections import Order, Train
from fmray.train.loop import fit

ORDER = Order(chunk_rows=4, window_chunks=3, num_lanes=5)
ROW_BY_ROW = Train(epochs=2, batch_rows=1, early_stop=None, order=ORDER)
ORDER_SEED, CLASSES = 11, 3


def by_hand(training, weight, bias, lr, epochs):
    """Give the weights after: on a mistake, w_right += lr x and w_guess -= lr x; a tie is a mistake."""
    rows = training.rows()
    x, y = rows.lanes.load(["x"])["x"], rows.scored()["target"]
    weight, bias, lr = weight.copy(), bias.copy(), np.float32(lr)
    mistakes = 0
    for epoch in range(epochs):
        for place in epoch_order(len(x), ORDER, ORDER_SEED, epoch):
            scores = x[place] @ weight + bias
            rivals = [c for c in range(CLASSES) if c != y[place]]
            guess = max(rivals, key=lambda c: (scores[c], -c))  # the first of equals
            if scores[guess] >= scores[y[place]]:
                mistakes += 1
                for c, sign in ((y[place], 1), (guess, -1)):
                    weight[:, c] += sign * lr * x[place]
                    bias[c] += sign * lr
    assert 0 < mistakes < epochs * len(x)
    return np.concatenate([weight.ravel(), bias])


def plan(training, index, name="perceptron", **task):
    rates = (1.0, 0.5, 2.0)  # powers of two scale without rounding
    made = training.plan(index, by="sgd", optimizer={"lr": rates[index]}, task={"loss": "perceptron", **task})
    return replace(made, model=Ref(name))


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 3])
def test_a_perceptron_ends_with_the_weights_that_the_rule_gives_by_hand(classes, members):
    pack = classes.fit([plan(classes, i) for i in range(members)], ROW_BY_ROW)
    zeros = np.zeros((classes.prepared.schema.width, CLASSES), np.float32), np.zeros(CLASSES, np.float32)
    for place, member in enumerate(pack.plans):
        expected = by_hand(classes, *zeros, member.optimizer.params["lr"], 2)
        assert np.array_equal(pack.population.flat[place].detach().numpy(), expected)


def test_members_that_start_apart_each_follow_the_rule(classes):
    plans = [plan(classes, i, name="linear") for i in range(3)]
    pack = classes.fit(plans, ROW_BY_ROW)
    for place, member in enumerate(plans):
        start = member.blueprint.module(classes.prepared.schema, CLASSES)
        weight, bias = (p.detach().numpy() for p in start.parameters())
        expected = by_hand(classes, weight[0], bias[0, 0], member.optimizer.params["lr"], 2)
        np.testing.assert_allclose(pack.population.flat[place].detach().numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_perceptron_of_separable_rows_makes_no_mistake_in_the_end(classes):
    """Rosenblatt's convergence theorem, on classes that lie apart."""
    pack = classes.pack([plan(classes, 0)], replace(ROW_BY_ROW, epochs=40))
    rows = classes.rows()
    scores = rows._whole["x"] @ torch.randn(rows.schema.width, CLASSES, generator=torch.Generator().manual_seed(0))
    first, second = scores.topk(2).values.T
    apart = first - second > 1
    rows._whole = {"x": rows._whole["x"][apart], "target": scores.argmax(1)[apart]}
    rows.num_rows = rows.lanes.num_rows = int(apart.sum())
    fit(pack, rows, classes.rows("val"), classes.metric, ORDER_SEED)
    losses = [entry["value"] for entry in pack.state.history if entry["metric"] == "train_loss"]
    assert losses[0] > 0
    assert losses[-1] == 0
