"""Let one training run on many workers of Ray Train, or in this process.

What trains is handed in and knows no Ray; a worker gives it its group, its device and its rows. fmray's own checkpoints
are found by every worker itself, so Ray is asked to start workers, never to restore them. Whether they start again is
decided here, by what ended them.
"""

import os
import pickle
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch

from fmray.data.lanes import Lanes
from fmray.data.scratch import is_local
from fmray.data.session import living_nodes, session
from fmray.errors import FmrayError, SpecError, TrainError
from fmray.events import Epoch, Event, Note, Report, Stacks, Workers, to_json
from fmray.failures import DEVICE_MEMORY, MEMORY, STOPPED, USER, Action
from fmray.records import Json, Prepared, Split
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Order, RunOptions
from fmray.store import Store, waiting
from fmray.targets.codec import codec_of
from fmray.train.capacity import Lookout, maps_lanes, room
from fmray.train.device import set_up
from fmray.train.failures import Budget, CodeError, failure, is_user_error, kind_of, one_line, place_of
from fmray.train.group import ALONE, Group
from fmray.train.heartbeat import Asked, beat, look_seconds, watched_here
from fmray.train.ingest import Rows, Sample
from fmray.train.mailbox import POLL_SECONDS, Mailbox, begin, deliver, every, placed_here
from fmray.train.restart_policy import LESS, Halve, decide, find
from fmray.train.stacks import here
from fmray.train.stream import Stream
from fmray.train.watch import Watch, on_roll

REPORT_SECONDS = 10.0
"""Least time between two reports to Ray Train: each waits for its next poll, and for all workers."""
MOST_STARTS = 60
"""How often workers are tried to be started, of a minute each where there is no room: then no node will come."""
_LOOK_SECONDS = 5.0
_GROUP = 0


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
        hides = split == "train" and codec_of(prepared.target).hides
        identified = identified or bool(live) or hides
        paired = any(ref.name == "mixup" for ref in live)
        share = self.group.share
        source = self._source(prepared, split, epochs) if self.over_ray else None
        rows = Rows(
            prepared,
            split,
            device=self.device,
            memory_bytes=memory,
            share=share,
            source=source,
            identified=identified,
            paired=paired,
        )
        if isinstance(source, Stream) and order is not None and memory is not None and not rows.in_memory:
            _refuse_large(
                order,
                source.lanes.num_rows,
                row_bytes=source.row_bytes * (1 + paired),
                memory=memory,
                num_workers=self.group.size,
            )
        return rows

    def sample(self, rows: Rows, most: int | None) -> Rows | Sample:
        """Give the validation rows that epochs are scored on, and say so where these are not all."""
        sample = rows.sample(most)
        if most is not None and sample is not rows:
            total = f"{rows.num_rows:,} validation rows"
            self.report(Note(f"epochs are scored on about {most:,} of {total} (evaluate.val_rows)"))
        return sample

    def _source(self, prepared: Prepared, split: Split, epochs: int) -> Stream | None:
        lanes = Lanes(prepared, split)
        row_bytes = int(prepared.row_bytes)
        maps, rule = maps_lanes(self.run.ingest, is_local(prepared.root), lanes.num_rows * row_bytes, self.group.size)
        way = "mapped from their files" if maps else "streamed through Ray Data"
        self.report(Note(f"{split} lanes are {way} ({rule})"))
        return None if maps else Stream(lanes, row_bytes, epochs, self.report)


