"""Let developers try again and again, and count how often a worthless model is promoted.

Shape legend: R repetitions, T attempts, n rows or groups.
"""

import math

import numpy as np
import pytest
import scipy.stats

from fmray.rigour.promotion import Gain, level
from fmray.spec.promotion import Promote

ALPHA = 0.05
pytestmark = pytest.mark.slow


def sealed(attempts: int, promotions: int = 1) -> Promote:
    return Promote(evidence="sealed", horizon=attempts, promotions=promotions)


def upper(hits: np.ndarray) -> float:
    """Give the upper end of the 99 % interval of Clopper and Pearson."""
    return float(scipy.stats.binomtest(int(hits.sum()), hits.size).proportion_ci(0.98).high)


def mcnemar(b, c):
    return scipy.stats.binom.sf(b - 1, b + c, 0.5)


def by_groups(sums):
    """Test as `Gain.p` does where rows come in groups."""
    squares = np.sqrt((sums.astype(float) ** 2).sum(-1))
    return scipy.stats.norm.sf(np.divide(sums.sum(-1), squares, out=np.zeros_like(squares), where=squares > 0))


def gain_of(b: int, c: int, n: int) -> Gain:
    error = math.sqrt(((b + c) / n - ((b - c) / n) ** 2) / (n - 1))
    return Gain((b - c) / n, error, n, (b, c), True)


def test_the_arrays_here_are_tested_as_the_decision_does():
    random = np.random.default_rng(0)
    for b, c in random.integers(0, 40, (50, 2)):
        assert gain_of(int(b), int(c), 500).p == pytest.approx(mcnemar(b, c))
    sums = random.integers(-3, 4, 60)
    total, groups = sums.sum(), len(sums)
    error = math.sqrt(sums.var(ddof=1) * groups)
    assert Gain(total, error, groups, None, True).p == pytest.approx(by_groups(sums[None])[0])


@pytest.mark.parametrize("attempts", [1, 26, 52])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("num_rows", [500, 2000, 10_000])
def test_attempts_that_do_not_look_rarely_promote_a_worthless_model(num_rows, share, attempts):
    random = np.random.default_rng(num_rows + attempts)
    apart = random.binomial(num_rows, share, (10_000, attempts))
    won = random.binomial(apart, 0.5)
    levels = np.array([level(sealed(attempts), t, 0) for t in range(1, attempts + 1)])
    assert upper((mcnemar(won, apart - won) < levels).any(1)) <= ALPHA + 0.01


@pytest.mark.parametrize("attempts", [1, 26, 52])
def test_the_best_of_twenty_on_validation_is_as_rarely_promoted(attempts):
    random = np.random.default_rng(attempts)
    apart = random.binomial(2000, 0.1, (2, 4000, attempts, 20))
    won = random.binomial(apart, 0.5)
    best = (won[0] - (apart[0] - won[0])).argmax(-1)[..., None]
    won, apart = (np.take_along_axis(test[1], best, -1)[..., 0] for test in (won, apart))
    levels = np.array([level(sealed(attempts), t, 0) for t in range(1, attempts + 1)])
    assert upper((mcnemar(won, apart - won) < levels).any(1)) <= ALPHA + 0.01


@pytest.mark.parametrize(("attempts", "num_groups"), [(1, 25), (1, 100), (1, 500), (26, 50), (52, 25)])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_rows_in_groups_of_twenty_that_rise_and_fall_together_do_not_mislead(num_groups, share, attempts):
    random = np.random.default_rng(num_groups + attempts)
    shape = (10_000, attempts, num_groups)
    sums = random.binomial(20, share, shape).astype(np.int16) * random.choice(np.array([-1, 1], np.int16), shape)
    levels = np.array([level(sealed(attempts), t, 0) for t in range(1, attempts + 1)])
    assert upper((by_groups(sums) < levels).any(1)) <= ALPHA + 0.01


