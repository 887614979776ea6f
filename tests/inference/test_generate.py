"""Texts go on as the model's own distribution says, whoever is generated beside them, and end where they must."""

import itertools

import numpy as np
import pytest
import torch
from inference.speakers import LETTERS, VOCABULARY, generate, generate_all, logits, source, vocabulary
from lively_decoder import lively
from scipy import stats

from fmray.data.cut import START
from fmray.errors import SpecError
from fmray.inference import choose
from fmray.inference.allowed import Allowed
from fmray.inference.generate import Generator
from fmray.inference.generation import Generation

NUM_IDS = len(VOCABULARY)
PROMPTS = ["abc", "", "f", "ponm lkj.", "a, b, c", "k" * 15, "mno pab", ".."]
CONTEXT = 12


def ids_of(text, words=VOCABULARY):
    return words.encode([text]).compact().values.tolist()


def windows(prompt, text, context):
    """Give what the model sees before each token of a text: all, until that is more than a context."""
    inputs = [START, *prompt]
    start = max(0, len(inputs) - context)
    for token in text:
        yield inputs[start:], token
        inputs.append(token)
        if len(inputs) - start > context:
            start = len(inputs) - (context + 1) // 2


def distribution(module, window):
    return logits(module, window).log_softmax(-1).numpy()


@pytest.mark.parametrize("asked", [{}, {"temperature": 0}, {"beams": 3}, {"temperature": 0.7, "top_k": 5}], ids=str)
@pytest.mark.parametrize("context", [1, 2, CONTEXT, 13, 64])
def test_every_token_has_the_probability_that_its_window_read_anew_gives_it(asked, context):
    module = lively(NUM_IDS, 1)
    texts = generate(PROMPTS, source(module, context=context), max_new_tokens=20, **asked)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        logs = [distribution(module, seen)[token] for seen, token in windows(ids_of(prompt), text.ids, context)]
        assert text.log_probability == pytest.approx(sum(logs), abs=1e-9)
        assert len(text.ids) == 20
        assert text.text == VOCABULARY.decode(text.ids)


def test_greedy_texts_take_the_most_likely_token_of_their_window():
    module = lively(NUM_IDS, 2)
    texts = generate(PROMPTS, source(module, context=CONTEXT), temperature=0, max_new_tokens=20)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        for seen, token in windows(ids_of(prompt), text.ids, CONTEXT):
            logs = distribution(module, seen)
            logs[list(VOCABULARY.silent)] = -np.inf
            assert token == logs.argmax()


SETTINGS = [
    {"seed": 3},
    {"seed": 4, "temperature": 1.5, "repetition_penalty": 1.2},
    {"seed": 5, "top_p": 0.8, "num": 2},
    {"beams": 3, "stop": (".",)},
]


@pytest.mark.slow
@pytest.mark.parametrize("asked", SETTINGS, ids=str)
def test_texts_are_the_same_in_batches_of_any_size_and_order(asked):
    speaker = source(lively(NUM_IDS, 3, depth=1), lively(NUM_IDS, 4, depth=1), context=CONTEXT)
    go_on = Generator(speaker, VOCABULARY, Generation(max_new_tokens=20, **asked))
    prompts = [prompt + more for prompt in PROMPTS for more in ("", "opq")]
    keys = list(range(len(prompts)))
    alone = go_on(prompts, keys, batch_texts=1)[0]
    for batch in (3, 8):
        together = go_on(prompts, keys, batch_texts=batch)[0]
        assert [[text.ids for text in own] for own in together] == [[text.ids for text in own] for own in alone]
        mine, theirs = ([text.log_probability for own in found for text in own] for found in (together, alone))
        assert mine == pytest.approx(theirs, rel=1e-12)
    backwards = go_on(prompts[::-1], keys[::-1], batch_texts=5)[0][::-1]
    assert [[text.ids for text in own] for own in backwards] == [[text.ids for text in own] for own in alone]
    assert len({text.ids for own in alone for text in own}) > len(prompts) // 2


def test_threads_change_no_text():
    speaker = source(lively(NUM_IDS, 3, width=64, depth=1), context=CONTEXT)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append([text.ids for text in generate(PROMPTS, speaker, max_new_tokens=20)])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_draws_depend_on_the_seed_the_prompt_and_the_number_of_the_text():
    texts = {
        (seed, prompt, number): text.ids
        for seed in (0, 1)
        for prompt, own in enumerate(generate_all(["ab", "ab"], num=3, seed=seed, max_new_tokens=15))
        for number, text in enumerate(own)
    }
    assert len(set(texts.values())) == len(texts) == 12


