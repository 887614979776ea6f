"""Search the ranges of a job: draw or propose trials, place them, judge their members against each other.

What is tried, what it came to and who was stopped when is written down as it happens, so a search that was killed goes
on, and one that is finished can be extended.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fmray.catalogue import ESTIMATORS
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
from fmray.train.failures import is_of_user, kind_of
from fmray.train.population import num_parameters
from fmray.train.warm import Start
from fmray.tune.executors import train_here, train_on_ray
from fmray.tune.heir import Cohort
from fmray.tune.pbt import Evolution
from fmray.tune.plans import job_at, searched_plans
from fmray.tune.proposals import Learning, Listed, Proposals
from fmray.tune.referee import Referee, Rules
from fmray.tune.resample import Prepare, final_plans, trials_of
from fmray.tune.rungs import Table, expected_epochs, rungs_of
from fmray.tune.search_progress import SearchProgress
from fmray.tune.slots import num_slots
from fmray.tune.space import TrialGroup, trial_groups
from fmray.tune.sweep import Sweep, Work, described, kept, key_of
from fmray.tune.trial import Role, Training, Trial, fault_of

CUT = "cut.json"
FEWEST_PER_TRIAL = 8
"""Members below which a group is not cut for the sake of an idle worker."""
WORK_HERE = 5e11
"""Floating-point operations up to which this process is done before Ray and its workers would have started."""


@dataclass(frozen=True)
class Search:
    """Search the ranges of a job.

    Args:
        job: With its ranges.
        task: The objective, decided.
        prepare: Gives the rows of each structure, and of each strict fold.
        metric: The primary one.
        attempt: Sets a repeated search apart from the first.
        report: Gets every event.
        starts: What members begin with, in turn; nothing is searched then.
    """

    job: Job
    task: Ref
    prepare: Prepare
    metric: Metric
    store: Store
    attempt: str = ""
    report: Report = ignore
    starts: Sequence[Start] = ()

    def search(self) -> Sweep:
        """Try what the ranges allow, or read back what came of it.

        Raises:
            TrainError: If no member could be trained.
            ClusterError: If Ray fails, or so many trials at a time do not fit.
        """
        job = self.job
        before = self._without_more().search() if self.job.search.more else None
        asked = replace(job, train=replace(job.train, seeds=Seeds()))  # seeds and finalists come after the search
        who = [asked.to_json()[name] for name in ("model", "task", "steps", "train")]
        key = self._key(asked, [*who, replace(job.search, finalists=1)], "member")
        members = job.search.more or sum(len(group.members) for group in trial_groups(job))
        expected = expected_epochs(members, job.train.epochs, rungs_of(job), job.search.eta)
        told = replace(
            self,
            report=SearchProgress(self.report, self.metric, members=members, expected=expected, rungs=rungs_of(job)),
        )
        work: Work = _Members(told, key, before)
        if job.search.by == "pbt":
            work = Evolution(Cohort(job, self.task, self.prepare(job.at({}))), told.report, key)
        found = kept(key, self.metric, store=self.store, role="member", report=self.report, work=work)
        return before.joined(found) if before else found

    def finals(self, found: Sweep) -> Sweep:
        """Train the best members of a search again, with every seed of the job.

        Raises:
            TrainError: If none could be trained.
        """
        job = self.job
        trials = list[Trial]()
        first = len(found.members)
        chosen = ranked(found.members, self.metric.higher_is_better)[: job.search.finalists]
        for number, member in enumerate(chosen):
            concrete = job_at(job, member)
            plans = final_plans(job, self.task, member, first)
            first += len(plans)
            trials += [replace(trial, structure=number) for trial in trials_of(concrete, plans, self.prepare)]
        trials = [replace(trial, number=number, total=len(trials)) for number, trial in enumerate(trials)]
        key = self._key(job.at({}), described(trials), "finalist")
        return kept(
            key, self.metric, store=self.store, role="finalist", report=self.report, work=_Finals(self, key, trials)
        )

    def train_trials(
        self, training: Training, proposals: Proposals, rules: Rules, before: Table, slots: int, name: str
    ) -> list[Trial]:
        """Carry trials on, and give those that wait."""
        run = self.job.run
        report = self.report
        if slots:
            return train_on_ray(
                training, proposals, rules=rules, before=before, run=run, report=report, slots=slots, name=name
            )
        return train_here(training, proposals, rules=rules, before=before, run=run, report=report)

    def slots(self, members: int) -> int:
        """Give how many trials train at a time, 0 for one after the other in this process, and say why."""
        run = self.job.run
        if run.workers == 0:
            slots, rule = 0, "run.workers: 0"
        elif run.workers == "auto" and not os.environ.get("RAY_ADDRESS") and (work := self._work(members)) <= WORK_HERE:
            slots = 0
            rule = f"at most {work:.0e} operations, which are done before workers would have started"
        else:
            with session():
                slots = num_slots(living_nodes(), run)
                rule = f"run.workers: {run.workers}"
        place = f"{slots} at a time over Ray Tune" if slots else "one after the other in this process"
        self.report(Note(f"trials train {place} ({rule})"))
        return slots

    def groups(self) -> list[TrialGroup]:
        """Draw what is to be tried, without what an earlier search has tried that this one extends."""
        tried = len(trial_groups(self._without_more().job)) if self.job.search.more else 0
        return trial_groups(self.job)[tried:]

    def trial(self, number: int, group: TrialGroup, first: int) -> Trial:
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
            if not _is_of_steps(error):
                raise
            fault = fault_of(error, plans, f"stacks/steps-{number:05d}.txt", self.report)
            if fault is None:
                raise
        return Trial(
            number, group.structure, job=concrete, plans=plans, prepared=self.prepare(self.job.at({})), fault=fault
        )

    def _without_more(self) -> "Search":
        return replace(self, job=replace(self.job, search=replace(self.job.search, more=0)))

    def _key(self, asked: Job, who: object, role: Role) -> str:
        return key_of(
            asked,
            who,
            prepared=self.prepare(self.job.at({})),
            metric=self.metric,
            attempt=self.attempt,
            role=role,
            code=__name__,
        )

    def _work(self, members: int) -> float:
        """Estimate the floating-point operations of so many members: all have the largest model, and nobody stops."""
        most = 0.0
        for group in self.groups():
            concrete = self.job.at({**group.structural, **group.members[0]})
            try:
                prepared = self.prepare(concrete)
            except BaseException as error:
                if not _is_of_steps(error):
                    raise
                continue  # its trial will say so
            rows = prepared.num_rows("train") * concrete.train.epochs
            most = max(most, 6.0 * _size(concrete, prepared) * rows)
        return most * members


@dataclass(frozen=True)
class _Finals:
    """Train a list of trials, judging nobody."""

    search: Search
    key: str
    trials: list[Trial]
    tolerant = False
    isolates = True

    def run(self, training: Training) -> list[Trial]:
        members = sum(len(trial.plans) for trial in self.trials)
        self.search.train_trials(
            training, Listed(self.trials), rules=Rules(), before={}, slots=self.search.slots(members), name=self.key
        )
        return self.trials

    def rungs(self, training: Training) -> Table:
        return {}


@dataclass(frozen=True)
class _Members:
    """Train everything that is proposed, members judged against each other.

    Args:
        before: What the search extends.
    """

    search: Search
    key: str
    before: Sweep | None
    tolerant = True
    isolates = True

    def run(self, training: Training) -> list[Trial]:
        job = self.search.job
        search = self.search
        slots = search.slots(job.search.more or job.search.members)
        learns = job.search.by == "optuna"
        rules = Rules.of(job, waits=(job.run.deterministic or not slots) and not learns)
        if learns and job.run.deterministic:
            slots = min(slots, 1)
        proposals = _Listening(
            Learning(job, search.trial, training) if learns else Listed(self._trials(training, slots))
        )
        todo: Proposals = proposals
        while waiting := search.train_trials(
            training, todo, rules=rules, before=self._compared, slots=slots, name=self.key
        ):
            if not Referee(search.store, training.home, rules, self._compared).close():
                names = ", ".join(str(trial.number) for trial in waiting)
                raise TrainError(f"trials {names} wait for nobody. This is a bug of fmray.", "search")
            todo = Listed([replace(trial, waited=True) for trial in waiting])
        self._require_judgements(training, proposals.heard, rules)
        return proposals.heard

    def _require_judgements(self, training: Training, trials: Sequence[Trial], rules: Rules) -> None:
        """Make sure that judgements are there of every pack, also of those that a process before this one finished."""
        referee = Referee(self.search.store, training.home, rules, self._compared) if rules.rungs else None
        for trial in trials if referee else []:
            for number, pack in enumerate(training.outcome(trial.number)):
                trained = [member["epochs"] for member in pack["members"] if member["status"] != "failed"]
                if referee and pack["said"]:
                    referee.require(f"{trial.number}.{number}", max(trained, default=0))

    def rungs(self, training: Training) -> Table:
        rules = Rules.of(self.search.job, waits=False)
        return Referee(self.search.store, training.home, rules, self._compared).table()

    @property
    def _compared(self) -> Table:
        return self.before.rungs if self.before else {}

    def _trials(self, training: Training, slots: int) -> list[Trial]:
        """List what is to be tried, cut so that no worker is idle; exactly as drawn where runs must be repeatable.

        The cut is written down: a search that goes on elsewhere, with more workers or fewer, finds its trials again.
        """
        store = self.search.store
        path = f"{training.home}/{CUT}"
        groups = self.search.groups()
        if not store.exists(path):
            pieces = 1 if self.search.job.run.deterministic else max(1, slots // len(groups))
            store.write_json(path, {"pieces": pieces})
        parts = [part for group in groups for part in _cut(group, store.read_json(path)["pieces"])]
        trials = list[Trial]()
        first = len(self.before.members) if self.before else 0
        for number, part in enumerate(parts):
            trials.append(replace(self.search.trial(number, part, first), total=len(parts)))
            first += len(part.members)
        return trials


class _Listening:
    """Pass proposals on, and remember them."""

    def __init__(self, proposals: Proposals) -> None:
        self._proposals = proposals
        self.heard = list[Trial]()

    def ask(self) -> Trial | None:
        trial = self._proposals.ask()
        self.heard += [trial] if trial is not None else []
        return trial

    def tell(self, trial: Trial) -> None:
        self._proposals.tell(trial)


def _cut(group: TrialGroup, pieces: int) -> list[TrialGroup]:
    pieces = max(1, min(pieces, len(group.members) // FEWEST_PER_TRIAL))
    size = math.ceil(len(group.members) / pieces)
    return [replace(group, members=group.members[start : start + size]) for start in range(0, len(group.members), size)]


def _is_of_steps(error: BaseException) -> bool:
    """Tell whether an error in the rows of a structure comes from its steps, in which alone structures differ there."""
    is_refused = isinstance(error, SpecError) and error.where.startswith("steps")
    return is_refused or is_of_user(error)


def _size(job: Job, prepared: Prepared) -> int:
    """Count the parameters of a model; 0 where it cannot be built, which its trial will say."""
    if job.model.name in ESTIMATORS:  # each round goes through all inputs of a row
        rounds: int = ESTIMATORS.read(job.model.name, job.model.params).rounds_per_epoch
        return rounds * prepared.schema.width
    try:
        return num_parameters(job.model, prepared)
    except BaseException as error:
        if isinstance(error, SpecError | TrainError) or is_of_user(error) or kind_of(error) == MEMORY:
            return 0
        raise
