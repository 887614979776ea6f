"""Gate G22: make sure that the gain over each baseline on the same rows is not luck."""

from fmray.catalogue import LINEAR_MODELS
from fmray.records import Interval
from fmray.rigour.gates.gate import Evidence, Finding, Gate
from fmray.rigour.gates.interval_and_size import too_few
from fmray.spec.sections import Rigour

ALPHA = 0.05


def beats_baselines(evidence: Evidence, rigour: Rigour) -> Finding:
    """G22: the gain over each baseline on the same rows is not luck.

    A gain that is not shown over the dummy fails. Over the linear model a gain of nothing or less fails; one above zero
    that these rows cannot show is inconclusive, as is all but a pass on too few rows. A linear model under
    `prefer: simple` need only be no worse.
    """
    paired = evidence.scores.paired
    p_values = evidence.scores.extra["p_values"]
    if not paired:
        return Finding("not_run", "evaluate.baselines names none.")
    few = too_few(evidence)
    findings = [
        _against(name, gain, p_values[name], rigour.prefer == "simple" and evidence.model in LINEAR_MODELS)
        for name, gain in paired.items()
    ]
    statuses = [found.status for found in findings]
    texts = [found.text for found in findings]
    if few:
        statuses = [status if status == "pass" else "inconclusive" for status in statuses]
        texts.append(few)
    order = ("fail", "inconclusive", "pass")
    return Finding(min(statuses, key=order.index), " ".join(texts))


def _against(name: str, gain: Interval, p: float, need_not_win: bool) -> Finding:
    shown = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] over {name}"
    if p < ALPHA and gain.low > 0:
        return Finding("pass", f"{shown}: shown (p = {p:.2g}).")
    if name == "linear" and need_not_win and gain.high >= 0:
        return Finding("pass", f"{shown}: a linear model need not beat one.")
    if name == "dummy" or not gain.value > 0:
        return Finding("fail", f"{shown}: not shown (p = {p:.2g}).")
    needed = gain.n * (max(gain.value - gain.low, 1e-12) / gain.value) ** 2
    return Finding(
        "inconclusive", f"{shown}: not shown (p = {p:.2g}); a gain of this size needs about {needed:,.0f} rows."
    )


GATE = Gate("beats baselines", "result", {}, beats_baselines)
