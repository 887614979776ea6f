"""Shares of programs: pass@k agrees with drawing, intervals with those of independent prompts."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fmray.evaluate.intervals import mean_of_shares
from fmray.evaluate.pass_at_k import Shares, pass_at_k
from fmray.evaluate.unit_tests import Verdict


@pytest.mark.parametrize(("num", "hits", "k"), [(5, 0, 2), (5, 2, 1), (5, 2, 3), (5, 4, 2), (5, 5, 5), (7, 3, 4)])
def test_pass_at_k_is_the_share_of_all_draws_of_k_with_a_hit(num, hits, k):
    draws = list(itertools.combinations([True] * hits + [False] * (num - hits), k))
    assert pass_at_k(num, hits, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def verdicts(hits: int, num: int) -> list[Verdict]:
    return [Verdict(True, True, "")] * hits + [Verdict(False, False, "line 1: no")] * (num - hits)


def test_one_program_for_each_prompt_has_wilsons_interval():
    shares = Shares()
    for hit in [1] * 7 + [0] * 13:
        shares.take(verdicts(hit, 1))
    found = shares.intervals()
    expected = stats.binomtest(7, 20).proportion_ci(0.95, "wilson")
    assert list(found) == ["parses", "pass@1"]
    for share in found.values():
        assert (share.value, share.n, share.method) == (0.35, 20, "wilson")
        assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert shares.most_reasons() == {"it does not parse": 13}


def test_programs_of_a_prompt_count_as_one_piece():
    together = Shares(per_prompt=10)
    for prompt in range(20):
        together.take(verdicts(10 * (prompt < 7), 10))
    share = together.intervals()["pass@1"]
    alone = stats.binomtest(7, 20).proportion_ci(0.95, "wilson")
    naive = stats.binomtest(70, 200).proportion_ci(0.95, "wilson")
    assert share.n == 20
    # ten copies tell no more than one: about as wide as of 20, not of 200
    assert share.high - share.low > 0.9 * (alone.high - alone.low) > 2 * (naive.high - naive.low)


def test_parts_add_up():
    whole = Shares(per_prompt=5)
    parts = [Shares(per_prompt=5), Shares(per_prompt=5)]
    for place, hits in enumerate([0, 1, 5, 3, 2, 0]):
        whole.take(verdicts(hits, 5))
        parts[place % 2].take(verdicts(hits, 5))
    parts[0].add(parts[1])
    assert parts[0].prompts == whole.prompts
    assert parts[0].reasons == whole.reasons
    assert list(whole.total) == ["parses", "pass@1", "pass@5"]
    for name, total in whole.total.items():
        assert parts[0].total[name] == pytest.approx(total)
        assert parts[0].squared[name] == pytest.approx(whole.squared[name])


def test_the_interval_of_a_mean_of_shares_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    p = random.beta(2, 5, (2000, 60))
    shares = random.binomial(8, p) / 8
    found = [mean_of_shares(row.sum(), (row**2).sum(), 60, 0.9) for row in shares]
    covered = np.mean([one.low <= 2 / 7 <= one.high for one in found])
    assert 0.87 < covered < 0.93


@pytest.mark.parametrize("hits", [0, 5])
def test_where_all_prompts_agree_the_interval_is_wilsons_of_the_prompts(hits):
    found = mean_of_shares(30.0 * (hits > 0), 30.0 * (hits > 0), 30, 0.95)
    expected = stats.binomtest(30 * (hits > 0), 30).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("share", "num"), [(0.5, 3), (1 / 3, 7), (0.5, 1)])
def test_prompts_that_agree_on_a_share_between_leave_it_uncertain(share, num):
    found = mean_of_shares(share * num, share * share * num, num, 0.95)
    assert found.value == pytest.approx(share)
    assert found.high - found.low > 0.5 / num**0.5
    assert found.method == "wilson"


def test_without_prompts_there_is_no_share():
    assert np.isnan(mean_of_shares(0.0, 0.0, 0, 0.95).value)
    assert Shares().intervals() == {}
