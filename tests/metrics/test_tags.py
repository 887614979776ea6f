"""Metrics of tags equal scikit-learn's and seqeval's, add up over parts, and their intervals are those of rows."""

import itertools

import numpy as np
import pytest
from metrics.influences import check_influence, check_standard_error
from sklearn import metrics as oracle

from fmray.errors import SpecError
from fmray.evaluate.intervals import interval
from fmray.metrics.find import find_metric
from fmray.metrics.metric import accumulator_of
from fmray.ragged import Ragged, entries_of
from fmray.records import Target

TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
TARGET = Target(("y",), "tags", TAGS, counts=(1,) * 5, rows=5)
NAMES = ("token_accuracy", "token_log_loss", "entity_f1", "f1[O]", "f1[B-PER]")


def lists(codes, lengths):
    """Give the names of tags, a list per row."""
    names = np.array(TAGS)[codes].tolist()
    ends = np.cumsum(lengths)
    return [names[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def rows(seed=0, num_rows=60, longest=9, agree=0.6):
    """Draw tags of rows of one token or more, well-formed or not, and probabilities that agree with many of them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, num_rows)
    truth = rng.integers(0, len(TAGS), lengths.sum())
    guess = np.where(rng.random(len(truth)) < agree, truth, rng.integers(0, len(TAGS), len(truth)))
    p = rng.random((len(truth), len(TAGS))) + 2 * (np.arange(len(TAGS)) == guess[:, None])
    ids = np.stack([np.arange(num_rows), rng.integers(0, 9, num_rows)], 1).astype(np.uint64)
    entries = entries_of({"target": Ragged.of_lengths(truth, lengths), "row_id": ids})
    return p / p.sum(1, keepdims=True), entries["target"], entries["group"], lengths


def of_rows(place, p, target, group):
    """Give the tokens of the rows at these places, a row as often as it is named; each is a group of its own."""
    tokens = [np.flatnonzero(group == row) for row in place]
    found = np.concatenate(tokens)
    return p[found], target[found], np.repeat(np.arange(len(place)), [len(own) for own in tokens])


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("longest", [1, 2, 12])
def test_entities_are_those_of_seqeval_however_malformed(seed, longest):
    theirs = pytest.importorskip("seqeval.metrics")
    p, target, _, lengths = rows(seed, longest=longest)
    said, true = lists(p.argmax(1), lengths), lists(target[:, 0], lengths)
    expected = theirs.f1_score(true, said, zero_division=0)
    assert find_metric("entity_f1", TARGET).value(p, target, None) == pytest.approx(expected, rel=1e-12)


ONE_ROW = [
    (["O", "I-PER", "I-PER"], ["O", "B-PER", "I-PER"], 1),  # an I- behind O begins an entity
    (["B-PER", "I-LOC"], ["B-PER", "B-LOC"], 1),  # so does one of another type
    (["B-PER", "B-PER"], ["B-PER", "I-PER"], 0),  # two entities side by side are not one of two tokens
    (["B-PER", "I-PER", "O"], ["B-PER", "I-PER", "I-PER"], 0),  # the last token counts
    (["B-PER", "O"], ["B-LOC", "O"], 0),  # the type counts
    (["B-PER", "O", "B-PER"], ["B-PER", "O", "O"], 2 / 3),
]


@pytest.mark.parametrize(("true", "said", "expected"), ONE_ROW)
def test_an_entity_is_right_where_first_token_last_token_and_type_are(true, said, expected):
    output = np.eye(len(TAGS))[[TAGS.index(tag) for tag in said]]
    target = np.stack([[TAGS.index(tag) for tag in true], np.arange(len(true))], 1)
    assert find_metric("entity_f1", TARGET).value(output, target, None) == pytest.approx(expected)


def test_an_entity_ends_with_its_row():
    begun, inside = TAGS.index("B-PER"), TAGS.index("I-PER")
    output = np.eye(len(TAGS))[[begun, inside]]
    apart, together = np.array([[begun, 0], [inside, 0]]), np.array([[begun, 0], [inside, 1]])
    metric = find_metric("entity_f1", TARGET)
    assert metric.sums.partial(output, apart)["below"][0] == 2 * metric.sums.partial(output, together)["below"][0]


def test_the_f1_of_a_type_is_seqevals():
    theirs = pytest.importorskip("seqeval.metrics")
    from fmray.metrics.tags import entity_f1

    p, target, _, lengths = rows(3)
    report = theirs.classification_report(
        lists(target[:, 0], lengths), lists(p.argmax(1), lengths), output_dict=True, zero_division=0
    )
    for kind in ("LOC", "PER"):
        found = entity_f1(TAGS, kind).value(p, target, None)
        assert found == pytest.approx(report[kind]["f1-score"], rel=1e-12)


@pytest.mark.parametrize("weighted", [True, False])
def test_scores_of_tokens_are_those_of_scikit_learn(weighted):
    p, target, _, _ = rows(1)
    weight = np.random.default_rng(2).exponential(size=len(p)) if weighted else None
    true, said = target[:, 0], p.argmax(1)
    expected = {
        "token_accuracy": oracle.accuracy_score(true, said, sample_weight=weight),
        "token_log_loss": oracle.log_loss(true, p, sample_weight=weight, labels=range(len(TAGS))),
        "f1[O]": oracle.f1_score(true == 4, said == 4, sample_weight=weight),
        "f1[B-PER]": oracle.f1_score(true == 1, said == 1, sample_weight=weight),
    }
    assert {n: find_metric(n, TARGET).value(p, target, weight) for n in expected} == pytest.approx(expected, rel=1e-12)


def test_a_row_of_weight_two_counts_as_two_rows():
    p, target, group, _ = rows(4)
    weight = np.where(group < 20, 2.0, 1.0)
    p_twice, target_twice, _ = of_rows([*range(60), *range(20)], p, target, group)
    for name in NAMES:
        metric = find_metric(name, TARGET)
        assert metric.value(p, target, weight) == pytest.approx(metric.value(p_twice, target_twice, None), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_whole_rows_add_up_exactly(name):
    p, target, group, _ = rows(5)
    weight = np.repeat(np.random.default_rng(0).exponential(size=60), np.bincount(group.astype(int)))
    metric = find_metric(name, TARGET)
    cuts = np.searchsorted(group, [0, 1, 17, 17, 44, 60])
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    whole = metric.sums.partial(p, target, weight)
    sums = [metric.sums.partial(p[part], target[part], weight[part]) for part in parts]
    assert metric.sums.merge(sums[::-1]) == whole
    accumulator = accumulator_of(metric.sums)
    for part in parts:
        accumulator.add(p[part], target[part], weight[part])
    assert metric.sums.value(accumulator.total()) == metric.sums.value(whole) == metric.value(p, target, weight)


@pytest.mark.parametrize("name", NAMES)
def test_the_influence_of_a_row_is_the_derivative_by_its_weight(name):
    check_influence(find_metric(name, TARGET), *rows(6)[:3])


@pytest.mark.parametrize("name", NAMES)
def test_the_standard_error_is_that_of_a_jackknife_over_rows(name):
    check_standard_error(find_metric(name, TARGET), *rows(7, num_rows=250)[:3])


@pytest.mark.parametrize("name", ["token_accuracy", "entity_f1"])
def test_the_interval_is_that_of_a_bootstrap_over_rows(name):
    p, target, group, _ = rows(8, num_rows=150)
    metric = find_metric(name, TARGET)
    found = interval(metric, (p, target, None), group, 0.95)
    rng = np.random.default_rng(1)
    drawn = [of_rows(rng.integers(0, 150, 150), p, target, group) for _ in range(600)]
    low, high = np.quantile([metric.value(*rows[:2], None) for rows in drawn], [0.025, 0.975])
    assert found.method == "grouped delta"
    assert found.n == 150
    width = high - low
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * width)


def test_what_marks_no_entity_scores_by_tokens_alone():
    plain = Target(("y",), "tags", ("NOUN", "O", "VERB"), counts=(1, 1, 1), rows=3)
    with pytest.raises(
        SpecError, match=r"entity_f1 needs tags O, B-TYPE and I-TYPE, and there are NOUN, VERB\. data\.labels can"
    ):
        find_metric("entity_f1", plain)
    assert find_metric("token_accuracy", plain).name == "token_accuracy"


def test_rows_without_entities_have_no_f1():
    output, target = np.eye(len(TAGS))[[4, 4]], np.array([[4, 0], [4, 1]])
    assert np.isnan(find_metric("entity_f1", TARGET).value(output, target, None))


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_are_a_part_that_adds_nothing(name):
    p, target, _, _ = rows(9)
    sums = find_metric(name, TARGET).sums
    none = sums.partial(p[:0], target[:0])
    assert sums.merge([none, sums.partial(p, target)]) == sums.partial(p, target)
