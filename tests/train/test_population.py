import pytest
import torch
from torch import nn

from fmray.errors import SpecError, TrainError
from fmray.models.layers import Dropout
from fmray.models.mlp import MLP
from fmray.schema import Column, Schema
from fmray.spec.components.models import Mlp
from fmray.tasks.task import Batch, Places
from fmray.train.population import Blueprint, enter, why_not_packable

SCHEMA = Schema((Column("v", "vector", 5),))


class Net(nn.Module):
    """A user's own module, with a buffer and a norm."""

    def __init__(self, schema, num_outputs, width=8):
        super().__init__()
        self.first = nn.Linear(schema.width, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, num_outputs)
        self.register_buffer("shift", torch.rand(width))

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x)) + self.shift))


class Recurrent(nn.Module):
    def __init__(self, schema, num_outputs):
        super().__init__()
        self.cell = nn.LSTM(1, 4, batch_first=True)
        self.last = nn.Linear(4, num_outputs)

    def forward(self, x):
        return self.last(self.cell(x[:, :, None])[0][:, -1])


class Dropping(Net):
    def __init__(self, schema, num_outputs):
        super().__init__(schema, num_outputs)
        self.drop = nn.Dropout(0.5)


def rows(num_rows=9):
    return torch.randn(num_rows, 5, generator=torch.Generator().manual_seed(0))


def batch(num_rows=9):
    return Batch({"x": rows(num_rows)}, torch.zeros(num_rows), None, torch.arange(num_rows))


def blueprints(build, members, **params):
    given = {"params": Mlp(**params)} if build is MLP else params
    return [Blueprint(build, given, seed) for seed in range(members)]


def gradients(population):
    population.zero_grad()
    population.prepare_step(4, Places.counted(0, 9))
    population(batch()).square().mean((1, 2)).sum().backward()
    population.gather_grad()
    return population.grad.clone()


