"""Search the ranges of a job: draw or propose trials, place them, judge their members against each other.

What is tried, what it came to and who was stopped when is written down as it happens, so a search that was killed goes
on, and one that is finished can be extended.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from fmray.data.session import living_nodes, session
from fmray.errors import TrainError
from fmray.metrics.metric import Metric, ranked
from fmray.records import Prepared
from fmray.seeding import derive
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Seeds
from fmray.store import Store
from fmray.train.population import num_parameters
from fmray.tune.heir import LINEAGE, Cohort
from fmray.tune.pbt import Evolution
from fmray.tune.place import Table, carry_here, carry_on_ray, num_slots
from fmray.tune.plans import job_at, plan_of, searched_plans
from fmray.tune.proposals import Learning, Listed, Proposals
from fmray.tune.referee import Referee, Rules
from fmray.tune.resample import resampled
from fmray.tune.rungs import expected_epochs, rungs_of
from fmray.tune.space import Lot, lots_of
from fmray.tune.sweep import Report, Sweep, Work, kept, key_of
from fmray.tune.tally import Tally
from fmray.tune.trial import Training, Trial

Prepare = Callable[[Job], Prepared]
"""Job without ranges -> its rows, prepared."""
CUT = "cut.json"
FEWEST_PER_TRIAL = 8
"""Members below which a lot is not cut for the sake of an idle worker."""
WORK_HERE = 5e11
"""Floating-point operations up to which this process is done before Ray and its workers would have started."""


def search(
    job: Job,
    task: Ref,
    prepare: Prepare,
    metric: Metric,
    store: Store,
    *,
    attempt: str = "",
    report: Report = lambda event: None,
) -> Sweep:
    """Try what the ranges of a job allow, or read back what came of it.

    Args:
        task: The objective, decided.
        prepare: Gives the rows of each structure.

    Raises:
        TrainError: If no member could be trained.
        ClusterError: If Ray fails, or so many trials at a time do not fit.
    """
    before = None
    if job.search.more:
        base = replace(job, search=replace(job.search, more=0))
        before = search(base, task, prepare, metric, store, attempt=attempt, report=report)
    asked = replace(job, train=replace(job.train, seeds=Seeds()))  # seeds and finalists come after the search
    who = [asked.to_json()[name] for name in ("model", "task", "steps", "train")]
    key = key_of(asked, [*who, replace(job.search, finalists=1)], prepare(job.at({})), metric, attempt, "member")
    members = job.search.more or sum(len(lot.members) for lot in lots_of(job))
    rungs = rungs_of(job)
    expected = expected_epochs(members, job.train.epochs, rungs, job.search.eta)
    tally = Tally(report, metric, members, expected, rungs)
    work: Work = _Hunt(job, task, prepare, store, tally, key, before)
    if job.search.by == "pbt":
        work = Evolution(Cohort(job, task, prepare(job.at({}))), tally, key)
    found = kept(key, metric, store, "member", report, work)
    return before.joined(found) if before else found


def finals(
    job: Job,
    task: Ref,
    prepare: Prepare,
    found: Sweep,
    metric: Metric,
    store: Store,
    *,
    attempt: str = "",
    report: Report = lambda event: None,
) -> Sweep:
    """Train the best members of a search again, with every seed of the job.

    Raises:
        TrainError: If none could be trained.
    """
    trials, seeds, first = list[Trial](), job.train.seeds.n, len(found.members)
    chosen = ranked(found.members, metric.higher_is_better)[: job.search.finalists]
    for number, member in enumerate(chosen):
        concrete = job_at(job, member)
        own_params = {name: value for name, value in member.params.items() if name != LINEAGE}  # it starts anew
        shown = {**own_params, "finalist of": member.index}
        own = [plan_of(concrete, task, seed, {**shown, "train.seeds": seed}) for seed in range(seeds)]
        own = [
            replace(plan, seed=derive(plan.seed, member.index), index=first + i)
            for i, plan in enumerate(resampled(concrete, own))
        ]
        first += len(own)
        trials.append(Trial(number, number, concrete, tuple(own), prepare(concrete), total=len(chosen)))
    who = [vars(plan) for trial in trials for plan in trial.plans]
    key = key_of(job.at({}), who, prepare(job.at({})), metric, attempt, "finalist")
    place = _Placement(job, prepare, report)
    return kept(key, metric, store, "finalist", report, _Finals(trials, place, key))


@dataclass(frozen=True)
class _Finals:
    """Train a list of trials, judging nobody."""

    trials: list[Trial]
    place: "_Placement"
    key: str
    tolerant = False

    def carry(self, training: Training) -> list[Trial]:
        members = sum(len(trial.plans) for trial in self.trials)
        self.place.carry(training, Listed(self.trials), Rules(), {}, self.place.slots(members), self.key)
        return self.trials

    def rungs(self, training: Training) -> Table:
        return {}


@dataclass(frozen=True)
class _Hunt:
    """Carry a search to its end.

    Args:
        before: What it extends.
    """

    job: Job
    task: Ref
    prepare: Prepare
    store: Store
    report: Report
    key: str
    before: Sweep | None
    tolerant = True

    def carry(self, training: Training) -> list[Trial]:
        """Train everything that is proposed, and give the trials there were."""
        job, rungs = self.job, self.before.rungs if self.before else {}
        place = _Placement(job, self.prepare, self.report)
        slots = place.slots(job.search.more or job.search.members)
        learns = job.search.by == "optuna" and not self.before
        steady = (job.run.deterministic or not slots) and not learns
        rules = Rules.of(job, steady)
        if learns and job.run.deterministic:
            slots = min(slots, 1)
        proposals = _Listening(self._proposals(training, slots, learns))
        todo: Proposals = proposals
        while True:
            waiting = place.carry(training, todo, rules, rungs, slots, self.key)
            if not waiting:
                return proposals.heard
            if not Referee(self.store, training.home, rules, rungs).close():
                names = ", ".join(str(trial.number) for trial in waiting)
                raise TrainError(f"search: trials {names} wait for nobody. This is a bug of fmray.")
            todo = Listed([replace(trial, waited=True) for trial in waiting])

    def rungs(self, training: Training) -> Table:
        """Give the scores at each rung."""
        rules = Rules.of(self.job, waits=False)
        return Referee(self.store, training.home, rules, self.before.rungs if self.before else {}).table()

    def _proposals(self, training: Training, slots: int, learns: bool) -> Proposals:
        first = len(self.before.members) if self.before else 0
        if learns:
            members = self.job.search.members
            return Learning(self.job, self._trial, training, members, first)
        lots, trials = self._lots(training, slots), list[Trial]()
        for lot in lots:
            trials.append(replace(self._trial(len(trials), lot, first), total=len(lots)))
            first += len(lot.members)
        return Listed(trials)

    def _trial(self, number: int, lot: Lot, first: int) -> Trial:
        concrete = self.job.at(lot.structural)
        plans = searched_plans(self.job, self.task, lot.structural, lot.members, first)
        return Trial(number, lot.structure, concrete, tuple(plans), self.prepare(concrete))

    def _lots(self, training: Training, slots: int) -> list[Lot]:
        """Give what is to be tried, cut so that no worker is idle; exactly as drawn where runs must be repeatable.

        The cut is written down: a search that goes on elsewhere, with more workers or fewer, finds its trials again.
        """
        lots, path = lots_of(self.job), f"{training.home}/{CUT}"
        if self.before:
            lots = lots[len(lots_of(replace(self.job, search=replace(self.job.search, more=0)))) :]
        if not self.store.exists(path):
            pieces = 1 if self.job.run.deterministic else max(1, slots // len(lots))
            self.store.write_json(path, {"pieces": pieces})
        return [part for lot in lots for part in _cut(lot, self.store.read_json(path)["pieces"])]


@dataclass(frozen=True)
class _Placement:
    """Place trials in this process, or over Ray Tune where that pays."""

    job: Job
    prepare: Prepare
    report: Report

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

    def _work(self, members: int) -> float:
        """Estimate the floating-point operations of so many members: all have the largest model, and nobody stops."""
        most = 0.0
        for lot in lots_of(self.job):
            concrete = self.job.at({**lot.structural, **lot.members[0]})
            prepared = self.prepare(concrete)
            rows = prepared.num_rows("train") * concrete.train.epochs
            most = max(most, 6.0 * num_parameters(concrete.model, prepared) * rows)
        return most * members


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
