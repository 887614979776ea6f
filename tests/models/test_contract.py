"""Run every model of the catalogue through what the loop relies on."""

import pytest
import torch

from fmray.catalogue import MODELS
from fmray.models.model import PopulationNative
from fmray.schema import Column, Schema
from fmray.tasks.task import Batch, Places
from fmray.train.population import Blueprint, enter, packs

SCHEMA = Schema((Column("first", "number"), Column("pixels", "vector", 255)))  # 16 x 16, for models of images
READERS_OF_TEXT = {"bag_of_embeddings"}  # tests/train/test_blocks.py runs them
EVERY = [name for name in MODELS if name != "logistic" and name not in READERS_OF_TEXT]  # logistic is linear


def rows(num_rows=11):
    return torch.randn(num_rows, SCHEMA.width, generator=torch.Generator().manual_seed(3))


def batch(x):
    return Batch({"x": x}, torch.zeros(len(x)), None, torch.arange(len(x)))


def blueprints(name, members, **params):
    return [Blueprint.of(name, params, seed) for seed in range(members)]


@pytest.mark.parametrize("name", EVERY)
def test_outputs_have_one_row_per_row_and_one_column_per_output(name):
    assert enter(blueprints(name, 3), SCHEMA, 4)(batch(rows())).shape == (3, 11, 4)


@pytest.mark.parametrize("name", EVERY)
def test_a_member_starts_the_same_alone_and_in_company(name):
    together = enter(blueprints(name, 3), SCHEMA, 2)
    for place, blueprint in enumerate(blueprints(name, 3)):
        alone = enter([blueprint], SCHEMA, 2)
        assert torch.equal(alone.flat[0], together.flat[place])
        torch.testing.assert_close(alone(batch(rows()))[0], together(batch(rows()))[place])


def test_a_perceptron_starts_at_zero_whatever_the_seed():
    assert not enter(blueprints("perceptron", 2), SCHEMA, 3).flat.any()


@pytest.mark.parametrize("name", [name for name in EVERY if name != "perceptron"])
def test_seeds_start_members_apart(name):
    flat = enter(blueprints(name, 2), SCHEMA, 2).flat
    assert not torch.equal(flat[0], flat[1])


@pytest.mark.parametrize("name", EVERY)
def test_a_row_is_answered_the_same_whatever_stands_beside_it(name):
    population = enter(blueprints(name, 2), SCHEMA, 2)
    population.prepare_step(0, None)
    x = rows()
    torch.testing.assert_close(population(batch(x))[:, :3], population(batch(x[:3])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_gets_a_gradient(name):
    population = enter(blueprints(name, 2), SCHEMA, 2)
    population.prepare_step(0, Places.counted(0, len(rows())))
    (population(batch(rows())) - 1).square().sum().backward()  # squares alone are flat at outputs of zero
    population.gather_grad()
    assert (population.grad != 0).float().mean() > 0.5


@pytest.mark.parametrize("name", EVERY)
def test_members_can_be_packed_natively_or_by_vmap(name):
    assert packs(blueprints(name, 1)[0], SCHEMA, 2, {"x": rows()}) == ""


@pytest.mark.parametrize("name", [name for name in EVERY if isinstance(MODELS.find(name), PopulationNative)])
def test_packable_parameters_are_parameters(name):
    for parameter in MODELS.find(name).packable:
        MODELS.build(name, SCHEMA, 2, params={parameter: 0.1})