def _refuse_large(order: Order, num_rows: int, row_bytes: int, memory: int, num_workers: int) -> None:
    """Refuse windows of which memory does not hold three: one trained on, one at hand, one being made."""
    per_chunk = 3 * row_bytes * order.chunk_rows * order.num_lanes // num_workers
    share = 3 * row_bytes * -(-num_rows // order.num_lanes) * order.num_lanes // num_workers
    # a lane has no longer window
    needed = min(per_chunk * order.window_chunks, share)
    fitting = memory // per_chunk
    if needed > memory:
        change = f"Set train.order.window_chunks: {fitting} or run" if fitting else "Set run"
        raise SpecError(
            f"{memory} bytes do not hold three windows of {needed // 3} bytes. {change}.memory: {needed}, "
            "or run.ingest: map where workers see the lanes' files.",
            "run.memory",
        )


Work = Callable[[Worker], object]


def train(
    work: Work,
    job: Job,
    workers: int | tuple[int, int],
    name: str,
    store: Store,
    report: Report,
    halve: Halve = lambda: None,
) -> None:
    """Run what trains on workers, or here where there are none.

    Args:
        workers: How many, or from and to how many; 0 for this process.
        name: Of what is trained: equal on every try, so that Ray continues rather than starts over.
        report: Gets the events of the first worker.
        halve: Asked when a worker was killed for want of memory.

    Raises:
        ClusterError: If the workers do not fit the cluster, or failed more often than is put up with.
        TrainError: If the code of the job failed on a worker, or memory does not suffice.
        FmrayError: Whatever `work` raises on any worker.
    """
    if workers == 0:
        device = set_up(job.run, job.train)
        with failing_here(job.run.hang_seconds, report):
            work(Worker(ALONE, device, report, job.run))
        return
    with session():
        _train_on_ray(work, job, workers=workers, name=name, store=store, report=report, halve=halve)


@contextmanager
def failing_here(hang_seconds: Asked, report: Report) -> Iterator[None]:
    """Watch over what trains in this process, and tell what kind of failure ends it, if one does.

    Raises:
        TrainError: If memory does not suffice.
        Exception: Whatever else is raised inside.
    """
    try:
        with watched_here(hang_seconds, report):
            yield
    except BaseException as error:
        if is_user_error(error):
            raise code_error(error, "stacks/error-0-0.txt", report, STOPPED) from error
        if not isinstance(error, Exception):
            raise
        kind = kind_of(error)
        if not isinstance(error, FmrayError):
            error.add_note(place_of(error))
        with suppress(FmrayError):  # if it cannot be written down, what ended the training is still to be raised
            report(failure(kind, one_line(error), STOPPED))
        if kind not in (MEMORY, DEVICE_MEMORY) or isinstance(error, FmrayError):
            raise
        raise TrainError(f"memory does not suffice: {one_line(error)}. {LESS}", "run.memory") from error


def code_error(error: BaseException, path: str, report: Report, action: Action, about: str = "") -> CodeError:
    """Put an error of the user's code into one line, report it, and leave its traceback in the run's directory.

    Args:
        path: Of the traceback, in that directory.
        action: What is done about it.
        about: What failed, put before the error in what is reported.
    """
    error.add_note(place_of(error))
    with suppress(FmrayError):  # what cannot be written down must not hide the error
        report(Stacks(path, "".join(traceback.format_exception(error))))
        report(failure(USER, f"{about}{one_line(error)}", action, stacks=path))
    return CodeError(one_line(error), path)


def _train_on_ray(
    work: Work, job: Job, workers: int | tuple[int, int], name: str, store: Store, report: Report, halve: Halve
) -> None:
    import ray

    nodes = living_nodes()
    most, needed = room(nodes, workers, job.run.gpu)
    report(Note(f"room for {most} workers with {needed} each, on {len(nodes)} nodes"))
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    mailbox = placed_here(Mailbox).remote()
    threads = max(1, int(needed["CPU"])) if job.run.threads == "auto" else job.run.threads
    config = {"work": ray.cloudpickle.dumps((work, job, threads)), "path": list(sys.path), "mailbox": mailbox}
    lookout = Lookout(workers if isinstance(workers, int) else workers[0], needed, report)
    watch = Watch(mailbox, job.run.hang_seconds, report)
    budget = Budget(job.run.max_failures)
    attempts = count(1)
    with (
        every(POLL_SECONDS, partial(deliver, mailbox, report)),
        every(_LOOK_SECONDS, lookout.look),
        every(look_seconds(job.run.hang_seconds), watch.look),
        warnings.catch_warnings(action="ignore"),
    ):
        while (error := _fit(config, job, workers=workers, needed=needed, name=name, store=store)) is not None:
            refused = ray.get(mailbox.refusal.remote())
            if refused is not None:
                error = pickle.loads(refused)
            fault = find(error, _GROUP, watch)
            deliver(mailbox, report)
            decide(fault, budget, attempt=next(attempts), halve=halve, report=report)
            watch.forget(_GROUP)
    store.remove(store.path("ray", name))  # what Ray Train remembers of itself; fmray continues from its own


def _fit(
    config: Json, job: Job, workers: int | tuple[int, int], needed: Json, name: str, store: Store
) -> Exception | None:
    """Have Ray Train run its workers once, and give the error that ended them before they were done, if one did.

    Whether they start again is decided by what that error was, of which Ray's own counting knows too little. A new fit
    takes three seconds more than a restart by Ray (9 instead of 6 for two workers).
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    trainer = TorchTrainer(
        _work_on_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if "GPU" in needed else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu="GPU" in needed, resources_per_worker=needed),
        run_config=RunConfig(
            name=name,
            storage_path=store.path("ray"),
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=MOST_STARTS
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    failed: tuple[type[Exception], ...] = (ray.train.TrainingFailedError, ray.exceptions.RayError)
    try:
        trainer.fit()
    except failed as error:
        return error
    return None


def _work_on_worker(config: Json) -> None:
    """Do the work as one of Ray Train's workers."""
    import ray
    import ray.train.torch

    mailbox = config["mailbox"]
    begin(config["path"])
    work, job, threads = pickle.loads(config["work"])
    group = Group.joined()
    set_up(job.run, job.train, threads)

    reported = time.monotonic()

    def put(event: Event) -> None:
        mailbox.put.remote(event)

    def report(event: Event) -> None:
        nonlocal reported
        if group.is_first:
            put(event)
        if isinstance(event, Epoch) and group.broadcast(time.monotonic() - reported >= REPORT_SECONDS):
            ray.train.report({k: v for k, v in to_json(event).items() if isinstance(v, int | float)})
            reported = time.monotonic()

    worker = Worker(group, ray.train.torch.get_device(), report, job.run, over_ray=True)
    placed = ray.util.get_current_placement_group()
    try:
        with (
            on_roll(mailbox, _GROUP, rank=group.rank, size=group.size, asked=job.run.hang_seconds, room=placed),
            waiting(put, beat),
        ):
            place = here(group.rank, ray.get_runtime_context().get_node_id())
            report(Workers(group.all_gather(place)))
            work(worker)
    except FmrayError as error:
        ray.get(mailbox.refuse.remote(refusal(error)))
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_user_error(error):
            raise
        raise worker_error(error, _GROUP, group.rank, put) from error


def refusal(error: FmrayError) -> bytes:
    """Pickle what a worker refuses, with the kind of failure it is: causes do not travel."""
    error.kind = kind_of(error)  # type: ignore[attr-defined]
    return pickle.dumps(error)


def worker_error(error: BaseException, group: int, rank: int, report: Report) -> BaseException:
    """Give what a worker is to raise for an error, so that everybody can read it; its traceback does not travel."""
    error.add_note(place_of(error))
    if kind_of(error) != USER and not is_user_error(error):
        return error
    path = f"stacks/error-{group}-{rank}.txt"
    report(Stacks(path, "".join(traceback.format_exception(error))))
    return CodeError(one_line(error), path)
