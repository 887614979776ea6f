"""Describe a trial: members of one structure, trained by one process or group of workers; and what all trials share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fmray.metrics.find import find_metric
from fmray.metrics.metric import Metric
from fmray.records import Json, Prepared
from fmray.spec.job import Job
from fmray.store import Fence, Store
from fmray.train.decision import Decision
from fmray.train.micro_batches import MicroBatches
from fmray.train.pack import Plan

Role = Literal["member", "finalist", "baseline"]
DecideForPack = Callable[[str, int, dict[int, float]], Decision]
"""(pack, epochs finished, member -> best score) -> which members stop; see `tune.halving`."""


@dataclass(frozen=True)
class Trial:
    """Members of one structure, trained by one process or one group of workers.

    Members share a structure if they differ only in parameters that may differ within a pack; see `spec.packable`.

    Args:
        number: Position in the sweep.
        structure: Number of the structure.
        job: The job with the structure's values.
        plans: One per member.
        prepared: The rows the members learn from.
        total: Number of trials of the sweep, as far as known; only shown in progress messages.
        waited: The trial has waited at a rung and continues now; this is not reported as a resume.
        fault: {"reason", "class"} of the error if its rows cannot be prepared, else None. `prepared` is then only a
            placeholder: the rows of the job with the first value of each range.
    """

    number: int
    structure: int
    job: Job
    plans: tuple[Plan, ...]
    prepared: Prepared
    total: int = 1
    waited: bool = False
    fault: Json | None = None


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share.

    Args:
        metric: Name of the primary metric.
        store, home: Where states and outcomes are written, a folder for each trial.
        role: "member", "finalist" or "baseline".
        fence: Fence of the lease on `home`; where the context was sent, it guards every write below `home`.
        records_refused_trials: If a trial's parameters are rejected, record the trial as failed instead of ending the
            sweep.
        records_failed_members: If a member's code raises, record that member as failed and keep training the others.
    """

    metric: str
    store: Store
    home: str
    role: Role
    fence: Fence
    records_refused_trials: bool = False
    records_failed_members: bool = False

    def folder(self, number: int) -> str:
        """Return the folder of a trial."""
        return f"{self.home}/trials/{number:05d}"

    def pack_folder(self, trial: Trial, pack: int) -> str:
        """Return the folder of a pack of a trial."""
        return f"{self.folder(trial.number)}/{pack:05d}"

    def metric_of(self, trial: Trial) -> Metric:
        """Return the primary metric, for the rows of a trial."""
        return find_metric(self.metric, trial.prepared.target, trial.job.task.params)

    def micro_batches(self, trial: Trial) -> MicroBatches:
        """Return the handle on the stored number of micro-batches of a trial."""
        path = f"{self.folder(trial.number)}/accumulate.json"
        return MicroBatches(self.store, path, self.fence, trial.job.train)


def name_members(plans: Sequence[Plan]) -> str:
    """Name up to eight members for a message; a single member with the parameters that set it apart."""
    names = ", ".join(str(plan.index) for plan in plans[:8]) + (", ..." if len(plans) > 8 else "")
    params = ", ".join(f"{name}: {value}" for name, value in plans[0].params.items()) if len(plans) == 1 else ""
    return f"member{'s' * (len(plans) > 1)} {names}{f' ({params})' if params else ''}"
