"""Search the ranges of a job: draw or propose trials, place them, judge their members against each other.

What is tried, what it came to and who was stopped when is written down as it happens, so a search that was killed goes
on, and one that is finished can be extended.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fmray.data.session import living_nodes, session
from fmray.errors import SpecError, TrainError
from fmray.metrics.metric import Metric, ranked
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Seeds
from fmray.store import Store
from fmray.train.failures import MEMORY, is_of_user, kind_of
from fmray.train.population import num_parameters
from fmray.train.warm import Start
from fmray.tune.heir import Cohort
from fmray.tune.pbt import Evolution
from fmray.tune.place import carry_here, carry_on_ray
from fmray.tune.plans import job_at, searched_plans
from fmray.tune.proposals import Learning, Listed, Proposals
from fmray.tune.referee import Referee, Rules
from fmray.tune.resample import Prepare, final_plans, trials_of
from fmray.tune.rungs import Table, expected_epochs, rungs_of
from fmray.tune.slots import num_slots
from fmray.tune.space import Lot, lots_of
from fmray.tune.sweep import Report, Sweep, Work, described, kept, key_of
from fmray.tune.tally import Tally
from fmray.tune.trial import Role, Training, Trial, fault_of

CUT = "cut.json"
FEWEST_PER_TRIAL = 8
"""Members below which a lot is not cut for the sake of an idle worker."""
WORK_HERE = 5e11
"""Floating-point operations up to which this process is done before Ray and its workers would have started."""


@dataclass(frozen=True)
class Hunt:
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
    report: Report = lambda event: None
    starts: Sequence[Start] = ()

    def search(self) -> Sweep:
        """Try what the ranges allow, or read back what came of it.

        Raises:
            TrainError: If no member could be trained.
            ClusterError: If Ray fails, or so many trials at a time do not fit.
        """
        job, before = self.job, self._without_more().search() if self.job.search.more else None
        asked = replace(job, train=replace(job.train, seeds=Seeds()))  # seeds and finalists come after the search
        who = [asked.to_json()[name] for name in ("model", "task", "steps", "train")]
        key = self._key(asked, [*who, replace(job.search, finalists=1)], "member")
        members = job.search.more or sum(len(lot.members) for lot in lots_of(job))
        expected = expected_epochs(members, job.train.epochs, rungs_of(job), job.search.eta)
        told = replace(self, report=Tally(self.report, self.metric, members, expected, rungs_of(job)))
        work: Work = _Members(told, key, before)
        if job.search.by == "pbt":
            work = Evolution(Cohort(job, self.task, self.prepare(job.at({}))), told.report, key)
        found = kept(key, self.metric, self.store, "member", self.report, work)
        return before.joined(found) if before else found

    def finals(self, found: Sweep) -> Sweep:
        """Train the best members of a search again, with every seed of the job.

        Raises:
            TrainError: If none could be trained.
        """
        job, trials, first = self.job, list[Trial](), len(found.members)
        chosen = ranked(found.members, self.metric.higher_is_better)[: job.search.finalists]
        for number, member in enumerate(chosen):
            concrete, plans = job_at(job, member), final_plans(job, self.task, member, first)
            first += len(plans)
            trials += [replace(trial, structure=number) for trial in trials_of(concrete, plans, self.prepare)]
        trials = [replace(trial, number=number, total=len(trials)) for number, trial in enumerate(trials)]
        key = self._key(job.at({}), described(trials), "finalist")
        return kept(key, self.metric, self.store, "finalist", self.report, _Finals(self, key, trials))

    def carry(
        self, training: Training, proposals: Proposals, rules: Rules, before: Table, slots: int, name: str
    ) -> list[Trial]:
        """Carry trials on, and give those that wait."""
        run, report = self.job.run, self.report
        if slots:
            return carry_on_ray(training, proposals, rules, before, run, report, slots, name)
        return carry_here(training, proposals, rules, before, run, report)

    def slots(self, members: int) -> int:
        """Give how many trials train at a time, 0 for one after the other in this process, and say why."""
        run = self.job.run
        if run.workers == 0:
            slots, rule = 0, "run.workers: 0"
        elif run.workers == "auto" and not os.environ.get("RAY_ADDRESS") and (work := self._work(members)) <= WORK_HERE:
            slots, rule = 0, f"at most {work:.0e} operations, which are done before workers would have started"
        else:
            with session():
                slots, rule = num_slots(living_nodes(), run), f"run.workers: {run.workers}"
        place = f"{slots} at a time over Ray Tune" if slots else "one after the other in this process"
        self.report({"event": "note", "text": f"trials train {place} ({rule})"})
        return slots

    def lots(self) -> list[Lot]:
        """Draw what is to be tried, without what an earlier search has tried that this one extends."""
        tried = len(lots_of(self._without_more().job)) if self.job.search.more else 0
        return lots_of(self.job)[tried:]

    def trial(self, number: int, lot: Lot, first: int) -> Trial:
        """Plan the trial of a lot.

        Args:
            first: Index of its first member.
        """
        concrete = self.job.at(lot.structural)
        plans = tuple(searched_plans(self.job, self.task, lot.structural, lot.members, first))
        try:
            return Trial(number, lot.structure, concrete, plans, self.prepare(concrete))
        except BaseException as error:
            if not _is_of_steps(error):
                raise
            fault = fault_of(error, plans, f"stacks/steps-{number:05d}.txt", self.report)
            if fault is None:
                raise
        return Trial(number, lot.structure, concrete, plans, self.prepare(self.job.at({})), fault=fault)

    def _without_more(self) -> "Hunt":
        return replace(self, job=replace(self.job, search=replace(self.job.search, more=0)))

    def _key(self, asked: Job, who: object, role: Role) -> str:
        return key_of(asked, who, self.prepare(self.job.at({})), self.metric, self.attempt, role, __name__)

    def _work(self, members: int) -> float:
        """Estimate the floating-point operations of so many members: all have the largest model, and nobody stops."""
        most = 0.0
        for lot in self.lots():
            concrete = self.job.at({**lot.structural, **lot.members[0]})
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

    hunt: Hunt
    key: str
    trials: list[Trial]
    tolerant = False
    isolates = True

    def carry(self, training: Training) -> list[Trial]:
        members = sum(len(trial.plans) for trial in self.trials)
        self.hunt.carry(training, Listed(self.trials), Rules(), {}, self.hunt.slots(members), self.key)
        return self.trials

    def rungs(self, training: Training) -> Table:
        return {}


@dataclass(frozen=True)
class _Members:
    """Train everything that is proposed, members judged against each other.

    Args:
        before: What the search extends.
    """

    hunt: Hunt
    key: str
    before: Sweep | None
    tolerant = True
    isolates = True

    def carry(self, training: Training) -> list[Trial]:
        job, hunt = self.hunt.job, self.hunt
        slots = hunt.slots(job.search.more or job.search.members)
        learns = job.search.by == "optuna"
        rules = Rules.of(job, waits=(job.run.deterministic or not slots) and not learns)
        if learns and job.run.deterministic:
            slots = min(slots, 1)
        proposals = _Listening(Learning(job, hunt.trial, training) if learns else Listed(self._trials(training, slots)))
        todo: Proposals = proposals
        while waiting := hunt.carry(training, todo, rules, self._compared, slots, self.key):
            if not Referee(hunt.store, training.home, rules, self._compared).close():
                names = ", ".join(str(trial.number) for trial in waiting)
                raise TrainError(f"trials {names} wait for nobody. This is a bug of fmray.", "search")
            todo = Listed([replace(trial, waited=True) for trial in waiting])
        self._require_judgements(training, proposals.heard, rules)
        return proposals.heard

    def _require_judgements(self, training: Training, trials: Sequence[Trial], rules: Rules) -> None:
        """Make sure that judgements are there of every pack, also of those that a process before this one finished."""
        referee = Referee(self.hunt.store, training.home, rules, self._compared) if rules.rungs else None
        for trial in trials if referee else []:
            for number, pack in enumerate(training.outcome(trial.number)):
                trained = [member["epochs"] for member in pack["members"] if member["status"] != "failed"]
                if referee and pack["said"]:
                    referee.require(f"{trial.number}.{number}", max(trained, default=0))

    def rungs(self, training: Training) -> Table:
        rules = Rules.of(self.hunt.job, waits=False)
        return Referee(self.hunt.store, training.home, rules, self._compared).table()

    @property
    def _compared(self) -> Table:
        return self.before.rungs if self.before else {}

    def _trials(self, training: Training, slots: int) -> list[Trial]:
        """List what is to be tried, cut so that no worker is idle; exactly as drawn where runs must be repeatable.

        The cut is written down: a search that goes on elsewhere, with more workers or fewer, finds its trials again.
        """
        store, path, lots = self.hunt.store, f"{training.home}/{CUT}", self.hunt.lots()
        if not store.exists(path):
            pieces = 1 if self.hunt.job.run.deterministic else max(1, slots // len(lots))
            store.write_json(path, {"pieces": pieces})
        parts = [part for lot in lots for part in _cut(lot, store.read_json(path)["pieces"])]
        trials, first = list[Trial](), len(self.before.members) if self.before else 0
        for number, part in enumerate(parts):
            trials.append(replace(self.hunt.trial(number, part, first), total=len(parts)))
            first += len(part.members)
        return trials


class _Listening:
    """Pass proposals on, and remember them."""

    def __init__(self, proposals: Proposals) -> None:
        self._proposals, self.heard = proposals, list[Trial]()

    def ask(self) -> Trial | None:
        trial = self._proposals.ask()
        self.heard += [trial] if trial is not None else []
        return trial

    def tell(self, trial: Trial) -> None:
        self._proposals.tell(trial)


def _cut(lot: Lot, pieces: int) -> list[Lot]:
    pieces = max(1, min(pieces, len(lot.members) // FEWEST_PER_TRIAL))
    size = math.ceil(len(lot.members) / pieces)
    return [replace(lot, members=lot.members[start : start + size]) for start in range(0, len(lot.members), size)]


def _is_of_steps(error: BaseException) -> bool:
    """Tell whether an error in the rows of a structure comes from its steps, in which alone structures differ there."""
    is_refused = isinstance(error, SpecError) and error.where.startswith("steps")
    return is_refused or is_of_user(error)


def _size(job: Job, prepared: Prepared) -> int:
    """Count the parameters of a model; 0 where it cannot be built, which its trial will say."""
    try:
        return num_parameters(job.model, prepared)
    except BaseException as error:
        if isinstance(error, SpecError | TrainError) or is_of_user(error) or kind_of(error) == MEMORY:
            return 0
        raise
