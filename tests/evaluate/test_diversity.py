import json

import numpy as np
import pytest

from fmray.evaluate.diversity import Diversity, correlation, decomposed, disagreement, diversity
from fmray.metrics.probability import BRIER
from fmray.metrics.regression import MSE


def numbers(seed, members=7, rows=90, targets=None):
    random = np.random.default_rng(seed)
    shape = (rows,) if targets is None else (rows, targets)
    target = random.normal(size=shape) + 3
    return target + random.normal(size=(members, *shape)), target, random.uniform(0.1, 4, rows)


def probabilities(seed, classes, members=7, rows=90):
    random = np.random.default_rng(seed)
    outputs = random.dirichlet(np.ones(classes), (members, rows))
    return outputs, random.integers(0, classes, rows), random.uniform(0.1, 4, rows)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", ["one target", "three targets", "two classes", "five classes"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_mean_errs_by_the_mean_error_minus_the_spread(case, seed, weighted, shared):
    kind = "class" if "classes" in case else "number"
    made = {"one target": lambda: numbers(seed), "three targets": lambda: numbers(seed, targets=3),
            "two classes": lambda: probabilities(seed, 2), "five classes": lambda: probabilities(seed, 5)}  # fmt: skip
    outputs, target, weight = made[case]()
    weight = weight if weighted else None
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(outputs))) if shared else None
    mean_member, ambiguity, ensemble = decomposed(kind, outputs, target, weight, shares)
    assert mean_member - ambiguity == pytest.approx(ensemble, abs=1e-12)
    assert ambiguity > 0.001
    metric = BRIER if kind == "class" else MSE
    a = np.full(len(outputs), 1 / len(outputs)) if shares is None else shares
    assert mean_member == pytest.approx(a @ [metric.value(o, target, weight) for o in outputs], rel=1e-12)
    assert ensemble == pytest.approx(metric.value(np.tensordot(a, outputs, 1), target, weight), rel=1e-12)


def test_disagreement_is_the_share_of_rows_with_different_classes():
    said = np.array([[0, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1]])
    outputs = np.eye(2)[said]
    assert disagreement(outputs).tolist() == [[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]]
    assert disagreement(outputs, np.array([1, 1, 6, 0]))[0].tolist() == [0, 0.75, 1]


def test_correlation_of_errors_is_that_of_numpy():
    outputs, target, weight = numbers(3)
    assert correlation(outputs, target) == pytest.approx(np.corrcoef(outputs - target), abs=1e-12)
    cov = np.cov(outputs - target, aweights=weight)
    assert correlation(outputs, target, weight) == pytest.approx(
        cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov))), abs=1e-12
    )


def test_errors_by_hand_correlate_fully_or_not_at_all():
    target = np.zeros(4)
    outputs = np.array([[1.0, -1, 1, -1], [-2, 2, -2, 2], [1, 1, -1, -1]])
    assert correlation(outputs, target) == pytest.approx(np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 1]]), abs=1e-12)


def test_a_member_with_constant_errors_has_no_correlation():
    target = np.arange(5.0)
    found = diversity("number", [4, 9], np.stack([target + 0.1, target**2]), target)
    assert found.matrix == ((None, None), (None, pytest.approx(1.0)))


@pytest.mark.parametrize("kind", ["class", "number"])
def test_the_record_is_read_back_from_json_as_it_was(kind):
    outputs, target, _ = numbers(0, 3) if kind == "number" else probabilities(0, 3, 3)
    made = diversity(kind, [5, 2, 8], outputs, target)
    assert made.members == (5, 2, 8)
    assert Diversity.from_json(json.loads(json.dumps(made.to_json()))) == made