@pytest.mark.parametrize(
    ("build", "params"),
    [(MLP, {"dropout": 0.3, "norm": "layer"}), (MLP, {"width": [7, 3], "activation": "gelu"}), (Net, {})],
)
def test_packed_gradients_equal_those_of_each_member_alone(build, params):
    together = gradients(enter(blueprints(build, 4, **params), SCHEMA, 2))
    alone = torch.cat([gradients(enter([one], SCHEMA, 2)) for one in blueprints(build, 4, **params)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


class Sequences(nn.Module):
    """A user's own module that drops steps in time, as many as there are rows."""

    def __init__(self, schema, num_outputs, rate=0.5):
        super().__init__()
        self.before, self.after = Dropout(rate), Dropout(rate)
        self.first, self.last = nn.Linear(1, 9), nn.Linear(9, num_outputs)

    def forward(self, x):
        x = self.before(x)
        times = torch.cat([x, x[:, :4]], dim=1)[:, :, None]  # (9, 9, 1): rows, time, units
        return self.last(self.after(torch.tanh(self.first(times))).mean(1))


@pytest.mark.parametrize("rates", [(0.5, 0.5, 0.5), (0.0, 0.3, 0.6)])
def test_dropout_in_a_module_of_ones_own_is_the_same_alone_and_in_company(rates):
    own = [Blueprint(Sequences, {"rate": rate}, seed) for seed, rate in enumerate(rates)]
    population = enter(own, SCHEMA, 2)
    alone = torch.cat([gradients(enter([one], SCHEMA, 2)) for one in own])
    torch.testing.assert_close(gradients(population), alone, rtol=1e-4, atol=1e-6)
    before = gradients(population)
    population.select(torch.tensor([2, 1]))
    torch.testing.assert_close(gradients(population), before[[2, 1]], rtol=1e-4, atol=1e-6)
    assert why_not_packable(own[1], SCHEMA, 2, {"x": rows(9)}) == ""


def test_dropout_in_a_module_of_ones_own_is_the_same_in_micro_batches():
    population = enter(blueprints(Sequences, 2), SCHEMA, 2)
    x = rows(9)

    def dropped(first, last):
        population.prepare_step(4, Places.counted(first, last))
        part = Batch({"x": x[first:last]}, torch.zeros(last - first), None, torch.arange(last - first))
        return population(part).detach()

    whole = dropped(0, 9)
    torch.testing.assert_close(torch.cat([dropped(0, 4), dropped(4, 9)], dim=1), whole)
    assert not torch.allclose(whole[0], whole[1])


def test_dropping_members_leaves_masks_and_gradients_of_the_others():
    population = enter(blueprints(MLP, 4, dropout=0.5), SCHEMA, 2)
    before = gradients(population)
    keep = torch.tensor([3, 1])
    population.select(keep)
    torch.testing.assert_close(gradients(population), before[keep], rtol=1e-5, atol=1e-7)
    population.select(torch.tensor([1]))
    torch.testing.assert_close(gradients(population), before[1:2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("build", [MLP, Net])
@pytest.mark.parametrize("members", [1, 3])
def test_a_population_may_lose_its_last_member(build, members):
    population = enter(blueprints(build, members), SCHEMA, 2)
    population.select(torch.zeros(0, dtype=torch.long))
    assert len(population) == 0


def test_members_may_differ_in_dropout():
    mixed = [Blueprint.of("mlp", {"dropout": rate}, seed) for seed, rate in enumerate([0.0, 0.2, 0.7])]
    together = gradients(enter(mixed, SCHEMA, 2))
    alone = torch.cat([gradients(enter([one], SCHEMA, 2)) for one in mixed])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_a_module_of_ones_own_trains_alone_as_it_is_and_in_company_through_vmap():
    assert enter(blueprints(Net, 1), SCHEMA, 2).entry == "solo"
    assert enter(blueprints(Net, 2), SCHEMA, 2).entry == "vmap"
    assert enter(blueprints(MLP, 2), SCHEMA, 2).entry == "native"


@pytest.mark.parametrize("build", [MLP, Net])
def test_a_member_taken_out_answers_as_it_did_inside(build):
    population = enter(blueprints(build, 3), SCHEMA, 2)
    inside = population(batch())[1]
    module = Blueprint(build, {}, 77).module(SCHEMA, 2)
    buffers = {k: v[1:2] if build is MLP else v[1] for k, v in population.buffers.items()}
    module.load_state_dict(population.tensors(population.flat[1].detach(), buffers))
    module.eval()
    outside = module(rows())
    torch.testing.assert_close(outside[0] if outside.dim() == 3 else outside, inside, rtol=1e-5, atol=1e-6)


def test_whether_a_model_packs_is_probed():
    few = {"x": rows(4)}
    assert why_not_packable(Blueprint.of("mlp", {}, 0), SCHEMA, 2, few) == ""
    assert why_not_packable(Blueprint(Net, {}, 0), SCHEMA, 2, few) == ""
    assert "vmap refuses it" in why_not_packable(Blueprint(Recurrent, {}, 0), SCHEMA, 2, few)
    assert "nn.Dropout" in why_not_packable(Blueprint(Dropping, {}, 0), SCHEMA, 2, few)


def test_initialising_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    enter(blueprints(MLP, 2), SCHEMA, 2)
    assert torch.equal(before, torch.get_rng_state())


def test_a_fault_names_its_parameter():
    population = enter(blueprints(MLP, 2), SCHEMA, 2)
    population.flat.detach()[1, 0] = float("nan")
    assert population.faulty_parameter(1) == "parameter hidden.0.weight_KDH"
    assert population.faulty_parameter(0) == "output"


class Wide(nn.Module):
    def __init__(self, schema, num_outputs):
        super().__init__()
        self.map = nn.Linear(schema.width, 1)

    def forward(self, x):
        return self.map(x).squeeze(-1)


class Empty(nn.Module):
    def __init__(self, schema, num_outputs):
        super().__init__()


def test_a_module_that_gives_no_column_is_refused():
    with pytest.raises(TrainError, match=r"Wide .* gave \(9,\) for 9 rows\. Give a tensor \(rows, outputs\)"):
        enter(blueprints(Wide, 1), SCHEMA, 1)(batch())


@pytest.mark.parametrize(
    ("build", "params", "message"),
    [(Net, {"widht": 3}, "widht"), (Empty, {}, "has no parameters"), (lambda schema, n: 3, {}, "gave a int")],
)
def test_a_class_that_is_no_model_is_refused(build, params, message):
    with pytest.raises(SpecError, match=message):
        enter(blueprints(build, 1, **params), SCHEMA, 2)


def test_members_of_other_shapes_are_refused():
    with pytest.raises(TrainError, match="2 different layouts"):
        enter([Blueprint.of("mlp", {"width": 4}, 0), Blueprint.of("mlp", {"width": 5}, 1)], SCHEMA, 2)


def test_a_dropout_of_ones_own_keeps_its_place():
    assert Dropout(0.5).rate_K11.shape == (1, 1, 1)
