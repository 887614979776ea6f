"""Run every model of the catalogue, on every kind of input it reads, through what the loop relies on."""

import itertools
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call
from torch.nn import functional as F

from fmray.catalogue import MODELS
from fmray.models.model import PopulationNative
from fmray.pieces import laid_out
from fmray.ragged import Blocks, Ragged
from fmray.schema import Column, Schema
from fmray.tasks.task import Batch, Places
from fmray.train.blocks import batch_of_rows
from fmray.train.population import Blueprint, enter, reads_of, why_not_packable

NUMBERS = (Column("first", "number"), Column("pixels", "vector", 255))  # 16 x 16, for models of images
WORDS = Column("words", "tokens", 20, block="tokens")
SHAPES = Column("words.shape", "tokens", 9, block="shape")
SAID = Column("said", "decoder_tokens", 20, block="said")
BAG = Column("text", "bag", 30, block="bag")
SCHEMAS = {
    "numbers": Schema(NUMBERS),
    "tokens": Schema((WORDS, SHAPES)),
    "pairs": Schema((WORDS, SAID)),
    "bag": Schema((BAG,)),
    "pieces": Schema((Column("words.pieces", "pieces", 20, block="tokens"),)),
    "everything": Schema((*NUMBERS, WORDS, SHAPES, BAG)),
}
KINDS = {
    "numbers": {"x"},
    "tokens": {"tokens"},
    "pairs": {"tokens", "decoder_tokens"},
    "bag": {"bag"},
    "pieces": {"pieces"},
    "everything": {"x", "tokens", "bag"},
}
"""Inputs -> the kinds of blocks among them."""
TINY_BERT = {
    "model_type": "bert", "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 128,
}  # fmt: skip
PARAMS = {
    "bag_of_embeddings": {"width": 8},
    "decoder": {"width": 16, "depth": 2, "heads": 2},
    "encoder": {"width": 16, "depth": 2, "heads": 2, "block": "tokens"},
    "encoder_decoder": {"width": 16, "depth": 1, "heads": 2, "shared_embeddings": True},
    "gan_points": {"width": 16},
    "hf": {"config": TINY_BERT, "block": "tokens", "dropout": 0.0},
    "mlp": {"width": 16},
    "resnet": {"width": 8},
    "tagger": {"embedding": 8, "width": 16},
}
BY_TOKEN = ("decoder", "encoder_decoder", "tagger", "token_linear")
"""Models that give an output per token."""
IDS_OF = {"decoder": 20, "encoder_decoder": 20}
"""Models that give an output per id of the first block of tokens."""
LENGTHS = [3, 1, 8, 0, 5, 2, 7, 1, 4, 6, 3]
NUM_ROWS = len(LENGTHS)


def inputs_read(name):
    """Name the kinds of inputs on which a model is tried: each alone that is enough for it, then all together."""
    build = MODELS.find(name)
    reads = set(reads_of(build))
    needs = set(getattr(build, "needs", ()))
    fitting = {kind: given for kind, given in KINDS.items() if needs <= given}
    alone = [kind for kind, given in fitting.items() if kind != "everything" and given <= reads]
    return [*alone, *(["everything"] if len(reads) > 1 and "everything" in fitting else [])]


LACKING = {"hf"} if find_spec("transformers") is None else set()
"""Models whose package is not installed."""
CASES = [(name, kind) for name in MODELS if name not in LACKING for kind in inputs_read(name)]
IDS = [f"{name}-{kind}" for name, kind in CASES]
every = pytest.mark.parametrize(("name", "kind"), CASES, ids=IDS)
RAGGED = [case for case in CASES if case[1] != "numbers"]
ragged = pytest.mark.parametrize(("name", "kind"), RAGGED, ids=[f"{name}-{kind}" for name, kind in RAGGED])
DROPPING = [case for case in CASES if "dropout" in MODELS.params(case[0]).model_fields]
dropping = pytest.mark.parametrize(("name", "kind"), DROPPING, ids=[f"{name}-{kind}" for name, kind in DROPPING])


