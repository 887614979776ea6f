"""Search by population based training: members with low scores continue from the state of one with a high score.

Ray Tune decides which members do so, and pauses and restarts trials; each trial trains one member. A member that
exploits another copies its weights, optimizer state, epoch, history, best state and lineage. It keeps its own index,
seed and parameters, wherever these are stored: in the optimizer, the task, or buffers of the model.

Source: Jaderberg et al., "Population Based Training of Neural Networks", 2017.
"""

import json
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
from fmray.errors import DataError, FmrayError
from fmray.events import Epoch, Event, Exploit, Note, Place, Report, ignore
from fmray.metrics.metric import Metric
from fmray.records import Json, Prepared
from fmray.seeding import derive, stream
from fmray.spec.explain import dotted
from fmray.spec.job import Job
from fmray.spec.ranges import Keys, Range
from fmray.spec.ref import Ref
from fmray.store import Store, read_atomic_folder, write_atomic_folder
from fmray.train.decision import Decision
from fmray.train.group import ALONE
from fmray.train.ingest import Rows, Steps
from fmray.train.loop import fit
from fmray.train.mailbox import POLL_SECONDS, Mailbox, begin, deliver, every, placed_here
from fmray.train.pack import Pack
from fmray.train.state import State
from fmray.train.workers import Worker
from fmray.tune.executors import RAY_TUNE_ENVIRONMENT, WORKER_DIED, set_up_trial
from fmray.tune.faults import report_member_error
from fmray.tune.outcomes import finish_trial, is_finished, record_untrained, write_pack
from fmray.tune.plans import LINEAGE, searched_plans
from fmray.tune.slots import num_slots, resources
from fmray.tune.space import trial_groups
from fmray.tune.train_trials import build_networks
from fmray.tune.trial import Trial, TrialContext

QUANTILE = 0.25
"""Share of the population that continues from others, and that others continue from."""
CHECKPOINTS_KEPT = 4
"""Checkpoints kept per member: others may still continue from one that is not its newest."""
RESTORABLE_ENVIRONMENT = {**RAY_TUNE_ENVIRONMENT, "TUNE_GLOBAL_CHECKPOINT_S": "2"}
"""Here Ray Tune restores its own state: which member has whose weights, and which parameters."""
log = logging.getLogger("fmray")
Lineage = tuple[Json, ...]
"""({epoch, from, params}, ...), oldest first: when weights were copied, from which member, and the new parameters."""


@dataclass(frozen=True)
class MemberCheckpoint:
    """Hold the state of a member at the end of an interval.

    Args:
        state: State of its pack, which holds this member only.
        member: Index of the member.
        model: Name and parameters of its model.
        epoch: Epoch at the end of the interval; later than `state.epoch` if the member has failed.
        lineage: History of its weights.
    """

    state: State
    member: int
    model: Ref
    epoch: int
    lineage: Lineage = ()

    def write(self, folder: str) -> None:
        """Write the checkpoint to a folder."""
        model = [self.model.name, dict(self.model.params)]
        about = {"member": self.member, "model": model, "epoch": self.epoch, "lineage": list(self.lineage)}
        write_atomic_folder(folder, self.state.to_files(), about)

    @classmethod
    def read(cls, folder: str) -> "MemberCheckpoint":
        """Read a checkpoint that `write` wrote.

        Raises:
            DataError: If it is incomplete or damaged.
        """
        about, files = read_atomic_folder(folder)
        name, params = about["model"]
        state = State.from_files(files)
        lineage = tuple(about["lineage"])
        return cls(state, about["member"], Ref(name, params), about["epoch"], lineage=lineage)

    def lineage_for(self, member: int, params: Json) -> Lineage:
        """Return the lineage of these weights once a member continues from them."""
        if member == self.member:
            return self.lineage
        return (*self.lineage, {"epoch": self.state.epoch, "from": self.member, "params": params})


@dataclass(frozen=True)
class PopulationPlan:
    """Plan the members of a population; their parameters change during training.

    Args:
        job: The job, including its ranges.
        task: Name and parameters of the task; `auto` is already resolved.
        prepared: The rows all members learn from.
    """

    job: Job
    task: Ref
    prepared: Prepared

    @property
    def initial_params(self) -> list[Json]:
        """Return the initial parameters of each member, by dotted path."""
        return [{dotted(keys): v for keys, v in values.items()} for values in trial_groups(self.job)[0].members]

    @property
    def interval(self) -> int:
        """Return the number of epochs between two comparisons."""
        return self.job.search.interval_in(self.job.train.num_epochs)

    def trial(self, index: int, params: Json, lineage: Lineage = ()) -> Trial:
        """Plan the trial of one member.

        Args:
            params: Its current parameters.
        """
        values = {keys: params[dotted(keys)] for keys in self.job.ranges}
        plan = searched_plans(self.job, self.task, structural={}, members=[values], first=index)[0]
        if lineage:
            text = ", ".join(f"epoch {step['epoch']} from member {step['from']}" for step in lineage)
            plan = replace(plan, params={**plan.params, LINEAGE: text})
        return Trial(
            index, 0, job=self.job.at(values), plans=(plan,), prepared=self.prepared, total=self.job.search.members
        )


