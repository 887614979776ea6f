import copy
from types import SimpleNamespace

import pytest
import torch

from fmray.errors import SpecError
from fmray.schema import Column, Schema
from fmray.spec.sections import Train
from fmray.tasks.task import Batch, Places
from fmray.train.loop import fit
from fmray.train.optim import Optimizer, clip
from fmray.train.population import Blueprint, enter
from fmray.train.state import State

SCHEMA = Schema((Column("v", "vector", 5),))
TORCH = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"betas": [0.8, 0.99]}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"eps": 1e-6}),
    "adadelta": (torch.optim.Adadelta, {"rho": 0.8}),
    "adagrad": (torch.optim.Adagrad, {"lr_decay": 0.05, "initial_accumulator_value": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9}),
    "centered": (torch.optim.RMSprop, {"centered": True, "momentum": 0.9}),
}
NAMES = {case: case for case in TORCH} | {"momentum": "sgd", "amsgrad": "adam", "centered": "rmsprop"}
PLAIN = {name: build for name, (build, _) in TORCH.items() if NAMES[name] == name}


def population(members):
    return enter([Blueprint.of("mlp", {"width": 4, "depth": 1}, seed) for seed in range(members)], SCHEMA, 2)


def gradient(step, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("case", list(TORCH))
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_each_member_moves_as_torch_would_move_it_alone(case, decay):
    build, options = TORCH[case]
    rates, decays = [0.1, 0.003, 0.5], [decay, 2 * decay, 0.0]
    members = [{"lr": lr, "weight_decay": wd, **options} for lr, wd in zip(rates, decays, strict=True)]
    pop = population(3)
    optimizer = Optimizer(NAMES[case], members, pop)
    plain = [torch.nn.Parameter(row.clone()) for row in pop.flat]
    fitting = {k: tuple(v) if k == "betas" else v for k, v in options.items()}
    oracles = [build([p], lr=lr, weight_decay=wd, **fitting) for p, lr, wd in zip(plain, rates, decays, strict=True)]
    for step in range(20):
        pop.grad.copy_(gradient(step, pop.grad.shape))
        for p, row, oracle in zip(plain, pop.grad, oracles, strict=True):
            p.grad = row.clone()
            oracle.step()
        optimizer.step(pop, 1.0)
    torch.testing.assert_close(pop.flat, torch.stack([p.detach() for p in plain]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", list(TORCH))
def test_a_large_member_is_stepped_by_pieces_to_the_same_bits(case, monkeypatch):
    """Its shadow is a piece wide, and its gradient is added up where it is read; what it remembers is of one form."""
    _, options = TORCH[case]
    members = [{"lr": 0.01, "weight_decay": 0.1, **options}]
    found = []
    for large in (False, True):
        monkeypatch.setattr("fmray.train.optim.LARGE", 1 if large else 1 << 40)
        monkeypatch.setattr("fmray.train.population.LARGE", 1 if large else 1 << 40)
        monkeypatch.setattr("fmray.train.optim.PIECE", 16)
        pop = population(1)
        optimizer = Optimizer(NAMES[case], members, pop)
        for step in range(4):
            if step == 2:  # a restored one goes on as if nothing had happened
                state = {name: value.clone() for name, value in optimizer.state().items()}
                optimizer = Optimizer(NAMES[case], members, pop)
                optimizer.load(state)
            pop.zero_grad()
            pop.prepare_step(step, Places.counted(0, 7))
            batch = Batch({"x": gradient(step, (7, 5))}, torch.zeros(7), None, torch.arange(7))
            torch.autograd.backward([pop(batch).square().sum()])
            pop.gather_grad()
            optimizer.step(pop, 0.5)
        found.append((pop.flat.clone(), optimizer.state()))
    (flat, state), (by_pieces, its_state) = found
    assert torch.equal(flat, by_pieces)
    assert state.keys() == its_state.keys()
    assert all(torch.equal(value, its_state[name]) for name, value in state.items())


@pytest.mark.parametrize("case", list(TORCH))
def test_dropping_members_changes_nothing_for_the_others(case):
    members = [{"lr": lr, "weight_decay": 0.02, **TORCH[case][1]} for lr in (0.1, 0.02, 0.3)]
    whole, part = population(3), population(3)
    first, second = Optimizer(NAMES[case], members, whole), Optimizer(NAMES[case], members, part)
    keep = torch.tensor([0, 2])
    for step in range(6):
        given = gradient(step, whole.grad.shape)
        if step == 3:
            part.select(keep)
            second.select(keep, part)
        whole.grad.copy_(given)
        part.grad.copy_(given[keep] if step >= 3 else given)
        first.step(whole, 0.5)
        second.step(part, 0.5)
    torch.testing.assert_close(whole.flat[keep], part.flat, rtol=1e-5, atol=1e-6)  # vector tails round differently


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("case", list(TORCH))
def test_state_read_back_continues_bit_for_bit(case, steps):
    one, other = population(2), population(2)
    members = [{"lr": lr, "weight_decay": 0.02, **TORCH[case][1]} for lr in (0.1, 0.02)]
    first, second = Optimizer(NAMES[case], members, one), Optimizer(NAMES[case], members, other)
    for step in range(steps):
        one.grad.copy_(gradient(step, one.grad.shape))
        first.step(one, 1.0)
    other.load(one.flat, one.buffers)
    second.load({name: value.clone() for name, value in first.state().items()})
    for step in (7, 8, 9):
        for pop, optimizer in ((one, first), (other, second)):
            pop.grad.copy_(gradient(step, pop.grad.shape))
            optimizer.step(pop, 1.0)
    assert torch.equal(one.flat, other.flat)
    assert {k: v.tolist() for k, v in first.state().items()} == {k: v.tolist() for k, v in second.state().items()}


@pytest.mark.parametrize("case", ["adagrad", "adadelta", "centered"])
def test_forgetting_any_tensor_of_the_state_is_noticed(case):
    one = population(2)
    first = Optimizer(NAMES[case], [TORCH[case][1]] * 2, one)
    for step in range(3):
        one.grad.copy_(gradient(step, one.grad.shape))
        first.step(one, 1.0)
    state, flat = {name: value.clone() for name, value in first.state().items()}, one.flat.clone()
    ends = {}
    for forgotten in ("nothing", *state):
        other = population(2)
        second = Optimizer(NAMES[case], [TORCH[case][1]] * 2, other)
        other.load(flat, one.buffers)
        second.load({k: torch.zeros_like(v) if k == forgotten else v.clone() for k, v in state.items()})
        other.grad.copy_(gradient(7, other.grad.shape))
        second.step(other, 1.0)
        ends[forgotten] = other.flat.clone()
    matter = [name for name in state if name != "step" or case == "adagrad"]  # others count steps and never look
    assert all(not torch.equal(ends[name], ends["nothing"]) for name in matter)


@pytest.mark.parametrize("name", ["adadelta", "adagrad", "rmsprop"])
def test_a_training_restored_in_mid_epoch_ends_in_the_same_bits(classes, name):
    train = Train(epochs=2, batch_rows=64, early_stop=None)
    plans = [classes.plan(i, by=name, optimizer={"lr": 0.02 * (i + 1), "weight_decay": 0.1 * i}) for i in range(2)]
    kept = []
    checkpoints = SimpleNamespace(due=lambda: True, save=lambda state: kept.append(copy.deepcopy(state.to_files())))
    whole = classes.fit(plans, train, checkpoints=checkpoints).snapshot().to_files()
    again = classes.pack(plans, train)
    again.restore(State.from_files(kept[len(kept) // 2 - 2]))
    assert again.state.step > 0
    fit(again, classes.rows(), classes.rows("val"), classes.metric, 11)
    assert again.snapshot().to_files() == whole


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "sgd"])
def test_the_rate_and_decay_that_nobody_gave_are_those_of_torch(name):
    theirs = PLAIN[name]([torch.zeros(1)]).defaults
    ours = Optimizer(name, [{}], population(1))
    assert (ours.lr_K1.item(), ours.decay_K1.item()) == pytest.approx((theirs["lr"], theirs["weight_decay"]))


def test_clipping_is_per_member_and_equals_torch():
    grad = gradient(0, (3, 50)) * torch.tensor([[0.01], [1.0], [100.0]])
    expected = []
    for row in grad:
        p = torch.nn.Parameter(torch.zeros(50))
        p.grad = row.clone()
        torch.nn.utils.clip_grad_norm_([p], 1.5)
        expected.append(p.grad)
    norms = clip(grad, 1.5)
    torch.testing.assert_close(grad, torch.stack(expected))
    assert norms[0] < 1.5 < norms[2]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([{"lr": 0}], r"train\.optimizer\.adam\.lr: 0\. Give a number above zero"),
        ([{"lr": 0.1, "moment": 3}], "moment"),
        ([{"eps": 1e-8}, {"eps": 1e-6}], "Only lr, weight_decay may"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(members, message):
    with pytest.raises(SpecError, match=message):
        Optimizer("adam", members, population(len(members)))
