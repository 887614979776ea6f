"""Gate G15: make sure that no number along the way was infinite or none."""

from fmray.rigour.gates.gate import Evidence, Finding, Gate, Status
from fmray.spec.sections import Rigour


def numeric_health(evidence: Evidence, rigour: Rigour) -> Finding:
    """G15: no number along the way was infinite or none."""
    for split, facts in evidence.facts.items():
        if facts.num_infinite:
            return Finding("fail", f"{facts.num_infinite} rows of {split} have outputs that are not finite.")
    if not evidence.health:
        return Finding("pass", "all losses and outputs were finite.")
    reasons = {e["member"]: e for e in evidence.health}
    shown = "; ".join(
        f"member {m} at step {e['step']}, {e['where']}, rows at positions {e['positions'][:3]}"
        for m, e in list(reasons.items())[:5]
    )
    status: Status = "fail" if set(reasons) & set(evidence.chosen) else "warn"
    return Finding(status, f"the loss of {len(reasons)} of {len(evidence.members)} members was not finite: {shown}.")


GATE = Gate("numeric health", "result", {}, numeric_health)
