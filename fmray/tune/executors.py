"""Place trials: one after the other in this process, or side by side as trials of Ray Tune.

Ray Tune places, restarts and feeds them; what they do and what becomes of them it does not know. Every trial finds its
own newest state in the store, so Ray is asked to run it again, never to restore it.
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
from fmray.train.device import set_up
from fmray.train.failures import Budget, is_of_user
from fmray.train.group import ALONE
from fmray.train.heartbeat import beat, look_seconds
from fmray.train.loop import Verdict
from fmray.train.mailbox import POLL_SECONDS, Mailbox, begin, deliver, every, placed_here
from fmray.train.restart_policy import decide, find
from fmray.train.stacks import here
from fmray.train.watch import Watch, on_roll
from fmray.train.workers import Worker, failing_here, of_worker, refusal
from fmray.tune.proposals import Proposals
from fmray.tune.referee import Referee, Rules
from fmray.tune.rungs import Table
from fmray.tune.slots import resources
from fmray.tune.trial import Training, Trial

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table whatever it is told
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a run of fmray as it ends any
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nobody restores what Ray Tune remembers of itself
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


DIED = "its worker died more often than run.max_failures"


def train_here(
    training: Training, proposals: Proposals, rules: Rules, before: Table, run: RunOptions, report: Report
) -> list[Trial]:
    """Train proposed trials in this process, one after the other, and give those that wait.

    Raises:
        FmrayError: Whatever training raises.
    """
    referee = Referee(training.store, training.home, rules, before)
    left = []
    with failing_here(run.hang_seconds, report):
        while (trial := proposals.ask()) is not None:
            device = set_up(run, trial.job.train)
            if spent := referee.exhausted if not training.is_finished(trial) else "":
                training.give_up(trial, f"{spent} before it began", "stopped")
            elif not training.train([trial], Worker(ALONE, device, report, run), referee.judge):
                left.append(trial)
                continue
            proposals.tell(trial)
    return left


def train_on_ray(
    training: Training,
    proposals: Proposals,
    rules: Rules,
    before: Table,
    run: RunOptions,
    report: Report,
    slots: int,
    name: str,
) -> list[Trial]:
    """Train proposed trials concurrently over Ray Tune, and give those that wait.

    Args:
        slots: Trials at a time.
        name: Of the sweep.

    Raises:
        ClusterError: If so many do not fit, or Ray fails.
        FmrayError: Whatever training raises but cannot count as an outcome.
    """
    with session():
        import ray

        needed = resources(living_nodes(), slots, run.gpu)
        queue = placed_here(_TrialQueue).remote(training, rules, dict(before), run, list(sys.path))
        watch = Watch(queue, run.hang_seconds, report)
        source = _Source(training, proposals, watch=watch, max_failures=run.max_failures, report=report)
        os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
        with (
            every(POLL_SECONDS, partial(deliver, queue, report)),
            every(look_seconds(run.hang_seconds), watch.look),
            warnings.catch_warnings(action="ignore"),
        ):
            _fit(source, queue, needed=needed, slots=slots, store=training.store, name=name)
        refused = ray.get(queue.refusal.remote())
        training.store.remove(training.store.path("ray", name))
    if refused is not None:
        raise pickle.loads(refused)
    return source.close()


def _fit(source: "_Source", queue: Any, needed: Json, slots: int, store: Store, name: str) -> None:
    from ray import tune
    from ray.tune import RunConfig, TuneConfig, Tuner

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    trainable = tune.with_resources(tune.with_parameters(_train_trial, queue=queue), needed)
    tuner = Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=source.as_searcher(), num_samples=-1, max_concurrent_trials=slots, reuse_actors=True,
            metric="finished", mode="max",
        ),
        run_config=RunConfig(name=name, storage_path=store.path("ray"), verbose=0, callbacks=[source.as_callback()]),
    )  # fmt: skip
    tuner.fit()


def _train_trial(config: Json, queue: Any) -> None:
    """Train one trial, as a trial of Ray Tune."""
    import ray
    from ray import tune

    if ray.get(queue.refusal.remote()) is not None:
        tune.report({"finished": 0})
        return
    packed, (training, run, path) = ray.get(queue.open.remote(config["trial"]))
    begin(path)
    trial: Trial = pickle.loads(packed)
    place = here(node=ray.get_runtime_context().get_node_id())
    queue.put.remote(Workers([place], trial=trial.number))
    device = set_up_trial(run, trial.job.train)

    def ask(pack: str, epoch: int, scores: Mapping[int, float]) -> Verdict:
        found: Verdict = ray.get(queue.judge.remote(pack, epoch, scores))
        return found

    def put(event: Event) -> None:
        queue.put.remote(event)

    finished = False
    try:
        with on_roll(queue, trial.number, rank=0, size=1, asked=run.hang_seconds), waiting(put, beat):
            finished = training.train([trial], Worker(ALONE, device, put, run), ask)
    except FmrayError as error:
        ray.get(queue.refuse.remote(refusal(error)))
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


class _TrialQueue(Mailbox):
    """Hand out trials, and let the referee answer them; lives in an actor."""

    def __init__(self, training: Training, rules: Rules, before: Table, run: RunOptions, path: list[str]) -> None:
        super().__init__()
        self._referee = Referee(training.store, training.home, rules, before)
        self._common = (training, run, path)
        self._trials = dict[int, bytes]()

    def hand_in(self, number: int, trial: bytes) -> str:
        """Take a trial that is about to be placed; say which budget is spent, if one is."""
        self._trials[number] = trial
        return self._referee.exhausted

    def open(self, number: int) -> tuple[bytes, tuple[Training, RunOptions, list[str]]]:
        """Give a trial, as it was handed in, and what all of them need."""
        return self._trials[number], self._common

    def judge(self, pack: str, epoch: int, scores: Mapping[int, float]) -> Verdict:
        """Say who of a pack goes on."""
        return self._referee.judge(pack, epoch, scores)


class _Source:
    """Feed Ray Tune from proposals, and hear from it what became of them.

    Trials whose worker died are placed again from here: Ray Tune itself gives up those whose worker died before they
    ran, as one does that is to be used again, and does not ask what they died of.
    """

    def __init__(
        self, training: Training, proposals: Proposals, watch: Watch, max_failures: int, report: Report
    ) -> None:
        self._training = training
        self._proposals = proposals
        self._watch = watch
        self._report = report
        self._desk = watch.mailbox
        self._placed: dict[str, Trial] = {}
        self._open: dict[int, Trial] = {}
        self._again: list[Trial] = []
        self._failures = Counter[int]()
        self._budgets = defaultdict[int, Budget](lambda: Budget(max_failures))

    def __getstate__(self) -> Json:
        """Give nothing: Ray Tune keeps a copy of what it is handed, which nobody restores."""
        return {}

    def suggest(self, trial_id: str) -> Json | str | None:
        """Give the next trial, None if one may come back, or Ray Tune's word for the end."""
        import ray
        from ray.tune.search import Searcher

        while (trial := self._again.pop(0) if self._again else self._proposals.ask()) is not None:
            if not self._training.is_finished(trial):
                spent = ray.get(self._desk.hand_in.remote(trial.number, ray.cloudpickle.dumps(trial)))
                if not spent:
                    self._placed[trial_id] = self._open[trial.number] = trial
                    return {"trial": trial.number}
                self._training.give_up(trial, f"{spent} before it began", "stopped")
            self._open.pop(trial.number, None)
            self._proposals.tell(trial)
        return None if self._placed else str(Searcher.FINISHED)

    def completed(self, trial_id: str) -> None:
        """Take note that a trial has come to its end, or waits."""
        self._settle(self._placed.pop(trial_id))

    def failed(self, trial_id: str, error: BaseException) -> None:
        """Have a trial placed again, or give it up, by what ended it."""
        trial = self._placed.pop(trial_id)
        self._failures[trial.number] += 1
        fault = find(error, trial.number, self._watch)
        budget = self._budgets[trial.number]
        self._watch.forget(trial.number)
        try:
            halve = self._training.micro_batches(trial).halve
            decide(fault, budget, attempt=self._failures[trial.number], halve=halve, report=self._report)
        except FmrayError:
            self._training.give_up(trial, DIED if fault.kind == WORKER else fault.text)
            self._settle(trial)
        else:
            self._again.append(trial)

    def _settle(self, trial: Trial) -> None:
        if self._training.is_finished(trial):
            del self._open[trial.number]
            self._proposals.tell(trial)

    def close(self) -> list[Trial]:
        """Give the trials that wait."""
        return [self._open[number] for number in sorted(self._open)]

    def as_searcher(self) -> Any:
        """Give what Ray Tune asks."""
        from ray.tune.search import Searcher

        source = self

        class ProposalSearcher(Searcher):  # type: ignore[misc]  # Ray has no types
            def suggest(self, trial_id: str) -> Any:
                return source.suggest(trial_id)

            def on_trial_complete(self, trial_id: str, result: Json | None = None, error: bool = False) -> None:
                if not error:  # else more is known in a moment: see `as_callback`
                    source.completed(trial_id)

            def save(self, checkpoint_path: str) -> None:
                """Keep nothing: proposals are in the store."""

            def restore(self, checkpoint_path: str) -> None:
                """Restore nothing."""

        return ProposalSearcher(metric="finished", mode="max")

    def as_callback(self) -> Any:
        """Give what Ray Tune tells of trials that failed."""
        from ray.tune import Callback

        source = self

        class FailureCallback(Callback):  # type: ignore[misc]  # Ray has no types
            def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                source.failed(trial.trial_id, _error_of(trial))

        return FailureCallback()


def _error_of(trial: Any) -> BaseException:
    """Read what Ray Tune just wrote down of a trial's failure: the error itself, or its text where it keeps no more."""
    import ray

    with suppress(OSError, TypeError, AttributeError, pickle.UnpicklingError, ImportError):
        with open(trial.pickled_error_file, "rb") as file:
            found = pickle.load(file)
        if isinstance(found, BaseException):
            return found
    text = "the trial failed, and nothing is known of it"
    with suppress(OSError, TypeError), open(trial.error_file, encoding="utf-8") as lines:
        text = lines.read()
    return ray.exceptions.RayError(text)  # type: ignore[no-any-return]
