"""Search as an experienced user would without fmray: a function trainable of Ray Tune, or one member after another.

Nothing here knows fmray, so a worker of Ray imports no more than torch and Ray Tune. The rival gets every fair advantage:
one thread per trial, rows in the object store once, epochs shuffled whole and then cut, a fused optimizer, no logger
callbacks, no snapshots of the experiment, one forward pass on validation per epoch, held-out rows scored only where a
member got better.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CPUS = 2
ETA, GRACE = 3, 1
WORST = -1e9
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # no snapshots of the experiment while it lasts, so it could not be resumed
    "RAY_AIR_NEW_OUTPUT": "0",
}
Config = Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """Hold prepared rows of all splits; numbers to predict are standardised.

    Args:
        x, val_x, held_x: (N, D) float32 each; `held_x` may have no rows.
        y, val_y, held_y: (N,) class indices or numbers.
        metric: What decides.
        num_outputs: Classes, or 1 for a number.
        positive: Index of the positive class for roc_auc.
    """

    x: np.ndarray
    y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    held_x: np.ndarray
    held_y: np.ndarray
    metric: Literal["accuracy", "roc_auc", "r2"]
    num_outputs: int
    positive: int = 1


@dataclass(frozen=True)
class Plan:
    """Say what all members of a sweep share.

    Args:
        epochs, batch_rows: Of each member.
        optimizer: Name in torch.optim.
    """

    epochs: int = 20
    batch_rows: int = 64
    optimizer: Literal["Adam", "AdamW"] = "Adam"


@dataclass(frozen=True)
class Point:
    """Say how far a search had come: seconds since its start, the best score on validation, and on held-out rows."""

    seconds: float
    best: float
    held_out: float


@dataclass(frozen=True)
class Outcome:
    """Hold what a sweep gave and took.

    Args:
        seconds: Of the search alone.
        epochs: Member-epochs trained.
        best: Best score on validation of any member after any epoch.
        held_out: Score of that state on rows that nobody selected by; NaN if there are none.
        trail: The same after each member-epoch, where a search with a budget was asked for.
    """

    seconds: float
    epochs: int
    best: float
    held_out: float
    trail: tuple[Point, ...] = ()


def network(config: Config, num_inputs: int, num_outputs: int) -> nn.Sequential:
    """Build an MLP; depth 0 is linear."""
    layers: list[nn.Module] = []
    width = num_inputs
    for _ in range(int(config.get("depth", 1))):
        units = int(config.get("width", 64))
        layers += [nn.Linear(width, units), nn.ReLU()]
        layers += [nn.Dropout(config["dropout"])] if config.get("dropout", 0.0) > 0 else []
        width = units
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))


def train(config: Config, table: Table, plan: Plan) -> Iterator[tuple[float, float]]:
    """Train one member, and give its best score so far on validation and that state's on held-out rows, per epoch."""
    torch.manual_seed(int(config["lr"] * 2**40))  # another one for every member
    x, val_x, held_x = (_tensor(part) for part in (table.x, table.val_x, table.held_x))
    y = _tensor(table.y).float() if table.metric == "r2" else _tensor(table.y)
    loss_of = F.mse_loss if table.metric == "r2" else F.cross_entropy
    model = network(config, x.shape[1], table.num_outputs)
    chosen = {"lr": config["lr"], "weight_decay": config.get("weight_decay", 0.0)}
    optimizer = getattr(torch.optim, plan.optimizer)(model.parameters(), **chosen, fused=True)
    best, held_out = -np.inf, float("nan")
    for _ in range(plan.epochs):
        model.train()
        order = torch.randperm(len(x))
        for rows, target in zip(x[order].split(plan.batch_rows), y[order].split(plan.batch_rows), strict=True):
            optimizer.zero_grad()
            output = model(rows)
            loss_of(output.squeeze(1) if table.metric == "r2" else output, target).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            score = score_of(table, model(val_x), table.val_y)
            if score > best:
                best = score
                held_out = score_of(table, model(held_x), table.held_y) if len(held_x) else held_out
        yield best, held_out


def score_of(table: Table, output: Tensor, target: np.ndarray) -> float:
    """Score outputs (N, C or 1); what is not a number scores worst."""
    if not torch.isfinite(output).all():
        return WORST
    if table.metric == "accuracy":
        return float((output.argmax(1).numpy() == target).mean())
    if table.metric == "r2":
        error = output[:, 0].double().numpy() - target
        return float(1 - (error @ error) / np.square(target - target.mean()).sum())
    return roc_auc(output.double().softmax(1)[:, table.positive].numpy(), target == table.positive)


