"""Run the gates of a stage on behalf of a run: say what they find, and stop it where its data or training fails one."""

from collections.abc import Callable, Sequence

import numpy as np

from fmray.data.scratch import load
from fmray.evaluate.table import Table
from fmray.metrics.metric import Metric
from fmray.records import Json, Prepared
from fmray.rigour.gates import DataEvidence, failed, refuse_failed, run_gates
from fmray.rigour.gates.content_duplicate import with_scores
from fmray.spec.job import Job
from fmray.store import Store

RUN, GATES = "run.json", "gates.json"


def data_gates(prepared: Prepared, job: Job, root: str, store: Store, note: Callable[[str], None]) -> tuple[Json, ...]:
    """Run the gates of the data, and say what they find; see `require_passed`."""
    found = run_gates("data", DataEvidence.of(prepared, job.data.key), job.rigour)
    require_passed(found, (), root=root, store=store, note=note)
    return found


def require_passed(
    found: tuple[Json, ...], before: tuple[Json, ...], root: str, store: Store, note: Callable[[str], None]
) -> None:
    """Say what gates found, and stop the run where one fails.

    Args:
        before: What gates of earlier stages found.
        root: Directory of the run; where a gate fails, it keeps what was found.
        note: Gets a line for each gate.

    Raises:
        GateError: If a gate fails.
    """
    say(found, note)
    if names := failed(found):
        store.write_json(f"{root}/{GATES}", [*before, *found])
        path = f"{root}/{RUN}"
        store.write_json(path, {**store.read_json(path), "failed_gates": list(names)})
    refuse_failed(found)


def say(gates: Sequence[Json], note: Callable[[str], None]) -> None:
    """Give one line for each gate."""
    for gate in gates:
        note(f"gate {gate['gate']}, {gate['name']}: {gate['status'].replace('_', ' ')}. {gate['text']}")


def with_overlap(found: tuple[Json, ...], prepared: Prepared, shown: Table, metric: Metric) -> tuple[Json, ...]:
    """Add the score on test rows whose inputs stand in train to what the gates of the data found, if they did not pass.

    Args:
        shown: Predictions on test rows.
    """
    files = prepared.overlap.get("files", [])
    if not files:
        return found
    overlapping = np.concatenate([np.asarray(load(f"{prepared.root}/{name}")) for name in files])
    return with_scores(found, overlapping, shown, metric)
