"""Train the members a job asks for, and keep them as one record.

Plain training has one trial, or one per fold with strict folds; a search has many. A killed sweep resumes from the
newest state of each pack; a finished one is read back.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from fmray.catalogue import ESTIMATORS, LIVE, METRICS, MODELS, OPTIMIZERS, SCHEDULES, TASKS
from fmray.data.scratch import load
from fmray.errors import FmrayError, SpecError, TrainError
from fmray.events import Note, Record, Report, ignore
from fmray.metrics.metric import Metric, ranked, reasons_of
from fmray.records import Json, Member, Prepared
from fmray.spec.job import Job
from fmray.store import Store, code_digest, fingerprint, require_whole, verify
from fmray.store.copies import copy_file
from fmray.train.artefacts import file_of
from fmray.train.pack import Plan
from fmray.train.workers import train
from fmray.tune.halving import RungScores
from fmray.tune.outcomes import PREDICTIONS_KEY, is_finished, read_packs
from fmray.tune.train_trials import train_trials
from fmray.tune.trial import Role, Trial, TrialContext

WorkerCount = int | tuple[int, int]
KIND = "members"
"""Kind of the record in the store."""
MAX_KEPT_MEMBERS = 50
"""Number of the best members of a search whose tensors are kept."""


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep.

    Args:
        key: Fingerprint of its record.
        members: In the order of their plans.
        health: Non-finite losses, see `State.health`.
        widths: Members per pack.
        reused: Whether the sweep was read back rather than trained.
        predictions: [(file, members)], on a sample of validation rows; row i of a file belongs to members[i].
        rungs: Epoch -> member -> score, higher is better, where members were compared.
        seconds: Duration of the training.
    """

    key: str
    members: tuple[Member, ...]
    health: tuple[Json, ...]
    widths: tuple[int, ...]
    reused: bool
    predictions: tuple[tuple[str, tuple[int, ...]], ...] = ()
    rungs: RungScores = field(default_factory=dict)
    seconds: float = 0.0

    def best(self, metric: Metric) -> Member:
        """Return the member with the best score on validation.

        Raises:
            TrainError: If no member has a score.
        """
        ranking = ranked(self.members, metric.higher_is_better)
        if not ranking:
            text = f"none of {len(self.members)} members has a validation score: {reasons_of(self.members)}."
            raise TrainError(text, "train")
        return ranking[0]

    def predictions_of(self, members: Sequence[int]) -> np.ndarray:
        """Read the predictions of members on the sample of validation rows.

        Args:
            members: Indices of the members.

        Shapes:
            returns: (M, n, C or T), float32.
        """
        rows_by_member = {index: (path, row) for path, indices in self.predictions for row, index in enumerate(indices)}
        paths = sorted({rows_by_member[index][0] for index in members})
        require_whole(paths)
        files = {path: load(path) for path in paths}
        return np.stack([files[path][row] for path, row in (rows_by_member[index] for index in members)])

    def join(self, more: "Sweep") -> "Sweep":
        """Return this sweep followed by one that extends it; `key` and `reused` are taken from the latter."""
        return replace(
            more,
            members=self.members + more.members,
            health=self.health + more.health,
            widths=self.widths + more.widths,
            predictions=self.predictions + more.predictions,
            rungs={**self.rungs, **more.rungs},
            seconds=self.seconds + more.seconds,
        )


def sweep(
    job: Job,
    plans: Sequence[Plan],
    prepared: Prepared,
    metric: Metric,
    store: Store,
    workers: WorkerCount = 0,
    *,
    attempt: str = "",
    role: Role = "member",
    report: Report = ignore,
) -> Sweep:
    """Train members that are known in advance, or read them back if this was done before.

    Args:
        job: A job without ranges.
        plans: One per member.
        workers: Number of workers per pack; 0 trains in this process.
        attempt: Distinguishes a repeated run (`--fresh`) from the first; "" for the first.
        role: "member", "finalist" or "baseline".
        report: Called with one event per epoch and pack.

    Raises:
        TrainError: If no member could be trained.
    """
    if not plans:
        return Sweep("", (), (), (), reused=True)
    trials = [Trial(0, 0, job=job, plans=tuple(plans), prepared=prepared)]
    return sweep_trials(trials, metric, store, workers, attempt=attempt, role=role, report=report)


