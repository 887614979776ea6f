"""Metrics of spans equal those of plain sets of spans, add up over parts, and their intervals are those of rows."""

import itertools

import numpy as np
import polars as pl
import pytest
from metrics.influences import check_influence, check_standard_error

from fmray.errors import SpecError
from fmray.evaluate.intervals import interval
from fmray.evaluate.table import Table
from fmray.metrics.find import find_metric
from fmray.metrics.metric import accumulator_of
from fmray.ragged import entries_of
from fmray.records import Target
from fmray.rigour.recompute import recompute
from fmray.spec.sections import Data
from fmray.targets.codec import codec_of
from fmray.targets.spans import tags_of

TYPES = ("day", "hour")
TARGET = Target(("y",), "spans", tags_of(TYPES), counts=(9, 3, 3, 3, 3), rows=9)
TAGS = TARGET.classes
NAMES = ("span_f1", "span_precision", "span_recall", "f1[day]")
DATA = Data(path="x", target="y", text="text")
SPAN = pl.Struct({"slot": pl.String, "start": pl.Int32, "end": pl.Int32})


def frame(spans, texts):
    return pl.DataFrame({"y": pl.Series(spans, dtype=pl.List(SPAN)), "text": pl.Series(texts, dtype=pl.String)})


def plainly(tags):
    """Read (type, first, behind last) out of the names of the tags of one row, as seqeval's default scheme does."""
    found = []
    for place, tag in enumerate(tags):
        before = tags[place - 1] if place else "O"
        if tag == "O":
            continue
        if tag[0] == "B" or before[2:] != tag[2:]:
            found.append([tag[2:], place, place + 1])
        else:
            found[-1][2] = place + 1
    return {tuple(one) for one in found}


