"""Train the members of trials, in one pack per trial, or in several if that is faster.

A pack resumes from its newest state; one with a stored outcome is not trained again, see `tune.outcomes`. If memory
runs out, a pack continues with smaller micro-batches; members whose code fails are left out of it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

import torch

from fmray.errors import DataError, SpecError, TrainError
from fmray.events import Epoch, Event, PackStarted, Place, Report, Resumed, ignore
from fmray.failures import LEFT_OUT
from fmray.records import Json
from fmray.seeding import derive
from fmray.train.device import circumstances, release
from fmray.train.failures import ShortOfMemoryError, failure, kind_of
from fmray.train.ingest import Rows, Sample, Steps
from fmray.train.learner import Learner, build_learner, build_pack, is_estimator
from fmray.train.loop import fit
from fmray.train.pack import Pack, Plan
from fmray.train.single_rows import refuse_single_rows
from fmray.train.state import Checkpoints
from fmray.train.step import train_step
from fmray.train.workers import Worker
from fmray.tune.concurrent import run_concurrently
from fmray.tune.faults import report_member_error
from fmray.tune.outcomes import (
    finish_trial,
    is_finished,
    read_pack,
    record_untrained,
    write_failed_pack,
    write_pack,
)
from fmray.tune.trial import DecideForPack, Trial, TrialContext, name_members
from fmray.tune.width import PackLayout, choose_layout

P = ParamSpec("P")
R = TypeVar("R")
LEFT_OUT_FILE = "lost.json"
"""Members of a pack that are left out, with reasons; the name of the file is that of earlier versions."""


@dataclass(frozen=True)
class _PackTask:
    """What a worker trains as one pack: members of a trial, and the rows they train on.

    Args:
        place: Position of the pack in the sweep, for events.
        scored_rows: The validation rows that epochs are scored on: all, or a sample of them.
        decide: Decides which members stop.
        remaining: Plans of the members that are not left out.
    """

    context: TrialContext
    worker: Worker
    trial: Trial
    plans: Sequence[Plan]
    train_rows: Rows
    val_rows: Rows
    scored_rows: Rows | Sample
    place: Place
    decide: DecideForPack | None
    remaining: Sequence[Plan] = ()

    @property
    def number(self) -> int:
        """Number of the pack in its trial."""
        return self.place.pack

    @property
    def folder(self) -> str:
        """Folder of the pack."""
        return self.context.pack_folder(self.trial, self.number)

    @property
    def order_seed(self) -> int:
        """Seed of the order of rows: that of the job, or with `train.seeds.order` one of the pack's own."""
        train = self.trial.job.train
        # with `seeds.order`, a pack has one member
        stream = ("order", self.remaining[0].index) if train.seeds.order else ("order",)
        return derive(train.seed, *stream)


def train_trials(
    context: TrialContext, trials: Sequence[Trial], worker: Worker, decide: DecideForPack | None = None
) -> bool:
    """Train trials one after the other, on any number of workers; return False if some wait at a rung.

    Only the first worker writes outcomes.

    Args:
        decide: Decides which members stop.

    Raises:
        SpecError, TrainError: If a trial cannot be trained and the context does not record that as its outcome.
    """
    waits = False
    for trial in trials:
        if worker.group.broadcast(is_finished(context, trial)):
            continue
        if trial.fault is not None:
            if worker.group.is_first:
                record_untrained(context, trial, trial.fault["reason"], error_class=trial.fault["class"])
            continue
        try:
            layout, tasks = _divide_into_packs(context, trial, worker, decide)
            with _torch_threads(layout.threads):
                if layout.lanes == 1:
                    finished = list(map(_train_pack, tasks))
                else:
                    calls = [partial(_train_pack, task) for task in tasks]
                    # all packs read the same rows: closing them ends the other packs at their next batch
                    finished = run_concurrently(calls, layout.lanes, tasks[0].train_rows.close)
        except (SpecError, TrainError) as error:
            # with several workers, only one may have failed: raise, so that all of them stop
            if not context.records_refused_trials or worker.group.size > 1:
                raise
            worker.report(failure(kind_of(error), f"{name_members(trial.plans)}: {error}", LEFT_OUT))
            record_untrained(context, trial, str(error))
            continue
        if not all(finished):
            waits = True
        elif worker.group.is_first:
            finish_trial(context, trial, list(range(len(finished))))
    return not waits


