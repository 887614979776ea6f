"""Execute trials: one after the other in this process, or concurrently as trials of Ray Tune.

Ray Tune only schedules trials; their states and outcomes are in the store. A trial resumes from its newest state there,
so Ray Tune restarts trials but never restores them.
"""

import logging
import os
import pickle
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch

from fmray.data.session import living_nodes, session
from fmray.errors import FmrayError
from fmray.events import Event, Report, Workers
from fmray.failures import WORKER
from fmray.records import Json
from fmray.spec.sections import RunOptions, Train
from fmray.store import Store, waiting
from fmray.train.decision import Decision
from fmray.train.device import set_up
from fmray.train.failures import Budget, is_user_error
from fmray.train.group import ALONE
from fmray.train.heartbeat import beat, look_seconds
from fmray.train.mailbox import POLL_SECONDS, Mailbox, begin, deliver, every, placed_here
from fmray.train.restart_policy import decide as decide_restart
from fmray.train.restart_policy import find
from fmray.train.stacks import here
from fmray.train.watch import Watch, on_roll
from fmray.train.workers import Worker, failing_here, refusal, worker_error
from fmray.tune.halving import RungScores, Stopper, StoppingRules
from fmray.tune.outcomes import has_begun, is_finished, record_untrained
from fmray.tune.proposals import Proposals
from fmray.tune.slots import resources
from fmray.tune.train_trials import train_trials
from fmray.tune.trial import Trial, TrialContext

