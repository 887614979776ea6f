"""Nats per token are torch's cross-entropy, add up over parts, and their intervals are those of texts."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fmray.errors import SpecError
from fmray.evaluate.intervals import interval, squares, standard_error
from fmray.evaluate.resampled import Sums, scorer_of
from fmray.evaluate.table import Table
from fmray.metrics.find import find_metric
from fmray.metrics.metric import accumulator_of
from fmray.records import Target
from fmray.rigour.recompute import recompute

TARGET = Target(("y",), "next", counts=(0, 2, 3, 4, 5, 6), rows=9)
METRIC = find_metric("nats_per_token", TARGET)


def drawn(seed=0, num_texts=80, dtype=np.float64):
    """Draw windows of texts, some of which are harder: logits, tokens with their places, and the text of each token."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, num_texts)
    group = np.repeat(np.arange(num_texts), lengths)
    tokens = rng.integers(1, 6, len(group))
    ease = rng.normal(1, 1, num_texts)[group]
    logits = rng.normal(size=(len(group), 6)) + ease[:, None] * (np.arange(6) == tokens[:, None])
    places = (np.arange(len(group)) - (np.cumsum(lengths) - lengths)[group]) % 8
    return logits.astype(dtype), np.stack([tokens, places], 1), group


def said(seed=0, **options):
    """Give what a model says: the probability of the token that is there."""
    logits, target, group = drawn(seed, **options)
    p = torch.from_numpy(logits).log_softmax(-1).exp().numpy()
    return p[np.arange(len(p)), target[:, 0], None], target, group


def of_texts(places, p, target, group):
    """Give the tokens of the texts at these places, a text as often as it is named."""
    found = np.concatenate([np.flatnonzero(group == text) for text in places])
    return p[found], target[found]


def test_nats_are_torchs_cross_entropy():
    logits, target, _ = drawn()
    expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(target[:, 0])).item()
    assert METRIC.value(*said()[:2], None) == pytest.approx(expected, rel=1e-12)
    assert not METRIC.higher_is_better
    assert not METRIC.is_bounded


def test_weights_are_those_of_a_weighted_mean_over_tokens():
    logits, target, group = drawn()
    weight = np.random.default_rng(2).exponential(size=80)[group]
    each = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(target[:, 0]), reduction="none").numpy()
    expected = (each * weight).sum() / weight.sum()
    assert METRIC.value(*said()[:2], weight) == pytest.approx(expected, rel=1e-12)


def test_a_text_of_weight_two_counts_as_two_texts():
    p, target, group = said()
    twice = of_texts([*range(80), *range(20)], p, target, group)
    assert METRIC.value(p, target, np.where(group < 20, 2.0, 1.0)) == pytest.approx(METRIC.value(*twice, None))


def test_a_token_that_was_held_impossible_costs_a_finite_number_of_nats():
    target = np.array([[1, 0], [2, 1]])
    assert METRIC.value(np.array([[0.0], [1.0]]), target, None) == pytest.approx(-np.log(1e-12) / 2)


def test_parts_add_up_exactly():
    p, target, group = said()
    weight = np.random.default_rng(0).exponential(size=80)[group]
    cuts = np.searchsorted(group, [0, 1, 17, 17, 44, 80])
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    whole = METRIC.sums.partial(p, target, weight)
    sums = [METRIC.sums.partial(p[part], target[part], weight[part]) for part in parts]
    assert METRIC.sums.merge(sums[::-1]) == whole
    accumulator = accumulator_of(METRIC.sums)
    for part in parts:
        accumulator.add(p[part], target[part], weight[part])
    assert METRIC.sums.value(accumulator.total()) == METRIC.value(p, target, weight)


def test_the_influence_of_a_text_is_the_derivative_by_its_weight():
    p, target, group = said(1)
    weight = np.random.default_rng(0).exponential(size=80)[group]
    influence = METRIC.influence(p, target, weight)
    for text in range(0, 80, 9):
        own = group == text
        values = [METRIC.value(p, target, weight * np.where(own, 1 + sign * 1e-5, 1)) for sign in (1, -1)]
        assert influence[own].sum() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_the_standard_error_is_that_of_a_jackknife_over_texts():
    p, target, group = said(2)
    error, pieces = standard_error(squares(METRIC.influence(p, target, None), group))
    left = [METRIC.value(p[group != text], target[group != text], None) for text in range(80)]
    assert pieces == 80
    assert error == pytest.approx(np.sqrt(79 / 80 * np.square(left - np.mean(left)).sum()), rel=0.03)


def test_the_interval_is_that_of_a_bootstrap_over_texts_and_wider_than_one_over_tokens():
    p, target, group = said(3, num_texts=150)
    found = interval(METRIC, (p, target, None), group, 0.95)
    rng = np.random.default_rng(1)
    drawn_again = [of_texts(rng.integers(0, 150, 150), p, target, group) for _ in range(600)]
    low, high = np.quantile([METRIC.value(*rows, None) for rows in drawn_again], [0.025, 0.975])
    assert (found.method, found.n) == ("grouped delta", 150)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))
    alone = interval(METRIC, (p, target, None), None, 0.95)
    assert alone.high - alone.low < 0.7 * (found.high - found.low)


def test_many_members_are_scored_under_many_weights_as_the_metric_scores_each():
    outputs = [said(seed)[0] for seed in (4, 5, 6)]
    size = min(map(len, outputs))
    outputs, target = [output[:size] for output in outputs], drawn(4)[1][:size]
    weights = np.random.default_rng(0).exponential(1, (5, size))
    scorer = scorer_of(METRIC, outputs, target)
    assert isinstance(scorer, Sums)
    expected = [[METRIC.value(output, target, w) for w in weights] for output in outputs]
    assert scorer(range(3), weights) == pytest.approx(np.array(expected), rel=1e-9)


def test_float32_outputs_give_the_same_number():
    p, target, _ = said(dtype=np.float32)
    assert METRIC.value(p, target, None) == pytest.approx(METRIC.value(p.astype(np.float64), target, None), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_computed_a_second_way(weighted):
    p, target, group = said()
    p[3] = 0
    weight = np.random.default_rng(2).exponential(size=len(p)) if weighted else None
    table = Table(np.zeros((len(p), 2), np.uint64), p, target=target, weight=weight, group=group, slices={})
    assert recompute("nats_per_token", table, -1) == pytest.approx(METRIC.value(p, target, weight), rel=1e-9)


def test_it_scores_nothing_but_tokens():
    with pytest.raises(SpecError, match="nats_per_token"):
        find_metric("nats_per_token", Target(("y",), "class", ("a", "b"), positive=1, counts=(1, 1)))
    with pytest.raises(SpecError, match="accuracy"):
        find_metric("accuracy", TARGET)