def mutations(ranges: Mapping[Keys, Range], seed: int) -> Json:
    """Return `hyperparam_mutations` for Ray Tune: the options of a choice, or a sampler for a number.

    Ray Tune may also scale a number instead of drawing it again.
    """
    return {
        dotted(keys): list(found.options) or partial(_draw, found, stream(seed, "pbt", dotted(keys)))
        for keys, found in ranges.items()
    }


def clip_to_ranges(ranges: Mapping[Keys, Range], params: Json) -> Json:
    """Clip parameters that were scaled to their ranges."""
    corners = {dotted(keys): found.corners for keys, found in ranges.items() if not found.options}
    limited = {name: min(max(params[name], low), high) for name, (low, high) in corners.items()}
    return {**params, **limited}


def exploit(pack: Pack, checkpoint: MemberCheckpoint) -> None:
    """Let the member of an untrained pack continue from a checkpoint of another member, or its own."""
    own = pack.plans[0]
    state = checkpoint.state
    history = [{**event, "member": own.index} for event in state.history]
    pack.adopt(replace(state, history=history), [checkpoint.model])
    if checkpoint.member != own.index:
        # otherwise both members would use the same random numbers from here on
        torch.manual_seed(derive(own.seed, "draws", state.epoch))


def train_member(
    context: TrialContext,
    trial: Trial,
    rows: tuple[Rows, Rows],
    device: torch.device,
    report: Report,
    save: Callable[[MemberCheckpoint, Json], None],
    interval: int,
    checkpoint: MemberCheckpoint | None = None,
    lineage: Lineage = (),
) -> None:
    """Train a member until it finishes, and write its outcome.

    Args:
        rows: Training rows and validation rows.
        report: Called with its events.
        save: Called with a checkpoint and {"score", "epoch"} after every interval; Ray Tune may end the trial in it.
        checkpoint: Checkpoint that the member continues from.
        lineage: Lineage of its weights.
    """
    pack = build_networks(context, trial, trial.plans, device)
    metric = context.metric_of(trial)
    num_epochs = trial.job.train.num_epochs
    scored_rows = rows[1].sample(trial.job.evaluate.val_rows)
    if checkpoint is not None:
        exploit(pack, checkpoint)
    epoch = 0 if checkpoint is None else checkpoint.epoch
    while True:
        interval_end = min((epoch // interval + 1) * interval, num_epochs)
        order_seed = derive(trial.job.train.seed, "order")
        finished = fit(
            pack,
            rows[0],
            scored_rows,
            metric,
            order_seed=order_seed,
            report=report,
            decide=partial(_pause_at, interval_end=interval_end, num_epochs=num_epochs),
        )
        failed = any(end["status"] == "failed" for end in pack.state.ends.values())
        # a failed member stays in the population: it may continue from a copy of another
        if finished and (not failed or interval_end == num_epochs):
            break
        epoch = interval_end
        own = MemberCheckpoint(pack.snapshot(), trial.number, model=trial.plans[0].model, epoch=epoch, lineage=lineage)
        save(own, {"score": -math.inf if failed else _score(pack, metric), "epoch": interval_end})
    write_pack(context, trial, pack, rows[1])
    finish_trial(context, trial, [0])


def _pause_at(epoch: int, scores: Mapping[int, float], *, interval_end: int, num_epochs: int) -> Decision:
    """Let a member wait at the end of an interval, unless training ends there as well; see `Decide`."""
    return Decision(must_wait=interval_end <= epoch < num_epochs)


def _score(pack: Pack, metric: Metric) -> float:
    """Return the score of the latest epoch, higher is better: members are compared by current weights, not the best."""
    values = [event["value"] for event in pack.state.history if event["metric"] == metric.name]
    score = pack.sign * values[-1] if values else -math.inf
    return -math.inf if math.isnan(score) else score


def _draw(found: Range, source: np.random.Generator) -> Any:
    return found.at(float(source.random()))


@dataclass(frozen=True)
class PopulationBasedSearch:
    """Run a search by population based training.

    Args:
        population: The members.
        report: Called with every event.
        key: Key of the sweep.
    """

    population: PopulationPlan
    report: Report
    key: str

    def train(self, context: TrialContext) -> list[Trial]:
        """Train every member, and return their trials.

        Raises:
            ClusterError: If Ray fails, or the concurrent trials do not fit on the cluster.
            FmrayError: Whatever training raises that is not recorded as an outcome.
        """
        trials = [self.population.trial(index, params) for index, params in enumerate(self.population.initial_params)]
        if not all(is_finished(context, trial) for trial in trials):
            with session():
                self._train_on_ray(context)
        for trial in trials:
            if not is_finished(context, trial):
                record_untrained(context, trial, WORKER_DIED)
        return trials

    def _train_on_ray(self, context: TrialContext) -> None:
        import ray

        run = self.population.job.run
        store = context.store
        members = self.population.job.search.members
        slots = min(num_slots(living_nodes(), run), members)
        needed = resources(living_nodes(), slots, run.gpu)
        workers = f"{slots} workers with Ray Tune (run.workers: {run.workers})"
        interval = self.population.interval
        self.report(Note(f"{members} members take turns on {workers}, and are compared every {interval} epochs"))
        shared = placed_here(_SharedInputs).remote(ray.cloudpickle.dumps((context, self.population, list(sys.path))))
        # not `setdefault`: an earlier search of this process may have set other values
        os.environ.update(RESTORABLE_ENVIRONMENT)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        with every(POLL_SECONDS, partial(deliver, shared, self.report)), warnings.catch_warnings(action="ignore"):
            for remaining in range(run.max_failures, -1, -1):
                num_errors = self._tuner(shared, needed, store).fit().num_errors
                if not num_errors or not remaining:
                    break
                # Ray Tune does not restart a member whose worker, reused from another, died before the member began
                self.report(Note(f"{num_errors} members lost their workers, and are restarted"))
        refused = ray.get(shared.refusal.remote())
        store.remove(store.path("ray", self.key))
        if refused is not None:
            raise pickle.loads(refused)

    def _tuner(self, shared: Any, needed: Json, store: Store) -> Any:
        """Create the tuner of a new search, or restore that of an unfinished one."""
        from ray import tune
        from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

        job = self.population.job
        home = store.path("ray", self.key)
        trainable = tune.with_resources(tune.with_parameters(_train_member, shared=shared), needed)
        if Tuner.can_restore(home) and _is_whole(store, home):
            return Tuner.restore(home, trainable, resume_unfinished=True, resume_errored=True)
        store.remove(home)
        members = [{"index": index, **params} for index, params in enumerate(self.population.initial_params)]
        return Tuner(
            trainable,
            param_space={"member": tune.grid_search(members)},
            tune_config=TuneConfig(
                scheduler=build_scheduler(job), reuse_actors=True,
                trial_name_creator=_trial_name, trial_dirname_creator=_trial_name,
            ),
            run_config=RunConfig(
                name=self.key, storage_path=store.path("ray"), verbose=0,
                failure_config=FailureConfig(max_failures=job.run.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            ),
        )  # fmt: skip


def build_scheduler(job: Job) -> Any:
    """Return Ray Tune's PBT scheduler: it decides which member copies which, and how parameters change."""
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import PopulationBasedTraining

    class LeastTrainedFirst(PopulationBasedTraining):  # type: ignore[misc]  # Ray has no types
        def choose_trial_to_run(self, tune_controller: Any) -> Any:
            """Run the member that has trained the fewest epochs itself.

            By default Ray Tune also counts the epochs of copied states. A bad member may then copy the same state of a
            better one again and again, and the better one never runs.
            """
            waiting = [trial for trial in tune_controller.get_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)]
            return min(waiting, key=lambda trial: trial.last_result.get("epoch", 0), default=None)

    return LeastTrainedFirst(
        time_attr="epoch",
        metric="score",
        mode="max",
        perturbation_interval=job.search.interval_in(job.train.num_epochs),
        hyperparam_mutations={"member": mutations(job.ranges, job.train.seed)},
        custom_explore_fn=partial(_clip_explored, dict(job.ranges)),
        quantile_fraction=QUANTILE,
        log_config=False,
    )


class _SharedInputs(Mailbox):
    """Hold what all members share; lives in an actor."""

    def __init__(self, common: bytes) -> None:
        super().__init__()
        self._common = common

    def common(self) -> bytes:
        """Return the pickled (context, population, sys.path)."""
        return self._common


def _train_member(config: Json, shared: Any) -> None:
    """Train one member, as a trial of Ray Tune."""
    import ray
    from ray import tune

    if ray.get(shared.refusal.remote()) is None:
        try:
            _train_from_checkpoint(int(tune.get_context().get_trial_name()), config["member"], shared)
        except FmrayError as error:
            ray.get(shared.refuse.remote(pickle.dumps(error)))
    # ends the trial: `done` keeps this score out of every comparison
    tune.report({"score": -math.inf, "epoch": 0, "done": True})


def _train_from_checkpoint(index: int, config: Json, shared: Any) -> None:
    """Train a member from the checkpoint of its trial, and write its outcome, unless it has one.

    Args:
        config: Parameters of the member, and an `index`, which is another member's after an exploit.
    """
    import ray
    from ray import tune

    context, population, device, rows = _open_shared(ray.get(shared.common.remote()))
    params = {name: value for name, value in config.items() if name != "index"}
    checkpoint = _read_checkpoint(tune.get_checkpoint())
    lineage = () if checkpoint is None else checkpoint.lineage_for(index, params)
    trial = population.trial(index, params, lineage)
    if is_finished(context, trial):
        return
    if checkpoint is not None and checkpoint.member != index:
        copied = lineage[-1]
        shared.put.remote(
            Exploit(index, copied["epoch"], source=copied["from"], params=copied["params"], lineage=list(lineage))
        )
    place = Place(context.role, index, trials=trial.total)
    report = partial(_put_with_place, shared, place)
    try:
        train_member(
            context,
            trial,
            rows=rows,
            device=device,
            report=report,
            save=partial(_save_to_tune, context),
            interval=population.interval,
            checkpoint=checkpoint,
            lineage=lineage,
        )
    except BaseException as error:
        fault = report_member_error(error, trial.plans, f"stacks/member-{index:05d}.txt", shared.put.remote)
        if fault is None:
            raise
        record_untrained(context, trial, fault["reason"], error_class=fault["class"])


@lru_cache(maxsize=1)
def _open_shared(common: bytes) -> tuple[TrialContext, PopulationPlan, torch.device, tuple[Rows, Rows]]:
    """Open what members share; a worker trains many of them, one after the other."""
    context, population, sys_path = pickle.loads(common)
    begin(sys_path)
    job = population.job.at({})
    prepared = population.prepared
    device = set_up_trial(job.run, job.train)
    worker = Worker(ALONE, device, ignore, job.run)
    passes = Steps.of(job.train, prepared.num_rows("train")).num_passes
    train_rows = worker.rows(prepared, "train", passes, job.live_steps, order=job.train.order)
    return context, population, device, (train_rows, worker.rows(prepared, "val", job.train.num_epochs))


def _read_checkpoint(checkpoint: Any) -> MemberCheckpoint | None:
    """Read the checkpoint a trial continues from; without a usable one, the member starts from scratch."""
    if checkpoint is None:
        return None
    try:
        with checkpoint.as_directory() as folder:
            return MemberCheckpoint.read(folder)
    except (DataError, OSError) as error:
        log.warning("checkpoint %s is unusable, its member starts from scratch: %s", checkpoint.path, error)
        return None


def _save_to_tune(context: TrialContext, checkpoint: MemberCheckpoint, result: Json) -> None:
    from ray import tune

    context.fence.check()
    with TemporaryDirectory() as folder:
        checkpoint.write(folder)
        tune.report(result, checkpoint=tune.Checkpoint.from_directory(folder))


def _is_whole(store: Store, home: str) -> bool:
    """Return whether Ray Tune's saved state is readable: a kill may have truncated it."""
    import ray

    parsers = {"experiment_state-": json.loads, "basic-variant-state-": ray.cloudpickle.loads}
    try:
        for prefix, parse in parsers.items():
            newest = max(name for name in _file_names(store, home) if name.startswith(prefix))
            parse(store.read_bytes(f"{home}/{newest}"))
    except (ValueError, EOFError, pickle.UnpicklingError, DataError) as error:
        log.warning("the saved state of Ray Tune is unusable, unfinished members start from scratch: %s", error)
        return False
    return True


def _file_names(store: Store, home: str) -> list[str]:
    return [name.rsplit("/", 1)[-1] for name in store.list(home)]


def _clip_explored(ranges: Mapping[Keys, Range], config: Json) -> Json:
    return {**config, "member": clip_to_ranges(ranges, config["member"])}


def _trial_name(trial: Any) -> str:
    """Name a trial after its member at the start: after an exploit its configuration holds another member's index."""
    return f"{trial.config['member']['index']:05d}"


def _put_with_place(shared: Any, place: Place, event: Event) -> None:
    shared.put.remote(replace(event, place=place) if isinstance(event, Epoch) else event)