def test_rows_in_groups_tested_row_by_row_do_mislead():
    random = np.random.default_rng(3)
    apart = random.binomial(20, 0.1, (10_000, 100))
    is_won = random.random(apart.shape) < 0.5
    won, lost = (apart * is_won).sum(1), (apart * ~is_won).sum(1)
    assert (mcnemar(won, lost) < ALPHA).mean() > 0.1
    assert upper(by_groups(apart * np.where(is_won, 1, -1)) < ALPHA) <= ALPHA + 0.01


def climb(decide, attempts: int, repetitions: int = 600, num_rows: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Change a tenth of the champion's answers at random; whoever is promoted is climbed from.

    Labels are coins, so nobody is better than anybody.

    Args:
        decide: (only challenger right, only champion right, attempt, promotions so far) -> who is promoted (R,).

    Returns:
        Promotions (R,), and by how much the last champion seems better than the first (R,).
    """
    random = np.random.default_rng(1)
    right = random.random((repetitions, num_rows)) < 0.5
    first, promoted = right.mean(1), np.zeros(repetitions, int)
    for attempt in range(1, attempts + 1):
        changed = random.random(right.shape, np.float32) < 0.1
        won, lost = (changed & ~right).sum(1), (changed & right).sum(1)
        moves = decide(won, lost, attempt, promoted)
        right ^= changed & moves[:, None]
        promoted += moves
    return promoted, right.mean(1) - first


@pytest.mark.parametrize(("attempts", "num_rows"), [(26, 2000), (52, 500)])
def test_a_developer_who_climbs_on_bits_rarely_promotes_a_worthless_model(attempts, num_rows):
    def rule(won, lost, attempt, promoted):
        levels = np.array([level(sealed(attempts), attempt, k) or 0.0 for k in range(2)])
        return mcnemar(won, lost) < levels[np.minimum(promoted, 1)]

    promoted, _ = climb(rule, attempts, 2000, num_rows)
    assert upper(promoted > 0) <= ALPHA + 0.01


def test_several_promotions_on_the_same_rows_keep_the_chance_too():
    def rule(won, lost, attempt, promoted):
        levels = np.array([level(sealed(26, 4), attempt, k) if k < attempt else 0.0 for k in range(4)] + [0.0])
        return mcnemar(won, lost) < levels[promoted]

    promoted, _ = climb(rule, 26, repetitions=1000)
    assert upper(promoted > 0) <= ALPHA


def test_where_the_higher_score_wins_a_worthless_model_is_promoted_for_certain():
    promoted, seeming = climb(lambda won, lost, attempt, promoted: won > lost, 26)
    assert (promoted > 0).mean() > 0.99
    assert seeming.mean() > 0.02  # points that are not there


def test_asking_for_five_percent_each_time_promotes_a_worthless_model_more_often_than_not():
    promoted, _ = climb(lambda won, lost, attempt, promoted: mcnemar(won, lost) < 0.05, 26)
    assert (promoted > 0).mean() > 0.5


@pytest.mark.parametrize("share_better", [0.0, 0.2, 0.5])
def test_of_fresh_promotions_few_are_wrong(share_better):
    random, repetitions, num_rows = np.random.default_rng(17), 4000, 5000
    wrong, promoted = np.zeros(repetitions, int), np.zeros(repetitions, int)
    for attempt in range(1, 53):
        is_better = random.random(repetitions) < share_better
        apart = random.binomial(num_rows, 0.1, repetitions)
        won = random.binomial(apart, np.where(is_better, 0.65, 0.5))
        levels = level(Promote(), attempt, promoted)
        moves = mcnemar(won, apart - won) < levels
        wrong += moves & ~is_better
        promoted += moves
    if share_better:
        assert promoted.mean() > 5
    assert (wrong / np.maximum(promoted, 1)).mean() <= ALPHA
    if not share_better:
        assert upper(wrong > 0) <= ALPHA + 0.01


def attack(sees_scores: bool, num_probes: int = 200, num_rows: int = 2000, repetitions: int = 120) -> np.ndarray:
    """Submit random probes, then the vote of those that seemed good; say whether that is promoted (R,)."""
    random, rule = np.random.default_rng(5), sealed(num_probes + 1)
    promoted = np.zeros(repetitions, bool)
    for place in range(repetitions):
        label, champion = random.choice(np.array([-1, 1], np.int8), (2, num_rows))
        probes = random.choice(np.array([-1, 1], np.int8), (num_probes, num_rows))
        won = ((probes == label) & (champion != label)).sum(1)
        lost = ((probes != label) & (champion == label)).sum(1)
        levels = np.array([level(rule, t, 0) for t in range(1, num_probes + 2)])
        bits = mcnemar(won, lost) < levels[:-1]
        seen = (probes == label).mean(1) - 0.5 if sees_scores else bits - 0.5
        vote = np.sign(np.sign(seen) @ probes.astype(np.int32) + 0.5)
        b, c = ((vote == label) & (champion != label)).sum(), ((vote != label) & (champion == label)).sum()
        promoted[place] = bits.any() or mcnemar(b, c) < levels[-1]
    return promoted


def test_dividing_the_level_does_not_help_where_scores_are_shown_and_does_where_bits_are():
    assert attack(sees_scores=True).mean() > 0.5
    assert attack(sees_scores=False).mean() <= ALPHA


@pytest.mark.parametrize(("with_anchor", "least", "most"), [(False, 0.05, 0.10), (True, 0.0, 0.015)])
def test_small_losses_add_up_without_an_anchor_and_stop_with_one(with_anchor, least, most):
    random, losses, num_rows = np.random.default_rng(7), [], 10_000

    def lower(truth: float) -> float:
        won, lost, _ = random.multinomial(num_rows, [0.05 + truth / 2, 0.05 - truth / 2, 0.9])
        return gain_of(int(won), int(lost), num_rows).lower(ALPHA)

    for _ in range(60):
        champion = 0.0  # from the anchor, in truth
        for _ in range(30):
            challenger = champion - 0.005
            within = lower(-0.005) > -0.01
            if within and (not with_anchor or lower(max(challenger, -0.1)) > -0.01):
                champion = challenger
        losses.append(-champion)
    assert least <= np.mean(losses) <= most


def rates(gain: float, alpha: float, num_rows: int = 10_000, share: float = 0.1) -> float:
    random = np.random.default_rng(11)
    counts = random.multinomial(num_rows, [(share + gain) / 2, (share - gain) / 2, 1 - share], 20_000)
    return float((mcnemar(counts[:, 0], counts[:, 1]) < alpha).mean())


@pytest.mark.parametrize(
    ("points", "once", "of_many"),
    [(-0.5, 0.0005, 0.0), (-0.25, 0.007, 0.0001), (0, 0.047, 0.0008), (0.5, 0.46, 0.06), (1, 0.93, 0.51), (1.5, 0.999, 0.95)],
)  # fmt: skip
def test_promotion_is_as_frequent_as_stated(points, once, of_many):
    assert rates(points / 100, ALPHA) == pytest.approx(once, abs=0.015)
    assert rates(points / 100, ALPHA / 52) == pytest.approx(of_many, abs=0.015)


@pytest.mark.parametrize("num_rows", [2000, 10_000])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 26])
def test_the_gain_said_to_be_detectable_is_found_four_times_out_of_five(num_rows, alpha):
    least = (scipy.stats.norm.isf(alpha) + scipy.stats.norm.isf(0.2)) * math.sqrt(0.1 / num_rows)
    assert 0.75 <= rates(least, alpha, num_rows) <= 0.85


@pytest.mark.parametrize(("num_rows", "share"), [(40, 0.05), (200, 0.02), (1000, 0.1)])
def test_a_loss_is_rarely_larger_than_the_lower_end_says(num_rows, share):
    random = np.random.default_rng(13)
    counts = random.multinomial(num_rows, [share * 0.3, share * 0.7, 1 - share], 3000)
    lows = np.array([gain_of(int(b), int(c), num_rows).lower(ALPHA) for b, c, _ in counts])
    assert upper(lows > -0.4 * share) <= ALPHA + 0.02
