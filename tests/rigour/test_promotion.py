"""Decide between made tables; truths come from closed forms and from scipy."""

import math

import numpy as np
import pytest
import scipy.stats

from fmray.errors import DataError
from fmray.evaluate.table import Table
from fmray.metrics.find import find_metric
from fmray.records import Target
from fmray.rigour.promotion import Gain, judge, level, without_looking
from fmray.spec.promotion import Promote

CLASSES = Target(("y",), "class", ("a", "b"), 1)
ACCURACY, LOG_LOSS = find_metric("accuracy", CLASSES), find_metric("log_loss", CLASSES)
MSE = find_metric("mse", Target(("y",), "number"))
FRESH, SEALED = Promote(), Promote(evidence="sealed", horizon=26)
REFRESH = Promote(mode="refresh", margin=0.02)


def classes(is_right, target=None, group=None, slices=None) -> Table:
    """Make predictions of two classes that are right where asked."""
    is_right = np.asarray(is_right, bool)
    target = np.zeros(len(is_right), np.int64) if target is None else target
    says_one = np.where(is_right, target, 1 - target)
    output = np.where(says_one[:, None] == np.arange(2), 0.8, 0.2)
    ids = np.stack([np.arange(len(target), dtype=np.uint64)] * 2, 1)
    return Table(ids, output, target, None, group, slices or {})


def pair(only_ours: int, only_theirs: int, num_rows: int, **beside) -> tuple[Table, Table]:
    ours, theirs = np.ones(num_rows, bool), np.ones(num_rows, bool)
    theirs[:only_ours] = False
    ours[only_ours : only_ours + only_theirs] = False
    return classes(ours, **beside), classes(theirs, **beside)


def numbers(output, target, group=None) -> Table:
    ids = np.stack([np.arange(len(target), dtype=np.uint64)] * 2, 1)
    return Table(ids, np.asarray(output, float), np.asarray(target, float), None, group, {})


@pytest.mark.parametrize("promotions", [1, 3])
def test_the_levels_of_every_path_through_sealed_decisions_add_up_to_alpha_at_most(promotions):
    rule = Promote(evidence="sealed", horizon=9, promotions=promotions)
    total = 0.0
    for t in range(1, 10):
        for k in range(min(t, promotions)):
            paths = math.comb(t - 1, k)  # bit strings of t - 1 decisions, k of them promotions
            total += paths * level(rule, t, k)
    assert total <= 0.05 + 1e-12
    if promotions == 1:
        assert total == pytest.approx(0.05)


def test_sealed_rows_are_spent_after_what_was_promised():
    assert level(SEALED, 26, 0) == pytest.approx(0.05 / 26)
    assert level(SEALED, 27, 0) is None
    assert level(SEALED, 3, 1) is None


def test_levels_of_fresh_decisions_without_promotions_add_up_to_alpha():
    assert sum(level(FRESH, t, 0) for t in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    assert level(FRESH, 5, 2) == pytest.approx(3 * level(FRESH, 5, 0))


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 0), (20, 8), (8, 20)])
def test_a_share_of_rows_is_tested_as_scipy_does_exactly(b, c):
    gain = Gain.of(ACCURACY, *pair(b, c, 500))
    assert gain.value == pytest.approx((b - c) / 500)
    expected = scipy.stats.binomtest(b, b + c, 0.5, alternative="greater").pvalue if b + c else 1.0
    assert gain.p == pytest.approx(expected)


def test_rows_that_come_in_groups_are_tested_by_sums_of_groups():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(50, dtype=np.uint64), 8)
    ours, theirs = (classes(random.random(400) < share, group=group) for share in (0.8, 0.75))
    right = [table.output.argmax(1) == table.target for table in (ours, theirs)]
    sums = (right[0].astype(int) - right[1].astype(int)).reshape(50, 8).sum(1)
    expected = scipy.stats.norm.sf(sums.sum() / math.sqrt((sums**2).sum()))
    assert Gain.of(ACCURACY, ours, theirs).p == pytest.approx(expected)


