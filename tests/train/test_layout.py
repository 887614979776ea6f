import copy

import pytest
import torch
from torch import nn
from train.odd_nets import Double, Frozen, Mixed, Tied

from fmray.errors import SpecError, TrainError
from fmray.schema import Column, Schema
from fmray.spec.sections import Train
from fmray.tasks.task import Batch, Places
from fmray.train.layout import ModuleLayout
from fmray.train.loop import fit
from fmray.train.optim import Optimizer, clip
from fmray.train.population import Blueprint, enter
from fmray.train.predict import soup
from fmray.train.state import State

SCHEMA = Schema((Column("v", "vector", 6),))
ROWS = 12
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9}),
}
EVERY = [Tied, Frozen, Double, Mixed]


def blueprints(build, members):
    return [Blueprint(build, {}, seed) for seed in range(members)]


def rows(step):
    return torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(step))


def batch(step=0):
    return Batch({"x": rows(step)}, torch.zeros(ROWS), None, torch.arange(ROWS))


def moved(population, name, options, steps=8, max_norm=0.5):
    """Train for a few steps as the loop does, with a target that all outputs should come to."""
    optimizer = Optimizer(name, [options] * len(population), population)
    for step in range(steps):
        population.zero_grad()
        population.prepare_step(step, Places.counted(0, ROWS))
        (population(batch(step)).float() - 1).square().mean((1, 2)).sum().backward()
        population.gather_grad()
        clip(population.grad, max_norm)
        optimizer.step(population, 1.0)
    return population


def moved_by_torch(module, name, options, steps=8, max_norm=0.5):
    """Train a module alone, half precision from masters in float32 as mixed precision does."""
    masters = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            wide = torch.promote_types(parameter.dtype, torch.float32)
            masters[parameter] = nn.Parameter(parameter.detach().to(wide))
    optimizer = OPTIMIZERS[name][0](masters.values(), **options)
    for step in range(steps):
        module.zero_grad()
        (module(rows(step)).float() - 1).square().mean().backward()
        for parameter, master in masters.items():
            master.grad = parameter.grad.to(master.dtype)
        nn.utils.clip_grad_norm_(masters.values(), max_norm)
        optimizer.step()
        for parameter, master in masters.items():
            parameter.data.copy_(master)
    return module


def named(population, member):
    """Give a member's tensors as they are kept."""
    beside = {name: value[member] for name, value in population.buffers.items()}
    return population.tensors(population.flat[member].detach(), beside)


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("build", EVERY)
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_members_move_as_a_plain_loop_of_torch_moves_each_alone(build, members, name):
    options = {"lr": 0.05, "weight_decay": 0.1, **OPTIMIZERS[name][1]}
    population = moved(enter(blueprints(build, members), SCHEMA, 2), name, options)
    for member, blueprint in enumerate(blueprints(build, members)):
        alone = moved_by_torch(blueprint.module(SCHEMA, 2), name, options)
        again = blueprint.module(SCHEMA, 2)
        again.load_state_dict(population.layout.with_aliases(named(population, member)))
        for key, expected in alone.state_dict().items():
            found = again.state_dict()[key]
            assert found.dtype == expected.dtype
            narrow = expected.dtype in (torch.bfloat16, torch.float16)
            tolerance = 2e-2 if narrow else 1e-9 if build is Double else 2e-3 if build is Mixed else 1e-4
            torch.testing.assert_close(
                found, expected, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
            )


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_what_does_not_train_stays_equal_to_the_bit(members, name):
    population = enter(blueprints(Frozen, members), SCHEMA, 2)
    before = [copy.deepcopy(named(population, member)) for member in range(members)]
    moved(population, name, {"lr": 0.05, "weight_decay": 0.3})
    for member in range(members):
        after = named(population, member)
        for key in ("encoder.weight", "encoder.bias", "scale"):
            assert torch.equal(after[key], before[member][key])
        assert not torch.equal(after["last.weight"], before[member]["last.weight"])


@pytest.mark.parametrize("build", EVERY)
def test_members_keep_types_and_names_as_they_are_kept(build):
    population = enter(blueprints(build, 2), SCHEMA, 2)
    for member, blueprint in enumerate(blueprints(build, 2)):
        module, kept = blueprint.module(SCHEMA, 2), named(population, member)
        expected = module.state_dict()
        whole = population.layout.with_aliases(kept)
        assert whole.keys() == expected.keys()
        assert len(kept) == len({value.data_ptr() for value in expected.values()})
        for key, value in expected.items():
            assert whole[key].dtype == value.dtype
            assert torch.equal(whole[key], value)


