"""Gate G31: make sure that the model that was written is the one that was scored.

A fresh process opened its folder and read a few validation rows anew. Three predictions of these rows are compared: its
own, those of the run's members computed in the same way from prepared rows, and those that the run scored.
"""

import numpy as np

from fmray.rigour.gates.gate import ArtefactEvidence, Finding, Gate, Golden
from fmray.spec.sections import Rigour

TOLERANCE = 1e-6
"""Largest difference between two processes, as a share of the largest output of its column where that is above 1."""
OTHER_BATCHES = {"cpu": 1e-4}
"""The same between predictions of these rows alone and among others: sums of floats differ in their order."""
OTHER_DEVICE = 1e-2
"""Where the run predicted on another device, whose matrix products may be rounded to fewer digits."""
MOST_JUMPS = 0.01
"""Share of rows that may differ by more from what was scored: where members vote, the least rounding turns a tie."""
CODE = "code/"


def same_when_reopened(evidence: ArtefactEvidence, rigour: Rigour) -> Finding:
    """G31: opened in a fresh process, the model is whole, holds no pickle, and predicts what the run did."""
    if pickles := [name for name in evidence.pickles if not name.startswith(CODE)]:
        text = f"the model's folder holds {', '.join(pickles[:3])}, which may run code by being read."
        return Finding("fail", text, value=len(pickles), limit=0)
    if evidence.error:
        return Finding("fail", f"a fresh process cannot use the model's folder: {evidence.error}")
    if evidence.golden is None:
        return Finding("not_run", evidence.reason)
    found = _compared(evidence.golden)
    if found.status != "pass" or not evidence.pickles:
        return found
    text = f"{found.text} Beside the author's code lies {', '.join(evidence.pickles[:3])}, which fmray never reads."
    return Finding("warn", text, found.value, found.limit)


def _compared(golden: Golden) -> Finding:
    rows = f"{golden.rows} validation rows"
    if golden.faulty:
        text = f"opened in a fresh process, the model cannot read {golden.faulty} of {rows} that the run predicted."
        return Finding("fail", text, value=golden.faulty, limit=0)
    if golden.fresh.shape != golden.here.shape:
        shapes = f"outputs of shape {golden.fresh.shape} for {rows}, where the run's members give {golden.here.shape}"
        return Finding("fail", f"opened in a fresh process, the model gives {shapes}.")
    apart = float(_apart(golden.fresh, golden.here).max(initial=0))
    if apart > TOLERANCE:
        text = f"opened in a fresh process, the model differs from the run's by {apart:.2g} on {rows}"
        return Finding("fail", f"{text}; {TOLERANCE:g} is accepted.", apart, TOLERANCE)
    limit = OTHER_BATCHES.get(golden.device, OTHER_DEVICE)
    jumps = float((_apart(golden.fresh, golden.said) > limit).mean())
    if jumps > MOST_JUMPS:
        text = f"opened in a fresh process, the model differs by more than {limit:g} from what was scored"
        return Finding("fail", f"{text} on {jumps:.1%} of {rows}.", jumps, MOST_JUMPS)
    to_the_bit = np.array_equal(golden.fresh, golden.here)
    how = "to the bit" if to_the_bit else f"within {apart:.2g}, of which {TOLERANCE:g} is accepted"
    text = f"a fresh process opened the model's folder, and predicts for {rows} what the run does, {how}."
    return Finding("pass", text, apart, TOLERANCE)


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Give the largest difference in each row (N,), as a share of the largest output of its column, or of 1.

    Shapes:
        one, other: (N, C or T); of other shapes, all is different.
    """
    if one.shape != other.shape:
        return np.full(max(1, len(one)), np.inf)
    is_same = (one == other) | (np.isnan(one) & np.isnan(other))  # gate G15 is for what is infinite or none
    scale = np.maximum(1, np.where(np.isfinite(other), np.abs(other), 0).max(axis=0, initial=0))
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(one - other) / scale, nan=np.inf)
    worst: np.ndarray = np.where(is_same, 0, apart).max(axis=1, initial=0)
    return worst


GATE = Gate("same when reopened", "artefact", {}, same_when_reopened)
