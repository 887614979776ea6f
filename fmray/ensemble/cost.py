"""Measure what it takes to let an ensemble predict."""

import time
from collections.abc import Sequence

import numpy as np

from fmray.data.lanes import Lanes
from fmray.records import Ensemble, Json, Member, Prepared
from fmray.spec.ref import Ref
from fmray.train.predict import Predictor, inputs_of

MOST_ROWS = 8192
TRIALS = 3


def cost_of(members: Sequence[Member], ensemble: Ensemble, prepared: Prepared, task: Ref, device: str = "cpu") -> Json:
    """Count the parameters behind an answer, and the rows answered in a second, the best of a few trials.

    Args:
        members: Those that the ensemble names, in its order.

    Raises:
        DataError: If the tensors of one do not load.
    """
    predictor = Predictor(members, ensemble, prepared=prepared, task=task, device=device)
    lanes = Lanes(prepared, "val")
    rows = np.arange(min(lanes.num_rows, MOST_ROWS))
    x = inputs_of(members, prepared, "val", rows)
    seconds = float("inf")
    for _ in range(1 + TRIALS):  # the first one warms up
        started = time.perf_counter()
        predictor(x)
        seconds = min(seconds, time.perf_counter() - started)
    return {"parameters": predictor.num_parameters, "rows_per_second": round(len(rows) / max(seconds, 1e-9))}
