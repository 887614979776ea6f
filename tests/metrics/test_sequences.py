"""BLEU and chrF are sacrebleu's, as functions of sums over rows, so they add up and have influences."""

import random

import numpy as np
import pytest
from metrics.influences import check_influence, check_standard_error

from fmray.errors import SpecError
from fmray.metrics.find import find_metric
from fmray.metrics.sequences import counted, with_counts
from fmray.ragged import Ragged
from fmray.records import Target

sacrebleu = pytest.importorskip("sacrebleu", reason="the extra `text` is not installed")
TARGET = Target(("y",), "sequence", counts=(1, 2, 3), rows=9)
WORDS = ["the", "cat", "sat", "on", "a", "mat", ",", "dog", ".", "big", "it's", "was", "3.5", "über", "你", "!"]
NUM_ROWS = 120


def texts(seed=0, num_rows=NUM_ROWS, most_references=1):
    """Draw references, and texts that begin as the first of them do, each as well as its row is easy."""
    source = random.Random(seed)

    def some(least, most):
        return [source.choice(WORDS) for _ in range(source.randint(least, most))]

    references = [[" ".join(some(1, 9)) for _ in range(source.randint(1, most_references))] for _ in range(num_rows)]
    kept = [own[0].split()[: source.randint(0, 9)] for own in references]
    return [" ".join([*words, *some(0, 2)]) for words in kept], references


def rows_of(said, references, seed=0):
    """Give outputs and targets as tables of predictions hold them, and the row of each token."""
    random_numbers = np.random.default_rng(seed)
    lengths = random_numbers.integers(1, 6, len(said))
    p = Ragged.of_lengths(random_numbers.uniform(0.1, 1, (lengths.sum(), 1)), lengths)
    place = np.concatenate([np.arange(length) for length in lengths])
    characters = np.where(place == 0, np.repeat([len(own[0]) for own in references], lengths), 0)
    output = with_counts(p, counted(said, references)).values
    return output, np.stack([np.ones_like(place), characters, place], 1), np.repeat(np.arange(len(said)), lengths)


def side_by_side(references):
    """Give references as sacrebleu takes them: the first of all rows, then the second ..., repeated where there is none."""
    most = max(map(len, references))
    return [[own[min(number, len(own) - 1)] for own in references] for number in range(most)]


@pytest.mark.parametrize("most_references", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_sacrebleu(seed, most_references):
    said, references = texts(seed, most_references=most_references)
    output, target, _ = rows_of(said, references)
    theirs = side_by_side(references)
    bleu, chrf = (find_metric(name, TARGET).value(output, target, None) for name in ("bleu", "chrf"))
    assert bleu == pytest.approx(sacrebleu.corpus_bleu(said, theirs).score, rel=1e-12)
    assert chrf == pytest.approx(sacrebleu.corpus_chrf(said, theirs).score, rel=1e-12)


@pytest.mark.parametrize(
    ("said", "true"), [(["b a"], ["a b"]), (["zz q"], ["a b"]), ([""], ["a b"]), (["a b c d e f"], ["a b c d"])]
)
def test_scores_of_one_row_are_those_of_sacrebleu(said, true):
    output, target, _ = rows_of(said, [[text] for text in true])
    bleu, chrf = (find_metric(name, TARGET).value(output, target, None) for name in ("bleu", "chrf"))
    assert bleu == pytest.approx(sacrebleu.corpus_bleu(said, [true]).score, abs=1e-9)
    assert chrf == pytest.approx(sacrebleu.corpus_chrf(said, [true]).score, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf", "nats_per_token", "nats_per_character"])
def test_influences_are_derivatives_and_standard_errors_those_of_a_jackknife(name):
    output, target, group = rows_of(*texts(3))
    metric = find_metric(name, TARGET)
    check_influence(metric, output, target, group)
    check_standard_error(metric, output, target, group)


@pytest.mark.parametrize("name", ["bleu", "chrf", "nats_per_character"])
def test_parts_add_up_exactly(name):
    output, target, group = rows_of(*texts(4))
    sums = find_metric(name, TARGET).sums
    parts = [group < 30, (group >= 30) & (group < 31), group >= 31]
    merged = sums.merge([sums.partial(output[part], target[part]) for part in parts])
    assert merged == sums.partial(output, target)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_rows_for_which_no_text_was_generated_count_for_nothing(name):
    metric = find_metric(name, TARGET)
    said, references = texts(5)
    output, target, group = rows_of(said, references)
    some = group < 50
    output[~some, 1:] = 0
    assert metric.value(output, target, None) == metric.value(output[some], target[some], None)
    assert np.isnan(metric.value(output[:, :1], target, None))
    assert np.isnan(metric.value(output[:, 0], target, None))
    assert not metric.influence(output[:, :1], target, None).any()


def test_nats_per_character_are_all_nats_over_all_characters():
    said, references = texts(6)
    output, target, _ = rows_of(said, references)
    expected = -np.log(output[:, 0]).sum() / sum(len(own[0]) for own in references)
    assert find_metric("nats_per_character", TARGET).value(output, target, None) == pytest.approx(expected, rel=1e-12)


def test_they_score_generated_texts_alone():
    with pytest.raises(SpecError, match="'bleu' judges a text, the target is a token"):
        find_metric("bleu", Target(("y",), "next", counts=(1, 2), rows=1))
    assert find_metric("nats_per_token", TARGET).kind == "sequence"