RAY_TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table whatever its settings
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a run of fmray as it ends any
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Ray Tune's own state is never restored
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment variables for Ray Tune: no output of its own, no signal handler, no copies of its state."""
WORKER_DIED = "its worker died more than run.max_failures times"


def train_here(
    context: TrialContext,
    proposals: Proposals,
    rules: StoppingRules,
    earlier_scores: RungScores,
    run: RunOptions,
    report: Report,
) -> list[Trial]:
    """Train proposed trials in this process, one after the other, and return those that wait.

    Raises:
        FmrayError: Whatever training raises.
    """
    stopper = Stopper(context.store, context.home, rules, earlier_scores)
    waiting_trials = []
    planned = _PlannedEpochs(rules)
    with failing_here(run.hang_seconds, report):
        while (trial := proposals.ask()) is not None:
            device = set_up(run, trial.job.train)
            planned_before = planned.before(trial)
            exhausted = "" if has_begun(context, trial) else stopper.exhausted_for_new(planned_before)
            if exhausted:
                record_untrained(context, trial, f"{exhausted} before it began", "stopped")
            elif not train_trials(context, [trial], Worker(ALONE, device, report, run), stopper.decide):
                waiting_trials.append(trial)
                continue
            proposals.tell(trial)
    return waiting_trials


class _PlannedEpochs:
    """Count the epochs that proposed trials train until their members are compared, summed over members."""

    def __init__(self, rules: StoppingRules) -> None:
        self._rules = rules
        self._total = 0
        self._before: dict[int, int] = {}

    def before(self, trial: Trial) -> int:
        """Return the epochs of the trials that were proposed before this one, which counts from now on."""
        if trial.number not in self._before:
            self._before[trial.number] = self._total
            self._total += len(trial.plans) * self._rules.epochs_until_compared(trial.job.train.num_epochs)
        return self._before[trial.number]


def train_on_ray(
    context: TrialContext,
    proposals: Proposals,
    rules: StoppingRules,
    earlier_scores: RungScores,
    run: RunOptions,
    report: Report,
    slots: int,
    name: str,
) -> list[Trial]:
    """Train proposed trials concurrently with Ray Tune, and return those that wait.

    Args:
        slots: Number of concurrent trials.
        name: Name of the Ray Tune experiment: the key of the sweep.

    Raises:
        ClusterError: If Ray fails, or `slots` concurrent trials do not fit on the cluster.
        FmrayError: Whatever training raises that is not recorded as an outcome.
    """
    with session():
        import ray

        needed = resources(living_nodes(), slots, run.gpu)
        server = placed_here(_TrialServer).remote(context, rules, dict(earlier_scores), run, list(sys.path))
        watch = Watch(server, run.hang_seconds, report)
        source = _TuneAdapter(
            context, proposals, rules=rules, watch=watch, max_failures=run.max_failures, report=report
        )
        os.environ.update({key: os.environ.get(key, value) for key, value in RAY_TUNE_ENVIRONMENT.items()})
        with (
            every(POLL_SECONDS, partial(deliver, server, report)),
            every(look_seconds(run.hang_seconds), watch.look),
            warnings.catch_warnings(action="ignore"),
        ):
            _run_tuner(source, server, needed=needed, slots=slots, store=context.store, name=name)
        refused = ray.get(server.refusal.remote())
        context.store.remove(context.store.path("ray", name))
    if refused is not None:
        raise pickle.loads(refused)
    return source.waiting()


def _run_tuner(source: "_TuneAdapter", server: Any, needed: Json, slots: int, store: Store, name: str) -> None:
    from ray import tune
    from ray.tune import RunConfig, TuneConfig, Tuner

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_resources(tune.with_parameters(_train_trial, server=server), needed)
    tuner = Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=source.as_searcher(), num_samples=-1, max_concurrent_trials=slots, reuse_actors=True,
            metric="finished", mode="max",  # Ray Tune wants a metric; nothing depends on it
        ),
        run_config=RunConfig(name=name, storage_path=store.path("ray"), verbose=0, callbacks=[source.as_callback()]),
    )  # fmt: skip
    tuner.fit()


def _train_trial(config: Json, server: Any) -> None:
    """Train one trial, as a trial of Ray Tune."""
    import ray
    from ray import tune

    if ray.get(server.refusal.remote()) is not None:
        tune.report({"finished": 0})
        return
    packed, (context, run, sys_path) = ray.get(server.fetch.remote(config["trial"]))
    begin(sys_path)
    trial: Trial = pickle.loads(packed)
    process = here(node=ray.get_runtime_context().get_node_id())
    server.put.remote(Workers([process], trial=trial.number))
    device = set_up_trial(run, trial.job.train)

    def decide_on_driver(pack: str, epoch: int, scores: Mapping[int, float]) -> Decision:
        decision: Decision = ray.get(server.decide.remote(pack, epoch, scores))
        return decision

    def send(event: Event) -> None:
        server.put.remote(event)

    finished = False
    try:
        with on_roll(server, trial.number, rank=0, size=1, asked=run.hang_seconds), waiting(send, beat):
            finished = train_trials(context, [trial], Worker(ALONE, device, send, run), decide_on_driver)
    except FmrayError as error:
        ray.get(server.refuse.remote(refusal(error)))
    except BaseException as error:
        # Ctrl-C and signals pass; `sys.exit()` called by the user's code is an error of that code
        if not isinstance(error, Exception) and not is_user_error(error):
            raise
        raise worker_error(error, trial.number, 0, send) from error
    tune.report({"finished": int(finished)})


def set_up_trial(run: RunOptions, train: Train) -> torch.device:
    """Set the device and threads of this process to what Ray has reserved for its trial."""
    import ray

    cores = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    return set_up(run, train, cores if run.threads == "auto" else run.threads)


class _TrialServer(Mailbox):
    """Serve trials to workers, and decide which of their members stop; lives in an actor."""

    def __init__(
        self,
        context: TrialContext,
        rules: StoppingRules,
        earlier_scores: RungScores,
        run: RunOptions,
        sys_path: list[str],
    ) -> None:
        super().__init__()
        self._stopper = Stopper(context.store, context.home, rules, earlier_scores)
        self._common = (context, run, sys_path)
        self._trials = dict[int, bytes]()

    def submit(self, number: int, trial: bytes, planned: int) -> str:
        """Store a trial for the worker that will train it; return the budget that leaves nothing for a new trial.

        Args:
            planned: See `Stopper.exhausted_for_new`.
        """
        self._trials[number] = trial
        return self._stopper.exhausted_for_new(planned)

    def fetch(self, number: int) -> tuple[bytes, tuple[TrialContext, RunOptions, list[str]]]:
        """Return a trial as it was submitted, and the arguments that all trials share."""
        return self._trials[number], self._common

    def decide(self, pack: str, epoch: int, scores: Mapping[int, float]) -> Decision:
        """Decide which members of a pack stop."""
        return self._stopper.decide(pack, epoch, scores)


class _TuneAdapter:
    """Feed proposed trials to Ray Tune, and keep track of how each one ends.

    Trials whose worker died are restarted here, not by Ray Tune: it ignores the cause, and it does not restart a trial
    whose worker, reused from an earlier trial, died before the trial began.
    """

    def __init__(
        self,
        context: TrialContext,
        proposals: Proposals,
        rules: StoppingRules,
        watch: Watch,
        max_failures: int,
        report: Report,
    ) -> None:
        self._context = context
        self._proposals = proposals
        self._planned = _PlannedEpochs(rules)
        self._watch = watch
        self._report = report
        self._server = watch.mailbox
        self._running: dict[str, Trial] = {}
        self._unfinished: dict[int, Trial] = {}
        self._to_restart: list[Trial] = []
        self._failures = Counter[int]()
        self._budgets = defaultdict[int, Budget](lambda: Budget(max_failures))

    def __getstate__(self) -> Json:
        """Pickle nothing: Ray Tune saves a copy of its searcher, which fmray never restores."""
        return {}

    def suggest(self, trial_id: str) -> Json | str | None:
        """Return the next trial, None while running ones may have to be restarted, or `Searcher.FINISHED`."""
        import ray
        from ray.tune.search import Searcher

        while (trial := self._to_restart.pop(0) if self._to_restart else self._proposals.ask()) is not None:
            planned_before = self._planned.before(trial)
            if not is_finished(self._context, trial):
                submitted = self._server.submit.remote(trial.number, ray.cloudpickle.dumps(trial), planned_before)
                exhausted = ray.get(submitted)
                # one that is restarted may have died before it wrote anything
                if not exhausted or trial.number in self._unfinished or has_begun(self._context, trial):
                    self._running[trial_id] = self._unfinished[trial.number] = trial
                    return {"trial": trial.number}
                record_untrained(self._context, trial, f"{exhausted} before it began", "stopped")
            self._unfinished.pop(trial.number, None)
            self._proposals.tell(trial)
        return None if self._running else str(Searcher.FINISHED)

    def on_complete(self, trial_id: str) -> None:
        """Record that a trial is finished, or waits at a rung."""
        self._settle(self._running.pop(trial_id))

    def on_error(self, trial_id: str, error: BaseException) -> None:
        """Restart a trial or record it as failed, depending on what ended it."""
        trial = self._running.pop(trial_id)
        self._failures[trial.number] += 1
        fault = find(error, trial.number, self._watch)
        budget = self._budgets[trial.number]
        self._watch.forget(trial.number)
        try:
            attempt = self._failures[trial.number]
            halve_micro_batches = self._context.micro_batches(trial).halve
            decide_restart(fault, budget, attempt=attempt, halve=halve_micro_batches, report=self._report)
        except FmrayError:
            record_untrained(self._context, trial, WORKER_DIED if fault.kind == WORKER else fault.text)
            self._settle(trial)
        else:
            self._to_restart.append(trial)

    def _settle(self, trial: Trial) -> None:
        if is_finished(self._context, trial):
            del self._unfinished[trial.number]
            self._proposals.tell(trial)

    def waiting(self) -> list[Trial]:
        """Return the trials that wait at a rung, by number."""
        return [self._unfinished[number] for number in sorted(self._unfinished)]

    def as_searcher(self) -> Any:
        """Return the searcher that Ray Tune asks for trials."""
        from ray.tune.search import Searcher

        source = self

        class ProposalSearcher(Searcher):  # type: ignore[misc]  # Ray has no types
            def suggest(self, trial_id: str) -> Any:
                return source.suggest(trial_id)

            def on_trial_complete(self, trial_id: str, result: Json | None = None, error: bool = False) -> None:
                if not error:  # failures are handled in `as_callback`, which gets the error
                    source.on_complete(trial_id)

            def save(self, checkpoint_path: str) -> None:
                """Keep nothing: proposals are in the store."""

            def restore(self, checkpoint_path: str) -> None:
                """Restore nothing."""

        return ProposalSearcher(metric="finished", mode="max")

    def as_callback(self) -> Any:
        """Return the callback by which Ray Tune reports trials that failed."""
        from ray.tune import Callback

        source = self

        class FailureCallback(Callback):  # type: ignore[misc]  # Ray has no types
            def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                source.on_error(trial.trial_id, _error_of(trial))

        return FailureCallback()


def _error_of(trial: Any) -> BaseException:
    """Read the error file that Ray Tune writes for a failed trial; if it cannot be unpickled, its text."""
    import ray

    with suppress(OSError, TypeError, AttributeError, pickle.UnpicklingError, ImportError):
        with open(trial.pickled_error_file, "rb") as file:
            error = pickle.load(file)
        if isinstance(error, BaseException):
            return error
    text = "the trial failed with an unknown error"
    with suppress(OSError, TypeError), open(trial.error_file, encoding="utf-8") as lines:
        text = lines.read()
    return ray.exceptions.RayError(text)  # type: ignore[no-any-return]
