"""Execute trials: one after the other in this process, or side by side as trials of Ray Tune.

Ray Tune starts them where there is room; it knows neither what they do nor their outcome. Every trial finds its own
newest state in the store, so Ray Tune is asked to run it again, never to restore it.
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
from fmray.train.failures import Budget, is_of_user
from fmray.train.group import ALONE
from fmray.train.heartbeat import beat, look_seconds
from fmray.train.mailbox import POLL_SECONDS, Mailbox, begin, deliver, every, placed_here
from fmray.train.restart_policy import decide as decide_restart
from fmray.train.restart_policy import find
from fmray.train.stacks import here
from fmray.train.watch import Watch, on_roll
from fmray.train.workers import Worker, failing_here, of_worker, refusal
from fmray.tune.halving import Rules, RungScores, Stopper
from fmray.tune.outcomes import is_finished, record_untrained
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


WORKER_DIED = "its worker died more often than run.max_failures"


def train_here(
    context: TrialContext, proposals: Proposals, rules: Rules, before: RungScores, run: RunOptions, report: Report
) -> list[Trial]:
    """Train proposed trials in this process, one after the other, and return those that wait.

    Raises:
        FmrayError: Whatever training raises.
    """
    stopper = Stopper(context.store, context.home, rules, before)
    paused = []
    with failing_here(run.hang_seconds, report):
        while (trial := proposals.ask()) is not None:
            device = set_up(run, trial.job.train)
            if exhausted := stopper.exhausted_budget if not is_finished(context, trial) else "":
                record_untrained(context, trial, f"{exhausted} before it began", "stopped")
            elif not train_trials(context, [trial], Worker(ALONE, device, report, run), stopper.decide):
                paused.append(trial)
                continue
            proposals.tell(trial)
    return paused


def train_on_ray(
    context: TrialContext,
    proposals: Proposals,
    rules: Rules,
    before: RungScores,
    run: RunOptions,
    report: Report,
    slots: int,
    name: str,
) -> list[Trial]:
    """Train proposed trials concurrently over Ray Tune, and return those that wait.

    Args:
        slots: Trials at a time.
        name: Of the sweep.

    Raises:
        ClusterError: If so many do not fit, or Ray fails.
        FmrayError: Whatever training raises that is not recorded as an outcome.
    """
    with session():
        import ray

        needed = resources(living_nodes(), slots, run.gpu)
        server = placed_here(_TrialServer).remote(context, rules, dict(before), run, list(sys.path))
        watch = Watch(server, run.hang_seconds, report)
        source = _Source(context, proposals, watch=watch, max_failures=run.max_failures, report=report)
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


def _run_tuner(source: "_Source", server: Any, needed: Json, slots: int, store: Store, name: str) -> None:
    from ray import tune
    from ray.tune import RunConfig, TuneConfig, Tuner

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_resources(tune.with_parameters(_train_trial, server=server), needed)
    tuner = Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=source.as_searcher(), num_samples=-1, max_concurrent_trials=slots, reuse_actors=True,
            metric="finished", mode="max",
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
    packed, (context, run, path) = ray.get(server.fetch.remote(config["trial"]))
    begin(path)
    trial: Trial = pickle.loads(packed)
    process = here(node=ray.get_runtime_context().get_node_id())
    server.put.remote(Workers([process], trial=trial.number))
    device = set_up_trial(run, trial.job.train)

    def decide_on_driver(pack: str, epoch: int, scores: Mapping[int, float]) -> Decision:
        found: Decision = ray.get(server.decide.remote(pack, epoch, scores))
        return found

    def put(event: Event) -> None:
        server.put.remote(event)

    finished = False
    try:
        with on_roll(server, trial.number, rank=0, size=1, asked=run.hang_seconds), waiting(put, beat):
            finished = train_trials(context, [trial], Worker(ALONE, device, put, run), decide_on_driver)
    except FmrayError as error:
        ray.get(server.refuse.remote(refusal(error)))
    except BaseException as error:
        if not isinstance(error, Exception) and not is_of_user(error):
            raise
        raise of_worker(error, trial.number, 0, put) from error
    tune.report({"finished": int(finished)})


def set_up_trial(run: RunOptions, train: Train) -> torch.device:
    """Make this process ready to train on what its trial has reserved."""
    import ray

    cores = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    return set_up(run, train, cores if run.threads == "auto" else run.threads)


class _TrialServer(Mailbox):
    """Give trials to workers, and decide which of their members stop; lives in an actor."""

    def __init__(
        self, context: TrialContext, rules: Rules, before: RungScores, run: RunOptions, path: list[str]
    ) -> None:
        super().__init__()
        self._stopper = Stopper(context.store, context.home, rules, before)
        self._common = (context, run, path)
        self._trials = dict[int, bytes]()

    def submit(self, number: int, trial: bytes) -> str:
        """Take a trial that is about to start; return which budget is spent, if one is."""
        self._trials[number] = trial
        return self._stopper.exhausted_budget

    def fetch(self, number: int) -> tuple[bytes, tuple[TrialContext, RunOptions, list[str]]]:
        """Give a trial, as it was submitted, and what all of them need."""
        return self._trials[number], self._common

    def decide(self, pack: str, epoch: int, scores: Mapping[int, float]) -> Decision:
        """Decide which members of a pack stop."""
        return self._stopper.decide(pack, epoch, scores)


class _Source:
    """Give Ray Tune the proposed trials, and take note which of them ended, and how.

    Trials whose worker died are started again from here: Ray Tune itself does not restart those whose worker died
    before they ran, as one does that is reused, and does not ask for the cause.
    """

    def __init__(
        self, context: TrialContext, proposals: Proposals, watch: Watch, max_failures: int, report: Report
    ) -> None:
        self._context = context
        self._proposals = proposals
        self._watch = watch
        self._report = report
        self._server = watch.mailbox
        self._running: dict[str, Trial] = {}
        self._unfinished: dict[int, Trial] = {}
        self._to_restart: list[Trial] = []
        self._failures = Counter[int]()
        self._budgets = defaultdict[int, Budget](lambda: Budget(max_failures))

    def __getstate__(self) -> Json:
        """Give nothing: Ray Tune keeps a copy of what it is given, which is never restored."""
        return {}

    def suggest(self, trial_id: str) -> Json | str | None:
        """Give the next trial, None if a running one may have to start again, or Ray Tune's word for the end."""
        import ray
        from ray.tune.search import Searcher

        while (trial := self._to_restart.pop(0) if self._to_restart else self._proposals.ask()) is not None:
            if not is_finished(self._context, trial):
                exhausted = ray.get(self._server.submit.remote(trial.number, ray.cloudpickle.dumps(trial)))
                if not exhausted:
                    self._running[trial_id] = self._unfinished[trial.number] = trial
                    return {"trial": trial.number}
                record_untrained(self._context, trial, f"{exhausted} before it began", "stopped")
            self._unfinished.pop(trial.number, None)
            self._proposals.tell(trial)
        return None if self._running else str(Searcher.FINISHED)

    def completed(self, trial_id: str) -> None:
        """Take note that a trial is finished, or waits."""
        self._settle(self._running.pop(trial_id))

    def failed(self, trial_id: str, error: BaseException) -> None:
        """Have a trial started again, or record it as failed, by the cause."""
        trial = self._running.pop(trial_id)
        self._failures[trial.number] += 1
        fault = find(error, trial.number, self._watch)
        budget = self._budgets[trial.number]
        self._watch.forget(trial.number)
        try:
            halve = self._context.micro_batches(trial).halve
            decide_restart(fault, budget, attempt=self._failures[trial.number], halve=halve, report=self._report)
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
        """List the trials that wait."""
        return [self._unfinished[number] for number in sorted(self._unfinished)]

    def as_searcher(self) -> Any:
        """Give the searcher that Ray Tune asks for trials."""
        from ray.tune.search import Searcher

        source = self

        class ProposalSearcher(Searcher):  # type: ignore[misc]  # Ray has no types
            def suggest(self, trial_id: str) -> Any:
                return source.suggest(trial_id)

            def on_trial_complete(self, trial_id: str, result: Json | None = None, error: bool = False) -> None:
                if not error:  # else the cause is known in a moment: see `as_callback`
                    source.completed(trial_id)

            def save(self, checkpoint_path: str) -> None:
                """Keep nothing: proposals are in the store."""

            def restore(self, checkpoint_path: str) -> None:
                """Restore nothing."""

        return ProposalSearcher(metric="finished", mode="max")

    def as_callback(self) -> Any:
        """Give the callback by which Ray Tune reports trials that failed."""
        from ray.tune import Callback

        source = self

        class FailureCallback(Callback):  # type: ignore[misc]  # Ray has no types
            def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                source.failed(trial.trial_id, _error_of(trial))

        return FailureCallback()


def _error_of(trial: Any) -> BaseException:
    """Read the error of a trial that Ray Tune has just written, or its text if that is all it keeps."""
    import ray

    with suppress(OSError, TypeError, AttributeError, pickle.UnpicklingError, ImportError):
        with open(trial.pickled_error_file, "rb") as file:
            found = pickle.load(file)
        if isinstance(found, BaseException):
            return found
    text = "the trial failed, and its error is not known"
    with suppress(OSError, TypeError), open(trial.error_file, encoding="utf-8") as lines:
        text = lines.read()
    return ray.exceptions.RayError(text)  # type: ignore[no-any-return]
