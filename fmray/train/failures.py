"""Tell failures apart by what helps against them, and say how often each is put up with.

Nothing here asks Ray or torch: their errors are known by their names, so whoever reads a run needs neither.
"""

import concurrent.futures
import dis
import errno
import os
import re
import sysconfig
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fmray import failures
from fmray.errors import FmrayError, TrainError
from fmray.events import Failure
from fmray.failures import (
    DEVICE_MEMORY,
    GRAVITY,
    KILLED_FOR_MEMORY,
    KINDS,
    MEMORY,
    NODE,
    NODE_DIED,
    PEER_LOST,
    RESTARTED,
    SHORT_OF_DEVICE_MEMORY,
    SHORT_OF_MEMORY,
    STORAGE,
    USER,
    WORKER,
    Action,
    Kind,
)
from fmray.store import is_disk_full, is_transient, redact

MOST_LOST = 100
"""Nodes that a training may lose; against a cluster that takes away each node it gives."""
MOST_HANGS = 1

_OWN_FOLDERS = (f"{Path(__file__).parents[1]}{os.sep}", f"{sysconfig.get_paths()['stdlib']}{os.sep}", "<frozen ")
"""Where files of fmray and of Python itself lie."""
_CALLERS = tuple(
    f"{os.sep}{path.replace('/', os.sep)}"
    for path in ("train/population.py", "train/step.py", "data/pipeline.py", "fmray/registry.py")
)
"""What imports and calls the modules, losses and steps that a job brings along."""
_SPEAKERS = tuple(
    f"{os.sep}{path.replace('/', os.sep)}"
    for path in (
        "workflow.py",
        "stages/ownership.py",
        "stages/preparing.py",
        "stages/reporting.py",
        "stages/scoring.py",
        "stages/training.py",
        "report/journal.py",
        "track/live.py",
        "tune/train_trials.py",
        "tune/search_progress.py",
        "tune/sweep.py",
        "progress.py",
    )
)
"""What passes events on, and calls nothing of a job's own."""
_LIBRARY = re.compile(r"(site|dist)-packages[/\\](torch|functorch|ray|numpy|scipy|pandas|polars|pyarrow|optuna)[/\\]")
_RAY_NODE = {
    "NodeDiedError", "LocalRayletDiedError", "PreemptionError", "TaskUnschedulableError", "ActorUnschedulableError",
    "WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError",
}  # fmt: skip


class ShortOfMemoryError(TrainError):
    """Say that a training step did not fit into memory; every worker of a group raises it at the same step.

    Args:
        message: What the first worker that had too little said.
        kind: Whose memory it was.
        rank: That worker.
        rows: The most rows that a worker computed at a time.
    """

    def __init__(self, message: str, kind: Kind = MEMORY, rank: int = 0, rows: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.rank = rank
        self.rows = rows

    def __reduce__(self) -> tuple[type["ShortOfMemoryError"], tuple[str, Kind, int, int]]:
        return ShortOfMemoryError, (self.message, self.kind, self.rank, self.rows)


class CodeError(TrainError):
    """Stand for an exception of the user's own code, whose class nobody else may be able to read.

    Args:
        said: It in one line, with its place.
        stacks: Where in the run's directory its traceback is.
        root: That directory, where it is known.
        stage: What the run was at.
    """

    def __init__(self, said: str, stacks: str, root: str = "", stage: str = "train") -> None:
        place = f"{root}/{stacks}" if root else f"{stacks} of the run's directory"
        super().__init__(f"{said}. Its traceback is in {place}. Correct the code, then run the job again.", stage)
        self.said = said
        self.stacks = stacks
        self.root = root

    def __reduce__(self) -> tuple[type["CodeError"], tuple[str, str, str, str]]:
        return CodeError, (self.said, self.stacks, self.root, self.where)


def kind_of(error: BaseException) -> Kind:
    """Tell what kind of failure an error means, as far as the error itself says.

    A process that was killed looks the same whoever killed it; who has seen more must ask the node.
    """
    for kind in KINDS:
        if getattr(error, "kind", None) == kind:  # it was asked before its causes were lost on the way
            return kind
    if isinstance(error, FmrayError):
        return STORAGE if any(_is_storage(one) for one in _chain(error)) else USER
    if inner := _inside(error):
        return kind_of(inner)
    text = str(error)
    named = _names(error)
    if "torch.OutOfMemoryError" in named or (isinstance(error, RuntimeError) and SHORT_OF_DEVICE_MEMORY.search(text)):
        return DEVICE_MEMORY
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and SHORT_OF_MEMORY.search(text)):
        return MEMORY
    if any(name.startswith("ray.") for name in named):
        return _kind_of_ray(error, named, text)
    if _is_storage(error):
        return STORAGE
    if is_lost_peer(error) or "torch.AcceleratorError" in named:  # e.g. memory of a GPU that can no longer be read
        return WORKER
    return USER if isinstance(error, Exception) else WORKER


