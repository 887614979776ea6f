"""Scores under weights equal those of the metric itself on rows repeated that often."""

import numpy as np
import pytest

from fmray.evaluate.resampled import OneByOne, Ranks, Sums, scorer_of
from fmray.metrics import classification, probability, ranking, regression

WAYS = {
    Sums: [classification.ACCURACY, classification.F1_MICRO, probability.LOG_LOSS, probability.BRIER, regression.MSE,
           regression.RMSE, regression.MAE, regression.R2],
    Ranks: [ranking.ROC_AUC, ranking.roc_auc(0), ranking.AVERAGE_PRECISION],
    OneByOne: [classification.F1_MACRO, classification.BALANCED_ACCURACY],
}  # fmt: skip
METRICS = [(way, metric) for way, metrics in WAYS.items() for metric in metrics]


def rows(metric, columns, ties, seed=0, members=4, num=60):
    random = np.random.default_rng(seed)
    if metric.kind == "class":
        outputs = random.dirichlet(np.ones(columns), (members, num))
        if ties:
            p = np.round(outputs[..., 1:], 1) / columns
            outputs = np.concatenate([1 - p.sum(2, keepdims=True), p], 2)
        return outputs, random.integers(0, columns, num)
    shape = (num,) if columns == 2 else (num, columns)
    target = random.normal(size=shape) + 1000
    return target + random.normal(size=(members, *shape)), target


@pytest.mark.parametrize(("way", "metric"), METRICS, ids=lambda v: getattr(v, "name", getattr(v, "__name__", "")))
@pytest.mark.parametrize("columns", [2, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_under_counts_are_those_of_rows_repeated(way, metric, columns, ties):
    outputs, target = rows(metric, columns, ties)
    counts = np.random.default_rng(1).poisson(1, (9, len(target)))
    scorer = scorer_of(metric, list(outputs), target)
    assert isinstance(scorer, way)
    found = scorer(range(4), counts.astype(float))
    repeated = [np.repeat(np.arange(len(target)), c) for c in counts]
    expected = [[metric.value(output[r], target[r], None) for r in repeated] for output in outputs]
    assert found == pytest.approx(np.array(expected), rel=1e-9)
    assert scorer([2], counts.astype(float)) == pytest.approx(np.array(expected)[2:3], rel=1e-9)


@pytest.mark.parametrize(("way", "metric"), METRICS, ids=lambda v: getattr(v, "name", getattr(v, "__name__", "")))
def test_scores_under_any_weights_are_those_of_the_metric(way, metric):
    outputs, target = rows(metric, 2, True)
    weights = np.random.default_rng(2).exponential(1, (5, len(target)))
    expected = [[metric.value(output, target, w) for w in weights] for output in outputs]
    assert scorer_of(metric, list(outputs), target)(range(4), weights) == pytest.approx(np.array(expected), rel=1e-9)


@pytest.mark.parametrize("metric", [ranking.ROC_AUC, ranking.AVERAGE_PRECISION, regression.R2], ids=lambda m: m.name)
def test_what_is_undefined_is_nan(metric):
    outputs, target = rows(metric, 2, False)
    weights = np.zeros((2, len(target)))
    weights[0, np.flatnonzero(target == target[0])] = 1  # one class, or one target
    found = scorer_of(metric, list(outputs), target)(range(4), weights)
    if metric is ranking.AVERAGE_PRECISION and target[0] == 1:
        assert found[:, 0] == pytest.approx(1)  # all are positive
    else:
        assert np.isnan(found[:, 0]).all()
    assert np.isnan(found[:, 1]).all()


def test_rows_beyond_the_cache_are_scored_piece_by_piece_to_the_same():
    outputs, target = rows(ranking.ROC_AUC, 2, True, num=120_001, members=1)
    weights = np.random.default_rng(0).poisson(1, (3, len(target))).astype(float)
    found = scorer_of(ranking.ROC_AUC, list(outputs), target)([0], weights)[0]
    assert found == pytest.approx([ranking.ROC_AUC.value(outputs[0], target, w) for w in weights], rel=1e-10)
