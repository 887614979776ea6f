"""Models of tokens see the neighbours they should, and neither padding nor company changes what they say."""

import pytest
import torch
from torch.nn import functional as F

from fmray.models import layers
from fmray.models.tagger import TokenLinear
from fmray.schema import Column, Schema
from fmray.tasks.task import Batch, Places
from fmray.train.population import Blueprint, enter

SCHEMA = Schema((Column("words", "tokens", 30, block="tokens"), Column("words.shape", "tokens", 5, block="shape")))
MODELS = [
    ("tagger", {"embedding": 6, "width": 12}),
    ("tagger", {"embedding": 6, "width": 8, "depth": 3, "reach": 2}),
    ("token_linear", {}),
]


def batch(lengths=(4, 1, 8, 0, 6), width=8, seed=0):
    """Draw ids for rows of these lengths; padding up to a width is 0."""
    sizes = torch.tensor(lengths)
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for block in SCHEMA.blocks.values():
        ids = torch.randint(1, block.width, (len(lengths), max(lengths)), generator=generator)
        ids = ids * (torch.arange(max(lengths)) < sizes[:, None])
        inputs |= {block.name: F.pad(ids, (0, width - max(lengths))), f"{block.name}_lengths": sizes}
    return Batch(inputs, torch.zeros(len(lengths)), None, torch.arange(len(lengths)))


def members(name, params, number=3):
    return [Blueprint.of(name, params, seed) for seed in range(number)]


@pytest.mark.parametrize(("name", "params"), MODELS)
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_no_output_of_a_token(name, params, training):
    dropout = {"dropout": 0.3} if name == "tagger" else {}
    population = enter(members(name, {**params, **dropout}), SCHEMA, 4)
    population.prepare_step(5, Places.counted(0, 5) if training else None)
    narrow, wide = population(batch()), population(batch(width=40))
    for row, length in enumerate((4, 1, 8, 0, 6)):
        torch.testing.assert_close(narrow[:, row, :length], wide[:, row, :length], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("depth", "reach"), [(1, 1), (2, 1), (2, 2), (1, 3)])
def test_a_token_sees_depth_times_reach_tokens_each_way_and_no_more(depth, reach):
    (one,) = members("tagger", {"embedding": 4, "width": 6, "depth": depth, "reach": reach}, 1)
    population = enter([one], SCHEMA, 2)
    population.prepare_step(0, None)
    rows = batch((15,), 16)
    moved = {**rows.inputs, "tokens": rows.inputs["tokens"].clone()}
    moved["tokens"][0, 7] = moved["tokens"][0, 7] % 29 + 1
    with torch.no_grad():
        change = (population(rows) - population(Batch(moved, rows.target, None, rows.rows)))[0, 0].abs().amax(-1)
    assert torch.nonzero(change).flatten().tolist() == list(range(7 - depth * reach, 8 + depth * reach))


def test_a_linear_model_of_tokens_sees_a_token_alone_and_adds_a_weight_per_id():
    model = TokenLinear(SCHEMA, 3)
    model.bias_K11O.data.normal_()
    rows = batch()
    by_hand = model.bias_K11O + sum(
        F.one_hot(rows.inputs[name], weight.weight_KVE.shape[1]).float() @ weight.weight_KVE[0]
        for name, weight in zip(("tokens", "shape"), model.weights, strict=True)
    )
    torch.testing.assert_close(model(**{name: rows.inputs[name] for name in ("tokens", "shape")}), by_hand)


@pytest.mark.parametrize("number", [1, 3])
def test_an_embedding_is_torchs_of_every_member(number):
    layer = layers.Embedding(9, 4, 0.5)
    layer.weight_KVE.data = torch.randn(number, 9, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 8, 0], [3, 3, 1]])
    found = layer(ids)
    for place in range(number):
        assert torch.equal(found[place], F.embedding(ids, layer.weight_KVE[place]))


@pytest.mark.parametrize(("name", "params"), MODELS)
def test_members_in_a_pack_learn_what_they_learn_alone(name, params):
    dropout = {"dropout": 0.4} if name == "tagger" else {}
    blueprints = members(name, {**params, **dropout})

    def gradients(some):
        population = enter(some, SCHEMA, 4)
        population.prepare_step(3, Places.counted(0, 5))
        output = population(batch())
        output.square().flatten(1).mean(1).sum().backward()
        population.gather_grad()
        return output.detach(), population.grad.clone()

    together, grads = gradients(blueprints)
    for place, blueprint in enumerate(blueprints):
        alone, grad = gradients([blueprint])
        torch.testing.assert_close(alone[0], together[place], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grad[0], grads[place], rtol=1e-4, atol=1e-7)


def test_shares_of_a_batch_drop_what_the_whole_batch_drops():
    population = enter(members("tagger", {"embedding": 6, "width": 12, "dropout": 0.5}), SCHEMA, 4)
    rows = batch()
    population.prepare_step(2, Places.counted(0, 5))
    whole = population(rows)
    population.prepare_step(2, Places.counted(2, 5))
    torch.testing.assert_close(population(rows.slice(2, 5)), whole[:, 2:], rtol=1e-5, atol=1e-6)
