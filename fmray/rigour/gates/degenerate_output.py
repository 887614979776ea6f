"""Gate G14: make sure that outputs are what they claim to be, and differ between rows."""

import math

from fmray.evaluate.facts import Facts
from fmray.rigour.gates.gate import Evidence, Finding, Gate, Status
from fmray.spec.sections import Rigour

FURTHEST = 2e-5  # that probabilities in float32 may be from a sum of 1
DECIDES_BY_CLASS = ("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro")


def shapes_and_degenerate_output(evidence: Evidence, rigour: Rigour) -> Finding:
    """G14: outputs are what they claim to be, and say different things about different rows."""
    facts = evidence.facts["val"]
    if not (facts.high - facts.low).max() > 0:
        return Finding("fail", "the model gives every row the same answer.")
    if not evidence.num_classes:
        return Finding("pass", "predictions differ between rows.")
    if len(facts.low) != evidence.num_classes:
        return Finding("fail", f"there are {len(facts.low)} outputs for {evidence.num_classes} classes.")
    if facts.low.min() < 0 or facts.high.max() > 1 or not facts.furthest <= FURTHEST:
        return Finding("fail", "outputs are not probabilities: they leave [0, 1] or do not sum to 1.")
    return _squashed(facts) or _one_class(evidence)


def _squashed(facts: Facts) -> Finding | None:
    """Notice a module that ends in a softmax of its own: no answer can be surer than e / (e + C - 1)."""
    limit = math.e / (math.e + len(facts.low) - 1)
    if facts.surest > limit + 1e-6:
        return None
    answers = max(int(facts.actual.sum()), 1)  # one per row, or per token
    hits = facts.hits / answers
    error = math.sqrt(max(hits * (1 - hits), 1 / answers) / answers)
    if hits - facts.sureness / answers > max(0.1, 5 * error):
        return Finding(
            "fail",
            f"no probability exceeds {limit:.3f} while {hits:.0%} of answers are right: "
            "a softmax was applied twice. Let the module give logits.",
        )
    return None


def _one_class(evidence: Evidence) -> Finding:
    facts = evidence.facts["val"]
    if (facts.said > 0).sum() > 1 or (facts.actual > 0).sum() < 2:
        return Finding("pass", "outputs are probabilities, and differ between rows.")
    status: Status = "fail" if evidence.scores.primary in DECIDES_BY_CLASS else "warn"
    return Finding(status, "one class is predicted for every validation row, though there are more.")


GATE = Gate("shapes and degenerate output", "result", {}, shapes_and_degenerate_output)
