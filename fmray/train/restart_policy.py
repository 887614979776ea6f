"""Find out what ended workers, and decide whether they start again.

A failure that says nothing of the job is tried again, each kind within a budget of its own; one that would come again
ends the training, with what to change.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fmray.errors import ClusterError, FmrayError, TrainError
from fmray.events import Report
from fmray.failures import DEVICE_MEMORY, HALVED, HANG, MEMORY, NODE, RESTARTED, STOPPED, USER, Kind
from fmray.store import is_disk_full, redact
from fmray.train.failures import Budget, CodeError, failure, gravest, kind_of
from fmray.train.watch import Watch, settle

Halve = Callable[[], int | None]
"""Have a step computed in twice as many micro-batches from now on; gives their number, None if they have one row."""
LESS = "Choose a smaller model or smaller packs, or machines with more memory; then run the job again to continue."
MOST_CHARACTERS = 300
_KILLED = re.compile(r"[^\n.:]*killed due to the node running low on memory")


@dataclass(frozen=True)
class Fault:
    """Say what ended workers.

    Args:
        kind: Of the failure.
        text: A sentence.
        error: What Ray, or the worker, raised.
        rank, node: The first worker it hit, and where that was.
        stacks: Where in the run's directory the stacks of all workers lie.
    """

    kind: Kind
    text: str
    error: BaseException
    rank: int | None = None
    node: str | None = None
    stacks: str | None = None


def find(error: BaseException, group: int, watch: Watch) -> Fault:
    """Find out what ended a group of workers: what was seen of them, what they raised, and what their nodes say."""
    places = watch.take(group)
    if group in watch.hung:
        text, stacks = watch.hung[group]
        return Fault(HANG, text, error, stacks=stacks)
    kind = kind_of(error)
    failures = getattr(error, "worker_failures", None) or {}
    first = gravest(failures) if failures else min(places, default=-1)
    own = failures.get(first, getattr(error, "cause", error))
    if isinstance(own, FmrayError) and not isinstance(own, CodeError):
        return Fault(kind, str(own), own)
    said = own.said if isinstance(own, CodeError) else _last_line(own)
    trace = own.stacks if isinstance(own, CodeError) else None
    kind, rank, more = settle(kind, first, places)
    if rank < 0:
        return Fault(kind, more or said, error, stacks=trace)
    node = places[rank]["node"] if rank in places else None
    return Fault(kind, more or f"rank {rank}: {said}", error=error, rank=rank, node=node, stacks=trace)


def decide(fault: Fault, budget: Budget, attempt: int, halve: Halve, report: Report) -> None:
    """Let workers start again, or end their training, and tell of it.

    Args:
        attempt: How often they have failed by now.

    Raises:
        ClusterError: If they failed too often.
        TrainError: If the code of the job failed, or memory does not suffice.
        FmrayError: The fault's error, if it is one.
    """
    tell = partial(failure, fault.kind, attempt=attempt, rank=fault.rank, node=fault.node, stacks=fault.stacks)
    refused = isinstance(fault.error, FmrayError)
    if fault.kind in (MEMORY, DEVICE_MEMORY) and not refused:
        number = halve()
        if number is not None:
            text = f"{fault.text}. Each step is computed in {number} micro-batches from now on"
            report(tell(text, HALVED))
            return
    elif not refused and not _is_final(fault) and budget.allows(fault.kind):
        report(tell(fault.text, RESTARTED))
        return
    report(tell(fault.text, STOPPED))
    raise _end(fault, budget)


def _end(fault: Fault, budget: Budget) -> FmrayError:
    if isinstance(fault.error, FmrayError):
        return fault.error
    if fault.kind in (MEMORY, DEVICE_MEMORY):
        return TrainError(f"memory does not suffice for one row at a time: {fault.text}. {LESS}", "train.batch_rows")
    if fault.kind == USER:
        if fault.stacks:
            return CodeError(fault.text, fault.stacks)
        return TrainError(f"{fault.text}. Correct the code, then run the job again.", "train")
    reason, where = ("no node had room", "run.workers") if _found_no_room(fault) else budget.spent(fault.kind)
    stacks = f" The stacks of all workers are in {fault.stacks} of the run's directory." if fault.stacks else ""
    return ClusterError(
        f"{reason}, the last time with: {fault.text}.{stacks} "
        "What they finished is kept; run the job again to continue.",
        where,
    )


def _is_final(fault: Fault) -> bool:
    return is_disk_full(fault.error) or _found_no_room(fault)


def _found_no_room(fault: Fault) -> bool:
    """Tell whether Ray Train tried to start workers as often as it was allowed to."""
    return fault.kind == NODE and hasattr(fault.error, "controller_failure")


def _last_line(error: BaseException) -> str:
    """Give the last line of what Ray says of an error, which is that of the worker itself, without Ray's advice."""
    if (found := _KILLED.search(str(error))) is not None:
        return found[0]
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    said = lines[-1].strip().partition(" Some common causes")[0][:MOST_CHARACTERS] if lines else type(error).__name__
    return str(redact(said.rstrip(".")))
