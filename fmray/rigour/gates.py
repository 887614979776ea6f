"""Decide whether a result may be believed: each gate looks for one way of fooling oneself.

A gate says `pass`, `fail`, `warn`, `inconclusive` (too little data, with the number that would do) or `not_run` (why);
a waiver turns `fail` into `waived`, a draft turns it into `warn`. A gate never passes for want of something to look at.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fmray.catalogue import GATES, LINEAR_MODELS
from fmray.errors import SpecError
from fmray.evaluate.facts import Facts
from fmray.evaluate.table import Table
from fmray.records import Interval, Json, Member, Scores, Split
from fmray.registry import nearest
from fmray.rigour.recompute import recompute
from fmray.spec.sections import Rigour

ALPHA = 0.05
TOLERANCE = 1e-9
FURTHEST = 2e-5  # that probabilities in float32 may be from a sum of 1
SAMPLE_ROWS = 100_000
FEWEST_ROWS, FEWEST_OF_CLASS = 30, 5
DECIDES_BY_CLASS = ("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro")
Finding = tuple[str, str]
"""Status, and why in words."""


@dataclass(frozen=True)
class Evidence:
    """Hold what gates look at.

    Args:
        scores: Of the run.
        facts: Split -> what is true of the predictions of the chosen model.
        shown: Its predictions on test rows; on all of them where they are few enough to compute the headline again.
        num_classes: 0 for regression.
        members: All that were trained.
        chosen: Indices of those that speak.
        model: Name of their model.
        health: Numeric events of training.
        positive: Index of the positive class, -1 if there is none.
    """

    scores: Scores
    facts: Mapping[Split, Facts]
    shown: Table
    num_classes: int
    members: Sequence[Member]
    chosen: Sequence[int]
    model: str
    health: Sequence[Json]
    positive: int = -1


Gate = Callable[[Evidence, Rigour], Finding]


def judge(evidence: Evidence, rigour: Rigour) -> tuple[Json, ...]:
    """Run every gate.

    Returns:
        [{"gate", "name", "status", "text"}], in the order of the catalogue.

    Raises:
        SpecError: If a waiver names no gate.
    """
    if unknown := [name for name in rigour.waive if name not in GATES]:
        raise SpecError(f"'{unknown[0]}' is no gate. {nearest(unknown[0], GATES)}", "rigour.waive")
    found = []
    for name in GATES:
        gate: Gate = GATES.find(name)
        status, text = gate(evidence, rigour)
        if status == "fail" and name in rigour.waive:
            status = "waived"
            text = f"{text} Waived: {rigour.waive[name]}"
        elif status == "fail" and rigour.profile == "draft":
            status = "warn"
            text = f"{text} A draft; not to be promoted."
        found.append(
            {"gate": name, "name": GATES.path(name).partition(":")[2].replace("_", " "), "status": status, "text": text}
        )
    return tuple(found)


def failed(gates: Sequence[Json]) -> tuple[str, ...]:
    """Name the gates that fail a run."""
    return tuple(gate["gate"] for gate in gates if gate["status"] == "fail")


def evaluation_complete(evidence: Evidence, rigour: Rigour) -> Finding:
    """G13: every row of validation and test was scored once, and the headline equals an independent computation."""
    for split, facts in evidence.facts.items():
        if facts.num_rows != facts.num_expected:
            return "fail", f"{split}: {facts.num_rows} rows were scored, {facts.num_expected} were prepared."
        if facts.repeated:
            return "fail", f"{split}: some rows were scored more than once."
        if facts.num_other:
            return "fail", f"{split}: other rows were scored than were prepared."
    return _recomputed(evidence)


def _recomputed(evidence: Evidence) -> Finding:
    table = evidence.shown
    num_rows = evidence.facts["test"].num_rows
    scores = evidence.scores
    if num_rows > len(table) or num_rows > SAMPLE_ROWS:
        return "pass", f"{num_rows:,} test rows scored once; too many to recompute {scores.primary} a second way."
    again = recompute(scores.primary, table, evidence.positive)
    value = scores.test[scores.primary].value
    if again is None:
        return "pass", f"{len(table):,} test rows scored once; there is no second way to compute {scores.primary}."
    if not math.isclose(again, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE) and not (
        math.isnan(again) and math.isnan(value)
    ):
        return "fail", f"{scores.primary} is {value!r}, computed a second way {again!r}."
    return "pass", f"{len(table):,} test rows scored once; {scores.primary} agrees with a second computation."


def shapes_and_degenerate_output(evidence: Evidence, rigour: Rigour) -> Finding:
    """G14: outputs are what they claim to be, and say different things about different rows."""
    facts = evidence.facts["val"]
    if not (facts.high - facts.low).max() > 0:
        return "fail", "the model gives every row the same answer."
    if not evidence.num_classes:
        return "pass", "predictions differ between rows."
    if len(facts.low) != evidence.num_classes:
        return "fail", f"there are {len(facts.low)} outputs for {evidence.num_classes} classes."
    if facts.low.min() < 0 or facts.high.max() > 1 or not facts.furthest <= FURTHEST:
        return "fail", "outputs are not probabilities: they leave [0, 1] or do not sum to 1."
    return _squashed(facts) or _one_class(evidence)


def _squashed(facts: Facts) -> Finding | None:
    """Notice a module that ends in a softmax of its own: no answer can be surer than e / (e + C - 1)."""
    limit = math.e / (math.e + len(facts.low) - 1)
    if facts.surest > limit + 1e-6:
        return None
    hits = facts.hits / facts.num_rows
    error = math.sqrt(max(hits * (1 - hits), 1 / facts.num_rows) / facts.num_rows)
    if hits - facts.sureness / facts.num_rows > max(0.1, 5 * error):
        return "fail", (
            f"no probability exceeds {limit:.3f} while {hits:.0%} of answers are right: "
            "a softmax was applied twice. Let the module give logits."
        )
    return None


def _one_class(evidence: Evidence) -> Finding:
    facts = evidence.facts["val"]
    if (facts.said > 0).sum() > 1 or (facts.actual > 0).sum() < 2:
        return "pass", "outputs are probabilities, and differ between rows."
    status = "fail" if evidence.scores.primary in DECIDES_BY_CLASS else "warn"
    return status, "one class is predicted for every validation row, though there are more."


def numeric_health(evidence: Evidence, rigour: Rigour) -> Finding:
    """G15: no number along the way was infinite or none."""
    for split, facts in evidence.facts.items():
        if facts.num_infinite:
            return "fail", f"{facts.num_infinite} rows of {split} have outputs that are not finite."
    if not evidence.health:
        return "pass", "all losses and outputs were finite."
    reasons = {e["member"]: e for e in evidence.health}
    shown = "; ".join(
        f"member {m} at step {e['step']}, {e['where']}, rows at positions {e['positions'][:3]}"
        for m, e in list(reasons.items())[:5]
    )
    status = "fail" if set(reasons) & set(evidence.chosen) else "warn"
    return status, f"the loss of {len(reasons)} of {len(evidence.members)} members was not finite: {shown}."


def interval_and_size(evidence: Evidence, rigour: Rigour) -> Finding:
    """G20: the headline has an interval, and the test set could show a gain that matters."""
    scores = evidence.scores
    found = scores.test[scores.primary]
    if few := _too_few(evidence):
        return "inconclusive", few
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return "fail", f"{scores.primary} has no interval on {found.n} test rows ({found.method})."
    sizes: Mapping[str, float] = scores.extra["detectable"]
    shown = ", ".join(f"{size:.4f} over {name}" for name, size in sizes.items())
    least = scores.extra["min_effect"]
    if least and any(not size <= least for size in sizes.values()):
        return "warn", f"a gain of {least:g} matters, but {found.n} rows show no less than {shown}."
    return "pass", f"{found.n:,} rows would show a gain of {shown or 'any size'} four times out of five."


def _too_few(evidence: Evidence) -> str:
    """Say why so few test rows claim nothing, if they are so few."""
    facts = evidence.facts["test"]
    if facts.num_rows < FEWEST_ROWS:
        return f"{facts.num_rows} test rows claim nothing; {FEWEST_ROWS} or more would."
    if evidence.num_classes:
        least = int(facts.actual.min())
        if least < FEWEST_OF_CLASS:
            return (
                f"the rarest class has {least} of {facts.num_rows} test rows; {FEWEST_OF_CLASS} or more would "
                f"need about {math.ceil(FEWEST_OF_CLASS * facts.num_rows / max(least, 1)):,} rows."
            )
    return ""


def beats_baselines(evidence: Evidence, rigour: Rigour) -> Finding:
    """G22: the gain over each baseline on the same rows is not luck.

    A gain that is not shown over the dummy fails. Over the linear model a gain of nothing or less fails; one above zero
    that these rows cannot show is inconclusive, as is all but a pass on too few rows. A linear model under
    `prefer: simple` need only be no worse.
    """
    paired = evidence.scores.paired
    p_values = evidence.scores.extra["p_values"]
    if not paired:
        return "not_run", "evaluate.baselines names none."
    few = _too_few(evidence)
    findings = [
        _against(name, gain, p_values[name], rigour.prefer == "simple" and evidence.model in LINEAR_MODELS)
        for name, gain in paired.items()
    ]
    if few:
        findings = [(status if status == "pass" else "inconclusive", text) for status, text in findings] + [
            ("pass", few)
        ]
    order = ("fail", "inconclusive", "pass")
    return min((status for status, _ in findings), key=order.index), " ".join(text for _, text in findings)


def _against(name: str, gain: Interval, p: float, need_not_win: bool) -> Finding:
    shown = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] over {name}"
    if p < ALPHA and gain.low > 0:
        return "pass", f"{shown}: shown (p = {p:.2g})."
    if name == "linear" and need_not_win and gain.high >= 0:
        return "pass", f"{shown}: a linear model need not beat one."
    if name == "dummy" or not gain.value > 0:
        return "fail", f"{shown}: not shown (p = {p:.2g})."
    needed = gain.n * (max(gain.value - gain.low, 1e-12) / gain.value) ** 2
    return "inconclusive", f"{shown}: not shown (p = {p:.2g}); a gain of this size needs about {needed:,.0f} rows."
