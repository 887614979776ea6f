"""Put small language models together that have learned nothing, and give their vocabularies."""

import polars as pl
import torch
from lively_decoder import lively, schema_of
from torch import Tensor

from fmray.data.tokenize import Tokenize
from fmray.data.vocabulary import Vocabulary
from fmray.inference.generate import Generator
from fmray.inference.generation import Generated, Generation
from fmray.models.decoder import Decoder
from fmray.schema import Column, Schema
from fmray.spec.components import steps as declared
from fmray.train.next_tokens import NextTokens, network_of
from fmray.train.population import Blueprint, enter

LETTERS = "abcdefghijklmnop .,"


def vocabulary(*texts: str, kind: str = "characters", lowercase: bool = False, size: int = 300) -> Vocabulary:
    """Learn a vocabulary from texts."""
    step = Tokenize(declared.Tokenize(columns="text", kind=kind, lowercase=lowercase, vocabulary=size))
    schema = Schema((Column("text", "text"),))
    state = step.learn(step.fit(pl.DataFrame({"text": list(texts) or [LETTERS]}), schema), schema).state
    return Vocabulary([{"name": "tokenize", "state": state}])


VOCABULARY = vocabulary()


def source(*modules: Decoder, context: int = 24, weights: tuple[float, ...] = (), words: Vocabulary = VOCABULARY):
    """Let decoders speak as members of an ensemble do."""
    own = modules or (lively(len(words)),)
    schema = schema_of(len(words))
    populations = [enter([Blueprint(Decoder, {}, 0)], schema, len(words), modules=[module]) for module in own]
    networks = [network_of(population, "tokens", in_float64=True) for population in populations]
    return NextTokens(networks, weights or [1 / len(own)] * len(own), context=context, num_ids=len(words))


def generate(prompts: list[str], speaker: NextTokens | None = None, words: Vocabulary = VOCABULARY, **asked):
    """Give the first text of each prompt."""
    return [texts[0] for texts in generate_all(prompts, speaker, words, **asked)]


def generate_all(
    prompts: list[str], speaker: NextTokens | None = None, words: Vocabulary = VOCABULARY, batch: int = 64, **asked
) -> list[list[Generated]]:
    """Give all texts of each prompt."""
    go_on = Generator(speaker or source(words=words), words, Generation(**asked))
    return go_on(prompts, range(len(prompts)), batch_texts=batch)[0]


def logits(module: Decoder, window: list[int]) -> Tensor:
    """Give a decoder's outputs at the last of some tokens, read at once, in float64."""
    with torch.no_grad():
        return module.double()(tokens=torch.tensor([window]))[0, -1]