def is_lost_peer(error: BaseException) -> bool:
    """Tell whether an error says no more than that another worker is gone."""
    named = _names(error)
    bare = isinstance(error, RuntimeError | ConnectionError)
    lost = any(name.startswith("torch.distributed.") or name.endswith("CollectiveTimeoutError") for name in named)
    return lost or (bare and PEER_LOST.search(str(error)) is not None)


def gravest(errors: Mapping[int, BaseException]) -> int:
    """Give the worker whose error explains those of the others.

    When one is lost, the others fail as well, in many ways; a fault in the user's code comes again without it.
    """

    def place(rank: int) -> tuple[bool, int, int]:
        return is_lost_peer(errors[rank]), GRAVITY.index(kind_of(errors[rank])), rank

    return min(errors, key=place)


def failure(
    kind: Kind,
    text: str,
    action: Action,
    attempt: int = 1,
    rank: int | None = None,
    node: str | None = None,
    stacks: str | None = None,
) -> Failure:
    """Give the event that reports a failure, without secrets.

    Args:
        attempt: Number of the failure.
        stacks: Where in the run's directory the stacks of all workers lie.
    """
    counted = kind == WORKER or (kind == STORAGE and action == RESTARTED)
    return Failure(kind, redact(text), action, counted=counted, attempt=attempt, rank=rank, node=node, stacks=stacks)


@dataclass
class Budget:
    """Count failures, each kind for itself.

    Args:
        most: Failures of workers that are put up with: `run.max_failures`.
    """

    most: int
    workers: int = 0
    nodes: int = 0
    hangs: int = 0

    def allows(self, kind: Kind) -> bool:
        """Take note of a failure, and tell whether the same may be tried again."""
        match kind:
            case failures.WORKER | failures.STORAGE:  # of the latter, what was not the store's own has not waited
                self.workers += 1
                return self.workers <= self.most
            case failures.NODE:
                self.nodes += 1
                return self.nodes <= MOST_LOST
            case failures.HANG:
                self.hangs += 1
                return self.hangs <= MOST_HANGS
        return False

    def spent(self, kind: Kind) -> tuple[str, str]:
        """Say why a failure ends a training that could be tried again, and by which key."""
        match kind:
            case failures.NODE:
                return f"more than {MOST_LOST} nodes were lost", "run.workers"
            case failures.HANG:
                return f"the workers hung {self.hangs} times", "run.hang_seconds"
        return f"the workers failed more than {self.most} times", "run.max_failures"


def is_user_error(error: BaseException) -> bool:
    """Tell whether an error comes from code that a job brings along, or from what that code asked of a library.

    `sys.exit()` and the like count if the code raises them itself; what interrupts it, such as Ctrl-C, does not.
    """
    if isinstance(error, FmrayError | GeneratorExit | concurrent.futures.CancelledError):
        return False
    if not isinstance(error, Exception):
        return _raises_itself(error)
    if _is_of_listener(error):
        return False
    return kind_of(error) == USER and not (isinstance(error, OSError) and not user_frames(error))


