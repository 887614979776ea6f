import pytest
import torch

from fmray.errors import SpecError
from fmray.models.mlp import MLP
from fmray.schema import Column, Schema
from fmray.train.optim import Optimizer, clip
from fmray.train.population import Blueprint, enter

SCHEMA = Schema((Column("v", "vector", 5),))
TORCH = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"betas": [0.8, 0.99]}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"eps": 1e-6}),
}
NAMES = {"sgd": "sgd", "momentum": "sgd", "adam": "adam", "amsgrad": "adam", "adamw": "adamw"}


def population(members):
    return enter([Blueprint(MLP, {"width": 4, "depth": 1}, seed) for seed in range(members)], SCHEMA, 2)


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


def test_dropping_members_changes_nothing_for_the_others():
    members = [{"lr": 0.1}, {"lr": 0.02}, {"lr": 0.3}]
    whole, part = population(3), population(3)
    first, second = Optimizer("adam", members, whole), Optimizer("adam", members, part)
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
    torch.testing.assert_close(whole.flat[keep], part.flat, rtol=1e-6, atol=1e-7)  # vector tails round differently


def test_state_read_back_continues_bit_for_bit():
    one, other = population(2), population(2)
    members = [{"lr": 0.1}, {"lr": 0.02}]
    first, second = Optimizer("adamw", members, one), Optimizer("adamw", members, other)
    for step in range(3):
        one.grad.copy_(gradient(step, one.grad.shape))
        first.step(one, 1.0)
    other.load(one.flat, one.buffers)
    second.load({name: value.clone() for name, value in first.state().items()})
    for pop, optimizer in ((one, first), (other, second)):
        pop.grad.copy_(gradient(7, pop.grad.shape))
        optimizer.step(pop, 1.0)
    assert torch.equal(one.flat, other.flat)


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
