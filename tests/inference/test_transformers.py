"""Texts are token by token those of transformers' own `generate`, which drives the same decoder."""

import copy

import numpy as np
import pytest
import torch
from inference.speakers import VOCABULARY, generate, generate_all, source
from lively_decoder import lively

from fmray.data.cut import START
from fmray.inference import choose

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

NUM_IDS = len(VOCABULARY)
PROMPTS = ["abc", "", "f", "ponm lkj.", "a, b, c"]


def wrapped(module):
    """Let transformers drive a decoder: it reads the mark of the beginning, then all tokens, without a cache."""

    class Config(transformers.PretrainedConfig):
        model_type = "lively"

    class Wrapped(transformers.PreTrainedModel, transformers.GenerationMixin):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            self.inner = module.double()
            self.post_init()

        def forward(self, input_ids, attention_mask=None, **_):
            outputs = self.inner(tokens=input_ids)
            return transformers.modeling_outputs.CausalLMOutput(logits=outputs)

        def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
            return {"input_ids": input_ids}

    own = copy.deepcopy(module.state_dict())
    made = Wrapped(Config(vocab_size=NUM_IDS, is_encoder_decoder=False, num_hidden_layers=1))
    module.load_state_dict(own)  # transformers initialises what it takes in
    return made.eval()


def theirs(model, prompt, **asked):
    """Give the tokens that transformers adds to a prompt, with those of the stop."""
    ids = VOCABULARY.encode([prompt]).compact().values.tolist()
    given = torch.tensor([[START, *ids]])
    config = transformers.GenerationConfig(
        use_cache=False, pad_token_id=START, suppress_tokens=list(VOCABULARY.silent), **asked
    )
    made = model.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
    return [tokens[given.shape[1] :].tolist() for tokens in made]


def cut_behind(tokens, stops):
    """Leave out what transformers fills up with behind a stop."""
    for place, token in enumerate(tokens):
        if token in stops:
            return tuple(tokens[: place + 1])
    return tuple(tokens)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_texts(seed, penalty):
    module = lively(NUM_IDS, seed)
    model = wrapped(module)
    ours = generate(PROMPTS, source(module, context=64), temperature=0, max_new_tokens=30, repetition_penalty=penalty)
    for prompt, text in zip(PROMPTS, ours, strict=True):
        # transformers' penalty knows of the mark of the beginning, which never comes again
        expected = theirs(model, prompt, max_new_tokens=30, repetition_penalty=penalty, do_sample=False)
        assert list(text.ids) == expected[0]
    assert len({text.ids for text in ours}) == len(PROMPTS)


STOPS = [(2, ()), (4, (5,)), (3, (4, 7, 9)), (2, tuple(range(2, 12)))]
"""Beams, and tokens that end a text."""
BEAMS = [
    pytest.param(seed, penalty, beams, stops, marks=[pytest.mark.slow] if seed else [])
    for seed in range(4)
    for penalty in (0.0, 1.0, 2.5, -1.0)
    for beams, stops in STOPS
]


@pytest.mark.parametrize(("seed", "length_penalty", "beams", "stops"), BEAMS)
def test_beams_with_a_length_penalty(seed, length_penalty, beams, stops):
    module = lively(NUM_IDS, seed)
    model = wrapped(module)
    ours = generate_all(
        PROMPTS, source(module, context=64), max_new_tokens=12, beams=beams, length_penalty=length_penalty,
        stop_tokens=stops, num=beams,
    )  # fmt: skip
    for prompt, texts in zip(PROMPTS, ours, strict=True):
        expected = theirs(
            model, prompt, max_new_tokens=12, num_beams=beams, length_penalty=length_penalty, do_sample=False,
            eos_token_id=list(stops) or None, num_return_sequences=beams, early_stopping=False,
        )  # fmt: skip
        assert [text.ids for text in texts] == [cut_behind(tokens, stops) for tokens in expected]


def test_beams_with_a_repetition_penalty_and_texts_they_may_not_leave():
    module = lively(NUM_IDS, 4)
    model = wrapped(module)
    ours = generate(PROMPTS, source(module, context=64), max_new_tokens=10, beams=3, repetition_penalty=1.3)
    for prompt, text in zip(PROMPTS, ours, strict=True):
        expected = theirs(model, prompt, max_new_tokens=10, num_beams=3, repetition_penalty=1.3, do_sample=False)
        assert text.ids == tuple(expected[0])


SCORES = np.random.default_rng(0).normal(0, 3, (50, 40))


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.8])
def test_the_repetition_penalty(penalty):
    seen = np.random.default_rng(1).integers(0, 40, (50, 12))
    process = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    expected = process(torch.from_numpy(seen), torch.from_numpy(SCORES.copy())).numpy()
    assert np.array_equal(choose.penalised(SCORES, list(seen), penalty), expected)


@pytest.mark.parametrize("k", [1, 3, 39, 40, 100])
def test_top_k(k):
    tied = SCORES.round()
    process = transformers.TopKLogitsWarper(k)
    for scores in (SCORES, tied):
        assert np.array_equal(choose.top_k(scores, k), process(None, torch.from_numpy(scores)).numpy())


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_and_top_p(p, temperature):
    warm = transformers.TemperatureLogitsWarper(temperature)
    process = transformers.TopPLogitsWarper(p)
    expected = process(None, warm(None, torch.from_numpy(SCORES))).numpy()
    found = choose.top_p(SCORES / temperature, p)
    assert np.array_equal(found, expected)
    assert np.isfinite(found).sum(-1).min() >= 1


def test_what_is_ruled_out():
    process = transformers.SuppressTokensLogitsProcessor([3, 5])
    assert np.array_equal(choose.without(SCORES, [3, 5]), process(None, torch.from_numpy(SCORES)).numpy())