@pytest.mark.parametrize("build", EVERY)
def test_members_that_stay_compute_on_when_others_leave(build):
    population = enter(blueprints(build, 3), SCHEMA, 2)
    before = population(batch()).detach()
    population.select(torch.tensor([2, 0]))
    torch.testing.assert_close(population(batch()).detach(), before[[2, 0]], rtol=2e-2, atol=2e-2)
    alone = enter(blueprints(build, 1), SCHEMA, 2)
    torch.testing.assert_close(alone(batch())[0].detach(), before[0], rtol=2e-2, atol=2e-2)


class Shared(Tied):
    def __init__(self, schema, num_outputs):
        super().__init__(schema, num_outputs)
        self.second.weight = nn.Parameter(self.first.weight.data)


class Complex(Frozen):
    def __init__(self, schema, num_outputs):
        super().__init__(schema, num_outputs)
        self.turn = nn.Parameter(torch.ones(5, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Shared, r"^model: first\.weight and second\.weight share memory\. Assign one nn\.Parameter to both\.$"),
        (Complex, r"^model: Complex\.turn trains and holds torch\.complex64\. Give real numbers\.$"),
    ],
)
def test_what_cannot_be_trained_as_torch_would_is_refused(build, message):
    with pytest.raises(SpecError, match=message):
        enter(blueprints(build, 1), SCHEMA, 2)


def test_members_of_which_only_some_train_a_parameter_share_no_pack():
    modules = [blueprint.module(SCHEMA, 2) for blueprint in blueprints(Frozen, 2)]
    modules[1].scale.requires_grad_(True)
    with pytest.raises(TrainError, match="2 different layouts"):
        enter(blueprints(Frozen, 2), SCHEMA, 2, modules=modules)


def test_a_module_of_which_nothing_trains_is_refused_by_name():
    modules = [Frozen(SCHEMA, 2).requires_grad_(False)]
    with pytest.raises(TrainError, match="let some parameters require gradients"):
        enter(blueprints(Frozen, 1), SCHEMA, 2, modules=modules)(batch())


def test_parameters_that_are_tied_count_once():
    assert ModuleLayout.of(Tied(SCHEMA, 2)).num_parameters == 6 * 6 + 6 + 6 + 6 * 2 + 2


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("build", EVERY)
def test_a_training_with_averages_continues_in_the_same_bits(classes, build, members):
    plans = [classes.plan(i, name=f"train.odd_nets:{build.__name__}") for i in range(members)]
    train = Train(epochs=2, batch_rows=128, ema=0.9, clip_norm=0.1)
    kept = []

    class Keep:
        def due(self):
            return True

        def save(self, state):
            kept.append(state.to_files())

    whole = classes.fit(plans, train, checkpoints=Keep())
    expected = whole.snapshot().to_files()
    for files in kept[1::3]:
        pack = classes.pack(plans, train)
        pack.restore(State.from_files(copy.deepcopy(files)))
        fit(pack, classes.rows(), classes.rows("val"), classes.metric, 11)
        assert pack.snapshot().to_files() == expected
    for member, plan in enumerate(plans):
        fresh = plan.module(classes.prepared.schema, 3)
        found, before = whole.member_tensors(member), fresh.state_dict()
        assert all(found[name].dtype == before[name].dtype for name in found)
        frozen = [name for name, parameter in fresh.named_parameters() if not parameter.requires_grad]
        assert all(torch.equal(found[name], before[name]) for name in frozen)


@pytest.mark.parametrize("build", EVERY)
def test_a_soup_leaves_what_is_frozen_and_keeps_types(build):
    modules = [Blueprint(build, {}, 5).module(SCHEMA, 2) for _ in range(3)]
    populations = [enter(blueprints(build, 1), SCHEMA, 2, modules=[module]) for module in modules]
    before = copy.deepcopy(named(populations[0], 0))
    with torch.no_grad():
        for place, population in enumerate(populations):
            population.load(population.flat + place, {})
    mixed = named(soup(populations, [1 / 3] * 3), 0)
    layout = populations[0].layout
    for held in (*layout.trained, *layout.beside):
        if not held.kept:
            continue
        assert mixed[held.name].dtype == before[held.name].dtype
        if held in layout.beside:
            assert torch.equal(mixed[held.name], before[held.name])
        else:
            torch.testing.assert_close(mixed[held.name], before[held.name] + 1, rtol=1e-2, atol=1e-2)
