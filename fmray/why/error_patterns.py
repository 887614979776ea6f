"""Tell from the words of an error what kind of trouble it is, and what to do about it.

The words are those that fmray, Ray, torch and operating systems use. The first sign that fits counts: what is specific
stands before what is general.
"""

import re
from dataclasses import dataclass

from fmray.why.finding import AGAIN

CLASSES = {
    "user": "user error",
    "memory": "memory",
    "device memory": "device memory",
    "node": "dead node",
    "hang": "hang",
    "storage": "storage",
    "worker": "bug",
}
"""Class of a failure event -> kind of a finding."""
AROUND = ("hang", "dead node", "killed worker", "address", "token")
"""Kinds that are no matter of the code: words of an exception that it raised do not speak of them."""


@dataclass(frozen=True)
class Sign:
    """Know a kind of trouble by its words.

    Args:
        kind: Of the finding.
        words: Regular expression, any case.
        cause, fix: In words.
    """

    kind: str
    words: str
    cause: str
    fix: str


# Ray names the OOM killer among the "common causes" of any death; only what follows it may be believed
_HEDGE = re.compile(r"Some common causes include:[^\n]*")

SIGNS = (
    Sign(
        "device memory",
        r"CUDA out of memory|CUDA error: out of memory|torch\.(cuda\.)?OutOfMemoryError|HIP out of memory",
        "the memory of the GPU did not suffice",
        f"Set train.accumulate higher or train.batch_rows lower (the same, or another result), {AGAIN}",
    ),
    Sign(
        "memory",
        r"low on memory|memory does not suffice|run out of memory|OutOfMemoryError|NODE_OUT_OF_MEMORY|OOM kill"
        r"|\bMemoryError|Cannot allocate memory|std::bad_alloc|oom-kill|OOMKilled",
        "the memory of a node ran out, and a process of the run was killed for it; that is no bug in the code",
        "Set fewer run.workers per node, a lower run.memory (rows are then streamed) or a smaller train.batch_rows, "
        f"or take nodes with more memory; {AGAIN}",
    ),
    Sign(
        "full disk",
        r"disk is full|need [\d,]+ bytes, [\d,]+ are free|No space left on device|\bENOSPC\b"
        r"|\[Errno 28\]|Disk quota exceeded|OutOfDiskError",
        "the disk is full",
        f"Free space (`fmray gc` removes what no run needs), or name another store with --store; {AGAIN}",
    ),
    Sign(
        "lease",
        r"is held by .+last sign of life|lease \d+ was lost|took over as number",
        "another process holds the run",
        "Wait until that process ends or stop it; one process at a time may write to a run",
    ),
    Sign(
        "versions",
        r"Version mismatch|fmray differs|python differs|ray differs|torch differs|No module named 'fmray"
        r"|Can't get attribute|cannot import name .* from 'fmray|unsupported pickle protocol"
        r"|written by another version",
        "two sides run different versions of Python, Ray or fmray",
        f"Start all nodes from one image, or submit with --with-fmray; `fmray preflight` names what differs; {AGAIN}",
    ),
    Sign(
        "token",
        r"refuses the token|asks for a token|AuthenticationError|Unauthenticated|invalid (auth|token)",
        "the cluster refuses the token",
        "Put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token of whoever starts the run",
    ),
    Sign(
        "infeasible resources",
        r"do not fit \S+ CPUs|want a GPU each|no CUDA device|found no CUDA|has no GPU",
        "the cluster does not have what the job asks for",
        "Ask for less (run.workers, run.gpu), or add nodes",
    ),
    Sign(
        "dead node",
        r"NodeDiedError|was lost, with rank|no node had room"
        r"|ended due to node|node (was |is |has )?(died|dead|lost)|marked dead"
        r"|missed too many heartbeats|raylet .*(died|unexpectedly)|node .{0,80}(failure|has been terminated|preempt)",
        "a node of the cluster died",
        f"Bring the node back or go on without it; {AGAIN}",
    ),
    Sign(
        "hang",
        r"(worker|rank|training)s? (hung|hangs)|no step was made for|no progress for|NCCLHangError|watchdog"
        r"|Timed out waiting .* (all_?reduce|collective|recv operation)",
        "the workers stood still, each waiting for another",
        f"Look where the one stands that the others wait for; {AGAIN}",
    ),
    Sign(
        "killed worker",
        r"worker process has died|exits with a connection error|Worker exit type: SYSTEM_ERROR|ActorDiedError",
        "a worker process ended without a word: it was killed, or it crashed in native code",
        f"Look on its node for a kill (`dmesg | grep -i oom`) and into its stderr for a crash; {AGAIN}",
    ),
    Sign(
        "address",
        r"does not answer|Connection refused|Failed to connect to (Ray|GCS)|Could not find any running Ray instance"
        r"|Name or service not known",
        "the cluster does not answer at its address",
        "Give the address of a running cluster (RAY_ADDRESS, --address), or start it",
    ),
    Sign(
        "storage",
        r"Input/output error|Stale file handle|Read-only file system|Transport endpoint|SlowDown|Service Unavailable",
        "the store, or the disk it lies on, refused to be written or read",
        f"Mend the disk or mount that the store lies on; {AGAIN}",
    ),
    Sign(
        "data",
        r"no Parquet file|FileNotFoundError|No such file or directory|does not exist|is missing",
        "a file that the run needs is not there",
        f"Put the data and the store where every node sees them (`fmray preflight` says which node does not); {AGAIN}",
    ),
)


def sign_of(text: str) -> Sign | None:
    """Give the sign that a text bears, or None."""
    told = _HEDGE.sub("", text)
    return next((sign for sign in SIGNS if re.search(sign.words, told, re.IGNORECASE)), None)


def of_kind(kind: str) -> Sign | None:
    """Give the sign of a kind, or None."""
    return next((sign for sign in SIGNS if sign.kind == kind), None)
