"""Gate G03: find test rows whose inputs a training row has, beyond what chance brings about.

Chance is what happens among training rows alone: were the test set one more training row, with which probability would
its inputs be there already? That is the share of training rows whose inputs another one has. A held-out block of the
same size would say the same with more noise, and too little of it, as fewer rows would be left to compare with.
"""

import math

import numpy as np

from fmray.evaluate.table import Table
from fmray.metrics.metric import Metric
from fmray.records import Json
from fmray.rigour.gates.gate import DataEvidence, Finding, Gate
from fmray.spec.sections import Rigour

MOST_EXCESS = 0.002
SURE = 3.0
MOST_CHANCE = 0.2


def content_duplicate(evidence: DataEvidence, rigour: Rigour) -> Finding:
    """G03: no more test rows have the inputs of a training row than chance explains.

    Source: Good, "The population frequencies of species and the estimation of population parameters", Biometrika 1953;
    its variance by Esty, "A normal limit law for a nonparametric estimator of the coverage of a random sample", 1983.
    """
    overlap = evidence.overlap or {}
    num_test = overlap["test"]
    num_train = overlap["train"]
    if not overlap["overlapping"]:
        return Finding("pass", f"none of {num_test:,} test rows has the inputs of a training row.", 0.0, MOST_EXCESS)
    share = overlap["overlapping"] / num_test
    chance = overlap["repeated"] / num_train
    shown = f"{overlap['overlapping']:,} of {num_test:,} test rows ({share:.2%}) have the inputs of a training row"
    if chance > MOST_CHANCE:
        text = (
            f"{shown}. Inputs repeat by chance: {chance:.1%} of training rows have those of another one. Copies cannot "
            "be told from these, and more rows would not help; see gate G02."
        )
        return Finding("inconclusive", text, share - chance, MOST_EXCESS)
    single = 1 - chance
    variance = share * (1 - share) / num_test + (single * chance + 2 * overlap["pairs"] / num_train) / num_train
    excess = share - chance
    z = excess / math.sqrt(max(variance, 1e-300))
    by_chance = f"{chance:.2%} would by chance"
    if excess > MOST_EXCESS and z > SURE:
        text = f"{shown}, {by_chance} (z = {z:.1f}). data.dedup: exact removes training rows that equal a test row."
        return Finding("fail", text, excess, MOST_EXCESS)
    least = max(MOST_EXCESS, SURE * math.sqrt(variance))
    return Finding("pass", f"{shown}, {by_chance}; copies of {least:.2%} of them would show.", excess, MOST_EXCESS)


def with_scores(found: tuple[Json, ...], overlapping: np.ndarray, shown: Table, metric: Metric) -> tuple[Json, ...]:
    """Add to a G03 that did not pass what the model scores on overlapping test rows, and on the others.

    Shapes:
        overlapping: (n, 2), uint64, ids of test rows whose inputs a training row has.
    """
    kind = np.dtype([("", np.uint64), ("", np.uint64)])
    ids = np.ascontiguousarray(shown.row_id).view(kind)[:, 0]
    among = np.isin(ids, np.ascontiguousarray(overlapping).view(kind)[:, 0])
    told = []
    for rows, name in ((among, "overlapping"), (~among, "other")):
        part = shown.some(np.flatnonzero(rows))
        if len(part):
            told.append(f"{metric.value(part.output, part.target, part.weight):.4f} on {len(part):,} {name} test rows")
    text = f" {metric.name} is {' and '.join(told)}."
    is_meant = [gate["gate"] == "G03" and gate["status"] in ("waived", "warn", "inconclusive") for gate in found]
    return tuple(
        {**gate, "text": gate["text"] + text} if add else gate for gate, add in zip(found, is_meant, strict=True)
    )


GATE = Gate(
    "content duplicate", "data", {"overlap": "the rows were prepared by an earlier version."}, content_duplicate
)