def _is_of_listener(error: BaseException) -> bool:
    """Tell whether an error comes from what a program that runs fmray gets events with, which is no part of a job."""
    names = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = next((place for place in reversed(range(len(names))) if _is_users(names[place])), 0)
    callers = [name for name in names[:own] if name.startswith(_OWN_FOLDERS[0])]
    return bool(callers) and callers[-1].endswith(_SPEAKERS)


def _raises_itself(error: BaseException) -> bool:
    frames = [(frame, frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [place for place, (_, name) in enumerate(frames) if _is_users(name)]
    if not own or not any(name.endswith(_CALLERS) for _, name in frames[: own[-1]]):
        return False  # code around a training, such as what gets its events, may end it
    if own[-1] < len(frames) - 1:  # `exit()` ends in a file of Python itself, a signal's handler in another one
        return not isinstance(error, SystemExit | KeyboardInterrupt) or "_sitebuiltins" in frames[-1][1]
    # Ctrl-C strikes at any instruction of the innermost frame, a `raise` of the user's at that one only
    return not isinstance(error, KeyboardInterrupt) or _raised_at(error) == "RAISE_VARARGS"


def _raised_at(error: BaseException) -> str:
    """Name the instruction at which an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]]


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Give the frames of an error's traceback that are of the user's own code, outermost first."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]


def _is_users(filename: str) -> bool:
    installed = filename.startswith(_OWN_FOLDERS) or "site-packages" in filename or "dist-packages" in filename
    return not installed and (not filename.startswith("<") or filename.startswith("<ipython"))


def place_of(error: BaseException) -> str:
    """Say where an error was raised: file, line and function of the innermost frame of the user's own code.

    Where there is none, the code may be installed: then it is the innermost frame outside the libraries fmray uses.
    """
    frames = traceback.extract_tb(error.__traceback__)
    installed = [f for f in frames if not f.filename.startswith(_OWN_FOLDERS) and not _LIBRARY.search(f.filename)]
    own = user_frames(error) or installed or [f for f in frames if "site-packages" not in f.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name}" if own else ""


def one_line(error: BaseException) -> str:
    """Give an error in one line, without secrets."""
    if isinstance(error, FmrayError):
        return str(redact(str(error)))
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = lines[0].rstrip(".") if lines else ""
    batch = f"on a batch of {error.batch_rows} rows, " if hasattr(error, "batch_rows") else ""
    notes = "".join(f" ({batch}{note})" for note in getattr(error, "__notes__", ())[-1:])
    return str(redact(f"{type(error).__name__}: {text}{notes}" if text else f"{type(error).__name__}{notes}"))


def _kind_of_ray(error: BaseException, named: set[str], text: str) -> Kind:
    own = {name.rpartition(".")[2] for name in named if name.startswith("ray.")}
    if "OutOfMemoryError" in own or KILLED_FOR_MEMORY.search(text):
        return MEMORY
    lost = "RayActorError" in own and NODE_DIED.search(text) is not None
    return NODE if own & _RAY_NODE or getattr(error, "preempted", False) or lost else WORKER


def _inside(error: BaseException) -> BaseException | None:
    """Give the error that one of Ray's stands for."""
    failures = getattr(error, "worker_failures", None)
    if isinstance(failures, Mapping) and failures:
        return failures[gravest(failures)]  # type: ignore[no-any-return]
    for name in ("health_check_failure", "controller_failure", "cause", "_base_exc"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and inner is not error:
            return inner
    return None


def _is_storage(error: BaseException) -> bool:
    if isinstance(error, FmrayError):
        return False
    stale = isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE, errno.EROFS)
    return stale or is_disk_full(error) or (isinstance(error, OSError) and is_transient(error))


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__
    return found


def _names(error: BaseException) -> set[str]:
    return {f"{one.__module__}.{one.__qualname__}" for one in type(error).__mro__}