@pytest.mark.parametrize(
    "asked", [{}, {"temperature": 0.6}, {"temperature": 2.0}, {"top_k": 4}, {"top_p": 0.7}], ids=str
)
def test_first_tokens_are_drawn_as_often_as_the_model_says(asked):
    module = lively(NUM_IDS, 5)
    num = 4000
    (own,) = generate_all(["ab"], source(module), num=num, max_new_tokens=1, **asked)
    counts = np.bincount([text.ids[0] for text in own], minlength=NUM_IDS)
    scores = logits(module, [START, *ids_of("ab")]).numpy()
    scores[list(VOCABULARY.silent)] = -np.inf
    p = softmax(scores / asked.get("temperature", 1))
    kept = np.argsort(-p)
    if "top_k" in asked:
        p[kept[asked["top_k"] :]] = 0
    if "top_p" in asked:
        p[kept[np.searchsorted(p[kept].cumsum(), asked["top_p"]) + 1 :]] = 0
    p /= p.sum()
    assert counts[p == 0].sum() == 0
    often = p * num >= 5
    rest = [counts[~often].sum()], [p[~often].sum() * num]
    observed = np.append(counts[often], rest[0] if rest[1][0] else [])
    expected = np.append(p[often] * num, rest[1] if rest[1][0] else [])
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    assert often.sum() >= 3


def softmax(scores):
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
    p = np.array([[0.2, 0.0, 0.5, 0.3, 0.0]])
    with np.errstate(divide="ignore"):
        scores = np.log(p)
    for uniform, expected in ((0.0, 0), (0.1999, 0), (0.2001, 2), (0.6999, 2), (0.7001, 3), (1 - 2.0**-53, 3)):
        assert choose.drawn(scores, np.array([uniform])).tolist() == [expected]


@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.25, 0.75)])
def test_an_ensemble_speaks_by_the_mean_of_its_members_probabilities(weights):
    modules = lively(NUM_IDS, 6), lively(NUM_IDS, 7)
    speaker = source(*modules, context=CONTEXT, weights=weights)
    for prompt, text in zip(PROMPTS, generate(PROMPTS, speaker, temperature=0, max_new_tokens=25), strict=True):
        total = 0.0
        for seen, token in windows(ids_of(prompt), text.ids, CONTEXT):
            p = sum(w * np.exp(distribution(module, seen)) for w, module in zip(weights, modules, strict=True))
            total += np.log(p[token])
            p[list(VOCABULARY.silent)] = 0
            assert token == p.argmax()
        assert text.log_probability == pytest.approx(total, abs=1e-9)


def test_equal_members_speak_as_each_does_alone_under_a_penalty_too():
    asked = {"repetition_penalty": 1.5, "max_new_tokens": 25, "seed": 1}
    alone = generate(PROMPTS, source(lively(NUM_IDS, 6)), **asked)
    twice = generate(PROMPTS, source(lively(NUM_IDS, 6), lively(NUM_IDS, 6)), **asked)
    assert [text.ids for text in alone] == [text.ids for text in twice]


def test_a_text_ends_at_its_first_stop_which_is_no_part_of_it():
    free = generate(PROMPTS, max_new_tokens=60)
    stops = ("b", "no", "p.")
    for whole, text in zip(free, generate(PROMPTS, max_new_tokens=60, stop=stops), strict=True):
        places = [place for stop in stops if (place := whole.text.find(stop)) >= 0]
        assert text.text == whole.text[: min(places, default=None)]
        assert text.ended == ("stop" if places else "length")
        assert whole.ids[: len(text.ids)] == text.ids
    assert {text.ended for text in generate(PROMPTS, max_new_tokens=60, stop=stops)} >= {"stop"}


def test_a_text_ends_at_a_stop_token():
    free = generate(PROMPTS, max_new_tokens=60)
    stop = ids_of("b")[0]
    ended = generate(PROMPTS, max_new_tokens=60, stop_tokens=[stop])
    for whole, text in zip(free, ended, strict=True):
        if stop in whole.ids:
            assert text.ids == whole.ids[: whole.ids.index(stop) + 1]
            assert text.text == VOCABULARY.decode(text.ids[:-1])
            assert text.ended == "stop"
        else:
            assert (text.ids, text.ended) == (whole.ids, "length")
    assert {text.ended for text in ended} == {"stop", "length"}


