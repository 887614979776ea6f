"""Search by population based training: members that fall behind go on from the state of one that leads.

Ray Tune decides who does, and pauses and restarts trials, each of which carries one member. What passes from member to
member is a checkpoint that says who left it. Whoever goes on from it keeps its own name and seed, and has the
parameters that Ray Tune gave it, never those of who left it.
"""

import json
import logging
import math
import os
import pickle
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fmray.data.session import living_nodes, session
from fmray.errors import DataError, FmrayError
from fmray.events import Epoch, Event, Exploit, Note, Place, Report, ignore
from fmray.records import Json
from fmray.spec.job import Job
from fmray.spec.ranges import Keys, Range
from fmray.store import Store
from fmray.train.group import ALONE
from fmray.train.ingest import Rows, Steps
from fmray.train.mailbox import POLL_SECONDS, Mailbox, begin, deliver, every, placed_here
from fmray.train.workers import Worker
from fmray.tune.executors import DIED, QUIET, set_up_trial
from fmray.tune.heir import Cohort, Left, mutations, train_member, within
from fmray.tune.slots import num_slots, resources
from fmray.tune.trial import Training, Trial, fault_of

QUANTILE = 0.25
"""Share of the population that goes on from others, and that others go on from."""
KEPT = 4
"""Checkpoints kept per member: others may still have to go on from one that is not its newest."""
PLACING = {**QUIET, "TUNE_GLOBAL_CHECKPOINT_S": "2"}
"""Here Ray Tune does restore what it remembers of itself: who has whose state, and which parameters."""
log = logging.getLogger("fmray")


@dataclass(frozen=True)
class Evolution:
    """Run a search by population based training.

    Args:
        cohort: Who takes part.
        report: Gets events.
        key: Names the sweep.
    """

    cohort: Cohort
    report: Report
    key: str

    def train(self, training: Training) -> list[Trial]:
        """Train every member, and give their trials.

        Raises:
            ClusterError: If so many at a time do not fit, or Ray fails.
            FmrayError: Whatever training raises but cannot count as an outcome.
        """
        trials = [self.cohort.trial(index, params) for index, params in enumerate(self.cohort.first)]
        if not all(training.is_finished(trial) for trial in trials):
            with session():
                self._over_ray(training)
        for trial in trials:
            if not training.is_finished(trial):
                training.give_up(trial, DIED)
        return trials

    def _over_ray(self, training: Training) -> None:
        import ray

        run = self.cohort.job.run
        store = training.store
        members = self.cohort.job.search.members
        slots = min(num_slots(living_nodes(), run), members)
        needed = resources(living_nodes(), slots, run.gpu)
        turns = f"{members} members take turns on {slots} workers over Ray Tune (run.workers: {run.workers})"
        self.report(Note(f"{turns}, and are compared every {self.cohort.interval} epochs"))
        shared = placed_here(_SharedState).remote(ray.cloudpickle.dumps((training, self.cohort, list(sys.path))))
        os.environ.update(PLACING)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        with every(POLL_SECONDS, partial(deliver, shared, self.report)), warnings.catch_warnings(action="ignore"):
            for left in range(run.max_failures, -1, -1):
                given_up = self._tuner(shared, needed, store).fit().num_errors
                if not given_up or not left:
                    break
                # Ray Tune gives up members whose worker died before they ran, as one does that is to be used again.
                self.report(Note(f"{given_up} members lost their workers, and go on"))
        refused = ray.get(shared.refusal.remote())
        store.remove(store.path("ray", self.key))
        if refused is not None:
            raise pickle.loads(refused)

    def _tuner(self, shared: Any, needed: Json, store: Store) -> Any:
        """Give a search that begins, or the one that was begun."""
        from ray import tune
        from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

        job = self.cohort.job
        home = store.path("ray", self.key)
        trainable = tune.with_resources(tune.with_parameters(_train_member, shared=shared), needed)
        if Tuner.can_restore(home) and _is_whole(store, home):
            return Tuner.restore(home, trainable, resume_unfinished=True, resume_errored=True)
        store.remove(home)
        members = [{"index": index, **params} for index, params in enumerate(self.cohort.first)]
        return Tuner(
            trainable,
            param_space={"member": tune.grid_search(members)},
            tune_config=TuneConfig(
                scheduler=scheduler(job), reuse_actors=True, trial_name_creator=_name, trial_dirname_creator=_name
            ),
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
        perturbation_interval=job.search.interval_in(job.train.num_epochs),
        hyperparam_mutations={"member": mutations(job.ranges, job.train.seed)},
        custom_explore_fn=partial(_explored, dict(job.ranges)),
        quantile_fraction=QUANTILE,
        log_config=False,
    )