def roc_auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Give the share of pairs in which the positive row stands above, ties counted half."""
    others = np.sort(score[~positive])
    below = np.searchsorted(others, score[positive], "left") + np.searchsorted(others, score[positive], "right")
    return float(below.mean() / 2 / len(others))


def trainable(config: dict[str, Any], table: Table, plan: Plan) -> None:
    """Train one trial in a worker of Ray Tune, and report after each epoch."""
    from ray import tune

    torch.set_num_threads(1)
    for best, held_out in train(config, table, plan):
        tune.report({"score": best, "held_out": held_out})


def tune_sweep(
    table: Table,
    space: Mapping[str, Any],
    members: int,
    plan: Plan,
    folder: str,
    *,
    reuse_actors: bool,
    buffer: bool = False,
    eta: int | None = None,
    tpe_seed: int | None = None,
    budget: int | None = None,
) -> Outcome:
    """Search with Ray Tune, from a started Ray; only `fit` is timed.

    Args:
        space: Distributions of Ray Tune.
        buffer: Let all reports of a trial travel together, which is sound only where none decides anything.
        eta: Of ASHA with a grace of one epoch; None trains every trial in full.
        tpe_seed: Let Optuna's TPE propose, `CPUS` trials at a time; None draws at random.
        budget: Member-epochs after which all trials end; None lets all members be tried.
    """
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    how = {"metric": "score", "mode": "max"}
    asha = {"max_t": plan.epochs, "grace_period": GRACE, "reduction_factor": eta}
    stop = None if budget is None else budget_of(budget)
    with _settings({**SETTINGS, "TUNE_RESULT_BUFFER_LENGTH": str(plan.epochs if buffer else 1)}):
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, table=table, plan=plan), {"cpu": 1}),
            param_space=dict(space),
            tune_config=tune.TuneConfig(
                **how,
                num_samples=members,
                search_alg=None if tpe_seed is None else tpe(tpe_seed),
                scheduler=None if eta is None else ASHAScheduler(**asha),
                reuse_actors=reuse_actors,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, stop=stop),
        )
        started = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - started
    if results.errors:
        raise RuntimeError(f"trials failed: {results.errors[0]}")
    trail = () if stop is None else tuple(stop.trail)
    trained = [result.metrics for result in results if result.metrics and "score" in result.metrics]
    best = max(trained, key=lambda metrics: metrics["score"])
    return Outcome(seconds, sum(m["training_iteration"] for m in trained), best["score"], best["held_out"], trail)


def tpe(seed: int) -> Any:
    """Let Optuna propose, knowing what came of all but the trials in flight."""
    import optuna
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return ConcurrencyLimiter(OptunaSearch(seed=seed), max_concurrent=CPUS)


def budget_of(epochs: int) -> Any:
    """Give what ends all trials once they have trained so many epochs together, and keeps the trail until then."""
    from ray import tune

    class Budget(tune.Stopper):
        def __init__(self) -> None:
            self.started, self.trail = time.perf_counter(), []

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            if len(self.trail) < epochs:
                best, held_out = result["score"], result["held_out"]
                if self.trail and self.trail[-1].best >= best:
                    best, held_out = self.trail[-1].best, self.trail[-1].held_out
                self.trail.append(Point(time.perf_counter() - self.started, best, held_out))
            return self.stop_all()

        def stop_all(self) -> bool:
            return len(self.trail) >= epochs

    return Budget()


def bare_sweep(table: Table, configs: Sequence[Config], plan: Plan, threads: int) -> Outcome:
    """Train members one after another in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    started = time.perf_counter()
    found = [list(train(config, table, plan)) for config in configs]
    seconds = time.perf_counter() - started
    torch.set_num_threads(before)
    best, held_out = max((curve[-1] for curve in found), key=lambda end: end[0])
    return Outcome(seconds, sum(map(len, found)), best, held_out)


def best_bare(table: Table, configs: Sequence[Config], plan: Plan) -> tuple[Outcome, int]:
    """Train members one after another with as many threads as do it faster, and say how many these are."""
    bare_sweep(table, configs[:1], replace(plan, epochs=1), 1)  # the first step of torch is slow
    tried = {threads: bare_sweep(table, configs[:4], plan, threads).seconds for threads in (1, CPUS)}
    threads = min(tried, key=lambda number: tried[number])
    return bare_sweep(table, configs, plan, threads), threads


def draw(members: int, *, dropout: bool) -> list[Config]:
    """Draw the members of a bare loop over the ranges of the others: lr from 1e-4 to 1e-1, dropout up to a half."""
    rng = np.random.default_rng(0)
    configs = []
    for _ in range(members):
        config = {"lr": float(10 ** rng.uniform(-4, -1))}
        config |= {"dropout": float(rng.uniform(0, 0.5))} if dropout else {}
        configs.append(config)
    return configs


@contextmanager
def started_ray() -> Iterator[None]:
    """Hold a Ray of our own with two CPUs, quiet, with Ray Tune loaded."""
    import ray

    with warnings.catch_warnings(action="ignore"), _settings(SETTINGS):
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address="local", num_cpus=CPUS, **quiet)
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not find this file
        for name in ("ray.tune", "ray.train", "optuna"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _settings(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _tensor(values: np.ndarray) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # rows of the object store are read-only, and stay as they are
        return torch.from_numpy(values)
