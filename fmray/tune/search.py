"""Train the members of a job; if it has ranges, search them: propose trials, and stop members that score worse.

Proposals, outcomes and decisions to stop members are written as they are made, so a search that was killed resumes, and
one that is finished can be extended.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fmray.catalogue import ENSEMBLES, ESTIMATORS
from fmray.data.session import living_nodes, session
from fmray.errors import SpecError, TrainError
from fmray.events import Note, Report, ignore
from fmray.failures import MEMORY
from fmray.metrics.metric import Metric, ranked
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Seeds
from fmray.store import Store
from fmray.train.failures import is_user_error, kind_of
from fmray.train.ingest import Steps
from fmray.train.pack import Plan
from fmray.train.population import num_parameters
from fmray.train.warm import Start
from fmray.tune.boost import boost
from fmray.tune.executors import train_here, train_on_ray
from fmray.tune.faults import report_member_error
from fmray.tune.halving import RungScores, Stopper, StoppingRules, expected_epochs, rungs_of
from fmray.tune.outcomes import PREDICTIONS_KEY, read_packs
from fmray.tune.pbt import PopulationBasedSearch, PopulationPlan
from fmray.tune.plans import (
    Prepare,
    finalist_plans,
    job_of_member,
    plans_of,
    retrains_finalists,
    searched_plans,
    trials_of,
    with_folds_and_bags,
)
from fmray.tune.proposals import ListedProposals, Proposals, TPEProposals
from fmray.tune.search_progress import SearchProgress
from fmray.tune.slots import num_slots
from fmray.tune.space import TrialGroup, trial_groups
from fmray.tune.sweep import Sweep, WorkerCount, key_of, key_parts, open_record, sweep, sweep_trials
from fmray.tune.trial import Role, Trial, TrialContext

GROUP_SPLIT_FILE = "cut.json"
"""Into how many trials each group is split; the name of the file is that of earlier versions."""
MIN_MEMBERS_PER_TRIAL = 8
"""A group is never split into trials of fewer members, even if workers stay idle."""
Executor = Callable[[Proposals], list[Trial]]
"""Trains the proposed trials, and returns those that wait at a rung."""
MAX_LOCAL_FLOPS = 5e11
"""Up to this many floating-point operations, training in this process is faster than starting Ray."""


@dataclass(frozen=True)
class MemberTrainer:
    """Train the members of a job: those of a search if it has ranges, or plans that are known in advance.

    Args:
        job: The job, including its ranges if it has any.
        task: Name and parameters of the task; `auto` is already resolved.
        prepare: Returns the prepared rows of a structure, or of a strict fold.
        metric: The primary metric.
        attempt: Distinguishes a repeated run (`--fresh`) from the first; "" for the first.
        report: Called with every event.
        starts: Initial weights, assigned to members in rotation; only used without a search.
    """

    job: Job
    task: Ref
    prepare: Prepare
    metric: Metric
    store: Store
    attempt: str = ""
    report: Report = ignore
    starts: Sequence[Start] = ()

    def run_search(self) -> Sweep:
        """Search the ranges, or read back a finished search.

        Raises:
            TrainError: If no member could be trained.
            ClusterError: If Ray fails, or `run.workers` concurrent trials do not fit on the cluster.
        """
        job = self.job
        # extending: first run the original search, or read it back
        original = self._without_more().run_search() if self.job.search.more else None
        # seeds and finalists do not affect the search, so they are left out of its key
        searched = replace(job, train=replace(job.train, seeds=Seeds()))
        definition = [searched.to_json()[name] for name in ("model", "task", "steps", "train")]
        key = self._key(searched, [*definition, replace(job.search, finalists=1)], "member")
        members = job.search.more or sum(len(group.members) for group in trial_groups(job))
        expected = expected_epochs(members, job.train.num_epochs, rungs_of(job), job.search.eta)
        with_progress = replace(
            self,
            report=SearchProgress(self.report, self.metric, members=members, expected=expected, rungs=rungs_of(job)),
        )
        with open_record(
            key,
            self.metric,
            self.store,
            role="member",
            report=self.report,
            records_refused_trials=True,
            records_failed_members=True,
        ) as record:
            context = record.context
            if context is not None and job.search.by == "pbt":
                population = PopulationPlan(job, self.task, self.prepare(job.at({})))
                record.trials = PopulationBasedSearch(population, with_progress.report, key).train(context)
            elif context is not None:
                rounds = _SearchRounds.of(with_progress, context, key=key, original=original, members=members)
                proposals: Proposals = rounds.proposals
                while waiting := rounds.execute(proposals):
                    proposals = rounds.close_rung(waiting)
                record.trials, record.rungs = rounds.results()
        searched_now = record.sweep()
        return original.join(searched_now) if original else searched_now

    def train_finalists(self, searched: Sweep) -> Sweep:
        """Retrain the best members of a search, with every seed of the job.

        Raises:
            TrainError: If none could be trained.
        """
        job = self.job
        trials = list[Trial]()
        first = len(searched.members)
        chosen = ranked(searched.members, self.metric.higher_is_better)[: job.search.finalists]
        for number, member in enumerate(chosen):
            member_job = job_of_member(job, member)
            plans = finalist_plans(job, self.task, member, first)
            first += len(plans)
            trials += [replace(trial, structure=number) for trial in trials_of(member_job, plans, self.prepare)]
        trials = [replace(trial, number=number, total=len(trials)) for number, trial in enumerate(trials)]
        key = self._key(job.at({}), key_parts(trials), "finalist")
        with open_record(
            key,
            self.metric,
            self.store,
            role="finalist",
            report=self.report,
            records_refused_trials=False,
            records_failed_members=True,
        ) as record:
            if record.context is not None:
                record.trials = trials
                slots = self.choose_slots(sum(len(trial.plans) for trial in trials))
                execute = self.make_executor(
                    record.context, rules=StoppingRules(), earlier_scores={}, slots=slots, name=key
                )
                execute(ListedProposals(trials))
        return record.sweep()

    def make_executor(
        self, context: TrialContext, rules: StoppingRules, earlier_scores: RungScores, slots: int, name: str
    ) -> Executor:
        """Return the function that trains proposed trials and returns those that wait at a rung.

        Args:
            slots: Number of concurrent Ray Tune trials; 0 trains one trial at a time in this process.
        """
        run = self.job.run
        report = self.report
        if slots:
            return partial(
                train_on_ray,
                context,
                rules=rules,
                earlier_scores=earlier_scores,
                run=run,
                report=report,
                slots=slots,
                name=name,
            )
        return partial(train_here, context, rules=rules, earlier_scores=earlier_scores, run=run, report=report)

    def choose_slots(self, members: int) -> int:
        """Choose the number of concurrent trials, 0 for one at a time in this process, and report why."""
        run = self.job.run
        if run.workers == 0:
            slots = 0
            reason = "run.workers: 0"
        elif (
            run.workers == "auto"
            and not os.environ.get("RAY_ADDRESS")
            and (flops := self._estimate_flops(members)) <= MAX_LOCAL_FLOPS
        ):
            slots = 0
            reason = f"at most {flops:.0e} floating-point operations: faster than starting workers"
        else:
            with session():
                slots = num_slots(living_nodes(), run)
                reason = f"run.workers: {run.workers}"
        how = f"{slots} at a time with Ray Tune" if slots else "one after the other in this process"
        self.report(Note(f"trials train {how} ({reason})"))
        return slots

    def draw_groups(self) -> list[TrialGroup]:
        """Draw the groups to try, except those of the search that this one extends."""
        tried = len(trial_groups(self._without_more().job)) if self.job.search.more else 0
        return trial_groups(self.job)[tried:]

    def plan_trial(self, number: int, group: TrialGroup, first: int) -> Trial:
        """Plan the trial of a group.

        Args:
            first: Index of its first member.
        """
        concrete = self.job.at(group.structural)
        plans = tuple(
            searched_plans(self.job, self.task, structural=group.structural, members=group.members, first=first)
        )
        try:
            return Trial(number, group.structure, job=concrete, plans=plans, prepared=self.prepare(concrete))
        except BaseException as error:
            if not _is_steps_error(error):
                raise
            fault = report_member_error(error, plans, f"stacks/steps-{number:05d}.txt", self.report)
            if fault is None:
                raise
        return Trial(
            number, group.structure, job=concrete, plans=plans, prepared=self.prepare(self.job.at({})), fault=fault
        )

    def plan_trials(self, context: TrialContext, slots: int, first: int) -> list[Trial]:
        """Plan all trials: groups are split so that no worker is idle, unless runs must be deterministic.

        The split is stored, so a search that continues with another number of workers finds the same trials.

        Args:
            first: Index of the first member.
        """
        store = self.store
        path = f"{context.home}/{GROUP_SPLIT_FILE}"
        groups = self.draw_groups()
        if not store.exists(path):
            pieces = 1 if self.job.run.deterministic else max(1, slots // len(groups))
            store.write_json(path, {"pieces": pieces})
        parts = [part for group in groups for part in _split_group(group, store.read_json(path)["pieces"])]
        trials = list[Trial]()
        for number, part in enumerate(parts):
            trials.append(replace(self.plan_trial(number, part, first), total=len(parts)))
            first += len(part.members)
        return trials

    def _without_more(self) -> "MemberTrainer":
        return replace(self, job=replace(self.job, search=replace(self.job.search, more=0)))

    def _key(self, job: Job, definition: object, role: Role) -> str:
        return key_of(
            job,
            definition,
            prepared=self.prepare(self.job.at({})),
            metric=self.metric,
            attempt=self.attempt,
            role=role,
            code=__name__,
        )

    def _estimate_flops(self, members: int) -> float:
        """Estimate the floating-point operations of a search if all members had the largest model and none stopped."""
        max_flops = 0.0
        for group in self.draw_groups():
            concrete = self.job.at({**group.structural, **group.members[0]})
            try:
                prepared = self.prepare(concrete)
            except BaseException as error:
                if not _is_steps_error(error):
                    raise
                continue  # reported by its trial, see `plan_trial`
            num_rows = prepared.num_rows("train")
            rows = num_rows * Steps.of(concrete.train, num_rows).num_passes
            # 6 operations per parameter and row: 2 forward, 4 backward
            max_flops = max(max_flops, 6.0 * _num_parameters(concrete, prepared) * rows)
        return max_flops * members


def train_members(trainer: MemberTrainer, prepared: Prepared, workers: WorkerCount, device: str) -> Sweep:
    """Train all members a job asks for: those of a search; one per seed, fold and bag; or the rounds of AdaBoost.

    Members of the search come first, then the retrained finalists.

    Args:
        trainer: Trains the members of the job, which need not have ranges.
        prepared: Rows of the job with the first value of each range.
        workers: Number of workers per pack; only used without a search.
        device: Device for predictions between rounds of boosting.

    Raises:
        TrainError: If no member could be trained.
    """
    job = trainer.job
    store = trainer.store
    if job.ranges:
        found = trainer.run_search()
        return found.join(trainer.train_finalists(found)) if retrains_finalists(job) else found

    def train(plan: Plan) -> Sweep:
        return sweep(
            job,
            [plan],
            prepared=prepared,
            metric=trainer.metric,
            store=store,
            workers=workers,
            attempt=trainer.attempt,
            report=trainer.report,
        )

    plans = plans_of(job, trainer.task)
    if trainer.starts:
        plans = [replace(plan, start=trainer.starts[plan.index % len(trainer.starts)]) for plan in plans]
    if job.ensemble.name == "adaboost":
        return boost(
            plans,
            prepared,
            store=store,
            train=train,
            params=ENSEMBLES.read("adaboost", job.ensemble.params),
            device=device,
        )
    trials = trials_of(job, with_folds_and_bags(job, plans), trainer.prepare)
    return sweep_trials(trials, trainer.metric, store, workers, attempt=trainer.attempt, report=trainer.report)


@dataclass(frozen=True)
class _SearchRounds:
    """Train a search in rounds: members that wait at a rung continue in the next round.

    Args:
        proposals: The trials to train.
        rules: When members stop.
        earlier_scores: Scores at each rung of the search that this one extends.
        execute: Trains the proposed trials, and returns those that wait at a rung.
    """

    trainer: MemberTrainer
    context: TrialContext
    proposals: "_RecordingProposals"
    rules: StoppingRules
    earlier_scores: RungScores
    execute: Executor

    @classmethod
    def of(
        cls, trainer: MemberTrainer, context: TrialContext, key: str, original: Sweep | None, members: int
    ) -> "_SearchRounds":
        """Choose how trials are proposed, when members stop and where they train.

        Args:
            key: Key of the sweep.
            original: Sweep of the search that this one extends, or None.
            members: Number of members to train.
        """
        job = trainer.job
        slots = trainer.choose_slots(members)
        is_adaptive = job.search.by == "optuna"
        # Synchronous rungs do not depend on the order of arrival. Optuna proposes from finished trials: it cannot wait.
        rules = StoppingRules.of(job, synchronous=(job.run.deterministic or not slots) and not is_adaptive)
        if is_adaptive and job.run.deterministic:
            slots = min(slots, 1)  # a proposal depends on all results before it, so trials must not run concurrently
        first = len(original.members) if original else 0
        proposals = (
            TPEProposals(job, trainer.plan_trial, context)
            if is_adaptive
            else ListedProposals(trainer.plan_trials(context, slots, first))
        )
        earlier_scores = original.rungs if original else {}
        execute = trainer.make_executor(context, rules=rules, earlier_scores=earlier_scores, slots=slots, name=key)
        return cls(
            trainer,
            context,
            proposals=_RecordingProposals(proposals),
            rules=rules,
            earlier_scores=earlier_scores,
            execute=execute,
        )

    def close_rung(self, waiting: Sequence[Trial]) -> Proposals:
        """Decide which of the waiting members stop, and propose the trials of the others again.

        Raises:
            TrainError: If no rung is open.
        """
        if not self._stopper().close_rung():
            names = ", ".join(str(trial.number) for trial in waiting)
            raise TrainError(f"trials {names} are waiting, but no rung is open. This is a bug in fmray.", "search")
        return ListedProposals([replace(trial, waited=True) for trial in waiting])

    def results(self) -> tuple[list[Trial], RungScores]:
        """Return the trials, and the scores of members at each rung.

        Raises:
            DataError: If decisions about a pack are missing, even if an earlier process finished it.
        """
        trials = self.proposals.trials
        stopper = self._stopper() if self.rules.rungs else None
        for trial in trials if stopper else []:
            for pack in read_packs(self.context, trial.number):
                trained = [member for member in pack["members"] if member["status"] != "failed"]
                if stopper and pack[PREDICTIONS_KEY] and trained:
                    number = trained[0]["pack"]
                    stopper.require_decisions(f"{trial.number}.{number}", max(member["epochs"] for member in trained))
        return trials, self._stopper().rung_scores()

    def _stopper(self) -> Stopper:
        return Stopper(self.trainer.store, self.context.home, self.rules, self.earlier_scores)


class _RecordingProposals:
    """Forward to other proposals, and keep a list of all trials that were proposed."""

    def __init__(self, proposals: Proposals) -> None:
        self._proposals = proposals
        self.trials = list[Trial]()

    def ask(self) -> Trial | None:
        trial = self._proposals.ask()
        if trial is not None:
            self.trials.append(trial)
        return trial

    def tell(self, trial: Trial) -> None:
        self._proposals.tell(trial)


def _split_group(group: TrialGroup, pieces: int) -> list[TrialGroup]:
    pieces = max(1, min(pieces, len(group.members) // MIN_MEMBERS_PER_TRIAL))
    size = math.ceil(len(group.members) / pieces)
    return [replace(group, members=group.members[start : start + size]) for start in range(0, len(group.members), size)]


def _is_steps_error(error: BaseException) -> bool:
    """Return whether an error is caused by a structure's own steps, not by the data or the store."""
    is_refused = isinstance(error, SpecError) and error.where.startswith("steps")
    return is_refused or is_user_error(error)


def _num_parameters(job: Job, prepared: Prepared) -> int:
    """Estimate the number of parameters of a model; 0 if it cannot be built, which its trial reports."""
    if job.model.name in ESTIMATORS:  # each round goes through all inputs of a row
        rounds: int = ESTIMATORS.read(job.model.name, job.model.params).rounds_per_epoch
        return rounds * prepared.schema.width
    try:
        return num_parameters(job.model, prepared)
    except BaseException as error:
        if isinstance(error, SpecError | TrainError) or is_user_error(error) or kind_of(error) == MEMORY:
            return 0
        raise
