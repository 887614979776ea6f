"""Groups of parameters step as torch's own param_groups do, and parts that are frozen stay as they are."""

import pytest
import torch
from train.odd_nets import Tied
from train.test_layout import OPTIMIZERS, ROWS, batch, blueprints, rows

from fmray.errors import SpecError
from fmray.schema import Column, Schema
from fmray.spec.job import Job
from fmray.spec.sections import ParameterGroup, Train
from fmray.tasks.task import Places
from fmray.train.groups import columns_of, described
from fmray.train.layout import ModuleLayout
from fmray.train.loop import fit
from fmray.train.optim import Optimizers, clip
from fmray.train.population import enter
from fmray.train.state import State

SCHEMA = Schema((Column("v", "vector", 6),))
STEPS_PER_EPOCH = 3


class Net(torch.nn.Module):
    """An encoder and a head, whose biases lie apart in the flat row."""

    def __init__(self, schema, num_outputs, **ignored):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(schema.width, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
        self.head = torch.nn.Linear(4, num_outputs)

    def forward(self, x):
        return self.head(torch.tanh(self.encoder(x)))


GROUPS = {
    "side by side": [ParameterGroup(match="encoder.*", lr_scale=0.1, weight_decay=0.0)],
    "scattered": [ParameterGroup(match=["*.bias"], weight_decay=0.0), ParameterGroup(match="head.*", lr_scale=3.0)],
    "frozen": [ParameterGroup(match="encoder.*", lr_scale=0.5, freeze_epochs=1)],
    "frozen, scattered": [ParameterGroup(match="*.bias", weight_decay=0.3, freeze_epochs=2)],
    "never": [ParameterGroup(match="encoder.0.*", freeze_epochs="all"), ParameterGroup(match="head.bias", lr_scale=2)],
}


def trained(groups, name, options, members=2, epochs=3, max_norm=0.5):
    population = enter(blueprints(Net, members), SCHEMA, 2)
    parts = columns_of(groups, population.layout)
    optimizer = Optimizers(name, [options] * members, population, parts)
    for step in range(epochs * STEPS_PER_EPOCH):
        epoch = step // STEPS_PER_EPOCH
        population.zero_grad()
        population.prepare_step(step, Places.counted(0, ROWS))
        (population(batch(step)) - 1).square().mean((1, 2)).sum().backward()
        population.gather_grad()
        optimizer.silence(population.grad, epoch)
        clip(population.grad, max_norm)
        optimizer.step(population, 1.0, epoch)
    return population, optimizer


def trained_by_torch(module, groups, name, options, epochs=3, max_norm=0.5):
    """Train a module alone with param_groups; frozen parameters get no gradient, as torch users freeze them."""
    named = dict(module.named_parameters())
    held, free = [], dict(named)
    for group in groups:
        own = [n for n in free if any(_matches(n, p) for p in group.match)]
        held.append((group, [free.pop(n) for n in own]))
    lr = options["lr"]
    described = [{"params": list(free.values())}] if free else []
    for group, parameters in held:
        decay = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
        described.append({"params": parameters, "lr": lr * group.lr_scale, **decay})
    optimizer = OPTIMIZERS[name][0](described, **options)
    for step in range(epochs * STEPS_PER_EPOCH):
        for group, parameters in held:
            still = group.freeze_epochs == "all" or step // STEPS_PER_EPOCH < group.freeze_epochs
            for parameter in parameters:
                parameter.requires_grad_(not still)
        optimizer.zero_grad(set_to_none=True)
        (module(rows(step)) - 1).square().mean().backward()
        torch.nn.utils.clip_grad_norm_([p for p in named.values() if p.grad is not None], max_norm)
        optimizer.step()
    return torch.cat([parameter.detach().reshape(-1) for parameter in named.values()])


def _matches(name, pattern):
    """Match `*` alone, without fnmatch."""
    head, star, tail = pattern.partition("*")
    return name.startswith(head) and name.endswith(tail) if star else name == pattern


@pytest.mark.parametrize("case", list(GROUPS))
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_groups_step_as_param_groups_of_torch(name, case):
    options = {"lr": 0.05, "weight_decay": 0.1, **OPTIMIZERS[name][1]}
    population, _ = trained(GROUPS[case], name, options)
    for member, blueprint in enumerate(blueprints(Net, 2)):
        expected = trained_by_torch(blueprint.module(SCHEMA, 2), GROUPS[case], name, options)
        torch.testing.assert_close(population.flat[member].detach(), expected, rtol=2e-4, atol=2e-5)


def test_a_frozen_parameter_stays_equal_to_the_bit_and_does_not_count_in_the_norm():
    groups = [ParameterGroup(match="encoder.*", freeze_epochs="all")]
    population, optimizer = trained(groups, "adamw", {"lr": 0.1, "weight_decay": 0.5})
    fresh = enter(blueprints(Net, 2), SCHEMA, 2)
    columns = population.layout.places
    assert torch.equal(population.flat[:, columns["encoder.0.weight"]], fresh.flat[:, columns["encoder.0.weight"]])
    assert not torch.equal(population.flat[:, columns["head.weight"]], fresh.flat[:, columns["head.weight"]])
    population.grad.fill_(1e6)
    population.grad[:, columns["head.bias"]] = 0.25
    population.grad[:, columns["head.weight"]] = 0.0
    optimizer.silence(population.grad, 0)
    assert clip(population.grad, 10.0).flatten().tolist() == pytest.approx([0.25 * 2**0.5] * 2)
    assert optimizer.state()["exp_avg"].shape == (2, 10)  # what never moves is not remembered


@pytest.mark.parametrize("case", list(GROUPS))
def test_the_state_of_groups_read_back_continues_bit_for_bit(case):
    groups = GROUPS[case]
    options = {"lr": 0.05, "weight_decay": 0.1}
    one, first = trained(groups, "adamw", options, epochs=2)
    other = enter(blueprints(Net, 2), SCHEMA, 2)
    other.load(one.flat, one.buffers)
    second = Optimizers("adamw", [options] * 2, other, columns_of(groups, other.layout))
    second.load({name: value.clone() for name, value in first.state().items()})
    for population, optimizer in ((one, first), (other, second)):
        population.grad.copy_(torch.randn(population.grad.shape, generator=torch.Generator().manual_seed(1)))
        optimizer.step(population, 1.0, 2)
    assert torch.equal(one.flat, other.flat)


def test_dropping_a_member_changes_nothing_for_the_other():
    groups = GROUPS["frozen, scattered"]
    whole, first = trained(groups, "adam", {"lr": 0.05})
    part, second = trained(groups, "adam", {"lr": 0.05})
    keep = torch.tensor([1])
    part.select(keep)
    second.select(keep, part)
    for population, optimizer in ((whole, first), (part, second)):
        population.grad.fill_(0.5)
        optimizer.step(population, 1.0, 2)
    torch.testing.assert_close(whole.flat[keep], part.flat, rtol=1e-5, atol=1e-6)


def test_a_tied_parameter_belongs_to_a_group_by_any_of_its_names():
    layout = ModuleLayout.of(blueprints(Tied, 1)[0].module(SCHEMA, 2))
    parts = columns_of([ParameterGroup(match="second.weight", lr_scale=0.5)], layout)
    assert (parts[0].lr_scale == 0.5).nonzero()[:, 0].tolist() == list(
        range(*layout.places["first.weight"].indices(999))
    )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"match": "encodr.0.weight"}], r"train\.groups\.0\.match: 'encodr.0.weight' matches no parameter that trains. Did you mean 'encoder.0.weight'"),
        ([{"match": "x.*"}], r"Known: encoder.0.weight, encoder.0.bias, encoder.2.weight"),
        ([{"match": "*"}, {"match": "head.*"}], r"train\.groups\.1\.match: 'head.\*' matches only parameters of groups before"),
        ([{"match": "*", "freeze_epochs": 2}], "no parameter that trains in the first epoch"),
    ],
)  # fmt: skip
def test_a_group_that_holds_nothing_is_refused_with_the_names_there_are(groups, message):
    layout = ModuleLayout.of(blueprints(Net, 1)[0].module(SCHEMA, 2))
    with pytest.raises(SpecError, match=message):
        columns_of([ParameterGroup(**group) for group in groups], layout)


