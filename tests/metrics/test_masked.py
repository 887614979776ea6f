"""What is lost on hidden tokens is counted over those that were asked for, and over no others."""

import numpy as np
import pytest

from fmray.evaluate.table import Table
from fmray.metrics.find import find_metric
from fmray.records import Target
from fmray.rigour.recompute import recompute
from fmray.targets.codec import codec_of

TARGET = Target(("y",), "masked", counts=(0, 2, 3, 4, 5, 6), rows=9)
NAMES = ("nats_per_masked_token", "masked_token_accuracy")
ROWS = 400


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    source = np.random.default_rng(0)
    ids = np.where(source.random(ROWS) < 0.2, source.integers(1, 6, ROWS), -1)
    asked = (ids >= 0)[:, None]
    output = np.column_stack([source.uniform(0.01, 1, ROWS), source.integers(0, 2, ROWS)]) * asked
    return output, np.column_stack([ids, np.arange(ROWS) % 20]), source.uniform(0.5, 2, ROWS)


def test_tokens_that_were_not_asked_for_count_nothing():
    output, target, weight = drawn()
    asked = target[:, 0] >= 0
    nats, accuracy = (find_metric(name, TARGET) for name in NAMES)
    w = weight[asked]
    assert nats.value(output, target, weight) == pytest.approx(np.average(-np.log(output[asked, 0]), weights=w))
    assert accuracy.value(output, target, weight) == pytest.approx(np.average(output[asked, 1], weights=w))
    for metric in (nats, accuracy):
        assert not metric.influence(output, target, weight)[~asked].any()
        assert metric.influence(output, target, weight).sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_second_computation_agrees(name, weighted):
    output, target, weight = drawn()
    given = weight if weighted else None
    table = Table(np.zeros((ROWS, 2), np.uint64), output, target=target, weight=given, group=None, slices={})
    assert recompute(name, table, -1) == pytest.approx(find_metric(name, TARGET).value(output, target, given), rel=1e-9)


def test_the_constant_answer_loses_the_cross_entropy_of_the_shares_of_ids():
    _, target, _ = drawn()
    asked = target[:, 0] >= 0
    shares = (np.array(TARGET.counts) + 1) / (sum(TARGET.counts) + len(TARGET.counts))
    said = codec_of(TARGET).constant_for(target)
    nats, accuracy = (find_metric(name, TARGET).value(said, target, None) for name in NAMES)
    assert nats == pytest.approx(-np.log(shares[target[asked, 0]]).mean())
    assert accuracy == pytest.approx((target[asked, 0] == 5).mean())