@pytest.mark.parametrize("beams", [1, 2])
def test_a_text_that_may_not_go_beyond_the_context_ends_when_it_is_full(beams):
    prompts = ["", "abc", "abcdefghijk", "abcdefghijklmnop"]
    free = generate(prompts, source(context=CONTEXT), beams=beams, max_new_tokens=30)
    texts = generate(prompts, source(context=CONTEXT), beams=beams, beyond="stop", max_new_tokens=30)
    assert [text.ended for text in texts] == ["context"] * 4
    # the mark of the beginning, the prompt and all tokens but the last were read
    assert [len(text.ids) for text in texts] == [12, 9, 1, 1]
    if beams == 1:
        assert [one.ids for one in texts] == [other.ids[: len(one.ids)] for one, other in zip(texts, free, strict=True)]


ALLOWED = ("positive", "negative", "neutral", "no", "cab", "cable.", "b, c")
SOME = tuple(text for text in ALLOWED if text not in ("no", "cab"))
WIDE = vocabulary(LETTERS + "rstuvwxyz")


@pytest.mark.parametrize("asked", [{}, {"temperature": 5.0}, {"temperature": 0}, {"beams": 3}, {"top_k": 1}], ids=str)
def test_constrained_texts_never_leave_the_set(asked):
    num = {} if asked.get("temperature") == 0 or "top_k" in asked else {"num": 3}
    found = generate_all(PROMPTS * 5, words=WIDE, allowed=SOME, **asked, **num)
    assert {text.text for own in found for text in own} <= set(SOME)
    assert {text.ended for own in found for text in own} == {"allowed"}
    assert all(text.ids == tuple(ids_of(text.text, WIDE)) for own in found for text in own)


def test_constrained_draws_follow_the_distribution_over_the_set():
    module = lively(len(WIDE), 8)
    speaker = source(module, words=WIDE, context=64)
    num = 3000
    (own,) = generate_all(["ab"], speaker, words=WIDE, allowed=SOME, num=num)
    tree = Allowed(SOME, WIDE)
    expected = []
    for text in SOME:
        seen, node, p = [START, *ids_of("ab", WIDE)], 0, 1.0
        for token in ids_of(text, WIDE):
            shares = softmax(logits(module, seen).numpy())
            p *= shares[token] / shares[tree.next(node)].sum()
            node = tree.step(node, token)
            seen.append(token)
        expected.append(p * num)
    counts = [sum(text.text == one for text in own) for one in SOME]
    assert sum(expected) == pytest.approx(num)
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_beams_over_a_small_set_find_the_most_likely_text_of_all():
    module = lively(len(WIDE), 9)
    speaker = source(module, words=WIDE, context=64)
    (best,) = generate(["ab"], speaker, words=WIDE, allowed=SOME, beams=len(SOME), length_penalty=0.0)
    totals = {}
    for text in SOME:
        pairs = windows(ids_of("ab", WIDE), ids_of(text, WIDE), 64)
        totals[text] = sum(distribution(module, seen)[token] for seen, token in pairs)
    assert best.text == max(totals, key=totals.get)
    assert best.score == pytest.approx(max(totals.values()), abs=1e-9)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("no", "not"), "'not' begins with the tokens of 'no'"),
        (("not", "no"), "'not' begins with the tokens of 'no'"),
        (("no", "no"), "'no' stands there twice"),
        (("", "no"), "'' has no tokens"),
        (("no" * 1500, "no"), "begins with the tokens of 'no'"),
        (("no", "ß"), "'ß' holds what the model's vocabulary lacks"),
    ],
)
def test_sets_that_cannot_be_told_apart_are_refused(texts, message):
    with pytest.raises(SpecError, match=message):
        generate(["a"], words=WIDE, allowed=texts)


