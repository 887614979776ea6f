"""An encoder-decoder reads its source whole and its target from left to right; what it keeps changes no text."""

import itertools

import numpy as np
import pytest
import torch
from speakers_of_pairs import NUM_IDS, SCHEMA, lively, sources, tokens_of

from fmray.data.cut import END, START
from fmray.errors import SpecError
from fmray.inference.generation import Generation
from fmray.models.encoder_decoder import EncoderDecoder
from fmray.schema import Column, Schema
from fmray.spec.components import models as declared
from fmray.train.next_tokens import SourceTokens


def outputs(module, source, target):
    """Give the outputs at each token of one target, computed anew (L, V)."""
    inputs = {"source": torch.tensor([source]), "source_lengths": torch.tensor([len(source)])}
    with torch.no_grad():
        return module(**inputs, said=torch.tensor([target]), said_lengths=torch.tensor([len(target)]))[0]


def test_a_token_of_the_target_changes_outputs_from_its_place_on_and_one_of_the_source_all():
    module = lively()
    first = outputs(module, [3, 4, 5], [0, 2, 3, 4])
    change = (first - outputs(module, [3, 4, 5], [0, 2, 5, 4])).abs().amax(-1)
    assert torch.nonzero(change).flatten().tolist() == [2, 3]
    assert ((first - outputs(module, [3, 4, 6], [0, 2, 3, 4])).abs().amax(-1) > 0).all()
    assert ((first - outputs(module, [4, 3, 5], [0, 2, 3, 4])).abs().amax(-1) > 1e-9).all()


@pytest.mark.parametrize("shared", [False, True])
def test_tokens_one_by_one_have_the_outputs_of_a_whole_target(shared):
    module = lively(shared_embeddings=shared)
    chosen = [[3, 4, 5, 1], [2], [5, 5]]
    reading = SourceTokens([module], [1.0], NUM_IDS).begin([np.array(own) for own in chosen])
    targets = [[START], [START], [START]]
    for token in (2, 4, 4, 1, 3):
        said = reading.scores()
        for row, target in enumerate(targets):
            expected = outputs(module, chosen[row], target)[-1]
            np.testing.assert_allclose(said[row], expected.numpy(), rtol=0, atol=1e-12)
        reading.go_on(np.arange(3), np.array([token] * 3))
        targets = [[*target, token] for target in targets]


def test_texts_that_go_on_in_another_order_keep_their_sources():
    module = lively()
    reading = SourceTokens([module], [1.0], NUM_IDS).begin([np.array([3, 4]), np.array([2, 2, 6])])
    reading.scores()
    reading.go_on(np.array([1, 0, 1]), np.array([2, 3, 4]))
    said = reading.scores()
    for row, (source, token) in enumerate([([2, 2, 6], 2), ([3, 4], 3), ([2, 2, 6], 4)]):
        np.testing.assert_allclose(said[row], outputs(module, source, [START, token])[-1].numpy(), rtol=0, atol=1e-12)


def score_of(module, source, text, penalty):
    """Give the score of a text with its end, or one that is as long as allowed."""
    logs = outputs(module, source, [START, *text[:-1]]).log_softmax(-1)
    return float(logs[torch.arange(len(text)), torch.tensor(text)].sum()) / len(text) ** penalty


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_as_many_beams_as_there_are_texts_find_the_best_of_all(penalty, seed):
    module = lively(seed=seed)
    longest = 3
    own = list(range(2, NUM_IDS))  # neither the end nor what the vocabulary lacks
    ended = [(*text, END) for length in range(longest) for text in itertools.product(own, repeat=length)]
    full = list(itertools.product(own, repeat=longest))
    for source in ([3, 4, 5], [2]):
        best = max([*ended, *full], key=lambda text: score_of(module, source, list(text), penalty))
        asked = Generation(max_new_tokens=longest, beams=NUM_IDS**longest, length_penalty=penalty, stop_tokens=(END,))
        ((found,),) = tokens_of([module], [source], asked)
        assert found.ids == best
        assert found.score == pytest.approx(score_of(module, source, list(best), penalty), rel=1e-9)


def test_one_text_takes_the_most_likely_token_until_its_end():
    module = lively(seed=2)
    asked = Generation(max_new_tokens=6, temperature=0, stop_tokens=(END,))
    for source, (found,) in zip(sources(9), tokens_of([module], sources(9), asked), strict=True):
        target = [START]
        while len(target) <= 6 and (len(target) == 1 or target[-1] != END):
            logits = outputs(module, source, target)[-1]
            logits[1] = -torch.inf
            target.append(int(logits.argmax()))
        assert list(found.ids) == target[1:]


@pytest.mark.parametrize("asked", [{"temperature": 0}, {"beams": 3}], ids=str)
@pytest.mark.parametrize("members", [1, 2])
def test_no_text_depends_on_those_that_are_generated_beside_it(asked, members):
    modules = [lively(seed=seed) for seed in range(members)]
    generation = Generation(max_new_tokens=8, stop_tokens=(END,), **asked)

    def ids(chosen, batch_texts=64):
        return [own[0].ids for own in tokens_of(modules, chosen, generation, batch_texts)]

    whole = ids(sources(20))
    assert len(set(whole)) > 5
    assert ids(sources(20), 1) == ids(sources(20), 7) == ids(sources(20)[::-1])[::-1] == whole


def test_members_are_averaged_at_every_token():
    modules = [lively(seed=seed) for seed in (0, 1)]
    said = SourceTokens(modules, [0.25, 0.75], NUM_IDS).begin([np.array([3, 4])]).scores()
    each = [outputs(module, [3, 4], [START])[-1].softmax(-1) for module in modules]
    expected = 0.25 * each[0] + 0.75 * each[1]
    np.testing.assert_allclose(np.exp(said[0]) / np.exp(said[0]).sum(), expected.numpy(), rtol=1e-12)


def test_a_table_is_shared_only_where_both_have_as_many_ids():
    module = lively(shared_embeddings=True)
    assert module.source_embedding is module.embedding
    schema = Schema((Column("a", "tokens", 9, block="source"), SCHEMA.columns[1]))
    with pytest.raises(SpecError, match=f"source has 9 ids and said {NUM_IDS}. Tokenize both by one step"):
        EncoderDecoder(schema, NUM_IDS, declared.EncoderDecoder(shared_embeddings=True))