def sweep_trials(
    trials: Sequence[Trial],
    metric: Metric,
    store: Store,
    workers: WorkerCount = 0,
    *,
    attempt: str = "",
    role: Role = "member",
    report: Report = ignore,
) -> Sweep:
    """Train known trials one after the other, each on its own prepared rows; see `sweep`.

    Raises:
        TrainError: If no member could be trained.
    """
    first = trials[0]
    key = key_of(
        first.job, key_parts(trials), prepared=first.prepared, metric=metric, attempt=attempt, role=role, code=__name__
    )
    # with a single member, its error is the error of the run
    records_failed_members = sum(len(trial.plans) for trial in trials) > 1
    with open_record(
        key,
        metric,
        store,
        role=role,
        report=report,
        records_refused_trials=False,
        records_failed_members=records_failed_members,
    ) as record:
        if (context := record.context) is not None:
            record.trials = trials
            train(
                partial(train_trials, context, trials),
                first.job,
                workers=workers,
                name=key,
                store=store,
                report=report,
                halve=partial(_halve, context, trials),
            )
    return record.sweep()


def key_parts(trials: Sequence[Trial]) -> list[object]:
    """List what a sweep's key depends on: the plans of all members, and the rows of their trial."""
    return [(trial.prepared.fingerprint, *map(vars, trial.plans)) for trial in trials]


def _halve(context: TrialContext, trials: Sequence[Trial]) -> int | None:
    """Halve the micro-batch size of the trial that was training: the first without an outcome."""
    trial = next((trial for trial in trials if not is_finished(context, trial)), None)
    return None if trial is None else context.micro_batches(trial).halve()


def key_of(job: Job, members: object, prepared: Prepared, metric: Metric, attempt: str, role: Role, code: str) -> str:
    """Return the key of a sweep: a fingerprint of everything its results depend on.

    Args:
        members: Whatever describes the members; see `key_parts`.
        code: Name of the module that trains them.
    """
    scored = (metric.name, job.evaluate.val_rows)
    inputs = (job.train, job.live_steps, members, prepared.fingerprint, scored, attempt, role)
    return fingerprint(KIND, *inputs, job.run.deterministic, code_digest(code, *_modules(job, metric)))


def _modules(job: Job, metric: Metric) -> list[str]:
    """List the Python modules whose code decides how members are built, trained and compared."""
    train = job.train
    tasks = TASKS if job.task.name == "auto" else (job.task.name,)  # not resolved yet: depend on the code of every task
    used = [
        (ESTIMATORS if job.model.name in ESTIMATORS else MODELS).module(job.model.name),
        *([] if train.optimizer.name in OPTIMIZERS else [OPTIMIZERS.module(train.optimizer.name)]),  # those are torch's
        SCHEDULES.module(train.schedule.name),
        *(TASKS.module(name) for name in tasks),
        *(LIVE.module(step.name) for step in job.live_steps),
    ]
    primary = job.evaluate.primary or metric.name
    return [*used, METRICS.module(primary)] if primary in METRICS or ":" in primary else used


@dataclass
class SweepRecord:
    """The record of a sweep, either being filled or read back from the store.

    Args:
        context: What its trials share; None if the sweep was finished before.
        manifest: Manifest of the record; empty until it is complete.
        trials, rungs: What was trained, and the scores at each rung; set inside the `with` block.
    """

    key: str
    report: Report
    context: TrialContext | None
    manifest: Json = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    rungs: RungScores = field(default_factory=dict)

    def sweep(self) -> Sweep:
        """Return the results in the record.

        Raises:
            TrainError: If no member could be trained.
        """
        manifest = self.manifest
        folder = manifest["folder"]
        members = tuple(
            Member.from_json({**value, "root": f"{folder}/{value['root']}" if value["root"] else ""})
            for value in manifest["members"]
        )
        if members and all(member.status == "failed" for member in members):
            raise _all_failed_error(members, {})
        if failed := [member for member in members if member.status == "failed"]:
            self.report(Note(f"{len(failed)} of {len(members)} members failed: {reasons_of(failed)}"))
        return Sweep(
            self.key,
            members,
            health=tuple(manifest["health"]),
            widths=tuple(manifest["widths"]),
            reused=self.context is None,
            predictions=tuple((f"{folder}/{name}", tuple(indices)) for name, indices in manifest[PREDICTIONS_KEY]),
            rungs={int(epoch): {int(m): s for m, s in scores.items()} for epoch, scores in manifest["rungs"].items()},
            seconds=manifest["seconds"],
        )


@contextmanager
def open_record(
    key: str,
    metric: Metric,
    store: Store,
    role: Role,
    report: Report,
    *,
    records_refused_trials: bool,
    records_failed_members: bool,
) -> Iterator[SweepRecord]:
    """Yield the stored record of a sweep, or an empty one for the `with` block to fill, which is then written.

    Args:
        records_refused_trials, records_failed_members: As for `TrialContext`.

    Raises:
        TrainError: If all members failed because of their code.
    """
    report(Record(KIND, key))
    with store.create(KIND, key) as draft:
        if draft.existing is not None:
            yield SweepRecord(key, report, None, manifest=draft.existing)
            return
        home = store.path("checkpoints", key)
        started = time.perf_counter()
        with store.lease(home) as lease:
            context = TrialContext(
                metric.name,
                store,
                home=home,
                role=role,
                fence=lease.fence,
                records_refused_trials=records_refused_trials,
                records_failed_members=records_failed_members,
            )
            record = SweepRecord(key, report, context)
            yield record
            _raise_if_all_failed(context, record.trials)
            facts = _assemble(context, record.trials, metric=metric, folder=draft.folder, rungs=record.rungs)
            record.manifest = draft.commit({**facts, "seconds": round(time.perf_counter() - started, 3)})
        store.remove(home)