def rows(schema, lengths=LENGTHS):
    """Draw rows as the lanes hold them; all ragged blocks have the same lengths."""
    random = np.random.default_rng(3)
    arrays = {}
    for block in schema.blocks.values():
        if not block.is_ragged:
            arrays[block.name] = random.standard_normal((len(lengths), block.width)).astype(np.float32)
            continue
        ids = random.integers(1, block.width, sum(lengths)).astype(np.int32)
        arrays[block.name] = Ragged.of_lengths(ids, np.array(lengths, np.int64))
        if block.kind == "pieces":  # a word each, in windows of four
            words = Ragged.of_lengths(ids, np.ones(len(ids), np.int64))
            arrays[block.name] = laid_out(words, np.array(lengths), before=[2], after=[3], most=6)
        if block.kind == "bag":
            weights = random.random(sum(lengths)).astype(np.float32)
            arrays[f"{block.name}_weights"] = Ragged.of_lengths(weights, np.array(lengths, np.int64))
    return Blocks(arrays)


def batch(kind, lengths=LENGTHS):
    schema = SCHEMAS[kind]
    return batch_of_rows(rows(schema, lengths), schema.blocks, "cpu")


def changed(given, inputs):
    return Batch({**given.inputs, **inputs}, given.target, None, given.rows)


def blueprints(name, members, **params):
    return [Blueprint.of(name, {**PARAMS.get(name, {}), **params}, seed) for seed in range(members)]


def outputs_of(name, wanted=2):
    return IDS_OF.get(name, wanted)


def entered(name, kind, members=3, wanted=2, *, step=None, **params):
    """Build members; a step other than None is one in which they learn from the rows of `batch`."""
    population = enter(blueprints(name, members, **params), SCHEMAS[kind], outputs_of(name, wanted))
    population.prepare_step(step or 0, None if step is None else Places.counted(0, NUM_ROWS))
    return population


def with_gradient(population, given):
    """Give outputs, and the gradient of a loss that has one wherever outputs are, zero included."""
    output = population(given)
    (output - 1).square().flatten(1).mean(1).sum().backward()
    population.gather_grad()
    return output.detach(), population.grad.clone()


def as_trained(name):
    return {"dropout": 0.4} if (name, inputs_read(name)[0]) in DROPPING else {}


def tokens_of(output, lengths=LENGTHS):
    """Give the outputs of tokens without those of padding."""
    return torch.cat([output[:, row, :length] for row, length in enumerate(lengths)], 1)


def what_counts(name, output):
    return tokens_of(output) if name in BY_TOKEN else output


def test_no_model_of_the_catalogue_is_left_out():
    # Estimators have no modules, batches or gradients: tests/models/test_boosting.py holds what they are held to.
    assert {name for name, _ in CASES} == set(MODELS) - LACKING
    assert all(any(kind in KINDS[given] for _, given in CASES) for kind in ("x", "tokens", "decoder_tokens", "bag"))


@every
def test_outputs_have_one_row_per_row_and_one_column_per_output(name, kind):
    tokens = [8] if name in BY_TOKEN else []
    assert entered(name, kind, wanted=4)(batch(kind)).shape == (3, NUM_ROWS, *tokens, outputs_of(name, 4))


@every
def test_a_member_starts_the_same_alone_and_in_company(name, kind):
    together = entered(name, kind)
    for place, blueprint in enumerate(blueprints(name, 3)):
        alone = enter([blueprint], SCHEMAS[kind], outputs_of(name))
        assert torch.equal(alone.flat[0], together.flat[place])


@every
def test_packed_members_answer_and_learn_as_each_does_alone(name, kind):
    params = as_trained(name)
    together, grads = with_gradient(entered(name, kind, step=3, **params), batch(kind))
    for place, blueprint in enumerate(blueprints(name, 3, **params)):
        population = enter([blueprint], SCHEMAS[kind], outputs_of(name))
        population.prepare_step(3, Places.counted(0, NUM_ROWS))
        alone, grad = with_gradient(population, batch(kind))
        torch.testing.assert_close(alone[0], together[place], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(grad[0], grads[place], rtol=1e-3, atol=1e-6)


@every
def test_one_member_is_computed_as_one_of_several_equal_ones(name, kind):
    twin = blueprints(name, 1, **as_trained(name)) * 3
    found = []
    for some in (twin[:1], twin):
        population = enter(some, SCHEMAS[kind], outputs_of(name))
        population.prepare_step(2, Places.counted(0, NUM_ROWS))
        found.append(with_gradient(population, batch(kind)))
    for alone, together in zip(*found, strict=True):
        torch.testing.assert_close(together, alone.expand_as(together), rtol=1e-4, atol=1e-6)


@every
def test_the_members_that_stay_compute_on_when_another_goes(name, kind):
    population = entered(name, kind)
    before = population(batch(kind)).detach()
    population.select(torch.tensor([0, 2]))
    torch.testing.assert_close(population(batch(kind)), before[[0, 2]], rtol=1e-5, atol=1e-6)


def test_a_perceptron_starts_at_zero_whatever_the_seed():
    for kind in inputs_read("perceptron"):
        assert not entered("perceptron", kind, 2, 3).flat.any()


@every
def test_seeds_start_members_apart_and_equal_seeds_alike(name, kind):
    flat = entered(name, kind, 2).flat
    assert torch.equal(flat, entered(name, kind, 2).flat)
    assert name == "perceptron" or not torch.equal(flat[0], flat[1])


@every
def test_building_a_member_leaves_the_generator_of_others_alone(name, kind):
    torch.manual_seed(5)
    entered(name, kind, 1)
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))


