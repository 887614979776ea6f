import time

import numpy as np
import pytest
from ensemble.made import candidates, classes, numbers

from fmray.catalogue import ENSEMBLES
from fmray.ensemble.greedy import greedy, loss_of, select
from fmray.errors import SpecError
from fmray.spec.components import ensembles


def plain(outputs, lose, rounds, start):
    """Caruana's selection as it is told, one member and one mean at a time."""
    own = [lose(output) for output in outputs]
    first = sorted(range(len(outputs)), key=lambda i: own[i])[:start]
    lost = [lose(outputs[first[:n]].mean(0)) for n in range(1, len(first) + 1)]
    taken = first[: 1 + int(np.argmin(lost))]
    lost = lost[: len(taken)]
    for _ in range(rounds):
        each = [lose(outputs[[*taken, i]].mean(0)) for i in range(len(outputs))]
        taken.append(int(np.argmin(each)))
        lost.append(min(each))
    best = 1 + int(np.argmin(lost))
    return np.bincount(taken[:best], minlength=len(outputs)) / best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_classes_are_chosen_for_as_a_plain_selection_by_log_loss_chooses(seed, weighted):
    outputs, target = classes(8, noise=1 + seed, seed=seed)
    weight = np.random.default_rng(seed).uniform(0.2, 2, len(target)) if weighted else None

    def log_loss(mean):
        return np.average(-np.log(mean[np.arange(len(target)), target]), weights=weight)

    found = select(loss_of(candidates(outputs, target, weight=weight)), 15, 5)
    assert np.allclose(found, plain(outputs, log_loss, 15, 5))
    assert np.count_nonzero(found) > 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_targets", [1, 2])
def test_numbers_are_chosen_for_as_a_plain_selection_by_squared_error_chooses(seed, num_targets):
    outputs, target = numbers(8, num_targets=num_targets, seed=seed)
    truth = target.reshape(len(target), -1)

    def squared(mean):
        return (((mean - truth) / truth.std(0)) ** 2).mean()

    found = select(loss_of(candidates(outputs, target, "mse")), 15, 5)
    assert np.allclose(found, plain(outputs, squared, 15, 5))


def test_a_member_may_be_taken_again_and_then_counts_more():
    """Errors e and -2e: the mean that is right takes the first twice as often."""
    target = np.zeros(50)
    error = np.random.default_rng(0).standard_normal((50, 1))
    found = greedy(candidates(np.stack([error, -2 * error]), target, "mse"), ensembles.Greedy(bags=1))
    assert found.weights == pytest.approx((2 / 3, 1 / 3))


def test_bags_are_the_same_every_time_and_others_with_another_seed():
    some = candidates(*classes(10))
    assert greedy(some) == greedy(some)
    assert greedy(some).weights != greedy(some, ensembles.Greedy(seed=1)).weights
    assert sum(greedy(some).weights) == pytest.approx(1)


def test_a_harmful_member_gets_no_weight():
    outputs, target = classes(4)
    wrong = np.roll(np.eye(3)[target], 1, axis=1) * 0.9 + 0.1 / 3
    assert (
        14 not in greedy(candidates(np.concatenate([outputs, wrong[None]]), target), ensembles.Greedy(bags=1)).members
    )


@pytest.mark.parametrize("params", [{"rounds": 0}, {"bags": 0}, {"start": 0}, {"share": 0.0}, {"share": 1.5}])
def test_numbers_out_of_range_are_refused(params):
    with pytest.raises(SpecError, match=next(iter(params))):
        ENSEMBLES.read("greedy", params)


@pytest.mark.slow
def test_fifty_members_and_1e5_rows_take_seconds_and_little_memory_beside_the_outputs():
    import tracemalloc

    outputs, target = classes(50, 100_000, 10)
    some = candidates(outputs.astype(np.float32), target)
    tracemalloc.start()
    started = time.perf_counter()
    greedy(some)
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{seconds:.1f} s, {peak / 2**20:.0f} MB at most")
    assert seconds < 60
    assert peak < 3 * 50 * 100_000 * 8
