"""An encoder computes what its formula says of rows or of tokens, looks both ways, and never into the padding."""

import pytest
import torch
from plain_decoder import hidden
from torch.nn import functional as F

from fmray.errors import SpecError
from fmray.records import Target
from fmray.schema import Column, Schema
from fmray.spec.components import models as declared
from fmray.spec.inputs import fitted
from fmray.spec.ref import Ref
from fmray.tasks.task import Batch, Places, task_of
from fmray.train.population import Blueprint, enter

NUM_IDS = 30
SCHEMA = Schema((Column("text", "tokens", NUM_IDS, block="tokens"), Column("n", "number")))
PARAMS = {"width": 16, "depth": 2, "heads": 2}
LENGTHS = (4, 1, 8, 0, 6)
ALL = [{"per": "row"}, {"per": "token"}]


def batch(lengths=LENGTHS, width=8, seed=0):
    """Draw ids for rows of these lengths, and a class for each token; padding up to a width is 0."""
    sizes = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(seed)
    there = torch.arange(max(lengths)) < sizes[:, None]
    ids = torch.randint(1, NUM_IDS, (len(lengths), max(lengths)), generator=generator) * there
    classes = torch.randint(0, 4, ids.shape, generator=generator).masked_fill(~there, -1)
    more = (0, width - max(lengths))
    inputs = {"tokens": F.pad(ids, more), "tokens_lengths": sizes}
    return Batch(inputs, F.pad(classes, more, value=-1), None, torch.arange(len(lengths)))


def entered(number=3, training=False, times=1, **params):
    """Build members; parameters are multiplied, as tokens hardly see each other at first."""
    blueprints = [Blueprint.of("encoder", {**PARAMS, **params}, seed) for seed in range(number)]
    population = enter(blueprints, SCHEMA, 4)
    population.flat.data.mul_(times)
    population.prepare_step(5, Places.counted(0, len(LENGTHS)) if training else None)
    return population


def tensors_of(population, member):
    beside = {name: values[member] for name, values in population.buffers.items()}
    return population.layout.tensors(population.flat[member].detach(), beside)


@pytest.mark.parametrize("params", ALL)
def test_outputs_are_those_of_the_formula_written_out(params):
    population = entered(2, times=5, **params)
    rows = batch()
    output = population(rows).detach()
    for member in range(2):
        tensors = tensors_of(population, member)
        weight, bias = (tensors[f"head.{name}"].double() for name in ("weight", "bias"))
        for row, length in enumerate(LENGTHS):
            if not length:
                continue
            h = hidden(tensors, rows.inputs["tokens"][row, :length], heads=2, causal=False)
            found = output[member, row, :length]
            if params["per"] == "row":
                h = h.mean(0)
                found = output[member, row]
            torch.testing.assert_close(found, (h @ weight.T + bias).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", [0, 3, 7])
def test_every_token_of_a_row_is_seen_by_all_of_them_and_by_no_other_row(place):
    population = entered(1, per="token", times=5)
    rows = batch((8, 8))
    moved = rows.inputs["tokens"].clone()
    moved[0, place] = moved[0, place] % (NUM_IDS - 1) + 1
    with torch.no_grad():
        other = population(Batch({**rows.inputs, "tokens": moved}, rows.target, None, rows.rows))
        change = (population(rows) - other)[0].abs().amax(-1)
    assert (change[0] > 0).all()
    assert not change[1].any()


def test_the_order_of_tokens_counts():
    population = entered(1, times=5)
    rows = batch((8,))
    turned = {**rows.inputs, "tokens": rows.inputs["tokens"].flip(1)}
    change = population(rows) - population(Batch(turned, rows.target, None, rows.rows))
    assert change.abs().max() > 0.01


@pytest.mark.parametrize("params", ALL)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("width", [9, 16, 40, 200])
def test_any_padding_gives_the_same_loss(params, training, width):
    losses = []
    for rows in (batch(), batch(width=width)):
        population = entered(training=training, times=5, dropout=0.3, **params)
        losses.append(mean_loss(population, rows, **params))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0)


def mean_loss(population, rows, per):
    """Give the mean loss of each member over rows or tokens, summed in double precision."""
    classes = ("a", "b", "c", "d")
    if per == "token":
        target = Target(("y",), "tags", classes, counts=(1,) * 4, rows=5)
        found = task_of("tagging", target, [{}] * 3).loss(population, rows, "model")
        return (found.loss * found.weight).double().sum(-1) / found.weight.double().sum(-1)
    target = Target(("y",), "class", classes, counts=(1,) * 4)
    rows = Batch(rows.inputs, torch.arange(5) % 4, None, rows.rows)
    return task_of("classification", target, [{}] * 3).loss(population, rows, "model").loss.double().mean(-1)


def test_a_row_without_tokens_is_answered_by_the_bias_alone_whatever_stands_in_its_padding():
    population = entered(1)
    rows = batch((0, 0), 8)
    rows.inputs["tokens"][1] = 7
    with torch.no_grad():
        output = population(rows)[0]
    bias = tensors_of(population, 0)["head.bias"]
    torch.testing.assert_close(output, bias.expand(2, -1))


def test_members_of_a_pack_may_drop_different_shares():
    rates = [0.5, 0.2, 0.0]
    blueprints = [Blueprint.of("encoder", {**PARAMS, "dropout": rate}, 1) for rate in rates]
    places = Places.counted(0, len(LENGTHS))
    together = enter(blueprints, SCHEMA, 4)
    together.prepare_step(3, places)
    output = together(batch())
    for place, blueprint in enumerate(blueprints):
        alone = enter([blueprint], SCHEMA, 4)
        alone.prepare_step(3, places)
        torch.testing.assert_close(alone(batch())[0], output[place], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(output[0], output[1])
    assert not torch.allclose(output[1], output[2])


def test_of_several_blocks_of_tokens_one_is_named():
    schema = Schema((*SCHEMA.columns, Column("title", "tokens", 9, block="title")))
    named = enter([Blueprint.of("encoder", {**PARAMS, "block": "title"}, 0)], schema, 4)
    assert named.shapes["embedding.weight"] == (9, 16)
    text = r"model.encoder.block: encoder reads one block of tokens, and there are tokens, title. Name one."
    with pytest.raises(SpecError, match=text):
        enter([Blueprint.of("encoder", PARAMS, 0)], schema, 4)
    with pytest.raises(SpecError, match=r"'titel' is no block of tokens. There is: tokens, title."):
        enter([Blueprint.of("encoder", {**PARAMS, "block": "titel"}, 0)], schema, 4)


def test_numbers_that_heads_cannot_share_in_pairs_are_refused():
    assert declared.Encoder.problems({"width": 12, "heads": 4}) == [("width", "12 with 4 heads. Give a multiple of 8.")]


@pytest.mark.parametrize(
    ("task", "per"),
    [("classification", "row"), ("multi_label", "row"), ("regression", "row"), ("tagging", "token")],
)
def test_the_task_says_what_has_an_output_of_its_own(task, per):
    assert fitted(Ref("encoder", {"width": 8}), task) == Ref("encoder", {"per": per, "width": 8})


@pytest.mark.parametrize("name", ["decoder", "tagger", "linear", "my_module:Net"])
def test_models_that_serve_rows_or_tokens_alone_are_told_nothing(name):
    assert fitted(Ref(name, {}), "tagging") == Ref(name, {})
