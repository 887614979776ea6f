"""Let one training run on many workers of Ray Train, or in this process.

What trains is handed in and knows no Ray; a worker gives it its group, its device and its rows. fmray's own checkpoints
are found by every worker itself, so Ray is asked to restart workers, never to restore them.
"""

import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from fmray.data.lanes import Lanes
from fmray.data.scratch import is_local
from fmray.data.session import living_nodes, session
from fmray.errors import ClusterError, FmrayError, SpecError
from fmray.records import Json, Prepared, Split
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Order, RunOptions
from fmray.store import Store, redact
from fmray.train.device import set_up
from fmray.train.group import ALONE, Group
from fmray.train.ingest import Rows
from fmray.train.mailbox import POLL_SECONDS, Mailbox, begin, deliver, every, placed_here
from fmray.train.room import Lookout, maps_lanes, room
from fmray.train.stacks import here
from fmray.train.stream import Stream

Report = Callable[[Json], None]
REPORT_SECONDS = 10.0
"""Least time between two reports to Ray Train: each waits for its next poll, and for all workers."""
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Worker:
    """Give what trains its place among the workers.

    Args:
        group: All of them.
        device: Where this one computes.
        report: Gets events; only the first worker's go on to the user.
        run: The job's options.
        over_ray: Whether rows may come through Ray Data.
    """

    group: Group
    device: torch.device
    report: Report
    run: RunOptions
    over_ray: bool = False

    def rows(
        self,
        prepared: Prepared,
        split: Split,
        epochs: int,
        live: Sequence[Ref] = (),
        order: Order | None = None,
        *,
        identified: bool = False,
    ) -> Rows:
        """Open this worker's share of the rows of a split.

        Args:
            epochs: How often they will be read at most.
            live: Steps that will change them.
            order: In which they will pass; None if only in sequence.
            identified: Members weigh rows by their identities.

        Raises:
            SpecError: If rows are streamed and a window of them does not fit into `run.memory`.
        """
        memory = None if self.run.memory == "auto" else self.run.memory
        identified, paired = identified or bool(live), any(ref.name == "mixup" for ref in live)
        share, source = self.group.share, self._source(prepared, split, epochs) if self.over_ray else None
        rows = Rows(prepared, split, self.device, memory, share, source, identified=identified, paired=paired)
        if isinstance(source, Stream) and order is not None and memory is not None and not rows.in_memory:
            _refuse_large(order, source.lanes.num_rows, source.row_bytes * (1 + paired), memory, self.group.size)
        return rows

    def _source(self, prepared: Prepared, split: Split, epochs: int) -> Stream | None:
        lanes = Lanes(prepared, split)
        row_bytes = 4 * prepared.schema.width + 16
        maps, rule = maps_lanes(self.run.ingest, is_local(prepared.root), lanes.num_rows * row_bytes, self.group.size)
        way = "mapped from their files" if maps else "streamed through Ray Data"
        self.report({"event": "note", "text": f"{split} lanes are {way} ({rule})"})
        return None if maps else Stream(lanes, row_bytes, epochs, self.report)


def _refuse_large(order: Order, num_rows: int, row_bytes: int, memory: int, num_workers: int) -> None:
    """Refuse windows of which memory does not hold three: one trained on, one at hand, one being made."""
    per_chunk = 3 * row_bytes * order.chunk_rows * order.num_lanes // num_workers
    share = 3 * row_bytes * -(-num_rows // order.num_lanes) * order.num_lanes // num_workers
    needed, fitting = min(per_chunk * order.window_chunks, share), memory // per_chunk  # a lane has no longer window
    if needed > memory:
        change = f"Set train.order.window_chunks: {fitting} or run" if fitting else "Set run"
        raise SpecError(
            f"{memory} bytes do not hold three windows of {needed // 3} bytes. {change}.memory: {needed}, "
            "or run.ingest: map where workers see the lanes' files.",
            "run.memory",
        )


Work = Callable[[Worker], None]


def train(work: Work, job: Job, workers: int | tuple[int, int], name: str, store: Store, report: Report) -> None:
    """Run what trains on workers, or here where there are none.

    Args:
        workers: How many, or from and to how many; 0 for this process.
        name: Of what is trained: equal on every try, so that Ray continues rather than starts over.
        report: Gets the events of the first worker.

    Raises:
        ClusterError: If the workers do not fit the cluster, or failed more often than `run.max_failures`.
        FmrayError: Whatever `work` raises on any worker.
    """
    if workers == 0:
        device = set_up(job.run, job.train)
        work(Worker(ALONE, device, report, job.run))
        return
    with session():
        _train_on_ray(work, job, workers, name, store, report)


def _train_on_ray(
    work: Work, job: Job, workers: int | tuple[int, int], name: str, store: Store, report: Report
) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    nodes = living_nodes()
    most, needed = room(nodes, workers, job.run.gpu)
    report({"event": "note", "text": f"room for {most} workers with {needed} each, on {len(nodes)} nodes"})
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    mailbox = placed_here(Mailbox).remote()
    threads = max(1, int(needed["CPU"])) if job.run.threads == "auto" else job.run.threads
    trainer = TorchTrainer(
        _work_on_worker,
        train_loop_config={
            "work": ray.cloudpickle.dumps((work, job, threads)),
            "path": list(sys.path),
            "mailbox": mailbox,
        },
        torch_config=TorchConfig(backend="nccl" if "GPU" in needed else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in needed, resources_per_worker=needed),
        run_config=RunConfig(
            name=name,
            storage_path=store.path("ray"),
            failure_config=FailureConfig(max_failures=job.run.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    reason = ""
    lookout = Lookout(workers if isinstance(workers, int) else workers[0], needed, report)
    delivered, watched = every(POLL_SECONDS, partial(deliver, mailbox, report)), every(_LOOK_SECONDS, lookout.look)
    with delivered, watched, warnings.catch_warnings(action="ignore"):
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            reason = last_line(error)
    refused = ray.get(mailbox.refusal.remote())
    if refused is not None:
        raise pickle.loads(refused)
    if reason:
        raise ClusterError(
            f"the workers failed more than {job.run.max_failures} times, the last time with: {reason}. "
            "What they finished is kept; run the job again to continue.",
            "run.max_failures",
        )
    store.remove(store.path("ray", name))  # what Ray Train remembers of itself; fmray continues from its own


def _work_on_worker(config: Json) -> None:
    """Do the work as one of Ray Train's workers."""
    import ray
    import ray.train.torch

    mailbox = config["mailbox"]
    if ray.get(mailbox.refusal.remote()) is not None:
        return  # a refusal is an answer: to ask again would give the same
    begin(config["path"])
    work, job, threads = pickle.loads(config["work"])
    group = Group.joined()
    set_up(job.run, job.train, threads)

    reported = time.monotonic()

    def report(event: Json) -> None:
        nonlocal reported
        if group.is_first:
            mailbox.put.remote(event)
        if event["event"] == "epoch" and group.tell(time.monotonic() - reported >= REPORT_SECONDS):
            ray.train.report({k: v for k, v in event.items() if isinstance(v, int | float)})
            reported = time.monotonic()

    report({"event": "workers", "places": group.collect(here(group.rank, ray.get_runtime_context().get_node_id()))})
    try:
        work(Worker(group, ray.train.torch.get_device(), report, job.run, over_ray=True))
    except FmrayError as error:
        ray.get(mailbox.refuse.remote(pickle.dumps(error)))
        raise


def last_line(error: BaseException) -> str:
    """Give the last line of what Ray says of an error: the error of the worker itself."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return redact(lines[-1].strip().rstrip(".")) if lines else type(error).__name__
