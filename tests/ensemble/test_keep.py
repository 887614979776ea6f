import numpy as np
import pytest
import scipy.stats
from ensemble.made import candidates, classes, gain_in, numbers

from fmray.ensemble.averaging import average
from fmray.ensemble.keep import WIDER, choose, cross_fitted
from fmray.errors import SpecError
from fmray.evaluate.intervals import paired
from fmray.records import Ensemble

METHODS = {"average": {}, "greedy": {"bags": 4, "rounds": 10}, "stacking": {}, "vote": {"kind": "soft"}}


def chosen(some, name="average", **params):
    return choose(name, params, some, gain_in(some))


@pytest.mark.parametrize("name", list(METHODS))
def test_independent_weak_members_are_kept_together(name):
    some = candidates(*classes(10, 1000, noise=3), "accuracy")
    found = chosen(some, name, **METHODS[name])
    assert found.name == name
    assert found.gain.low > 0
    assert found.val_score == some.score(some.combined(found))
    assert "gain over the best single member" in found.reason


def test_independent_weak_numbers_are_kept_together():
    outputs, target = numbers(8, 1000)
    for name in ("average", "greedy", "stacking"):
        assert chosen(candidates(outputs, target, "r2"), name).name == name


def noise(seed, num_members=10, num_rows=1000):
    """Labels that no output knows anything of: nothing can be gained in ranking or accuracy."""
    source = np.random.default_rng(seed)
    shares = source.uniform(0.2, 0.8, (num_members, num_rows))
    half = source.integers(0, 2, num_rows) == 0
    return candidates(np.stack([1 - shares, shares], 2), source.integers(0, 2, num_rows), "roc_auc", half=half)


def kept_by_luck(name, num_seeds):
    kept = sum(chosen(noise(seed), name, **METHODS[name]).name != "single" for seed in range(num_seeds))
    upper = scipy.stats.beta.ppf(0.99, kept + 1, num_seeds - kept) if kept < num_seeds else 1.0
    print(f"{name}: {kept} of {num_seeds} kept, at most {upper:.3f} with 99 % confidence")
    return upper


def test_members_of_pure_noise_are_hardly_ever_kept_together():
    kept = sum(chosen(noise(seed)).name != "single" for seed in range(40))
    assert kept <= scipy.stats.binom.ppf(0.999, 40, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(METHODS))
def test_over_200_seeds_pure_noise_is_kept_no_more_often_than_the_level_allows(name):
    assert kept_by_luck(name, 200) <= 0.08


def test_what_is_not_kept_says_what_it_would_have_gained():
    some = noise(0)
    found = chosen(some)
    assert found.name == "single"
    assert found.gain is None
    assert "average was not kept: gain over the best single member" in found.reason


def test_whoever_wants_an_ensemble_always_gets_it_with_its_gain():
    found = chosen(noise(0), keep="always")
    assert found.name == "average"
    assert found.gain.low <= 0


def test_gain_is_of_choices_made_without_the_rows_that_judge_them():
    outputs, target = classes(5, 300)
    some = candidates(outputs, target, "log_loss")
    ours, theirs = np.zeros((2, 300, 3))
    for side in (True, False):
        learn, judge = some.half != side, some.half == side
        losses = [-np.log(output[learn][np.arange(learn.sum()), target[learn]]).mean() for output in outputs]
        theirs[judge] = outputs[int(np.argmin(losses))][judge]
        ours[judge] = outputs.mean(0)[judge]
    expected = paired(some.metric, (ours, target, None), (theirs, target, None), None, 0.95)[0]
    found = cross_fitted(average, some, gain_in(some))
    assert found.value == pytest.approx(expected.value)
    reach = WIDER * (expected.high - expected.value)
    assert (found.low, found.high) == pytest.approx((expected.value - reach, expected.value + reach))


@pytest.mark.parametrize("num_members", [2, 3, 10])
def test_equally_good_members_are_kept_by_luck_as_seldom_as_the_level_says(num_members):
    """Gains of the mean of members whose scores are normal, independent and equal in truth, on two halves."""
    scores = np.random.default_rng(0).standard_normal((2, 60_000, num_members))
    mean, best = scores.mean(2), scores.argmax(2)
    gains = [mean[h] - np.take_along_axis(scores[h], best[1 - h][:, None], 1)[:, 0] for h in (0, 1)]
    standardised = (gains[0] + gains[1]) / np.sqrt(2 * (1 - 1 / num_members))
    assert (standardised > 1.96 * WIDER).mean() < 0.025 + 3 * np.sqrt(0.025 / 60_000)
    if num_members == 2:
        assert (standardised > 1.96).mean() > 0.04  # so widened it must be


def test_a_method_that_remembers_its_rows_gains_nothing_by_it():
    """Looked at on its own rows this one is perfect; on the other half it names a random member."""

    def remembers(some):
        hits = [int((output.argmax(1) == some.target).sum()) for output in some.outputs]
        return Ensemble("memory", (some.indices[int(np.argmax(hits))],), (1.0,))

    found = cross_fitted(remembers, noise(3), gain_in(noise(3)))
    assert found.low <= 0


def test_one_member_needs_no_gain_and_one_with_all_weight_is_single():
    outputs, target = classes(1)
    assert chosen(candidates(outputs, target)).members == (10,)
    sure = np.eye(3)[target] * 0.97 + 0.01
    both = candidates(np.stack([np.full_like(sure, 1 / 3), sure]), target)
    found = chosen(both, "greedy", bags=1)
    assert (found.name, found.members, found.gain) == ("single", (11,), None)
    assert "greedy gave all weight to one member" in found.reason


def test_nothing_is_kept_where_a_half_has_no_rows():
    outputs, target = classes(4)
    found = chosen(candidates(outputs, target, half=np.zeros(len(target), bool)))
    assert found.name == "single"


def test_another_word_for_keep_is_refused():
    with pytest.raises(SpecError, match=r"keep: 'never'\. Accepted: when_better or always"):
        chosen(noise(0), keep="never")
