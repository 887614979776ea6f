"""Train the members of one trial: members of one structure, in one pack, or in several where that is faster.

A trial leaves its outcome as files in its own folder, pack by pack, and a pack that has one is not trained again. So a
trial may be killed at any instant, and another process continues it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import torch

from fmray.errors import DataError, SpecError, TrainError
from fmray.events import Epoch, Event, PackStarted, Place, Report, Resumed, ignore
from fmray.failures import DEVICE_MEMORY, LEFT_OUT, MEMORY
from fmray.metrics.find import find_metric
from fmray.metrics.metric import Metric
from fmray.records import HISTORY, Json, Member, Prepared
from fmray.seeding import derive
from fmray.spec.job import Job
from fmray.store import Fence, Store
from fmray.store.copies import to_write
from fmray.store.manifest import measure
from fmray.train.artefacts import FILES, file_of
from fmray.train.device import circumstances, release
from fmray.train.failures import CodeError, ShortOfMemoryError, failure, is_of_user, kind_of, one_line
from fmray.train.group import ALONE, Group
from fmray.train.ingest import Rows, Sample, Steps
from fmray.train.learner import Learner, build_learner, build_pack, is_estimator
from fmray.train.loop import Judge, Verdict, fit
from fmray.train.micro_batches import MicroBatches
from fmray.train.pack import Pack, Plan
from fmray.train.single_rows import refuse_single_rows
from fmray.train.state import Checkpoints
from fmray.train.step import train_step
from fmray.train.workers import Worker, code_error
from fmray.tune.concurrent import run_concurrently
from fmray.tune.pack_outcome import located, unplaced, what_members_say
from fmray.tune.width import Layout, choose

Role = Literal["member", "finalist", "baseline"]
Status = Literal["finished", "stopped", "failed"]
Ask = Callable[[str, int, dict[int, float]], Verdict]
"""(pack, epochs finished, member -> best score) -> who goes on; see `tune.referee`."""
Given = ParamSpec("Given")
Answer = TypeVar("Answer")
RESULT, SAID, LOST = "result.json", "val.npy", "lost.json"


@dataclass(frozen=True)
class Trial:
    """Hold members of one structure, which one process or group of workers trains.

    Args:
        number: In the sweep.
        structure: Number of the structure.
        job: The job with the structure's values.
        plans: One per member.
        prepared: The rows they learn from.
        total: Trials of the sweep, as far as known; for people.
        waited: It goes on after a rung where all waited, which is no resuming to speak of.
        fault: Why its rows cannot be prepared, {"reason", "class" of the error}; then `prepared` is that of the job.
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
class _Share:
    """Hold what a worker trains as one pack: some members of a trial, on these rows.

    Args:
        place: Which pack of which trial it is, as every event says.
        scored_rows: The validation rows that epochs are scored on: all, or a sample of them.
        ask: Decides who goes on.
        lost: Index of a member that was left out -> {"reason", "class" of the error}.
    """

    worker: Worker
    trial: Trial
    plans: Sequence[Plan]
    train_rows: Rows
    val_rows: Rows
    scored_rows: Rows | Sample
    place: Place
    ask: Ask | None
    lost: Mapping[int, Json] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Number of the pack in its trial."""
        return self.place.pack


@dataclass(frozen=True)
class Training:
    """Train trials, one after the other, on any number of workers; the first one writes.

    Args:
        metric: Name of the primary metric.
        store, home: Where states and outcomes go, a folder for each trial.
        role: What the members are for.
        fence: Whoever stands outside must not write there any more.
        tolerant: A trial whose parameters turn out to be impossible is an outcome, not an end.
        isolates: A member whose code fails is an outcome too, and the others go on.
    """

    metric: str
    store: Store
    home: str
    role: Role
    fence: Fence
    tolerant: bool = False
    isolates: bool = False

    def train(self, trials: Sequence[Trial], worker: Worker, ask: Ask | None = None) -> bool:
        """Train trials one after the other; say whether all are finished, or some wait.

        Args:
            ask: Decides who goes on.

        Raises:
            SpecError, TrainError: If one cannot be trained, unless that is an outcome.
        """
        waits = False
        for trial in trials:
            if worker.group.broadcast(self.is_finished(trial)):
                continue
            if trial.fault is not None:
                if worker.group.is_first:
                    self.give_up(trial, trial.fault["reason"], error=trial.fault["class"])
                continue
            try:
                layout, shares = self._packs(worker, trial, ask)
                before = torch.get_num_threads()
                torch.set_num_threads(layout.threads)
                try:
                    if layout.lanes > 1:
                        finished = run_concurrently(
                            [partial(self._train_pack, share) for share in shares],
                            layout.lanes,
                            shares[0].train_rows.close,
                        )
                    else:
                        finished = list(map(self._train_pack, shares))
                finally:
                    torch.set_num_threads(before)
            except (SpecError, TrainError) as error:
                if not self.tolerant or worker.group.size > 1:
                    raise
                worker.report(failure(kind_of(error), f"{spelled(trial.plans)}: {error}", LEFT_OUT))
                self.give_up(trial, str(error))
                continue
            if not all(finished):
                waits = True
            elif worker.group.is_first:
                self._finish(trial, list(range(len(shares))))
        return not waits

    def is_finished(self, trial: Trial) -> bool:
        """Tell whether the trial has its outcome."""
        return self.store.exists(f"{self.folder(trial.number)}/{RESULT}")

    def outcome(self, number: int) -> list[Json]:
        """Give what the packs of a finished trial came to: members, health, width, said, errors."""
        found = self.store.read_json(f"{self.folder(number)}/{RESULT}")
        homes = [f"{self.folder(number)}/{pack:05d}" for pack in found["packs"]]
        packs = [located(self.store.read_json(f"{home}/{RESULT}"), home) for home in homes]
        return [*packs, *([found["lost"]] if found["lost"] else [])]

    def best(self, trial: Trial) -> float | None:
        """Give the best score of a finished trial, higher for better; None if nobody has one."""
        sign = 1 if self.metric_of(trial).higher_is_better else -1
        found = [member["val_score"] for pack in self.outcome(trial.number) for member in pack["members"]]
        return max((sign * score for score in found if score is not None), default=None)

    def give_up(self, trial: Trial, reason: str, status: Status = "failed", error: str = "") -> None:
        """Record that members were not trained to their end, and why; what finished packs gave stays.

        Args:
            error: Class of the error, if code or parameters were at fault.
        """
        packs = {n: p for n in range(len(trial.plans)) if (p := self._pack_result(trial, n)) is not None}
        done = {member["index"] for pack in packs.values() for member in pack["members"]}
        left = [plan for plan in trial.plans if plan.index not in done]
        why = {plan.index: {"reason": reason, "class": error} for plan in left}
        self._finish(trial, list(packs), _lost(left, why, trial=trial, role=self.role, status=status) if left else None)

    def conclude(self, trial: Trial, pack: Pack, val_rows: Rows) -> None:
        """Leave the outcome of a trial that is one pack, trained to its end on one worker."""
        self._leave(trial, pack, number=0, val_rows=val_rows, group=ALONE)
        self._finish(trial, [0])

    def folder(self, number: int) -> str:
        """Name the folder of a trial."""
        return f"{self.home}/trials/{number:05d}"

    def _packs(self, worker: Worker, trial: Trial, ask: Ask | None) -> tuple[Layout, list[_Share]]:
        """Divide a trial into packs, and open the rows that all of them read."""
        job = trial.job
        identified = any(plan.rows for plan in trial.plans)
        passes = Steps.of(job.train, trial.prepared.num_rows("train")).num_passes
        train_rows = worker.rows(
            trial.prepared, "train", passes, job.live_steps, order=job.train.order, identified=identified
        )
        val_rows = worker.rows(trial.prepared, "val", job.train.num_epochs)
        scored_rows = worker.sample(val_rows, job.evaluate.val_rows)
        layout = self._layout(worker, trial, train_rows)
        packs = [trial.plans[first : first + layout.width] for first in range(0, len(trial.plans), layout.width)]
        if layout.lanes > 1:
            lock = threading.Lock()
            worker = replace(worker, report=_one_by_one(worker.report, lock))
            ask = None if ask is None else _one_by_one(ask, lock)
        places = [
            Place(self.role, trial.number, trials=trial.total, pack=number, packs=len(packs))
            for number in range(len(packs))
        ]
        return layout, [
            _Share(
                worker,
                trial,
                plans=plans,
                train_rows=train_rows,
                val_rows=val_rows,
                scored_rows=scored_rows,
                place=place,
                ask=ask,
            )
            for plans, place in zip(packs, places, strict=True)
        ]

    def _train_pack(self, share: _Share) -> bool:
        """Train a pack from its newest state to its end, and leave its outcome; say whether it is finished, or waits.

        It goes on in smaller steps where memory does not suffice, and without the members whose code fails.

        Raises:
            FmrayError: If code fails, unless that is an outcome; or if memory does not suffice for a step on one row.
        """
        trial = share.trial
        group = share.worker.group
        if group.broadcast(self._pack_result(trial, share.number) is not None):
            return True
        path = f"{self._pack_folder(trial, share.number)}/{LOST}"
        # which members are left out is kept: states of the others have no place for them
        lost: dict[int, Json] = {int(i): why for i, why in self._read(path).items()} if self.isolates else {}
        has_own_order = trial.job.train.seeds.order
        tell = partial(_placed, share.worker.report, share.place)
        judge = self._judge(trial, share.number, share.ask)
        metric = self.metric_of(trial)
        while sound := [plan for plan in share.plans if plan.index not in lost]:
            left = replace(share, plans=sound, lost=lost)
            seed = derive(trial.job.train.seed, *(["order", sound[0].index] if has_own_order else ["order"]))
            pack: Learner | None = None
            try:
                pack, states = self._opened(left)
                own = states if group.is_first else None
                finished = fit(
                    pack,
                    share.train_rows,
                    share.scored_rows,
                    metric,
                    order_seed=seed,
                    checkpoints=own,
                    report=tell,
                    group=group,
                    judge=judge,
                )
                if finished:
                    self._leave(trial, pack, number=share.number, val_rows=share.val_rows, group=group, lost=lost)
                return finished
            except BaseException as error:
                found = self._after(error, left)
                if found is None:
                    raise
            pack = None  # the next one needs its memory
            if found:
                lost = lost | found
                self.fence.check()
                # in this order: a process killed in between begins the whole pack anew
                self.store.remove(f"{self._pack_folder(trial, share.number)}/states")
                self.store.write_json(path, {str(index): why for index, why in lost.items()})
            release(share.worker.device)
        shown = _lost(share.plans, lost, trial, self.role)
        self.store.write_json(f"{self._pack_folder(trial, share.number)}/{RESULT}", shown)
        return True

    def _after(self, error: BaseException, share: _Share) -> dict[int, Json] | None:
        """Say which members of a pack an error loses, and why: none where smaller steps are tried; None if it ends all.

        Raises:
            TrainError: If memory does not suffice for a step on one row, unless that is an outcome.
        """
        if not isinstance(error, ShortOfMemoryError):
            return self._outcome_of(error, share)
        try:
            self.micro_batches(share.trial).halve_together(share.worker, error)
        except TrainError as short:
            if (found := self._outcome_of(short, share)) is None:
                raise
            return found
        return {}

    def _outcome_of(self, error: BaseException, share: _Share) -> dict[int, Json] | None:
        """Say which members of a pack an error loses, and why; None if it is no outcome but an end."""
        if not self.isolates or share.worker.group.size > 1:
            return None
        path = f"stacks/member-{share.trial.number:05d}-{share.number:05d}.txt"
        why = fault_of(error, share.plans, path, share.worker.report)
        if why is None:
            return None
        alone = {}
        if len(share.plans) > 1:
            alone = self._faults_alone(share.trial, share.plans, share.worker, share.train_rows)
        return alone or {plan.index: why for plan in share.plans}

    def _faults_alone(self, trial: Trial, plans: Sequence[Plan], worker: Worker, rows: Rows) -> dict[int, Json]:
        """Find the members of a pack that cannot be built, or make no step, each alone."""
        found: dict[int, Json] = {}
        for plan in plans:
            try:
                one = self.build(trial, worker.device, [plan])
                train_step(one, next(rows.batches(one.train.order, 0, 0, one.train.batch_rows)), 1.0)
            except BaseException as error:
                fault = fault_of(error, [plan], "stacks/member.txt", ignore)
                if fault is None:
                    raise
                found[plan.index] = fault
        return found

    def _read(self, path: str) -> Json:
        return self.store.read_json(path) if self.store.exists(path) else {}

    def _opened(self, share: _Share) -> tuple[Learner, Checkpoints]:
        """Build a pack, or continue it from its newest state, and give where its states go."""
        worker = share.worker
        place = share.place
        asked = share.trial.job.train.accumulate
        group = worker.group
        micro_batches = self.micro_batches(share.trial)
        trial = _in_micro_batches(share.trial, group.broadcast(micro_batches.number() if group.is_first else None))
        parts = trial.job.train.accumulate
        now = circumstances(group.size, worker.device)
        now |= {"accumulate": parts}
        folder = self._pack_folder(trial, share.number)
        states = Checkpoints(
            self.store, f"{folder}/states", trial.job.run.checkpoint_seconds, self.fence.check, circumstances=now
        )
        found = group.broadcast(states.newest() if group.is_first else None)
        better = self.metric_of(trial).higher_is_better
        pack = build_learner(
            share.plans, trial.job, trial.prepared, better=better, device=worker.device, fresh=found is None
        )
        if found is not None:
            name, before = found
            state = states.read(name)
            same = "exact" if before == now else "same batches"
            if before.get("accumulate", asked) != parts:
                same = f"changed (micro-batch, step {state.global_step})"
            if not (trial.waited and before == now):
                worker.report(Resumed(state.epoch, state.step, same, place, changed=_differences(before, now)))
            pack.restore(state, group.rank)
            return pack, states
        worker.report(PackStarted(place))
        if parts != asked:
            changed = f"accumulate {asked} -> {parts}"
            worker.report(Resumed(0, 0, "changed (micro-batch, step 0)", place, changed=changed))
        if group.size == 1 and isinstance(pack, Pack):
            refuse_single_rows(pack, list(share.plans), share.train_rows)
        return pack, states

    def micro_batches(self, trial: Trial) -> MicroBatches:
        """Give in how many parts the batches of a trial are computed."""
        path = f"{self.folder(trial.number)}/accumulate.json"
        return MicroBatches(self.store, path, self.fence, trial.job.train)

    def _leave(
        self,
        trial: Trial,
        pack: Learner,
        number: int,
        val_rows: Rows,
        group: Group,
        lost: Mapping[int, Json] = MappingProxyType({}),
    ) -> None:
        """Write what a pack came to: members' tensors, what they say on validation, and last their records.

        Args:
            lost: Index of a member that was left out -> {"reason", "class" of the error}.
        """
        said = what_members_say(pack, val_rows, group)
        if not group.is_first:
            return
        self.fence.check()
        folder = self._pack_folder(trial, number)
        with to_write(f"{folder}/{SAID}") as path:
            np.save(path, said, allow_pickle=False)
        members = [
            _write_member(pack, place, trial=trial, training=self, number=number, said=said[place])
            for place in range(len(pack.plans))
        ]
        others = _lost([plan for plan in trial.plans if plan.index in lost], lost, trial, self.role)
        made = [SAID, *(f"{member.index:05d}/{file_of(member)}" for member in members)]
        result = {
            "files": measure(folder, made),
            "members": [*(unplaced(member, folder) for member in members), *others["members"]],
            "health": pack.state.health,
            "width": len(pack.plans),
            "said": SAID,
            "errors": others["errors"],
        }
        self.store.write_json(f"{folder}/{RESULT}", result)
        self.store.remove(f"{folder}/states")

    def _finish(self, trial: Trial, packs: Sequence[int], lost: Json | None = None) -> None:
        """Complete a trial: name its packs, and hold the members that are in none."""
        self.fence.check()
        self.store.write_json(f"{self.folder(trial.number)}/{RESULT}", {"packs": list(packs), "lost": lost})

    def _pack_folder(self, trial: Trial, number: int) -> str:
        return f"{self.folder(trial.number)}/{number:05d}"

    def _pack_result(self, trial: Trial, number: int) -> Json | None:
        path = f"{self._pack_folder(trial, number)}/{RESULT}"
        return self.store.read_json(path) if self.store.exists(path) else None

    def _judge(self, trial: Trial, number: int, ask: Ask | None) -> Judge | None:
        return None if ask is None else partial(ask, f"{trial.number}.{number}")

    def metric_of(self, trial: Trial) -> Metric:
        """Give the primary metric."""
        return find_metric(self.metric, trial.prepared.target, trial.job.task.params)

    def build(self, trial: Trial, device: torch.device, plans: Sequence[Plan], fresh: bool = True) -> Pack:
        """Build a pack of networks of a trial, untrained; see `Pack` for `fresh`."""
        better = self.metric_of(trial).higher_is_better
        return build_pack(plans, trial.job, prepared=trial.prepared, better=better, device=device, fresh=fresh)

    def _layout(self, worker: Worker, trial: Trial, rows: Rows) -> Layout:
        """Say how the members train; once chosen for a structure, replayed with the cores there are."""
        path = f"{self.home}/width-{trial.structure:05d}.json"
        chosen = None
        if worker.group.is_first:
            if not self.store.exists(path):
                if self.store.list(self._pack_folder(trial, 0)):
                    raise DataError(
                        f"{path} is missing, and packs of that width are there already. Restore it, or remove "
                        f"{self.home} to have them trained anew."
                    )
                alike = trial.plans[:1] if trial.job.train.seeds.order else trial.plans  # in the order of their rows
                self.store.write_json(path, asdict(self._chosen(alike, worker, trial, rows)))
            chosen = self.store.read_json(path)
        found = Layout(**worker.group.broadcast(chosen))
        most = torch.get_num_threads()
        threads = min(found.threads, most)
        return replace(found, threads=threads, lanes=max(1, min(found.lanes, most // threads)))

    def _chosen(self, plans: Sequence[Plan], worker: Worker, trial: Trial, rows: Rows) -> Layout:
        """Choose among as many members as memory holds on a whole batch."""
        if is_estimator(plans[0]):
            return Layout(1, torch.get_num_threads())
        # how long a step takes does not depend on what members were initialised to
        build = partial(self.build, trial, worker.device, fresh=False)
        alone = worker.group.size == 1
        while True:
            try:
                return choose(plans, build, rows, trial.job.run, alone=alone)
            except ShortOfMemoryError:
                plans = plans[: max(1, len(plans) // 2)]
            except BaseException as error:
                # which members fail is found out where they are trained, each alone if nobody can be timed
                if isinstance(error, SpecError | TrainError) or not self.isolates:
                    raise
                if fault_of(error, plans, "", ignore) is None:
                    raise
                faulty = self._faults_alone(trial, plans, worker, rows)
                sound = [plan for plan in plans if plan.index not in faulty]
                if not 0 < len(sound) < len(plans):
                    return Layout(1, 1)
                plans = sound
            release(worker.device)


def fault_of(error: BaseException, plans: Sequence[Plan], path: str, report: Report) -> Json | None:
    """Put an error that members met into words, and report it; None if it ends the sweep.

    Args:
        path: Where in the run's directory the traceback goes.
    """
    about = f"{spelled(plans)}: "
    if isinstance(error, SpecError | TrainError) and not isinstance(error, CodeError):
        report(failure(kind_of(error), f"{about}{one_line(error)}", LEFT_OUT))
        return {"reason": str(error), "class": type(error).__name__}
    if is_of_user(error) or kind_of(error) in (MEMORY, DEVICE_MEMORY):
        found = code_error(error, path, report=report, action=LEFT_OUT, about=about)
        return {"reason": found.said, "class": TrainError.__name__}
    return None


def _in_micro_batches(trial: Trial, number: int) -> Trial:
    train = replace(trial.job.train, accumulate=number)
    return replace(trial, job=replace(trial.job, train=train))


def _differences(before: Json, now: Json) -> str:
    changed = [f"{name} {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]
    return ", ".join(changed)


def _one_by_one(do: Callable[Given, Answer], lock: threading.Lock) -> Callable[Given, Answer]:
    """Let threads do this one after the other."""

    def alone(*given: Given.args, **named: Given.kwargs) -> Answer:
        with lock:
            return do(*given, **named)

    return alone


def _placed(report: Report, place: Place, event: Event) -> None:
    """Report which pack an epoch is of."""
    report(replace(event, place=place) if isinstance(event, Epoch) else event)


def _untrained(plan: Plan, trial: Trial, role: Role, status: Status, reason: str) -> Member:
    return Member(
        index=plan.index,
        model={"name": plan.model.name, "params": dict(plan.model.params)},
        params=dict(plan.params),
        seed=plan.seed,
        root="",
        status=status,
        best_epoch=0,
        epochs=0,
        val_score=None,
        tensor_hash="",
        reason=reason,
        role=role,
        structure=trial.structure,
        prepared="" if trial.fault else trial.prepared.fingerprint,
    )


def _lost(plans: Sequence[Plan], why: Mapping[int, Json], trial: Trial, role: Role, status: Status = "failed") -> Json:
    """Give the outcome of members that were not trained to their end."""
    members = [_untrained(plan, trial, role=role, status=status, reason=why[plan.index]["reason"]) for plan in plans]
    errors = {str(plan.index): why[plan.index]["class"] for plan in plans if why[plan.index]["class"]}
    shown = [member.to_json() for member in members]
    return {"members": shown, "health": [], "width": len(shown), "said": "", "errors": errors}


def spelled(plans: Sequence[Plan]) -> str:
    """Name members in a sentence: the first few, and what sets the first one apart."""
    names = ", ".join(str(plan.index) for plan in plans[:8]) + (", ..." if len(plans) > 8 else "")
    params = ", ".join(f"{name}: {value}" for name, value in plans[0].params.items()) if len(plans) == 1 else ""
    return f"member{'s' * (len(plans) > 1)} {names}{f' ({params})' if params else ''}"


def _write_member(pack: Learner, place: int, trial: Trial, training: Training, number: int, said: np.ndarray) -> Member:
    plan = pack.plans[place]
    state = pack.state
    home = f"{training.folder(trial.number)}/{number:05d}/{plan.index:05d}"
    kind, data, digest = pack.artefact(place)
    with to_write(f"{home}/{FILES[kind]}") as path, open(path, "wb") as file:
        file.write(data)
    end: dict[str, Any] = state.ends.get(str(place), {"status": "finished", "reason": "", "epochs": state.epoch})
    if not torch.isfinite(state.best_score[place]) and end["status"] != "failed":
        end = {**end, "status": "failed", "reason": _unscored(training.metric, said)}
    score = float(state.best_score[place]) * pack.sign
    member = _untrained(plan, trial, role=training.role, status="failed", reason=end["reason"])
    return replace(
        member,
        root=home,
        status=end["status"],
        best_epoch=int(state.best_epoch[place]),
        epochs=end["epochs"],
        val_score=score if end["status"] != "failed" and torch.isfinite(state.best_score[place]) else None,
        tensor_hash=digest,
        artefact=kind,
        history=tuple({name: e[name] for name in HISTORY} for e in state.history if e["member"] == plan.index),
        pack=number,
    )


def _unscored(metric: str, said: np.ndarray) -> str:
    """Say why a member that was trained has no score on validation."""
    if np.isfinite(said).all():
        return f"{metric} is not defined on its validation rows: see how many of each class, or which values, they have"
    return f"its predictions on validation are not finite in {len(said) - np.isfinite(said).all(-1).sum()} rows"
