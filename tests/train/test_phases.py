"""A task of two phases trains two networks by two optimizers, and goes on exactly wherever it was stopped."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.errors import SpecError
from fmray.metrics.distribution import mmd
from fmray.metrics.find import find_metric
from fmray.models.gan_points import noise_of
from fmray.seeding import derive
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Phase, Train
from fmray.store import Store
from fmray.train.loop import fit
from fmray.train.pack import Plan
from fmray.train.state import State

from train.conftest import Training  # isort: skip

RATES = {"discriminator": 0.002, "generator": 0.001}
PHASES = {"discriminator": Phase(optimizer=Ref("adam", {"lr": 0.002, "betas": [0.5, 0.9]}), schedule=Ref("cosine"))}
TRAIN = Train(epochs=4, batch_rows=64, phases=PHASES, clip_norm=5.0, early_stop=None)


def write_ring(folder, num_rows=600):
    """Points on a ring, and beside each a number and a side that say little of it."""
    random = np.random.default_rng(3)
    angle = random.uniform(0, 2 * np.pi, num_rows)
    radius = 2 + 0.1 * random.standard_normal(num_rows)
    points = {"x": radius * np.cos(angle), "y": radius * np.sin(angle)}
    folder.mkdir(parents=True)
    inputs = {"u": random.uniform(size=num_rows), "v": random.uniform(size=num_rows)}
    pq.write_table(pa.table({**inputs, **points, "id": np.arange(num_rows)}), folder / "a.parquet")


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ring")
    write_ring(folder / "data")
    data = {"path": str(folder / "data"), "target": ["x", "y"], "key": "id"}
    job = Job.from_json({"name": "ring", "data": data, "steps": ["standardise"], "run": {"prepare": "local"}})
    store = Store(str(folder / "store"))
    return GanTraining(prepare(scan(job.data, ".", store), job, Ref("gan"), store))


class GanTraining(Training):
    def __init__(self, prepared):
        self.prepared = prepared
        self.metric = find_metric("mmd", prepared.target)

    def plan(self, index):
        model, optimizer = Ref("gan_points", {"width": 16}), Ref("adamw", {"lr": 0.001})
        return Plan(index, derive(0, "member", index), model=model, optimizer=optimizer, task=Ref("gan"), params={})


@pytest.mark.parametrize("faulty", [0, 1])
def test_a_member_that_fails_in_both_phases_of_a_step_fails_once_and_no_other_with_it(ring, faulty):
    plans = [ring.plan(index) for index in range(2)]
    plans[faulty] = replace(plans[faulty], optimizer=Ref("adamw", {"lr": 1e30}))
    pack = ring.fit(plans, replace(TRAIN, clip_norm=None))
    assert [event["member"] for event in pack.state.health] == [plans[faulty].index] * 2
    assert list(pack.state.ends) == [str(faulty)]
    assert len(pack) == 1


class Keep:
    """Keep the state after every step."""

    def __init__(self):
        self.files = []

    def due(self):
        return True

    def save(self, state):
        self.files.append(state.to_files())


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2])
def test_a_training_killed_at_twenty_instants_ends_in_the_same_bits(ring, members):
    plans = [ring.plan(index) for index in range(members)]
    kept = Keep()
    whole = ring.fit(plans, TRAIN, checkpoints=kept)
    assert len(kept.files) >= 20
    for place in np.linspace(0, len(kept.files) - 1, 20).astype(int):
        pack = ring.pack(plans, TRAIN)
        pack.restore(State.from_files(kept.files[place]))
        fit(pack, ring.rows(), ring.rows("val"), ring.metric, 11)
        for name in ("flat", "best", "best_score"):
            assert torch.equal(getattr(pack.snapshot(), name), getattr(whole.snapshot(), name)), (place, name)
        assert pack.state.history == whole.state.history


def test_both_phases_move_as_a_plain_loop_of_torch_moves_them(ring):
    """Written against torch alone: two modules, two optimizers, the losses of the paper."""
    train = Train(epochs=1, batch_rows=64, phases=PHASES, early_stop=None)
    plan = ring.plan(0)
    module = plan.module(ring.prepared.schema, 2)
    weights = {name: torch.nn.Parameter(value.detach()[0].clone()) for name, value in module.named_parameters()}
    parts = {name: [v for n, v in weights.items() if n.startswith(name)] for name in RATES}
    steppers = {
        "discriminator": torch.optim.Adam(parts["discriminator"], 0.002, betas=(0.5, 0.9)),
        "generator": torch.optim.AdamW(parts["generator"], 0.001),
    }

    def apply(network, values):
        for layer in (0, 2, 4):
            values = values @ weights[f"{network}.{layer}.weight_KDH"] + weights[f"{network}.{layer}.bias_K1H"]
            values = torch.nn.functional.silu(values) if layer < 4 else values
        return values

    seen = []
    pack = ring.pack([plan], train)
    loss_of = pack.task.loss

    def listen(model, batch, phase):
        if batch.keys is not None:
            seen.append((phase, batch.inputs["x"].clone(), batch.target.clone(), batch.keys.clone()))
        return loss_of(model, batch, phase)

    pack.task.loss = listen
    fit(pack, ring.rows(), ring.rows("val"), ring.metric, 11)
    assert [phase for phase, *_ in seen[:4]] == ["discriminator", "generator"] * 2
    steps = len(seen) // 2
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(steppers["discriminator"], steps)
    for phase, x, target, keys in seen:
        made = apply("generator", torch.cat([x, noise_of(x, keys, 4)], 1))
        score = lambda points: apply("discriminator", torch.cat([x, points], 1))  # noqa: B023, E731
        if phase == "generator":
            loss = torch.nn.functional.softplus(-score(made)).mean()
        else:
            loss = (
                -torch.nn.functional.logsigmoid(score(target)) - torch.nn.functional.logsigmoid(-score(made))
            ).mean()
        grads = torch.autograd.grad(loss, parts[phase])
        for parameter, grad in zip(parts[phase], grads, strict=True):
            parameter.grad = grad
        steppers[phase].step()
        if phase == "discriminator":
            cosine.step()
    expected = torch.cat([value.detach().reshape(-1) for value in weights.values()])
    torch.testing.assert_close(pack.population.flat[0].detach(), expected, rtol=2e-3, atol=2e-5)


def test_noise_is_a_function_of_the_row_and_its_key_alone():
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    keys = torch.arange(1000, dtype=torch.int32)
    noise = noise_of(x, keys, 2)
    assert torch.equal(noise[100:200], noise_of(x[100:200], keys[100:200], 2))
    assert not torch.equal(noise, noise_of(x, keys + 1, 2))
    assert noise.min() >= -1
    assert noise.max() < 1
    assert noise.mean(0).abs().max() < 0.05
    assert (noise.var(0) - 1 / 3).abs().max() < 0.03
    assert abs(float(torch.corrcoef(noise.T)[0, 1])) < 0.1


def test_the_discrepancy_is_that_of_its_kernel_and_zero_for_equal_samples():
    random = np.random.default_rng(0)
    real = random.standard_normal((400, 2))
    made = random.normal([1.0, 0.0], size=(400, 2))
    metric = mmd((1.0, 1.0))
    assert metric.value(real, real[::-1], None) == pytest.approx(0, abs=1e-12)
    kernel = lambda a, b: np.mean([  # noqa: E731
        np.exp(-np.square(a[:, None] - b[None]).sum(-1) / (2 * width**2)).mean() for width in (0.25, 0.5, 1.0, 2.0)
    ])  # fmt: skip
    exact = kernel(real, real) + kernel(made, made) - 2 * kernel(real, made)
    assert metric.value(made, real, None) == pytest.approx(exact, rel=0.25)  # features are drawn, the kernel is not
    parts = [metric.sums.partial(made[some], real[some]) for some in (slice(0, 100), slice(100, 400))]
    assert metric.sums.value(metric.sums.merge(parts)) == pytest.approx(metric.value(made, real, None), rel=1e-12)
    pulled = metric.influence(made, real, None)
    without = [metric.value(np.delete(made, i, 0), np.delete(real, i, 0), None) for i in range(5)]
    assert pulled[:5] == pytest.approx(metric.value(made, real, None) - np.array(without), rel=0.05, abs=2e-5)


def test_a_model_without_the_phases_and_a_phase_that_is_not_there_are_refused_by_name(ring):
    plan = Plan(0, 0, model=Ref("mlp"), optimizer=Ref("adamw"), task=Ref("gan"), params={})
    with pytest.raises(SpecError, match="no parameter under discriminator, generator. It has: hidden.0.weight_KDH"):
        ring.pack([plan], Train())
    with pytest.raises(SpecError, match="no phase 'critic'. It has discriminator, generator"):
        ring.pack([ring.plan(0)], Train(phases={"critic": Phase(schedule=Ref("cosine"))}))