def test_what_a_group_holds_is_said_in_a_line():
    layout = ModuleLayout.of(blueprints(Net, 1)[0].module(SCHEMA, 2))
    assert described([ParameterGroup(match="head.*", lr_scale=0.1, freeze_epochs=1)], layout) == [
        "train.groups.0: lr x 0.1, frozen for 1 epochs: 10 numbers in head.weight, head.bias"
    ]


@pytest.mark.parametrize("by", ["adamw", "sgd"])
def test_a_training_with_groups_interrupted_anywhere_ends_in_the_same_bits(classes, by):
    groups = ({"match": "output.*", "lr_scale": 3.0, "weight_decay": 0.0}, {"match": "hidden.0.*", "freeze_epochs": 1})
    train = Train(epochs=3, batch_rows=128, groups=tuple(ParameterGroup(**group) for group in groups), clip_norm=1.0)
    plans = [classes.plan(index, by=by) for index in range(2)]
    states = []

    class Keep:
        def due(self):
            return True

        def save(self, state):
            states.append(state.to_files())

    whole = classes.fit(plans, train, checkpoints=Keep())
    assert len(states) > 10
    for files in states[::4]:
        pack = classes.pack(plans, train)
        pack.restore(State.from_files(files))
        fit(pack, classes.rows(), classes.rows("val"), classes.metric, 11)
        assert torch.equal(pack.state.best, whole.state.best)
        assert torch.equal(pack.population.flat, whole.population.flat)


def test_without_groups_a_job_is_written_as_before():
    job = Job.from_json({"name": "a", "data": {"path": "x", "target": "y"}})
    assert "groups" not in job.to_json()["train"]
    asked = {"name": "a", "data": {"path": "x", "target": "y"}, "train": {"groups": [{"match": "encoder.*"}]}}
    written = Job.from_json(asked).to_json()
    assert Job.from_json(written).train.groups == (ParameterGroup(match="encoder.*"),)
