"""Search by population based training: members that fall behind go on from the state of one that leads.

Ray Tune decides who does, and pauses and restarts trials, each of which carries one member. What passes from member to
member is a checkpoint that says who left it. Whoever goes on from it keeps its own name and seed, and has the
parameters that Ray Tune gave it, never those of who left it.

Source: Jaderberg et al., "Population Based Training of Neural Networks", 2017.
"""

import logging
import math
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fmray.data.session import living_nodes, session
from fmray.errors import DataError, FmrayError, SpecError, TrainError
from fmray.metrics.metric import Metric
from fmray.records import Json, Prepared
from fmray.seeding import derive, stream
from fmray.spec.explain import dotted
from fmray.spec.job import Job
from fmray.spec.ranges import Keys, Range
from fmray.spec.ref import Ref
from fmray.store import Store, read_atomic_folder, write_atomic_folder
from fmray.train.device import set_up
from fmray.train.group import ALONE
from fmray.train.ingest import Rows
from fmray.train.loop import Verdict, fit
from fmray.train.mailbox import POLL_SECONDS, Mailbox, deliver, every, placed_here
from fmray.train.pack import Pack
from fmray.train.state import State
from fmray.train.workers import Worker
from fmray.tune.place import QUIET, num_slots, resources
from fmray.tune.plans import searched_plans
from fmray.tune.space import lots_of
from fmray.tune.trial import Training, Trial

Report = Callable[[Json], None]
Lineage = tuple[Json, ...]
"""({epoch, from, params}, ...), oldest first: whose weights these were before, and with what they went on."""
LINEAGE = "search.pbt.lineage"
"""Parameter of a member: its lineage in words."""
QUANTILE = 0.25
"""Share of the population that goes on from others, and that others go on from."""
KEPT = 4
"""Checkpoints kept per member: others may still have to go on from one that is not its newest."""
PLACING = {**QUIET, "TUNE_GLOBAL_CHECKPOINT_S": "auto"}
"""Here Ray Tune does restore what it remembers of itself: who has whose state, and which parameters."""
log = logging.getLogger("fmray")


@dataclass(frozen=True)
class Left:
    """Hold what a member left at a checkpoint.

    Args:
        state: Of its pack, which has no other member.
        member: Who left it.
        model: What it trained.
        lineage: Of its weights.
    """

    state: State
    member: int
    model: Ref
    lineage: Lineage = ()

    def write(self, folder: str) -> None:
        """Write it to a folder."""
        about = {"member": self.member, "model": [self.model.name, dict(self.model.params)], "lineage": self.lineage}
        write_atomic_folder(folder, self.state.to_files(), about)

    @classmethod
    def read(cls, folder: str) -> "Left":
        """Read back what `write` wrote.

        Raises:
            DataError: If it is not whole.
        """
        about, files = read_atomic_folder(folder)
        name, params = about["model"]
        return cls(State.from_files(files), about["member"], Ref(name, params), tuple(about["lineage"]))

    def heir(self, member: int, params: Json) -> Lineage:
        """Give the lineage of weights that go on with a member."""
        if member == self.member:
            return self.lineage
        return (*self.lineage, {"epoch": self.state.epoch, "from": self.member, "params": params})


@dataclass(frozen=True)
class Population:
    """Plan the members of a population, whatever their parameters are at the time.

    Args:
        job: With its ranges.
        task: The objective, decided.
        prepared: The rows all learn from.
    """

    job: Job
    task: Ref
    prepared: Prepared

    @property
    def first(self) -> list[Json]:
        """Give the parameters each member begins with, by dotted path."""
        return [{dotted(keys): v for keys, v in values.items()} for values in lots_of(self.job)[0].members]

    @property
    def interval(self) -> int:
        """Give the epochs between two comparisons."""
        return self.job.search.interval_in(self.job.train.epochs)

    def trial(self, index: int, params: Json, lineage: Lineage = ()) -> Trial:
        """Plan the trial of one member.

        Args:
            params: It has now.
        """
        values = {keys: params[dotted(keys)] for keys in self.job.ranges}
        plan = searched_plans(self.job, self.task, {}, [values], index)[0]
        if lineage:
            words = ", ".join(f"epoch {step['epoch']} from member {step['from']}" for step in lineage)
            plan = replace(plan, params={**plan.params, LINEAGE: words})
        return Trial(index, 0, self.job.at(values), (plan,), self.prepared, self.job.search.members)


def mutations(ranges: Mapping[Keys, Range], seed: int) -> Json:
    """Give what Ray Tune changes parameters by: it shifts among options, and scales or draws anew what is a number."""
    return {
        dotted(keys): list(found.options) or partial(_draw, found, stream(seed, "pbt", dotted(keys)))
        for keys, found in ranges.items()
    }


def within(ranges: Mapping[Keys, Range], params: Json) -> Json:
    """Give parameters that were scaled, each brought back into its range."""
    corners = {dotted(keys): found.corners for keys, found in ranges.items() if not found.options}
    limited = {name: min(max(params[name], low), high) for name, (low, high) in corners.items()}
    return {**params, **limited}


