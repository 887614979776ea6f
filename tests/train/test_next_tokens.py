"""Scores of the next token are those of the network on the window it would see, whatever was kept and dropped."""

import numpy as np
import pytest
import torch
from lively_decoder import lively, schema_of
from torch import nn

from fmray.data.cut import START
from fmray.errors import DataError
from fmray.models.tagger import Tagger, TokenLinear
from fmray.train.next_tokens import NextTokens, network_of
from fmray.train.population import Blueprint, enter

NUM_IDS = 20
CONTEXT = 7


class Summing(nn.Module):
    """Read all tokens before each by a running sum: a network of the user's own, in float32 and without a cache."""

    reads = ("tokens",)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(NUM_IDS, NUM_IDS, generator=torch.Generator().manual_seed(1)))

    def forward(self, tokens, tokens_lengths):
        return self.weight[tokens].cumsum(1) + torch.zeros(1, dtype=torch.float32)


def made(kind):
    if kind == "decoder":
        return lively(NUM_IDS), True
    if kind == "token_linear":
        module = TokenLinear(schema_of(NUM_IDS), NUM_IDS)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(2))
        return module, True
    if kind == "tagger":
        torch.manual_seed(0)
        return Tagger(schema_of(NUM_IDS), NUM_IDS), True
    return Summing(), False


def source(*kinds):
    networks = []
    for kind in kinds:
        module, in_float64 = made(kind)
        population = enter([Blueprint(type(module), {}, 0)], schema_of(NUM_IDS), NUM_IDS, modules=[module])
        population.prepare_step(0, None)
        networks.append(network_of(population, "tokens", in_float64=in_float64))
    return NextTokens(networks, [1 / len(kinds)] * len(kinds), CONTEXT, NUM_IDS)


def expected(kind, window):
    module, in_float64 = made(kind)
    module = module.double() if in_float64 else module
    ids = torch.tensor([window])
    with torch.no_grad():
        output = module(tokens=ids, tokens_lengths=torch.tensor([len(window)]))
    return output.reshape(1, len(window), NUM_IDS)[0, -1].double().numpy()


@pytest.mark.parametrize("kind", ["decoder", "token_linear", "summing"])
def test_texts_that_grow_branch_and_end_are_scored_as_if_read_anew(kind):
    random = np.random.default_rng(0)
    prompts = [random.integers(1, NUM_IDS, length) for length in (0, 3, 6, 7, 20)]
    reading = source(kind).begin(prompts)
    windows = [[START, *prompt][-CONTEXT:] for prompt in prompts]
    lengths = [1 + len(prompt) for prompt in prompts]
    for _ in range(12):
        assert reading.is_cut.tolist() == [
            length > len(window) for length, window in zip(lengths, windows, strict=True)
        ]
        assert reading.is_full.tolist() == [len(window) == CONTEXT for window in windows]
        for own, window in zip(reading.scores(), windows, strict=True):
            np.testing.assert_allclose(own, expected(kind, window), rtol=1e-6, atol=1e-6)
        rows = random.integers(0, len(windows), random.integers(1, 6))
        tokens = random.integers(1, NUM_IDS, len(rows))
        windows = [[*windows[row], token] for row, token in zip(rows, tokens.tolist(), strict=True)]
        windows = [window if len(window) <= CONTEXT else window[-4:] for window in windows]
        lengths = [lengths[row] + 1 for row in rows]
        reading.go_on(rows, tokens)


@pytest.mark.parametrize("pairs", [1, 100])
def test_prompts_that_are_read_in_parts_are_scored_as_together(pairs, monkeypatch):
    prompts = [np.arange(1, length) for length in (1, 5, 2, 7, 3)]
    together = source("decoder").begin(prompts).scores()
    monkeypatch.setattr("fmray.train.next_tokens.MOST_PAIRS", pairs)
    reading = source("decoder").begin(prompts)
    np.testing.assert_allclose(reading.scores(), together, rtol=1e-12)
    windows = [[START, *prompt, 4] for prompt in prompts]
    reading.go_on(np.arange(5), np.full(5, 4))
    for own, window in zip(reading.scores(), windows, strict=True):
        np.testing.assert_allclose(
            own, expected("decoder", window[-4:] if len(window) > CONTEXT else window), rtol=1e-9
        )


def test_a_model_that_has_diverged_is_refused():
    speaker = source("summing")
    with torch.no_grad():
        speaker._networks[0].module.weight[3, 5] = float("nan")
    speaker.begin([np.array([2])]).scores()
    with pytest.raises(DataError, match="outputs are no finite numbers"):
        speaker.begin([np.array([2]), np.array([1, 3])]).scores()


def test_probabilities_of_different_networks_are_averaged():
    kinds = ("decoder", "token_linear", "summing")
    reading = source(*kinds).begin([np.array([3, 1, 4])])
    (found,) = reading.scores()
    shares = [torch.from_numpy(expected(kind, [START, 3, 1, 4])).softmax(-1).numpy() for kind in kinds]
    mine = torch.from_numpy(found).softmax(-1).numpy()
    np.testing.assert_allclose(mine, np.mean(shares, 0), rtol=1e-6)


@pytest.mark.parametrize("kind", ["token_linear", "summing", "tagger"])
def test_a_network_that_looks_ahead_is_told_from_those_that_look_back(kind):
    (network,) = source(kind)._networks
    assert network.looks_ahead() == (kind == "tagger")


def test_a_network_in_float32_answers_to_the_bit_whatever_is_read_beside():
    prompts = [np.arange(1, length) for length in (2, 5, 9, 3)]
    together = source("summing").begin(prompts).scores()
    alone = np.concatenate([source("summing").begin([prompt]).scores() for prompt in prompts])
    assert np.array_equal(together, alone)
