"""Put small encoder-decoders together that have learned nothing, and let them generate tokens."""

import numpy as np
import polars as pl
import torch

from fmray.data.tokenize import Tokenize
from fmray.data.vocabulary import Vocabulary
from fmray.inference.generate import Generator
from fmray.inference.generation import Generated, Generation
from fmray.models.encoder_decoder import EncoderDecoder
from fmray.schema import Column, Schema
from fmray.spec.components import models as declared
from fmray.spec.components import steps as declared_steps
from fmray.train.next_tokens import SourceTokens

NUM_IDS = 7
SCHEMA = Schema((Column("a", "tokens", NUM_IDS, block="source"), Column("b", "decoder_tokens", NUM_IDS, block="said")))


def lively(seed: int = 0, **params: object) -> EncoderDecoder:
    """Give a network in float64 whose outputs are far apart."""
    torch.manual_seed(seed)
    asked = declared.EncoderDecoder(width=16, depth=2, heads=2, **params)
    module = EncoderDecoder(SCHEMA, NUM_IDS, asked).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.4)
    return module


def sources(number: int) -> list[list[int]]:
    """Draw sources of 1 to 6 tokens."""
    random = np.random.default_rng(5)
    return [random.integers(2, NUM_IDS, length).tolist() for length in random.integers(1, 7, number)]


def letters() -> Vocabulary:
    """Give a vocabulary with a letter for each id but the first two."""
    step = Tokenize(declared_steps.Tokenize(columns="text", kind="characters"))
    schema = Schema((Column("text", "text"),))
    state = step.learn(step.fit(pl.DataFrame({"text": ["abcde"[: NUM_IDS - 2]]}), schema), schema).state
    return Vocabulary([{"name": "tokenize", "state": state}])


def tokens_of(
    modules: list[EncoderDecoder], chosen: list[list[int]], asked: Generation, batch_texts: int = 64
) -> list[list[Generated]]:
    """Give the texts of each source; members count alike."""
    scores = SourceTokens(modules, [1 / len(modules)] * len(modules), NUM_IDS)
    generator = Generator(scores, letters(), asked)
    found, _ = generator.from_sources([np.array(own) for own in chosen], range(len(chosen)), batch_texts)
    return found