def test_a_few_groups_that_agree_prove_little():
    group = np.repeat(np.arange(3, dtype=np.uint64), 100)
    ours, theirs = classes(np.ones(300), group=group), classes(np.zeros(300), group=group)
    assert Gain.of(ACCURACY, ours, theirs).p == pytest.approx(scipy.stats.norm.sf(math.sqrt(3)))


def test_a_mean_of_losses_is_tested_as_scipys_t_test_would_for_many_rows():
    random = np.random.default_rng(1)
    target = random.normal(size=2000)
    ours, theirs = (numbers(target + random.normal(size=2000) * s, target) for s in (1.0, 1.05))
    differences = (theirs.output - target) ** 2 - (ours.output - target) ** 2
    gain, expected = Gain.of(MSE, ours, theirs), scipy.stats.ttest_1samp(differences, 0, alternative="greater")
    assert gain.value == pytest.approx(differences.mean())  # a smaller loss is a gain
    assert gain.p == pytest.approx(expected.pvalue, rel=0.02)
    assert gain.lower(0.05) == pytest.approx(expected.confidence_interval(0.9).low, rel=0.02) or gain.lower(
        0.05
    ) == pytest.approx(differences.mean() - scipy.stats.t.isf(0.05, 1999) * scipy.stats.sem(differences))


def test_what_a_gain_is_at_least_follows_bonett_and_price():
    b, c, n = 7, 12, 400
    low = (b - c) / n - scipy.stats.norm.isf(0.05) * math.sqrt(
        ((b + 1) + (c + 1)) / (n + 2) ** 2 - ((b - c) / (n + 2)) ** 2 / (n + 2)
    )
    assert Gain.of(ACCURACY, *pair(b, c, n)).lower(0.05) == pytest.approx(low, abs=2e-4)
    assert Gain.of(ACCURACY, *pair(0, 0, 30)).lower(0.05) < -0.05  # 30 rows alike do not prove that all are


def test_a_gain_beyond_luck_promotes_and_one_within_does_not():
    yes, no = (judge(FRESH, ACCURACY, 0.03, *pair(b, 10, 1000)) for b in (30, 15))
    assert (yes.promotes, no.promotes) == (True, False)
    assert yes.evidence["champion"]["only_challenger"] == 30
    assert "no gain is shown (+0.0050, p = 0.21" in no.reason
    assert "one of this size needs about" in no.reason


def test_a_gain_smaller_than_the_one_asked_for_does_not_promote():
    rule = Promote(min_effect=0.05)
    found = judge(rule, ACCURACY, 0.03, *pair(30, 0, 1000))
    assert not found.promotes
    assert found.reason == "the gain is +0.0300, and 0.05 is asked for"


def test_the_rows_a_gain_of_this_size_needs_are_those_that_show_it():
    found = judge(FRESH, ACCURACY, 0.05, *pair(55, 45, 1000))
    assert found.evidence["champion"]["detectable"] == pytest.approx(2.4865 * math.sqrt(0.1 / 1000), rel=0.01)


def test_a_refresh_may_lose_little_against_champion_and_anchor():
    ours, theirs = pair(10, 12, 4000)
    assert judge(REFRESH, ACCURACY, 0.05, ours, theirs, theirs).promotes
    assert not judge(REFRESH, ACCURACY, 0.05, *pair(10, 110, 4000), theirs).promotes
    better = classes(np.ones(4000))
    found = judge(REFRESH, ACCURACY, 0.05, *pair(0, 60, 4000), better)
    assert found.promotes
    drifted = classes(np.r_[np.zeros(100), np.ones(3900)])
    stopped = judge(REFRESH, ACCURACY, 0.05, drifted, classes(np.r_[np.zeros(70), np.ones(3930)]), better)
    assert not stopped.promotes
    assert stopped.reason.startswith("it may lose 0.02")
    assert "against the anchor" in stopped.reason
    assert "against the champion" not in stopped.reason


def test_a_refresh_without_an_anchor_is_refused():
    with pytest.raises(DataError, match="needs the anchor"):
        judge(REFRESH, ACCURACY, 0.05, *pair(1, 1, 100))