class _SharedState(Mailbox):
    """Hand out what all members share; lives in an actor."""

    def __init__(self, common: bytes) -> None:
        super().__init__()
        self._common = common

    def common(self) -> bytes:
        """Give it."""
        return self._common


def _train_member(config: Json, shared: Any) -> None:
    """Train one member, as a trial of Ray Tune."""
    import ray
    from ray import tune

    if ray.get(shared.refusal.remote()) is None:
        try:
            _train(int(tune.get_context().get_trial_name()), config["member"], shared)
        except FmrayError as error:
            ray.get(shared.refuse.remote(pickle.dumps(error)))
    tune.report({"score": -math.inf, "epoch": 0, "done": True})  # nobody reads it: who is done is compared no more


def _train(index: int, given: Json, shared: Any) -> None:
    """Train a member from what its trial is given, and leave its outcome, unless it has one.

    Args:
        given: Its parameters, beside an index that may be another's.
    """
    import ray
    from ray import tune

    training, cohort, device, rows = _opened(ray.get(shared.common.remote()))
    params = {name: value for name, value in given.items() if name != "index"}
    left = _found(tune.get_checkpoint())
    lineage = () if left is None else left.heir(index, params)
    trial = cohort.trial(index, params, lineage)
    if training.is_finished(trial):
        return
    if left is not None and left.member != index:
        step = lineage[-1]
        shared.put.remote(
            Exploit(index, step["epoch"], source=step["from"], params=step["params"], lineage=list(lineage))
        )
    place = Place(training.role, index, trials=trial.total)
    report = partial(_tell, shared, place)
    hand_in = partial(_hand_in, training)
    try:
        train_member(
            training,
            trial,
            rows=rows,
            device=device,
            report=report,
            hand_in=hand_in,
            interval=cohort.interval,
            left=left,
            lineage=lineage,
        )
    except BaseException as error:
        why = fault_of(error, trial.plans, f"stacks/member-{index:05d}.txt", shared.put.remote)
        if why is None:
            raise
        training.give_up(trial, why["reason"])


@lru_cache(maxsize=1)
def _opened(common: bytes) -> tuple[Training, Cohort, torch.device, tuple[Rows, Rows]]:
    """Open what members share; a worker carries many of them, one after the other."""
    training, cohort, path = pickle.loads(common)
    begin(path)
    job = cohort.job.at({})
    prepared = cohort.prepared
    device = set_up_trial(job.run, job.train)
    worker = Worker(ALONE, device, ignore, job.run)
    passes = Steps.of(job.train, prepared.num_rows("train")).num_passes
    train_rows = worker.rows(prepared, "train", passes, job.live_steps, order=job.train.order)
    return training, cohort, device, (train_rows, worker.rows(prepared, "val", job.train.num_epochs))


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


def _is_whole(store: Store, home: str) -> bool:
    """Tell whether all is there that Ray Tune needs to go on: a kill may have cut its newest copy short."""
    import ray

    read = {"experiment_state-": json.loads, "basic-variant-state-": ray.cloudpickle.loads}
    try:
        for prefix, check in read.items():
            check(store.read_bytes(f"{home}/{max(name for name in _names(store, home) if name.startswith(prefix))}"))
    except (ValueError, EOFError, pickle.UnpicklingError, DataError) as error:
        log.warning("what Ray Tune remembers is unusable, members that have not finished start anew: %s", error)
        return False
    return True


def _names(store: Store, home: str) -> list[str]:
    return [name.rsplit("/", 1)[-1] for name in store.list(home)]


def _explored(ranges: Mapping[Keys, Range], config: Json) -> Json:
    return {**config, "member": within(ranges, config["member"])}


def _name(trial: Any) -> str:
    """Name a trial after its member once and for all: what its configuration says is another's after an exploit."""
    return f"{trial.config['member']['index']:05d}"


def _tell(shared: Any, place: Place, event: Event) -> None:
    shared.put.remote(replace(event, place=place) if isinstance(event, Epoch) else event)