def go_on(pack: Pack, left: Left) -> None:
    """Let the member of an untrained pack go on from what another, or itself, has left."""
    own, state = pack.plans[0], left.state
    history = [{**event, "member": own.index} for event in state.history]
    pack.adopt(replace(state, history=history), [left.model])
    if left.member != own.index:
        torch.manual_seed(derive(own.seed, "draws", state.epoch))  # or both would draw the same from here on


def carry_member(
    training: Training,
    trial: Trial,
    rows: tuple[Rows, Rows],
    device: torch.device,
    report: Report,
    hand_in: Callable[[Left, Json], None],
    interval: int,
    left: Left | None = None,
    lineage: Lineage = (),
) -> None:
    """Train a member to its end, and leave its outcome.

    Args:
        rows: To learn from, and to choose by.
        report: Gets its events.
        hand_in: Gets what it leaves after every interval, and how it stands; may never come back.
        left: What it goes on from.
        lineage: Of its weights.
    """
    pack, metric, last = training.build(trial, device, trial.plans), training.metric_of(trial), trial.job.train.epochs
    if left is not None:
        go_on(pack, left)
    offered = not len(pack)  # it failed, said so, and nobody's state was given to it
    while True:
        until = min((pack.state.epoch // interval + 1) * interval, last)
        order_seed = derive(trial.job.train.seed, "order")
        ended = fit(pack, *rows, metric, order_seed, None, report, ALONE, partial(_wait, until, last))
        failed = any(end["status"] == "failed" for end in pack.state.ends.values())
        if ended and (not failed or offered or until == last):
            break
        offered = failed
        own = Left(pack.snapshot(), trial.number, trial.plans[0].model, lineage)
        hand_in(own, {"score": -math.inf if failed else _score(pack, metric), "epoch": until})
    training.conclude(trial, pack, rows[1])


@dataclass(frozen=True)
class Evolution:
    """Carry a search by population based training to its end.

    Args:
        population: Who takes part.
        report: Gets events.
        key: Names the sweep.
    """

    population: Population
    report: Report
    key: str
    tolerant = True

    def carry(self, training: Training) -> list[Trial]:
        """Train every member, and give their trials.

        Raises:
            ClusterError: If so many at a time do not fit, or Ray fails.
            FmrayError: Whatever training raises but cannot count as an outcome.
        """
        trials = [self.population.trial(index, params) for index, params in enumerate(self.population.first)]
        if not all(training.is_finished(trial) for trial in trials):
            with session():
                self._over_ray(training)
        for trial in trials:
            if not training.is_finished(trial):
                training.give_up(trial, "its worker died more often than run.max_failures")
        return trials

    def rungs(self, training: Training) -> Mapping[int, Mapping[int, float]]:
        """Give nothing: nobody is stopped."""
        return {}

    def _over_ray(self, training: Training) -> None:
        import ray

        run, store, members = self.population.job.run, training.store, self.population.job.search.members
        slots = min(num_slots(living_nodes(), run), members)
        needed = resources(living_nodes(), slots, run.gpu)
        turns = f"{members} members take turns on {slots} workers over Ray Tune (run.workers: {run.workers})"
        self.report({"event": "note", "text": f"{turns}, and are compared every {self.population.interval} epochs"})
        desk = placed_here(_Desk).remote(ray.cloudpickle.dumps((training, self.population, list(sys.path))))
        os.environ.update(PLACING)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        with every(POLL_SECONDS, partial(deliver, desk, self.report)), warnings.catch_warnings(action="ignore"):
            self._tuner(desk, needed, store).fit()
        refused = ray.get(desk.refusal.remote())
        store.remove(store.path("ray", self.key))
        if refused is not None:
            raise pickle.loads(refused)

    def _tuner(self, desk: Any, needed: Json, store: Store) -> Any:
        """Give a search that begins, or the one that was begun."""
        from ray import tune
        from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

        job, home = self.population.job, store.path("ray", self.key)
        begun = any("experiment_state" in name for name in store.list(home))
        trainable = tune.with_resources(tune.with_parameters(_carry_member, desk=desk), needed)
        if begun and Tuner.can_restore(home):
            return Tuner.restore(home, trainable, resume_unfinished=True, resume_errored=True)
        members = [{"index": index, **params} for index, params in enumerate(self.population.first)]
        return Tuner(
            trainable,
            param_space={"member": tune.grid_search(members)},
            tune_config=TuneConfig(scheduler=scheduler(job), reuse_actors=True, trial_name_creator=_name),
            run_config=RunConfig(
                name=self.key, storage_path=store.path("ray"), verbose=0,
                failure_config=FailureConfig(max_failures=job.run.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
            ),
        )  # fmt: skip


def scheduler(job: Job) -> Any:
    """Give what decides in Ray Tune who goes on from whom, and with which parameters."""
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import PopulationBasedTraining

    class Turns(PopulationBasedTraining):  # type: ignore[misc]  # Ray has no types
        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            """Let those run that are behind by their own account.

            Ray Tune takes the epoch of the state they were given; then a bad member may go on from the same state of a
            better one for ever, which never gets its turn.
            """
            waiting = [trial for trial in tune_controller.get_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)]
            return min(waiting, key=lambda trial: trial.last_result.get("epoch", 0), default=None)

    return Turns(
        time_attr="epoch",
        metric="score",
        mode="max",
        perturbation_interval=job.search.interval_in(job.train.epochs),
        hyperparam_mutations={"member": mutations(job.ranges, job.train.seed)},
        custom_explore_fn=partial(_explored, dict(job.ranges)),
        quantile_fraction=QUANTILE,
        log_config=False,
    )


class _Desk(Mailbox):
    """Hand out what all members share; lives in an actor."""

    def __init__(self, common: bytes) -> None:
        super().__init__()
        self._common = common

    def common(self) -> bytes:
        """Give it."""
        return self._common


def _carry_member(config: Json, desk: Any) -> None:
    """Carry one member on, as a trial of Ray Tune."""
    import ray
    from ray import tune

    training, population, device, rows = _opened(ray.get(desk.common.remote()))
    index, params = int(tune.get_context().get_trial_name()), config["member"]  # its index may be another's
    left = _found(tune.get_checkpoint())
    lineage = () if left is None else left.heir(index, {name: v for name, v in params.items() if name != "index"})
    trial = population.trial(index, params, lineage)
    place = {"role": training.role, "trial": index, "trials": trial.total, "pack": 0, "packs": 1}
    if ray.get(desk.refusal.remote()) is None and not training.is_finished(trial):
        if left is not None and left.member != index:
            desk.put.remote({"event": "exploit", "member": index, **lineage[-1], "lineage": list(lineage)})
        report = partial(_tell, desk, place)
        try:
            carry_member(
                training, trial, rows, device, report, partial(_hand_in, training), population.interval, left, lineage
            )
        except (SpecError, TrainError) as error:
            training.give_up(trial, str(error))
        except FmrayError as error:
            ray.get(desk.refuse.remote(pickle.dumps(error)))
    tune.report({"score": -math.inf, "epoch": trial.job.train.epochs, "done": True})


@lru_cache(maxsize=1)
def _opened(common: bytes) -> tuple[Training, Population, torch.device, tuple[Rows, Rows]]:
    """Open what members share; a worker carries many of them, one after the other."""
    import ray

    training, population, path = pickle.loads(common)
    sys.path += [folder for folder in path if folder not in sys.path]  # the user's own modules
    logging.getLogger("fmray").setLevel(logging.INFO)
    job, prepared = population.job.at({}), population.prepared
    cores = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    device = set_up(job.run, job.train, cores if job.run.threads == "auto" else job.run.threads)
    worker = Worker(ALONE, device, lambda event: None, job.run)
    train_rows = worker.rows(prepared, "train", job.train.epochs, job.live_steps, job.train.order)
    return training, population, device, (train_rows, worker.rows(prepared, "val", job.train.epochs))


def _found(checkpoint: Any) -> Left | None:
    """Read what a trial is to go on from; if that is gone, it starts anew, and will soon be behind the others."""
    if checkpoint is None:
        return None
    try:
        with checkpoint.as_directory() as folder:
            return Left.read(folder)
    except (DataError, OSError) as error:
        log.warning("checkpoint %s is unusable, its member starts anew: %s", checkpoint.path, error)
        return None


def _hand_in(training: Training, left: Left, standing: Json) -> None:
    from ray import tune

    training.fence.check()
    with TemporaryDirectory() as folder:
        left.write(folder)
        tune.report(standing, checkpoint=tune.Checkpoint.from_directory(folder))


def _wait(until: int, last: int, epoch: int, scores: Mapping[int, float]) -> Verdict:
    """Leave a training as it stands at the end of an interval."""
    return Verdict(waits=until <= epoch < last)


def _score(pack: Pack, metric: Metric) -> float:
    """Give the score of the newest epoch, higher for better: a good past does not make up for a bad present."""
    values = [event["value"] for event in pack.state.history if event["metric"] == metric.name]
    score = pack.sign * values[-1] if values else -math.inf
    return -math.inf if math.isnan(score) else score


def _explored(ranges: Mapping[Keys, Range], config: Json) -> Json:
    return {**config, "member": within(ranges, config["member"])}


def _draw(found: Range, source: np.random.Generator) -> Any:
    return found.at(float(source.random()))


def _name(trial: Any) -> str:
    """Name a trial after its member once and for all: what its configuration says is another's after an exploit."""
    return f"{trial.config['member']['index']:05d}"


def _tell(desk: Any, place: Json, event: Json) -> None:
    desk.put.remote({**event, **place})