REFUSED = [
    ({"max_new_tokens": 0}, "max_new_tokens: 0. Give 1 or more."),
    ({"top_p": 0.0}, "top_p: 0.0. Give a number above 0, at most 1."),
    ({"top_p": 1.1}, "top_p: 1.1."),
    ({"temperature": -1.0}, "temperature: -1.0. Give 0 or more."),
    ({"temperature": float("nan")}, "temperature: nan. Give 0 or more."),
    ({"repetition_penalty": 0.0}, "repetition_penalty: 0.0. Give a number above 0."),
    ({"beams": 2, "top_k": 3}, "top_k: beams draw nothing"),
    ({"beams": 2, "temperature": 1.0}, "temperature: beams draw nothing"),
    ({"length_penalty": 2.0}, "length_penalty: one text is followed"),
    ({"temperature": 0.0, "num": 2}, "num: 2 texts would all be equal"),
    ({"temperature": 0.0, "top_p": 0.5}, "top_p: temperature 0 draws nothing"),
    ({"beams": 2, "num": 3}, "num: 3 of 2 beams"),
    ({"stop": ("",)}, "stop: a stop is empty"),
    ({"stop_tokens": (10_000,)}, "stop_tokens: 10000. Give ids below"),
    ({"stop": ("ß",)}, "stop: 'ß' holds what the model's vocabulary lacks"),
    ({"beams": 2, "seed": 5}, "seed: nothing is drawn"),
    ({"temperature": 0.0, "seed": 5}, "seed: nothing is drawn"),
    ({"beams": 2, "length_penalty": float("nan")}, "length_penalty: nan. Give a finite number."),
    ({"beams": 2, "num": 2, "allowed": ("ab",)}, "num: 2 of 1 allowed texts. Give fewer."),
    ({"beyond": "go"}, "beyond: 'go'. Give slide or stop."),
    ({"allowed": ("ab",), "stop": ("c",)}, "stop: allowed texts end where they end"),
    ({"allowed": ("ab",), "stop_tokens": (5,)}, "stop_tokens: allowed texts end where they end"),
    ({"allowed": ("abc",), "max_new_tokens": 2}, "max_new_tokens: an allowed text has 3 tokens, and 2 are generated"),
]


@pytest.mark.parametrize(("asked", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_settings_that_do_not_fit_are_refused_by_name(asked, message):
    with pytest.raises(SpecError, match=message.replace(".", r"\.")):
        generate(["a"], **asked)


def test_a_temperature_that_leaves_nothing_to_chance_takes_the_most_likely_tokens():
    texts = generate(PROMPTS, temperature=1e-308, max_new_tokens=8)
    assert [text.ids for text in texts] == [text.ids for text in generate(PROMPTS, temperature=0.0, max_new_tokens=8)]


def test_ids_without_a_text_are_never_generated():
    texts = generate(PROMPTS, temperature=20.0, max_new_tokens=200)
    assert not {number for text in texts for number in text.ids} & set(VOCABULARY.silent)
    assert {number for text in texts for number in text.ids} == set(range(NUM_IDS)) - set(VOCABULARY.silent)


def test_what_a_person_should_know_is_counted():
    go_on = Generator(source(context=CONTEXT), VOCABULARY, Generation(max_new_tokens=5, num=2))
    prompts = ["a" * 11, "a" * 12, "a" * 7, "a" * 8, "ß"]
    _, remarks = go_on(prompts, range(5))
    assert (remarks.prompts, remarks.texts, remarks.tokens) == (5, 10, 50)
    assert remarks.cut == 1  # the mark of the beginning and 12 tokens are more than 12
    assert remarks.slid == 2 * 2  # 11 and 8 letters before the fifth token
    assert remarks.unknown == 1
    assert remarks.ended == {"length": 10}
    said = "\n".join(remarks.lines())
    assert "1 of 5 prompts are longer than the context of 12 tokens: their beginning is not read" in said
    assert "1 of 5 prompts hold what the model's vocabulary lacks" in said
    beams = Generator(source(context=CONTEXT), VOCABULARY, Generation(max_new_tokens=5, beams=2, num=2))
    assert beams(prompts, range(5))[1].slid == 4


def test_a_text_is_told_as_it_grows_and_never_taken_back():
    told: dict[tuple[int, int], list[str]] = {}
    go_on = Generator(source(), VOCABULARY, Generation(max_new_tokens=40, stop=("b", "no", "p.", "kkkk"), num=2))
    texts, _ = go_on(PROMPTS, range(8), tell=lambda row, number, text: told.setdefault((row, number), []).append(text))
    for row, own in enumerate(texts):
        for number, text in enumerate(own):
            parts = told[row, number]
            assert all(later.startswith(part) for part, later in itertools.pairwise(parts))
            assert text.text.startswith(parts[-1])
            assert text.ended == "length" or text.text == parts[-1]


def test_no_prompts_are_no_texts():
    assert generate_all([]) == []