def rows(seed=0, num_rows=60, longest=9, agree=0.6, overlapping=True):
    """Draw texts of letters side by side or apart with spans that fit no words at times, and what a model says of them.

    Words are of two letters, so a span that begins at an odd place begins inside of one.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, num_rows)
    texts = [" ".join(["ab"] * length) for length in lengths]
    spans = []
    for length in lengths.tolist():
        cuts = np.sort(rng.choice(length + 1, min(length + 1, 4), replace=False)).tolist()
        pairs = [pair for pair in itertools.pairwise(cuts) if rng.random() < 0.7]
        own = [{"slot": TYPES[rng.integers(2)], "start": 3 * a, "end": 3 * b - 1} for a, b in pairs]
        if own and overlapping:
            if rng.random() < 0.3:
                own[0] = {**own[0], "start": own[0]["start"] + 1}
            if rng.random() < 0.3:
                own.append({**own[-1], "slot": TYPES[own[-1]["slot"] == "day"]})
        spans.append(own)
    encoded = codec_of(TARGET).encode(frame(spans, texts))
    ids = np.stack([np.arange(num_rows), rng.integers(0, 9, num_rows)], 1).astype(np.uint64)
    entries = entries_of({"target": encoded, "row_id": ids})
    truth = codec_of(TARGET).true_class(entries["target"])
    guess = np.where(rng.random(len(truth)) < agree, truth, rng.integers(0, len(TAGS), len(truth)))
    p = rng.random((len(truth), len(TAGS))) + 2 * (np.arange(len(TAGS)) == guess[:, None])
    return p / p.sum(1, keepdims=True), entries["target"], entries["group"], (lengths, spans)


def said_of(p, lengths):
    """Give the predicted spans of each row as sets of (type, start, end) in characters."""
    names = np.array(TAGS)[p.argmax(1)].tolist()
    ends = np.cumsum(lengths)
    return [
        {(kind, 3 * a, 3 * b - 1) for kind, a, b in plainly(names[end - length : end])}
        for end, length in zip(ends, lengths, strict=True)
    ]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("longest", [1, 3, 12])
def test_scores_are_those_of_sets_of_offsets_into_the_text(seed, longest):
    p, target, _, (lengths, spans) = rows(seed, longest=longest)
    said = said_of(p, lengths)
    true = [{(one["slot"], one["start"], one["end"]) for one in row} for row in spans]
    right = sum(len(a & b) for a, b in zip(said, true, strict=True))
    num_said, num_true = (sum(map(len, row)) for row in (said, true))
    nan = float("nan")
    expected = {
        "span_f1": 2 * right / (num_said + num_true) if num_said + num_true else nan,
        "span_precision": right / num_said if num_said else nan,
        "span_recall": right / num_true if num_true else nan,
    }
    for kind in TYPES:
        sides = ([{one for one in row if one[0] == kind} for row in rows] for rows in (said, true))
        pairs = list(zip(*sides, strict=True))
        total = sum(len(a) + len(b) for a, b in pairs)
        expected[f"f1[{kind}]"] = 2 * sum(len(a & b) for a, b in pairs) / total if total else nan
    found = {name: find_metric(name, TARGET).value(p, target, None) for name in expected}
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weighted", [False, True])
def test_a_second_computation_by_sets_of_spans_agrees(seed, weighted):
    p, target, group, _ = rows(seed)
    weight = np.random.default_rng(0).exponential(size=60)[group.astype(int)] if weighted else None
    table = Table(np.zeros((len(p), 2), np.uint64), p, target=target, weight=weight, group=group, slices={})
    for name in NAMES[:3]:
        again = recompute(name, table, -1)
        assert again == pytest.approx(find_metric(name, TARGET).value(p, target, weight), rel=1e-12)
    assert recompute("f1[day]", table, -1) is None


@pytest.mark.parametrize("seed", range(5))
def test_where_spans_fit_words_scores_are_seqevals(seed):
    theirs = pytest.importorskip("seqeval.metrics")
    p, target, group, _ = rows(seed, overlapping=False)
    cuts = np.flatnonzero(np.diff(group.astype(int), prepend=-1))
    true, said = (
        [part.tolist() for part in np.split(np.array(TAGS)[codes], cuts[1:])] for codes in (target[:, 0], p.argmax(1))
    )
    for name, score in (
        ("f1", theirs.f1_score),
        ("precision", theirs.precision_score),
        ("recall", theirs.recall_score),
    ):
        own = find_metric(f"span_{name}", TARGET).value(p, target, None)
        assert own == pytest.approx(score(true, said, zero_division=0), rel=1e-12)
    report = theirs.classification_report(true, said, output_dict=True, zero_division=0)
    for kind in TYPES:
        own = find_metric(f"f1[{kind}]", TARGET).value(p, target, None)
        assert own == pytest.approx(report[kind]["f1-score"], rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_whole_rows_add_up_exactly(name):
    p, target, group, _ = rows(5)
    weight = np.repeat(np.random.default_rng(0).exponential(size=60), np.bincount(group.astype(int)))
    metric = find_metric(name, TARGET)
    cuts = np.searchsorted(group, [0, 1, 17, 17, 44, 60])
    whole = metric.sums.partial(p, target, weight)
    accumulator = accumulator_of(metric.sums)
    sums = []
    for part in (slice(*pair) for pair in itertools.pairwise(cuts)):
        sums.append(metric.sums.partial(p[part], target[part], weight[part]))
        accumulator.add(p[part], target[part], weight[part])
    assert metric.sums.merge(sums[::-1]) == whole
    assert metric.sums.value(accumulator.total()) == metric.sums.value(whole) == metric.value(p, target, weight)


@pytest.mark.parametrize("name", NAMES)
def test_the_influence_of_a_row_is_the_derivative_by_its_weight(name):
    check_influence(find_metric(name, TARGET), *rows(6)[:3])


@pytest.mark.parametrize("name", NAMES)
def test_the_standard_error_is_that_of_a_jackknife_over_rows(name):
    check_standard_error(find_metric(name, TARGET), *rows(7, num_rows=250)[:3])


def test_the_interval_holds_the_score_and_is_one_of_rows():
    p, target, group, _ = rows(8, num_rows=150)
    found = interval(find_metric("span_f1", TARGET), (p, target, None), group, 0.95)
    assert found.method == "grouped delta"
    assert found.n == 150
    assert found.low < found.value < found.high


def test_a_type_that_there_is_not_is_answered_with_those_there_are():
    with pytest.raises(SpecError, match=r"f1\[dya\]: there is no class 'dya'\. Did you mean 'day'\?"):
        find_metric("f1[dya]", TARGET)
    with pytest.raises(SpecError, match=r"'entity_f1' judges a tag, the target is a span\. Accepted: span_f1"):
        find_metric("entity_f1", TARGET)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_are_a_part_that_adds_nothing(name):
    p, target, _, _ = rows(9)
    sums = find_metric(name, TARGET).sums
    assert sums.merge([sums.partial(p[:0], target[:0]), sums.partial(p, target)]) == sums.partial(p, target)


def test_of_three_spans_of_the_same_word_one_can_be_found():
    target = Target(("y",), "spans", tags_of(("a", "b", "c")), counts=(9, 1, 1, 1, 1, 1, 1), rows=9)
    spans = [[{"slot": name, "start": 0, "end": 2} for name in "cab"]]
    truth = entries_of({"target": codec_of(target).encode(frame(spans, ["ab"]))})["target"]
    for tag, right in ((1, 1), (3, 1), (0, 0)):
        p = np.eye(7)[[tag]]
        assert find_metric("span_recall", target).value(p, truth, None) == pytest.approx(right / 3)
        table = Table(np.zeros((1, 2), np.uint64), p, target=truth, weight=None, group=None, slices={})
        assert recompute("span_recall", table, -1) == pytest.approx(right / 3)