@every
def test_a_row_is_answered_the_same_whatever_stands_beside_it(name, kind):
    population = entered(name, kind, 2)
    given = batch(kind)
    torch.testing.assert_close(population(given)[:, :3], population(given.slice(0, 3)), rtol=1e-5, atol=1e-6)


@dropping
def test_shares_of_a_batch_drop_what_the_whole_batch_drops(name, kind):
    population = entered(name, kind, step=2, dropout=0.5)
    given = batch(kind)
    whole = population(given).detach()
    population.prepare_step(2, Places.counted(4, NUM_ROWS))
    torch.testing.assert_close(population(given.slice(4, NUM_ROWS)), whole[:, 4:], rtol=1e-5, atol=1e-6)
    population.prepare_step(3, Places.counted(4, NUM_ROWS))
    assert not torch.allclose(population(given.slice(4, NUM_ROWS)), whole[:, 4:])


@dropping
def test_nothing_is_dropped_where_members_do_not_learn(name, kind):
    rates = [0.5, 0.2]
    pair = [Blueprint.of(name, {**PARAMS.get(name, {}), "dropout": rate}, 1) for rate in rates]
    population = enter(pair, SCHEMAS[kind], outputs_of(name))
    population.prepare_step(7, None)
    output = population(batch(kind))
    torch.testing.assert_close(output[0], output[1], rtol=1e-5, atol=1e-6)


@ragged
@pytest.mark.parametrize("more", [1, 8, 100])
@pytest.mark.parametrize("step", [None, 4], ids=["predicting", "learning"])
def test_padding_changes_neither_an_output_nor_a_gradient(name, kind, more, step):
    given = batch(kind)
    lists = {n: v for n, v in given.inputs.items() if n != "x" and not n.endswith("_lengths")}
    wide = changed(given, {n: F.pad(v, (0, more)) for n, v in lists.items()})
    found = []
    for some in (given, wide):
        population = entered(name, kind, step=step, **as_trained(name))
        output = what_counts(name, population(some))
        (output - 1).square().sum().backward()
        population.gather_grad()
        found.append((output.detach(), population.grad.clone()))
    for narrow, padded in zip(*found, strict=True):
        torch.testing.assert_close(padded, narrow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [case for case in RAGGED if case[1] != "pieces"])
def test_what_stands_in_the_padding_changes_nothing(name, kind):
    # entries of pieces say themselves that they are padding
    population = entered(name, kind)
    given = batch(kind)
    behind = torch.arange(8) >= torch.tensor(LENGTHS)[:, None]
    ids = {block.name: given.inputs[block.name] for block in SCHEMAS[kind].blocks.values() if block.is_ragged}
    filled = changed(given, {block: value.masked_fill(behind, 3) for block, value in ids.items()})
    one, other = (what_counts(name, population(some)) for some in (given, filled))
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@ragged
def test_rows_without_a_token_are_answered_by_finite_numbers(name, kind):
    population = entered(name, kind, step=1, **as_trained(name))
    output, grad = with_gradient(population, batch(kind, [0] * NUM_ROWS))
    assert output.isfinite().all()
    assert grad.isfinite().all()


@every
def test_every_parameter_gets_a_gradient(name, kind):
    _, grad = with_gradient(entered(name, kind, 2, step=0), batch(kind))
    assert (grad != 0).float().mean() > 0.5


