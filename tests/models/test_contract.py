"""Run every model of the catalogue through what the loop relies on."""

import pytest
import torch

from fmray.catalogue import MODELS
from fmray.models.model import PopulationNative
from fmray.schema import Column, Schema
from fmray.tasks.task import Batch, Places
from fmray.train.population import Blueprint, enter, why_not_packable

SCHEMA = Schema((Column("first", "number"), Column("pixels", "vector", 255)))  # 16 x 16, for models of images
TOKENS = Schema((Column("words", "tokens", 20, block="tokens"), Column("words.shape", "tokens", 9, block="shape")))
OF_TOKENS = {
    "tagger": {"embedding": 8, "width": 16},
    "token_linear": {},
    "decoder": {"width": 16, "depth": 2, "heads": 2},
}
"""Models that give an output per token."""
OF_IDS = {"decoder": 20}
"""Models that give an output per id of the first block."""
READERS_OF_TEXT = {"bag_of_embeddings"}  # tests/train/test_blocks.py runs them
EVERY = [name for name in MODELS if name != "logistic" and name not in READERS_OF_TEXT]  # logistic is linear
LENGTHS = [3, 1, 8, 0, 5, 2, 7, 1, 4, 6, 3]


def schema_of(name):
    return TOKENS if name in OF_TOKENS else SCHEMA


def inputs(name):
    generator = torch.Generator().manual_seed(3)
    if name not in OF_TOKENS:
        return {"x": torch.randn(len(LENGTHS), SCHEMA.width, generator=generator)}
    lengths = torch.tensor(LENGTHS)
    there = torch.arange(8) < lengths[:, None]
    return {
        name: given
        for block in TOKENS.blocks.values()
        for name, given in {
            block.name: torch.randint(1, block.width, (len(LENGTHS), 8), generator=generator) * there,
            f"{block.name}_lengths": lengths,
        }.items()
    }


def batch(name):
    return Batch(inputs(name), torch.zeros(len(LENGTHS)), None, torch.arange(len(LENGTHS)))


def blueprints(name, members, **params):
    return [Blueprint.of(name, {**OF_TOKENS.get(name, {}), **params}, seed) for seed in range(members)]


def entered(name, members, num_outputs=2, **params):
    return enter(blueprints(name, members, **params), schema_of(name), OF_IDS.get(name, num_outputs))


@pytest.mark.parametrize("name", EVERY)
def test_outputs_have_one_row_per_row_and_one_column_per_output(name):
    tokens = [8] if name in OF_TOKENS else []
    assert entered(name, 3, 4)(batch(name)).shape == (3, 11, *tokens, OF_IDS.get(name, 4))


@pytest.mark.parametrize("name", EVERY)
def test_a_member_starts_the_same_alone_and_in_company(name):
    together = entered(name, 3)
    for place, blueprint in enumerate(blueprints(name, 3)):
        alone = enter([blueprint], schema_of(name), OF_IDS.get(name, 2))
        assert torch.equal(alone.flat[0], together.flat[place])
        torch.testing.assert_close(alone(batch(name))[0], together(batch(name))[place])


def test_a_perceptron_starts_at_zero_whatever_the_seed():
    assert not entered("perceptron", 2, 3).flat.any()


@pytest.mark.parametrize("name", [name for name in EVERY if name != "perceptron"])
def test_seeds_start_members_apart(name):
    flat = entered(name, 2).flat
    assert not torch.equal(flat[0], flat[1])


@pytest.mark.parametrize("name", EVERY)
def test_a_row_is_answered_the_same_whatever_stands_beside_it(name):
    population = entered(name, 2)
    population.prepare_step(0, None)
    rows = batch(name)
    torch.testing.assert_close(population(rows)[:, :3], population(rows.slice(0, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_gets_a_gradient(name):
    population = entered(name, 2)
    population.prepare_step(0, Places.counted(0, len(LENGTHS)))
    (population(batch(name)) - 1).square().sum().backward()  # squares alone are flat at outputs of zero
    population.gather_grad()
    assert (population.grad != 0).float().mean() > 0.5


@pytest.mark.parametrize("name", EVERY)
def test_members_can_be_packed_natively_or_by_vmap(name):
    assert why_not_packable(blueprints(name, 1)[0], schema_of(name), OF_IDS.get(name, 2), inputs(name)) == ""


@pytest.mark.parametrize("name", [name for name in EVERY if isinstance(MODELS.find(name), PopulationNative)])
def test_packable_parameters_are_parameters(name):
    for parameter in MODELS.find(name).packable:
        MODELS.build(name, schema_of(name), 2, params={parameter: 0.1})