def build_networks(
    context: TrialContext, trial: Trial, plans: Sequence[Plan], device: torch.device, fresh: bool = True
) -> Pack:
    """Build a pack of networks of a trial, untrained; see `Pack` for `fresh`."""
    return build_pack(
        plans,
        trial.job,
        prepared=trial.prepared,
        higher_is_better=context.metric_of(trial).higher_is_better,
        device=device,
        fresh=fresh,
    )


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    """Set the number of torch threads for the duration of a `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _divide_into_packs(
    context: TrialContext, trial: Trial, worker: Worker, decide: DecideForPack | None
) -> tuple[PackLayout, list[_PackTask]]:
    """Divide a trial into packs, and open the rows that all of them read."""
    job = trial.job
    needs_row_ids = any(plan.rows for plan in trial.plans)  # row weights are looked up by row id
    passes = Steps.of(job.train, trial.prepared.num_rows("train")).num_passes
    train_rows = worker.rows(
        trial.prepared, "train", passes, job.live_steps, order=job.train.order, identified=needs_row_ids
    )
    val_rows = worker.rows(trial.prepared, "val", job.train.num_epochs)
    scored_rows = worker.sample(val_rows, job.evaluate.val_rows)
    layout = _load_or_choose_layout(context, trial, worker, train_rows)
    packs = [trial.plans[first : first + layout.width] for first in range(0, len(trial.plans), layout.width)]
    if layout.lanes > 1:
        lock = threading.Lock()
        worker = replace(worker, report=_serialize_calls(worker.report, lock))
        decide = None if decide is None else _serialize_calls(decide, lock)
    places = [
        Place(context.role, trial.number, trials=trial.total, pack=number, packs=len(packs))
        for number in range(len(packs))
    ]
    return layout, [
        _PackTask(
            context,
            worker,
            trial,
            plans=plans,
            train_rows=train_rows,
            val_rows=val_rows,
            scored_rows=scored_rows,
            place=place,
            decide=decide,
        )
        for plans, place in zip(packs, places, strict=True)
    ]


def _train_pack(task: _PackTask) -> bool:
    """Train a pack from its newest state and write its outcome; return False if it waits at a rung.

    Raises:
        FmrayError: If code fails and the context does not record that, or if memory is too small for a step on one row.
    """
    context = task.context
    trial = task.trial
    group = task.worker.group
    if group.broadcast(read_pack(context, trial, task.number) is not None):
        return True
    path = f"{task.folder}/{LEFT_OUT_FILE}"
    report = partial(_report_with_place, task.worker.report, task.place)
    decide = None if task.decide is None else partial(task.decide, f"{trial.number}.{task.number}")
    # read back who was left out: saved states have rows for the remaining members only
    left_out = _read_left_out(task, path) if context.records_failed_members else {}
    while remaining := [plan for plan in task.plans if plan.index not in left_out]:
        task = replace(task, remaining=remaining)
        pack: Learner | None = None
        try:
            pack, checkpoints = _build_or_restore(task)
            finished = fit(
                pack,
                task.train_rows,
                task.scored_rows,
                context.metric_of(trial),
                order_seed=task.order_seed,
                checkpoints=checkpoints if group.is_first else None,
                report=report,
                group=group,
                decide=decide,
            )
            if finished:
                write_pack(context, trial, pack, task.val_rows, number=task.number, group=group, left_out=left_out)
            return finished
        except BaseException as error:
            # {}: retry in smaller micro-batches; None: give up
            left_out_now = _members_to_leave_out(error, task)
            if left_out_now is None:
                raise
        pack = None  # frees the memory, which the next one needs
        if left_out_now:
            left_out = left_out | left_out_now
            # states first: if killed before the list is written, the whole pack starts over, which is safe
            context.store.remove(f"{task.folder}/states")
            context.store.write_json(path, {str(index): fault for index, fault in left_out.items()})
        release(task.worker.device)
    write_failed_pack(context, trial, task.number, plans=task.plans, left_out=left_out)
    return True


def _build_or_restore(task: _PackTask) -> tuple[Learner, Checkpoints]:
    """Build a pack, restore its newest state if there is one, and return it with its `Checkpoints`."""
    context = task.context
    worker = task.worker
    group = worker.group
    requested = task.trial.job.train.accumulate
    micro_batches = context.micro_batches(task.trial)
    trial = _with_micro_batches(task.trial, group.broadcast(micro_batches.number() if group.is_first else None))
    accumulate = trial.job.train.accumulate
    running_on = circumstances(group.size, worker.device) | {"accumulate": accumulate}
    checkpoints = Checkpoints(
        context.store,
        f"{task.folder}/states",
        trial.job.run.checkpoint_seconds,
        context.fence.check,
        circumstances=running_on,
    )
    newest = group.broadcast(checkpoints.newest() if group.is_first else None)
    pack = build_learner(
        task.remaining,
        trial.job,
        trial.prepared,
        higher_is_better=context.metric_of(trial).higher_is_better,
        device=worker.device,
        fresh=newest is None,
    )
    if newest is not None:
        name, saved_on = newest
        state = checkpoints.read(name)
        # how the steps to come compare with those of an uninterrupted run, see `Resumed`
        fidelity = "exact" if saved_on == running_on else "same batches"
        if saved_on.get("accumulate", requested) != accumulate:
            fidelity = f"changed (micro-batch, step {state.global_step})"
        if not (trial.waited and saved_on == running_on):
            worker.report(
                Resumed(state.epoch, state.step, fidelity, task.place, changed=_differences(saved_on, running_on))
            )
        pack.restore(state, group.rank)
        return pack, checkpoints
    worker.report(PackStarted(task.place))
    if accumulate != requested:
        changed = f"accumulate {requested} -> {accumulate}"
        worker.report(Resumed(0, 0, "changed (micro-batch, step 0)", task.place, changed=changed))
    if group.size == 1 and isinstance(pack, Pack):
        refuse_single_rows(pack, list(task.remaining), task.train_rows)
    return pack, checkpoints


def _read_left_out(task: _PackTask, path: str) -> dict[int, Json]:
    store = task.context.store
    stored = store.read_json(path) if store.exists(path) else {}
    return {int(index): fault for index, fault in stored.items()}


def _members_to_leave_out(error: BaseException, task: _PackTask) -> dict[int, Json] | None:
    """Return the members to leave out after an error: {} to retry in smaller micro-batches, None to end the sweep.

    Raises:
        TrainError: If memory does not suffice for a step on one row and the context does not record that.
    """
    if not isinstance(error, ShortOfMemoryError):
        return _failing_members(error, task)
    try:
        task.context.micro_batches(task.trial).halve_together(task.worker, error)
    except TrainError as short:
        if (found := _failing_members(short, task)) is None:
            raise
        return found
    return {}


def _failing_members(error: BaseException, task: _PackTask) -> dict[int, Json] | None:
    """Return the failing members with reasons; None if the error must end the sweep.

    These are the members that fail when trained alone or, if there are none, all members of the pack.
    """
    # with several workers, only one may have failed: raise, so that all of them stop
    if not task.context.records_failed_members or task.worker.group.size > 1:
        return None
    path = f"stacks/member-{task.trial.number:05d}-{task.number:05d}.txt"
    fault = report_member_error(error, task.remaining, path, task.worker.report)
    if fault is None:
        return None
    failed_alone = {}
    if len(task.remaining) > 1:
        failed_alone = _faults_when_alone(
            task.context, task.trial, task.remaining, worker=task.worker, rows=task.train_rows
        )
    return failed_alone or {plan.index: fault for plan in task.remaining}


def _faults_when_alone(
    context: TrialContext, trial: Trial, plans: Sequence[Plan], worker: Worker, rows: Rows
) -> dict[int, Json]:
    """Build each member alone and train it for one step; return those that fail, with reasons."""
    faults: dict[int, Json] = {}
    for plan in plans:
        try:
            pack = build_networks(context, trial, [plan], worker.device)
            train_step(pack, next(rows.batches(pack.train.order, 0, 0, pack.train.batch_rows)), 1.0)
        except BaseException as error:
            fault = report_member_error(error, [plan], path="", report=ignore)  # only the reason is wanted
            if fault is None:
                raise
            faults[plan.index] = fault
    return faults


def _load_or_choose_layout(context: TrialContext, trial: Trial, worker: Worker, rows: Rows) -> PackLayout:
    """Choose how members train together, once per structure; a stored choice is limited to the available cores."""
    path = f"{context.home}/width-{trial.structure:05d}.json"
    stored = None
    if worker.group.is_first:
        if not context.store.exists(path):
            if context.store.list(context.pack_folder(trial, 0)):
                raise DataError(
                    f"{path} is missing, but packs trained by it exist. Restore the file, or delete "
                    f"{context.home} to train them again."
                )
            # with `seeds.order`, members read rows in different orders, so none can share a pack
            packable = trial.plans[:1] if trial.job.train.seeds.order else trial.plans
            fastest = _choose_fitting_layout(context, trial, packable, worker=worker, rows=rows)
            context.store.write_json(path, asdict(fastest))
        stored = context.store.read_json(path)
    layout = PackLayout(**worker.group.broadcast(stored))
    max_threads = torch.get_num_threads()
    threads = min(layout.threads, max_threads)
    return replace(layout, threads=threads, lanes=max(1, min(layout.lanes, max_threads // threads)))


def _choose_fitting_layout(
    context: TrialContext, trial: Trial, plans: Sequence[Plan], worker: Worker, rows: Rows
) -> PackLayout:
    """Choose a layout by timing as many members as fit into memory with a whole batch."""
    if is_estimator(plans[0]):
        return PackLayout(1, torch.get_num_threads())

    def build(plans: Sequence[Plan]) -> Pack:
        # timing does not depend on the initial weights, so they are not drawn
        return build_networks(context, trial, plans, worker.device, fresh=False)

    while True:
        try:
            return choose_layout(plans, build, rows, trial.job.run, single_worker=worker.group.size == 1)
        except ShortOfMemoryError:
            plans = plans[: max(1, len(plans) // 2)]
        except BaseException as error:
            # time only members that work; those that fail are recorded when they are trained
            if isinstance(error, SpecError | TrainError) or not context.records_failed_members:
                raise
            if report_member_error(error, plans, "", ignore) is None:
                raise
            faulty = _faults_when_alone(context, trial, plans, worker=worker, rows=rows)
            sound = [plan for plan in plans if plan.index not in faulty]
            if not 0 < len(sound) < len(plans):
                return PackLayout(1, 1)
            plans = sound
        release(worker.device)


def _with_micro_batches(trial: Trial, number: int) -> Trial:
    train = replace(trial.job.train, accumulate=number)
    return replace(trial, job=replace(trial.job, train=train))


def _differences(saved_on: Json, running_on: Json) -> str:
    changed = [
        f"{name} {saved_on.get(name)} -> {value}" for name, value in running_on.items() if saved_on.get(name) != value
    ]
    return ", ".join(changed)


def _serialize_calls(call: Callable[P, R], lock: threading.Lock) -> Callable[P, R]:
    """Wrap a function so that only one thread at a time can call it."""

    def call_locked(*args: P.args, **kwargs: P.kwargs) -> R:
        with lock:
            return call(*args, **kwargs)

    return call_locked


def _report_with_place(report: Report, place: Place, event: Event) -> None:
    """Forward an event; add the place of the pack to an epoch."""
    report(replace(event, place=place) if isinstance(event, Epoch) else event)
