"""Decide whether a challenger takes the champion's place; decides, and moves nothing.

Both are compared on the same rows. How sure one must be follows from how often such a question is asked: of fresh rows,
each used once, a share of wrong promotions is kept; of sealed rows, used again and again while one bit is shown, the
chance of any wrong promotion. A higher score alone promotes a worthless model sooner or later.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from fmray.errors import DataError
from fmray.evaluate.intervals import detectable, mcnemar, squares, standard_error, wins
from fmray.evaluate.table import Table, require_same_rows
from fmray.metrics.metric import Metric
from fmray.records import Json
from fmray.spec.promotion import Promote
from fmray.targets.codec import codec_named

FEWEST = 30
"""Rows, or groups, that say anything."""


def level(rule: Promote, attempt: int, promotions: int) -> float | None:
    """Give how small a p-value must be, None where the sealed rows are spent.

    Sealed: alpha / (T K C(t - 1, k)). Who sees only bits can reach C(t - 1, k) states at attempt t after k promotions,
    so all levels together are at most alpha, whatever strategy chose the challengers. Fresh: LOND.

    Args:
        attempt: t, this one included.
        promotions: k, before this one.

    Source: Blum and Hardt, "The Ladder: A Reliable Leaderboard for Machine Learning Competitions", ICML 2015; Feng et
    al., "Sequential Algorithmic Modification with Test Data Reuse", UAI 2022; Javanmard and Montanari, "Online Rules
    for Control of False Discovery Rate", Annals of Statistics 2018 (LOND).
    """
    if rule.evidence == "fresh":
        return rule.alpha * 6 / (math.pi * attempt) ** 2 * (promotions + 1)
    if attempt > rule.attempts or promotions >= rule.promotions:
        return None
    return rule.alpha / (rule.attempts * rule.promotions * math.comb(attempt - 1, promotions))


@dataclass(frozen=True)
class Gain:
    """Say how much better one model is than another on the same rows, positive = better.

    Args:
        value: Difference of the metric.
        error: Its standard error.
        pieces: Rows, or groups where rows come in groups.
        apart: Rows where the first alone is right, and where the other alone is, for a share of rows that stand alone;
            None for any other metric.
        is_share: Whether the metric is a share of rows.
    """

    value: float
    error: float
    pieces: int
    apart: tuple[int, int] | None
    is_share: bool

    @classmethod
    def of(cls, metric: Metric, ours: Table, theirs: Table) -> "Gain":
        """Compare two tables of predictions of the same rows."""
        one, other = ((table.output, table.target, table.weight) for table in (ours, theirs))
        slopes = [metric.sums.slope(metric.sums.partial(*rows)) for rows in (one, other)]
        squared = squares(slopes[0].of(*one) - slopes[1].of(*other), ours.group)
        alone = metric.rate is not None and ours.weight is None and ours.group is None
        return cls(
            (1.0 if metric.higher_is_better else -1.0) * (slopes[0].value - slopes[1].value),
            *standard_error(squared),
            wins(metric, one, other) if alone else None,
            metric.rate is not None,
        )

    @property
    def p(self) -> float:
        """Give the one-sided p-value of "not better at all".

        Shares of rows that stand alone are tested exactly. Else the sum over pieces is divided by the root of its sum
        of squares about zero, so a gain counts as noise too, and a few pieces that agree prove little.

        Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947 (exact
        form); Efron, "Student's t-test under symmetry conditions", JASA 1969 (self-normalised sums).
        """
        if self.apart is not None:
            return mcnemar(*self.apart)
        spread = math.sqrt(self.error**2 * (self.pieces - 1) / self.pieces + self.value**2 / self.pieces)
        return float(scipy.stats.norm.sf(self.value / spread)) if spread > 0 else 1.0

    def lower(self, alpha: float) -> float:
        """Give what the gain is at least, but for a chance of alpha.

        To a share of rows one piece is added that favours either side, or rows on which both agree would prove that
        they always do.

        Source: Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on
        Paired Data", Journal of Educational and Behavioral Statistics 2012.
        """
        added = 2 / (self.pieces * (self.pieces - 1)) if self.is_share else 0.0
        return self.value - float(scipy.stats.t.isf(alpha, self.pieces - 1)) * math.sqrt(self.error**2 + added)


@dataclass(frozen=True)
class Judged:
    """Give a decision with all that it rests on.

    Args:
        promotes: The one bit.
        reason: In words; of sealed rows, nobody is to see it before they are retired.
        evidence: Every number behind it, as plain values.
    """

    promotes: bool
    reason: str
    evidence: Json


def without_looking(rule: Promote, metric: Metric, allowed: float, challenger: Table, champion: Table) -> str:
    """Say why these rows cannot decide, whatever their targets are; empty where they may. No target is looked at.

    Rows on which both say the same tell nothing, and if the challenger were right on all others, the p-value would be
    2 to the power of minus their number.
    """
    pieces = len(challenger) if challenger.group is None else len(np.unique(challenger.group))
    what = "rows" if challenger.group is None else "groups"
    if pieces < FEWEST:
        return f"there are {pieces} {what} to decide by; {FEWEST} or more are needed."
    is_exact = metric.rate is not None and challenger.group is None and challenger.weight is None
    if rule.mode == "refresh" or not is_exact or not codec_named(metric.kind).names_classes:
        return ""
    apart = int((challenger.output.argmax(1) != champion.output.argmax(1)).sum())
    least = math.log2(1 / allowed)
    if apart > least:
        return ""
    needed = (
        f"about {math.ceil(pieces * (math.floor(least) + 1) / apart):,} rows are" if apart else "many more rows are"
    )
    return f"the models differ on {apart} of {pieces:,} rows, too few for level {allowed:.2g}; {needed} needed."


def judge(
    rule: Promote,
    metric: Metric,
    allowed: float,
    challenger: Table,
    champion: Table,
    anchor: Table | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
) -> Judged:
    """Decide by predictions of the same rows.

    Args:
        allowed: The level, as `level` gives it.
        anchor: What the last model that was shown to be better says; needed for "refresh", or losses within the margin
            would add up.
        slices: Column -> names of its levels, looked at where the rule has a margin for them.

    Raises:
        DataError: If the tables are not of the same rows with the same targets.

    Source: Feng et al., "Approval policies for modifications to machine learning-based software as a medical device: A
    study of bio-creep", Biometrics 2021 (why an anchor).
    """
    require_same_evidence(challenger, champion)
    gain = Gain.of(metric, challenger, champion)
    facts: Json = {"champion": _facts(gain, allowed)}
    if rule.mode == "superior":
        reasons = _superior(rule, gain, allowed)
    else:
        if anchor is None or rule.margin is None:
            raise DataError("refresh needs the anchor's predictions and a margin. Give promote.margin.", "promote.mode")
        require_same_evidence(challenger, anchor)
        versus = {"champion": gain, "anchor": Gain.of(metric, challenger, anchor)}
        facts["anchor"] = _facts(versus["anchor"], allowed)
        reasons = [text for name, own in versus.items() if (text := _loses(name, own, allowed, rule.margin))]
    if rule.slice_margin is not None:
        lowest = {
            name: _lowest(metric, *pair, rule.alpha) for name, pair in _levels(challenger, champion, slices or {})
        }
        facts["slices"] = lowest
        reasons += [
            f"in {name} it may lose {-low:.4f} or cannot be judged, {rule.slice_margin:g} is allowed"
            for name, low in lowest.items()
            if not low > -rule.slice_margin
        ]
    said = "; ".join(reasons) or _praise(rule, gain)
    return Judged(not reasons, said, facts)


def require_same_evidence(one: Table, other: Table) -> None:
    """Refuse to compare tables of other rows, or rows whose targets differ.

    Raises:
        DataError: If they differ.
    """
    require_same_rows(one, other, "challenger and champion")
    if not np.array_equal(one.target, other.target):
        raise DataError("challenger and champion: the targets of the same rows differ. Predict both on one data set.")


def _superior(rule: Promote, gain: Gain, allowed: float) -> list[str]:
    if math.isnan(gain.value):
        return [f"the metric is undefined on these {gain.pieces:,}"]
    reasons = []
    if not gain.p < allowed:
        size = f"{gain.value:+.4f}, p = {gain.p:.2g}, where less than {allowed:.2g} is asked for"
        reasons.append(f"no gain is shown ({size}); {_needed(gain, allowed)}")
    if not gain.value >= rule.min_effect:
        reasons.append(f"the gain is {gain.value:+.4f}, and {rule.min_effect:g} is asked for")
    return reasons


def _needed(gain: Gain, allowed: float) -> str:
    """Say which gain these pieces would have shown, and how many a gain of this size needs, four times out of five."""
    least = detectable(gain.error, allowed)
    text = f"these {gain.pieces:,} would show {least:.4f}"
    if gain.value > 0:
        text += f", and one of this size needs about {math.ceil(gain.pieces * (least / gain.value) ** 2):,}"
    return text


def _loses(name: str, gain: Gain, allowed: float, margin: float) -> str:
    low = gain.lower(allowed)
    if math.isnan(low):
        return f"against the {name} the metric is undefined on these {gain.pieces:,}"
    return "" if low > -margin else f"it may lose {-low:.4f} against the {name}, and {margin:g} is allowed"


def _praise(rule: Promote, gain: Gain) -> str:
    kind = "rows" if gain.apart is not None else "rows or groups"
    if rule.mode == "superior":
        return f"better by {gain.value:+.4f} (p = {gain.p:.2g}) on {gain.pieces:,} {kind}"
    return f"loses less than {rule.margin:g} against champion and anchor ({gain.value:+.4f} on {gain.pieces:,} {kind})"


def _facts(gain: Gain, allowed: float) -> Json:
    apart = {} if gain.apart is None else {"only_challenger": gain.apart[0], "only_champion": gain.apart[1]}
    return {
        "gain": gain.value,
        "error": gain.error,
        "pieces": gain.pieces,
        "p": gain.p,
        "lower": gain.lower(allowed),
        "detectable": detectable(gain.error, allowed),
        **apart,
    }


def _levels(one: Table, other: Table, slices: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, tuple[Table, Table]]]:
    for column, names in slices.items():
        order = np.argsort(one.slices[column], kind="stable")
        cuts = np.searchsorted(one.slices[column][order], np.arange(1, len(names)))
        for name, rows in zip(names, np.split(order, cuts), strict=True):
            if len(rows):
                yield f"{column}={name}", (one.some(rows), other.some(rows))


def _lowest(metric: Metric, ours: Table, theirs: Table, alpha: float) -> float:
    """Give what the gain in a slice is at least; NaN where there is too little to say."""
    gain = Gain.of(metric, ours, theirs)
    return gain.lower(alpha) if gain.pieces >= FEWEST else math.nan