def test_a_gain_overall_that_costs_a_slice_does_not_promote():
    codes = np.r_[np.zeros(900, np.int32), np.ones(100, np.int32)]
    ours, theirs = np.ones(1000, bool), np.ones(1000, bool)
    theirs[:60], ours[900:915] = False, False
    tables = [classes(right, slices={"city": codes}) for right in (ours, theirs)]
    levels = {"city": ("Bonn", "Oslo", "Rome")}
    assert judge(FRESH, ACCURACY, 0.03, *tables, slices=levels).promotes
    found = judge(Promote(slice_margin=0.05), ACCURACY, 0.03, *tables, slices=levels)
    assert not found.promotes
    assert found.reason.startswith("in city=Oslo it may lose")
    assert list(found.evidence["slices"]) == ["city=Bonn", "city=Oslo"]  # nobody is in Rome


def test_a_slice_with_too_few_rows_to_judge_does_not_pass():
    codes = np.r_[np.zeros(990, np.int32), np.ones(10, np.int32)]
    tables = pair(30, 0, 1000, slices={"city": codes})
    found = judge(Promote(slice_margin=0.5), ACCURACY, 0.03, *tables, slices={"city": ("Bonn", "Oslo")})
    assert not found.promotes
    assert "cannot be judged" in found.reason


def test_rows_are_refused_that_do_not_match():
    ours, theirs = pair(3, 1, 100)
    with pytest.raises(DataError, match="not of the same rows"):
        judge(FRESH, ACCURACY, 0.05, ours, theirs.some(np.arange(99)))
    with pytest.raises(DataError, match="not of the same rows"):
        judge(FRESH, ACCURACY, 0.05, ours, theirs.some(np.r_[1, 0, 2:100]))
    with pytest.raises(DataError, match="targets of the same rows differ"):
        judge(FRESH, ACCURACY, 0.05, ours, classes(np.ones(100), target=np.ones(100, np.int64)))


def test_rows_that_cannot_decide_are_told_without_looking_at_a_target():
    ours, theirs = pair(4, 0, 200)
    for target in (ours.target, 1 - ours.target):
        told = [Table(t.row_id, t.output, target, None, None, {}) for t in (ours, theirs)]
        assert without_looking(FRESH, ACCURACY, 0.03, *told) == (
            "the models differ on 4 of 200 rows, too few for level 0.03; about 300 rows are needed."
        )
    assert 2.0**-6 < 0.03 < 2.0**-5  # so six rows, all won, could show it
    assert without_looking(FRESH, ACCURACY, 0.03, *pair(6, 0, 200)) == ""
    assert judge(FRESH, ACCURACY, 0.03, *pair(6, 0, 200)).promotes
    assert not judge(FRESH, ACCURACY, 0.03, *pair(5, 0, 200)).promotes


def test_too_few_rows_or_groups_decide_nothing():
    assert "29 rows to decide by" in without_looking(FRESH, ACCURACY, 0.03, *pair(20, 0, 29))
    group = np.arange(300, dtype=np.uint64) // 20
    assert "15 groups to decide by" in without_looking(FRESH, ACCURACY, 0.03, *pair(20, 0, 300, group=group))
    same = numbers(np.zeros(40), np.ones(40))
    assert without_looking(FRESH, MSE, 0.03, same, same) == ""


def test_equal_models_are_not_promoted_and_may_be_refreshed():
    same = numbers(np.zeros(40), np.arange(40))
    assert not judge(FRESH, MSE, 0.03, same, same).promotes
    assert judge(REFRESH, MSE, 0.03, same, same, same).promotes


def test_undefined_metrics_promote_nothing():
    auc = find_metric("roc_auc", CLASSES)
    tables = pair(5, 0, 100)  # all of one class
    assert judge(FRESH, auc, 0.05, *tables).reason == "the metric is undefined on these 100"
    found = judge(REFRESH, auc, 0.05, *tables, tables[1])
    assert not found.promotes
    assert found.reason.startswith("against the champion the metric is undefined")