@every
def test_the_gradient_is_that_of_autograd_on_the_module_alone(name, kind):
    population = entered(name, kind, 2, step=0)
    given = batch(kind)
    _, grads = with_gradient(population, given)
    takes = {name: value for name, value in given.inputs.items() if name in population.takes}
    for place, blueprint in enumerate(blueprints(name, 2)):
        module = blueprint.module(SCHEMAS[kind], outputs_of(name))
        parameters = dict(module.named_parameters())
        output = functional_call(module, parameters, kwargs=takes)
        loss = (output - 1).square().mean()
        expected = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
        flat = torch.cat([gradient.reshape(-1) for gradient in expected])
        torch.testing.assert_close(grads[place], flat, rtol=1e-3, atol=1e-6)


@every
def test_the_gradient_is_the_slope_of_the_loss(name, kind):
    """Compare with a central difference along one direction, in double precision."""
    module = blueprints(name, 1)[0].module(SCHEMAS[kind], outputs_of(name)).double().eval()
    given = {n: v.double() if v.is_floating_point() else v for n, v in batch(kind).inputs.items()}
    own = enter(blueprints(name, 1), SCHEMAS[kind], outputs_of(name)).takes
    taken = {n: v for n, v in given.items() if n in own}
    generator = torch.Generator().manual_seed(0)
    start = {n: p.detach() + 0.01 * torch.randn(p.shape, generator=generator) for n, p in module.named_parameters()}
    along = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in start.items()}

    def loss(parameters):
        return (functional_call(module, parameters, kwargs=taken) - 1).square().mean()

    leaves = {n: p.clone().requires_grad_() for n, p in start.items()}
    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)
    slope = sum((g * along[n]).sum() for n, g in zip(leaves, gradients, strict=True))
    step = 1e-6
    ahead, behind = (loss({n: p + sign * step * along[n] for n, p in start.items()}) for sign in (1, -1))
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-8)


@every
def test_what_is_kept_of_a_member_makes_it_again(name, kind, tmp_path):
    population = entered(name, kind, 3)
    with torch.no_grad():
        population.flat += 0.1 * torch.randn(population.flat.shape, generator=torch.Generator().manual_seed(1))
    output = population(batch(kind)).detach()
    for place in range(3):
        native = population.entry == "native"  # whose tensors have an axis of members, also where they are kept
        beside = {n: value[place : place + 1] if native else value[place] for n, value in population.buffers.items()}
        save_file(population.tensors(population.flat[place].detach(), beside), tmp_path / "model.safetensors")
        other = Blueprint.of(name, PARAMS.get(name, {}), 99)
        module = other.module(SCHEMAS[kind], outputs_of(name))
        module.load_state_dict(population.layout.with_aliases(load_file(tmp_path / "model.safetensors")))
        again = enter([other], SCHEMAS[kind], outputs_of(name), modules=[module])
        again.prepare_step(0, None)
        assert torch.equal(again.flat[0], population.flat[place])
        torch.testing.assert_close(again(batch(kind))[0], output[place], rtol=1e-4, atol=1e-5)


@every
def test_a_population_takes_over_the_state_of_another(name, kind):
    one, other = (enter(blueprints(name, 5)[first : first + 2], SCHEMAS[kind], outputs_of(name)) for first in (0, 3))
    other.load(one.flat.detach(), one.buffers)
    for population in (one, other):
        population.prepare_step(0, None)
    assert torch.equal(one(batch(kind)), other(batch(kind)))


@every
def test_members_can_be_packed_natively_or_by_vmap(name, kind):
    assert why_not_packable(blueprints(name, 1)[0], SCHEMAS[kind], outputs_of(name), batch(kind).inputs) == ""


@every
def test_members_may_differ_in_every_packable_parameter(name, kind):
    build = MODELS.find(name)
    packable = build.packable if isinstance(build, PopulationNative) else ()
    for parameter in packable:
        rates = [0.1, 0.6, 0.0]
        several = [Blueprint.of(name, {**PARAMS.get(name, {}), parameter: rate}, 4) for rate in rates]
        together = enter(several, SCHEMAS[kind], outputs_of(name))
        together.prepare_step(1, Places.counted(0, NUM_ROWS))
        output = together(batch(kind))
        for place, blueprint in enumerate(several):
            alone = enter([blueprint], SCHEMAS[kind], outputs_of(name))
            alone.prepare_step(1, Places.counted(0, NUM_ROWS))
            torch.testing.assert_close(alone(batch(kind))[0], output[place], rtol=1e-4, atol=1e-5)
        for one, two in itertools.combinations(output, 2):
            assert not torch.allclose(one, two)
