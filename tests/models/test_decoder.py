"""A decoder looks at no token ahead and at no padding, tells places by how far apart they are, and starts at chance."""

import math

import pytest
import torch
from plain_decoder import logits
from torch.nn import functional as F

from fmray.errors import SpecError
from fmray.models.decoder import rotated
from fmray.schema import Column, Schema
from fmray.spec.components import models as declared
from fmray.tasks.task import Batch, Places
from fmray.train.population import Blueprint, enter, why_not_packable

NUM_IDS = 30
SCHEMA = Schema((Column("text", "tokens", NUM_IDS, block="tokens"), Column("n", "number")))
PARAMS = {"width": 16, "depth": 2, "heads": 2}
LENGTHS = (4, 1, 8, 0, 6)


def batch(lengths=LENGTHS, width=8, seed=0):
    """Draw ids for rows of these lengths; padding up to a width is 0."""
    sizes = torch.tensor(lengths)
    ids = torch.randint(1, NUM_IDS, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    ids = ids * (torch.arange(max(lengths)) < sizes[:, None])
    inputs = {"tokens": F.pad(ids, (0, width - max(lengths))), "tokens_lengths": sizes}
    return Batch(inputs, torch.zeros(len(lengths)), None, torch.arange(len(lengths)))


def entered(number=3, training=False, **params):
    blueprints = [Blueprint.of("decoder", {**PARAMS, **params}, seed) for seed in range(number)]
    population = enter(blueprints, SCHEMA, NUM_IDS)
    population.prepare_step(5, Places.counted(0, len(LENGTHS)) if training else None)
    return population


@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_token_changes_outputs_from_its_place_on_and_none_before(place):
    population = entered(1)
    rows = batch((8,))
    moved = rows.inputs["tokens"].clone()
    moved[0, place] = moved[0, place] % (NUM_IDS - 1) + 1
    with torch.no_grad():
        other = population(Batch({**rows.inputs, "tokens": moved}, rows.target, None, rows.rows))
        change = (population(rows) - other)[0, 0].abs().amax(-1)
    assert torch.nonzero(change).flatten().tolist() == list(range(place, 8))


@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_no_output_of_a_token(training):
    population = entered(training=training, dropout=0.3)
    narrow, wide = population(batch()), population(batch(width=40))
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(narrow[:, row, :length], wide[:, row, :length], rtol=1e-6, atol=1e-6)


def test_what_stands_in_the_padding_changes_no_output_of_a_token():
    population = entered(1)
    rows = batch()
    filled = rows.inputs["tokens"].masked_fill(torch.arange(8) >= rows.lengths[:, None], 3)
    one, other = population(rows), population(Batch({**rows.inputs, "tokens": filled}, rows.target, None, rows.rows))
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(one[:, row, :length], other[:, row, :length], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [1, 9, 200])
def test_products_of_rotated_vectors_tell_how_far_apart_places_are_and_no_more(shift):
    query, key = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    length = 20
    rows = [rotated(vector.expand(1, 1, length + shift, 8)) for vector in (query, key)]
    products = (rows[0] @ rows[1].mT)[0, 0]
    torch.testing.assert_close(products[shift:, shift:], products[:length, :length], rtol=1e-6, atol=1e-5)
    assert products[0, :length].std() > 0.1
    torch.testing.assert_close(rows[0].norm(dim=-1), query.norm(dim=-1).expand(1, 1, length + shift))
    torch.testing.assert_close(rows[0][..., 0, :], query[..., 0, :])  # the first place is not turned


def test_outputs_are_those_of_the_formula_written_out():
    population = entered(2)
    rows = batch()
    output = population(rows).detach()
    for member in range(2):
        beside = {name: values[member] for name, values in population.buffers.items()}
        tensors = population.layout.tensors(population.flat[member].detach(), beside)
        for row, length in enumerate(LENGTHS):
            expected = logits(tensors, rows.inputs["tokens"][row, :length], heads=2).float()
            torch.testing.assert_close(output[member, row, :length], expected, rtol=1e-4, atol=1e-5)


def test_packed_members_answer_and_learn_as_they_do_alone():
    blueprints = [Blueprint.of("decoder", {**PARAMS, "dropout": 0.4}, seed) for seed in range(2)]
    assert why_not_packable(blueprints[0], SCHEMA, NUM_IDS, batch().inputs) == ""

    def gradients(some):
        population = enter(some, SCHEMA, NUM_IDS)
        population.prepare_step(3, Places.counted(0, 5))
        output = population(batch())
        output.square().flatten(1).mean(1).sum().backward()
        population.gather_grad()
        return output.detach(), population.grad.clone()

    together, grads = gradients(blueprints)
    assert not torch.allclose(together[0], together[1])
    for place, blueprint in enumerate(blueprints):
        alone, grad = gradients([blueprint])
        torch.testing.assert_close(alone[0], together[place], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grad[0], grads[place], rtol=1e-4, atol=1e-7)


def test_members_that_drop_numbers_in_training_answer_before_their_first_step():
    blueprints = [Blueprint.of("decoder", {**PARAMS, "dropout": rate}, 1) for rate in (0.5, 0.2)]
    population = enter(blueprints, SCHEMA, NUM_IDS)
    population.prepare_step(0, None)  # as a pack that goes on behind its last step does
    together = population(batch())
    torch.testing.assert_close(together[0], together[1], rtol=1e-6, atol=1e-6)


def test_shares_of_a_batch_drop_what_the_whole_batch_drops():
    population = entered(dropout=0.5)
    rows = batch()
    population.prepare_step(2, Places.counted(0, 5))
    whole = population(rows)
    population.prepare_step(2, Places.counted(2, 5))
    torch.testing.assert_close(population(rows.slice(2, 5)), whole[:, 2:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("width", "depth", "heads"), [(32, 1, 1), (64, 6, 4)])
def test_members_start_about_as_good_as_chance(width, depth, heads):
    rows = batch((400,) * 5, 400)
    with torch.no_grad():
        output = entered(3, width=width, depth=depth, heads=heads)(rows)
    targets = batch((400,) * 5, 400, seed=1).inputs["tokens"].flatten()
    for own in output:
        assert F.cross_entropy(own.flatten(0, 1), targets).item() == pytest.approx(math.log(NUM_IDS), rel=0.1)


@pytest.mark.parametrize(("width", "heads", "step"), [(30, 4, 8), (12, 4, 8), (7, 1, 2)])
def test_numbers_that_heads_cannot_share_in_pairs_are_refused(width, heads, step):
    text = f"{width} with {heads} heads. Give a multiple of {step}."
    assert declared.Decoder.problems({"width": width, "heads": heads}) == [("width", text)]
    assert declared.Decoder.problems({"width": 2 * step, "heads": heads}) == []


def test_outputs_are_as_many_as_ids():
    with pytest.raises(SpecError, match=r"model: decoder gives an output for each of 30 ids, and 4 are asked for"):
        enter([Blueprint.of("decoder", PARAMS, 0)], SCHEMA, 4)


def test_without_tokens_the_step_that_makes_them_is_named():
    with pytest.raises(SpecError, match="decoder reads tokens, and no step makes them. Add tokenize"):
        enter([Blueprint.of("decoder", PARAMS, 0)], Schema(SCHEMA.columns[1:]), NUM_IDS)
