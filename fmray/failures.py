"""Name every kind of failure once: its name in events, the words it is known by, what it means and what to do.

Who raises, restarts, reports or explains reads this table; nothing here asks Ray or torch, so whoever reads a run needs
neither. Which kind an exception means is decided in `train.failures`, which kind a text means here.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["user", "memory", "device memory", "node", "hang", "storage", "worker"]
Action = Literal["stopped", "restarted", "halved the micro-batch", "waited", "left the member out"]
STOPPED: Final = "stopped"
RESTARTED: Final = "restarted"
HALVED: Final = "halved the micro-batch"
WAITED: Final = "waited"
LEFT_OUT: Final = "left the member out"
USER: Final = "user"
"""The job, the data or code that the user brought: it would fail again, so it is not tried again."""
MEMORY: Final = "memory"
"""The memory of a machine did not suffice."""
DEVICE_MEMORY: Final = "device memory"
"""The memory of a GPU did not suffice."""
NODE: Final = "node"
"""A machine was lost or taken away."""
HANG: Final = "hang"
"""Nobody made a step for too long."""
STORAGE: Final = "storage"
"""The store, or a disk, refused for longer than is waited."""
WORKER: Final = "worker"
"""A process died, or anything else."""
KINDS: Final[tuple[Kind, ...]] = (USER, MEMORY, DEVICE_MEMORY, NODE, HANG, STORAGE, WORKER)
GRAVITY: Final[tuple[Kind, ...]] = (HANG, DEVICE_MEMORY, MEMORY, NODE, STORAGE, WORKER, USER)
"""When several workers fail at once, the first of these explains the others."""
AGAIN = "then run the same command again: it continues where it stopped"


@dataclass(frozen=True)
class Trouble:
    """Describe a kind of trouble to people.

    Args:
        name: As `fmray why` gives it.
        words: Regular expression, any case, of what fmray, Ray, torch and operating systems say of it.
        cause, fix: In words.
        kind: Of the failure event that means it; "" if none does.
    """

    name: str
    words: str
    cause: str
    fix: str
    kind: Kind | Literal[""] = ""


# Ray names the OOM killer among the "common causes" of any death; only what follows it may be believed
_HEDGE = re.compile(r"Some common causes include:[^\n]*")

TROUBLES = (
    Trouble(
        "device memory",
        r"CUDA out of memory|CUDA error: out of memory|torch\.(cuda\.)?OutOfMemoryError|HIP out of memory",
        "the memory of the GPU did not suffice",
        f"Set train.accumulate higher or train.batch_rows lower (the same, or another result), {AGAIN}",
        kind=DEVICE_MEMORY,
    ),
    Trouble(
        "memory",
        r"low on memory|memory does not suffice|run out of memory|OutOfMemoryError|NODE_OUT_OF_MEMORY|OOM kill"
        r"|\bMemoryError|Cannot allocate memory|std::bad_alloc|oom-kill|OOMKilled",
        "the memory of a node ran out, and a process of the run was killed for it; that is no bug in the code",
        "Set fewer run.workers per node, a lower run.memory (rows are then streamed) or a smaller train.batch_rows, "
        f"or take nodes with more memory; {AGAIN}",
        kind=MEMORY,
    ),
    Trouble(
        "full disk",
        r"disk is full|need [\d,]+ bytes, [\d,]+ are free|No space left on device|\bENOSPC\b"
        r"|\[Errno 28\]|Disk quota exceeded|OutOfDiskError",
        "the disk is full",
        f"Free space (`fmray gc` removes what no run needs), or name another store with --store; {AGAIN}",
    ),
    Trouble(
        "lease",
        r"is held by .+last sign of life|lease \d+ was lost|took over as number",
        "another process holds the run",
        "Wait until that process ends or stop it; one process at a time may write to a run",
    ),
    Trouble(
        "versions",
        r"Version mismatch|fmray differs|python differs|ray differs|torch differs|No module named 'fmray"
        r"|Can't get attribute|cannot import name .* from 'fmray|unsupported pickle protocol"
        r"|written by another version",
        "two sides run different versions of Python, Ray or fmray",
        f"Start all nodes from one image, or submit with --with-fmray; `fmray preflight` names what differs; {AGAIN}",
    ),
    Trouble(
        "token",
        r"refuses the token|asks for a token|AuthenticationError|Unauthenticated|invalid (auth|token)",
        "the cluster refuses the token",
        "Put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token of whoever starts the run",
    ),
    Trouble(
        "infeasible resources",
        r"do not fit \S+ CPUs|want a GPU each|no CUDA device|found no CUDA|has no GPU",
        "the cluster does not have what the job asks for",
        "Ask for less (run.workers, run.gpu), or add nodes",
    ),
    Trouble(
        "dead node",
        r"NodeDiedError|was lost, with rank|no node had room"
        r"|ended due to node|node (was |is |has )?(died|dead|lost)|marked dead"
        r"|missed too many heartbeats|raylet .*(died|unexpectedly)|node .{0,80}(failure|has been terminated|preempt)",
        "a node of the cluster died",
        f"Bring the node back or go on without it; {AGAIN}",
        kind=NODE,
    ),
    Trouble(
        "hang",
        r"(worker|rank|training)s? (hung|hangs)|no step was made for|no progress for|NCCLHangError|watchdog"
        r"|Timed out waiting .* (all_?reduce|collective|recv operation)",
        "the workers stood still, each waiting for another",
        f"Look where the one stands that the others wait for; {AGAIN}",
        kind=HANG,
    ),
    Trouble(
        "killed worker",
        r"worker process has died|exits with a connection error|Worker exit type: SYSTEM_ERROR|ActorDiedError",
        "a worker process ended without a word: it was killed, or it crashed in native code",
        f"Look on its node for a kill (`dmesg | grep -i oom`) and into its stderr for a crash; {AGAIN}",
    ),
    Trouble(
        "address",
        r"does not answer|Connection refused|Failed to connect to (Ray|GCS)|Could not find any running Ray instance"
        r"|Name or service not known",
        "the cluster does not answer at its address",
        "Give the address of a running cluster (RAY_ADDRESS, --address), or start it",
    ),
    Trouble(
        "storage",
        r"Input/output error|Stale file handle|Read-only file system|Transport endpoint|SlowDown|Service Unavailable",
        "the store, or the disk it lies on, refused to be written or read",
        f"Mend the disk or mount that the store lies on; {AGAIN}",
        kind=STORAGE,
    ),
    Trouble(
        "data",
        r"no Parquet file|FileNotFoundError|No such file or directory|does not exist|is missing",
        "a file that the run needs is not there",
        f"Put the data and the store where every node sees them (`fmray preflight` says which node does not); {AGAIN}",
    ),
)
"""What is specific stands before what is general: the first that fits counts."""
AROUND = ("hang", "dead node", "killed worker", "address", "token")
"""Troubles that are no matter of the code: words of an exception that it raised do not mean them."""


def trouble_in(text: str) -> Trouble | None:
    """Give the trouble that a text speaks of, or None."""
    said = _HEDGE.sub("", text)
    return next((one for one in TROUBLES if re.search(one.words, said, re.IGNORECASE)), None)


def trouble_of(kind: str) -> Trouble | None:
    """Give the trouble that a kind of failure means; None for those that only their text explains."""
    return next((one for one in TROUBLES if kind and one.kind == kind), None)


# What exceptions say; their classes count as well: see `train.failures.kind_of`
SHORT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|Cannot allocate memory")
SHORT_OF_DEVICE_MEMORY = re.compile(r"(CUDA|HIP|NCCL|Cuda failure|CUBLAS).*(out of memory|ALLOC_FAILED)", re.DOTALL)
KILLED_FOR_MEMORY = re.compile(r"low on memory|memory monitor|out-of-memory killer killed", re.IGNORECASE)
NODE_DIED = re.compile(
    r"node (has )?died|node is dead|node was (terminated|preempted|drained)|raylet died", re.IGNORECASE
)
PEER_LOST = re.compile(
    r"gloo|nccl|ProcessGroup|by peer|Broken pipe|Socket (recv|send) error|Socket Timeout|wait timeout"
    r"|Timed out waiting",
    re.IGNORECASE,
)