def _raise_if_all_failed(context: TrialContext, trials: Sequence[Trial]) -> None:
    """Raise if all members failed because of their code; first remove their outcomes, so that the next run tries again.

    Raises:
        FmrayError: The error that all members met, or one that lists them.
    """
    packs = [pack for trial in trials for pack in read_packs(context, trial.number)]
    members = [Member.from_json(member) for pack in packs for member in pack["members"]]
    errors = {int(index): name for pack in packs for index, name in pack.get("errors", {}).items()}
    if errors and all(member.status == "failed" for member in members):
        for trial in trials:
            context.store.remove(context.folder(trial.number))
        raise _all_failed_error(members, errors)


def _all_failed_error(members: Sequence[Member], errors: Mapping[int, str]) -> FmrayError:
    """Build the error that says why no member could be trained.

    Args:
        errors: Index of a member that failed because of its code or parameters -> class of the error.
    """
    if set(errors.values()) == {SpecError.__name__} and len({member.reason for member in members}) == 1:
        return SpecError(members[0].reason)
    where = " Tracebacks are in the run's directory, under stacks." if TrainError.__name__ in errors.values() else ""
    others = [member for member in members if member.reason != members[0].reason]
    if len(members) == 1:
        return TrainError(f"the only member failed: {members[0].reason.rstrip('.')}.{where}", "train")
    text = f"all {len(members)} members failed. The first: {members[0].reason.rstrip('.')}."
    return TrainError(f"{text}{f' Others: {reasons_of(others)}.' if others else ''}{where}", "train")


def _assemble(context: TrialContext, trials: Sequence[Trial], metric: Metric, folder: str, rungs: RungScores) -> Json:
    """Collect the outcomes of trials: records and predictions of all members, tensors of those that are kept."""
    packs = [(trial, index, pack) for trial in trials for index, pack in enumerate(read_packs(context, trial.number))]
    members = [Member.from_json(member) for _, _, pack in packs for member in pack["members"]]
    order = [member.index for member in ranked(members, metric.higher_is_better)]
    # only a search records rejected trials, and may have too many members to keep the tensors of all
    chosen = set(order[:MAX_KEPT_MEMBERS]) if context.records_refused_trials else {member.index for member in members}
    predictions = []
    for trial, index, pack in packs:
        _verify_pack(pack, chosen)
        if pack[PREDICTIONS_KEY]:
            name = f"said-{trial.number:05d}-{index:05d}.npy"
            copy_file(pack[PREDICTIONS_KEY], f"{folder}/{name}")
            predictions.append([name, [member["index"] for member in pack["members"] if member["root"]]])
    stored = [_store_member(member, folder, rungs, member.index in chosen) for member in members]
    return {
        "members": [member.to_json() for member in sorted(stored, key=lambda member: member.index)],
        "health": [event for _, _, pack in packs for event in pack["health"]],
        "widths": [pack["width"] for _, _, pack in packs],
        PREDICTIONS_KEY: predictions,
        "rungs": {str(epoch): {str(m): score for m, score in scores.items()} for epoch, scores in rungs.items()},
    }


def _verify_pack(pack: Json, chosen: set[int]) -> None:
    """Verify the checksums of a pack's files, except for tensors that are not kept."""
    members = [Member.from_json(member) for member in pack["members"]]
    unkept = {f"{member.index:05d}/{file_of(member)}" for member in members if member.index not in chosen}
    if pack[PREDICTIONS_KEY]:
        verify(pack["folder"], {name: entry for name, entry in pack["files"].items() if name not in unkept})


def _store_member(member: Member, folder: str, rungs: RungScores, is_kept: bool) -> Member:
    """Copy a member's tensors into the record if they are kept, and add its scores at the rungs."""
    compared = [(epoch, scores[member.index]) for epoch, scores in sorted(rungs.items()) if member.index in scores]
    rung_scores = tuple({"epoch": e, "score": score, "survived": member.epochs > e} for e, score in compared)
    if not (is_kept and member.root):
        return replace(member, root="", rungs=rung_scores)
    name = f"{member.index:05d}"
    copy_file(f"{member.root}/{file_of(member)}", f"{folder}/{name}/{file_of(member)}")
    return replace(member, root=name, rungs=rung_scores)
