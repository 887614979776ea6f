"""Train a population over one pass of the data per epoch.

There is one loop, and it trains K >= 1 members; K = 1 is not special. It knows neither Ray nor files: rows come from
`Rows`, states go to `Checkpoints`, both handed in.
Shape legend: K members, B rows, P parameters per member.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmray.metrics.metric import Metric
from fmray.tasks.task import Batch
from fmray.train.ingest import Rows, num_steps
from fmray.train.optim import clip
from fmray.train.pack import Pack
from fmray.train.schedule import Plateau, warmup
from fmray.train.state import Checkpoints

Report = Callable[[dict[str, Any]], None]


def fit(
    pack: Pack,
    train_rows: Rows,
    val_rows: Rows,
    metric: Metric,
    order_seed: int,
    checkpoints: Checkpoints | None = None,
    report: Report = lambda event: None,
) -> None:
    """Train until every member has finished; the best states lie in the pack.

    Continues from `pack.state`, which may be fresh or restored.

    Args:
        pack: Members to train.
        train_rows, val_rows: Rows to learn from, and to stop and choose by.
        metric: Primary metric; its value on validation decides which state is kept.
        order_seed: Seed of the order of rows.
        checkpoints: Where states go; None keeps none.
        report: Gets one event per epoch.
    """
    steps = num_steps(train_rows.num_rows, pack.train.batch_rows)
    while pack.state.epoch < pack.train.epochs and len(pack):
        started, first_step = time.perf_counter(), pack.state.step
        run_epoch(pack, train_rows, steps, order_seed, checkpoints)
        seconds = time.perf_counter() - started
        if len(pack):
            _finish_epoch(pack, val_rows, metric)
        speed = (steps - first_step) / steps * train_rows.num_rows / max(seconds, 1e-9)
        report(_epoch_event(pack, metric, speed, time.perf_counter() - started))
        if checkpoints is not None and (checkpoints.due() or not _continues(pack)):
            checkpoints.save(pack.snapshot())


def train_step(pack: Pack, batch: Batch, factor: float) -> None:
    """Move every member by one optimizer step on the rows of a batch.

    The gradient is the weighted mean over the batch, however many micro-batches it is computed in.

    Args:
        factor: Share of the learning rate that the schedule grants now.
    """
    population, state, train = pack.population, pack.state, pack.train
    population.zero_grad()
    rows = -(-len(batch) // train.accumulate)
    sums = []
    for first in range(0, len(batch), rows):
        micro = batch if train.accumulate == 1 else batch.slice(first, first + rows)
        population.prepare_step(state.global_step, first, training=True)
        with _precision(pack):
            losses = pack.task.loss(population, micro, pack.task.phases[0])
        loss_K, weight_K = losses.sums()
        torch.autograd.backward([loss_K], [pack.ones_K])
        sums.append((loss_K.detach(), weight_K))
        if not math.isfinite(sums[-1][0].sum().item()):
            _note_faults(pack, micro, losses.loss.detach())
    population.gather_grad()
    loss_K, weight_K = sums[0] if len(sums) == 1 else [sum(parts) for parts in zip(*sums, strict=True)]
    population.grad.div_(weight_K if isinstance(weight_K, float) else weight_K[:, None])
    if train.clip_norm is not None:
        clip(population.grad, train.clip_norm)
    pack.optimizer.step(population, pack.lr_factor(factor))
    state.loss_sum += loss_K
    state.weight_sum += weight_K


def outputs(pack: Pack, rows: Rows) -> tuple[np.ndarray, Tensor]:
    """Predict every row of a split with the present parameters, in sequence order.

    Shapes:
        returns: predictions (K, N, C or T) in target units; losses (K,), weighted means.
    """
    predictions: list[np.ndarray] = []
    loss_sum, weight_sum = torch.zeros(len(pack), dtype=torch.float64), torch.zeros(len(pack), dtype=torch.float64)
    pack.population.prepare_step(0, 0, training=False)
    with torch.no_grad(), _precision(pack):
        for batch in rows.in_sequence():
            output = pack.population(batch)
            losses = pack.task.loss(lambda _: output, batch, pack.task.phases[0])  # noqa: B023
            loss, weight = losses.sums()
            loss_sum += loss.cpu()
            weight_sum += weight if isinstance(weight, float) else weight.cpu()
            predictions.append(pack.task.predict(output).cpu().numpy())
    return np.concatenate(predictions, axis=1), loss_sum / weight_sum


def run_epoch(pack: Pack, rows: Rows, steps: int, order_seed: int, checkpoints: Checkpoints | None) -> None:
    """Train on the batches of the current epoch, from the state's step on.

    Args:
        steps: Batches of a whole epoch.
        order_seed: Seed of the order of rows.
        checkpoints: Where states go while the epoch lasts; None keeps none.
    """
    state, train = pack.state, pack.train
    for batch in rows.batches(train.order, order_seed, state.epoch, train.batch_rows, state.step):
        factor = pack.schedule.factor(state.global_step, steps * train.epochs, steps)
        train_step(pack, batch, factor * warmup(state.global_step, train.warmup_steps))
        state.step += 1
        state.global_step += 1
        if state.health:
            _drop_faulty(pack)
            if not len(pack):
                return
        if checkpoints is not None and state.step < steps and checkpoints.due():
            checkpoints.save(pack.snapshot())


def _finish_epoch(pack: Pack, val_rows: Rows, metric: Metric) -> None:
    """Score on validation, keep what is best, stop whom patience has left; then the next epoch may begin."""
    state = pack.state
    predictions, val_loss = outputs(pack, val_rows)
    targets, weights = val_rows.targets(), val_rows.weights()
    scores = [metric.value(p[:, 0] if p.shape[1] == 1 else p, targets, weights) for p in predictions]
    state.epoch, state.step = state.epoch + 1, 0
    train_loss = (state.loss_sum / state.weight_sum).tolist()
    for row, member in enumerate(state.alive.tolist()):
        named = {"train_loss": train_loss[row], "val_loss": float(val_loss[row]), metric.name: float(scores[row])}
        state.history += [
            {"member": pack.plans[member].index, "epoch": state.epoch, "metric": name, "value": value}
            for name, value in named.items()
        ]
    state.loss_sum.zero_()
    state.weight_sum.zero_()
    _judge_epoch(pack, torch.tensor(scores, dtype=torch.float64).nan_to_num(nan=-math.inf * pack.sign) * pack.sign)


def _judge_epoch(pack: Pack, scores: Tensor) -> None:
    """Update best states, plateaus and patience; `scores` (K,) are higher for better."""
    state, train, alive = pack.state, pack.train, pack.state.alive
    stop = train.early_stop
    better = scores > state.best_score[alive] + (stop.min_delta if stop else 0.0)
    first = state.best_epoch[alive] == 0
    rows = torch.nonzero(better | first)[:, 0]
    pack.keep_best(rows)
    state.best_score[alive[rows]], state.best_epoch[alive[rows]] = scores[rows], state.epoch
    state.bad_epochs[alive] = torch.where(better | first, 0, state.bad_epochs[alive] + 1)
    if isinstance(pack.schedule, Plateau):
        _lower_on_plateau(pack, pack.schedule, scores)
    if stop is not None:
        tired = torch.nonzero(state.bad_epochs[alive] >= stop.patience)[:, 0].tolist()
        if tired:
            reason = f"no better on validation for {stop.patience} epochs"
            pack.drop(tired, "stopped", [reason] * len(tired))


def _lower_on_plateau(pack: Pack, plateau: Plateau, scores: Tensor) -> None:
    state, alive = pack.state, pack.state.alive
    better = scores > state.plateau_best[alive]
    bad = torch.where(better, 0, state.plateau_bad[alive] + 1)
    lowered = bad >= plateau.patience
    state.plateau_best[alive] = torch.maximum(scores, state.plateau_best[alive])
    state.plateau_factor[alive] = torch.where(
        lowered, state.plateau_factor[alive] * plateau.ratio, state.plateau_factor[alive]
    )
    state.plateau_bad[alive] = torch.where(lowered, 0, bad)


def _note_faults(pack: Pack, batch: Batch, loss_KB: Tensor) -> None:
    """Record which members lost a number that is none, where, and on which rows."""
    state = pack.state
    for row in torch.nonzero(~torch.isfinite(loss_KB).all(1))[:, 0].tolist():
        rows = batch.rows[~torch.isfinite(loss_KB[row])][:10].tolist()
        state.health.append(
            {
                "member": pack.plans[int(state.alive[row])].index,
                "row_in_pack": row,
                "epoch": state.epoch + 1,
                "step": state.global_step,
                "where": pack.population.faulty_parameter(row),
                "positions": rows,
                "handled": False,
            }
        )


def _drop_faulty(pack: Pack) -> None:
    """Stop the members whose faults are new; the pack goes on without them."""
    fresh = {event["row_in_pack"]: event for event in pack.state.health if not event["handled"]}
    if not fresh:
        return
    reasons = [
        f"the loss was not finite at step {event['step']} (epoch {event['epoch']}): {event['where']}, "
        f"training rows at positions {event['positions']}"
        for event in fresh.values()
    ]
    pack.drop(list(fresh), "failed", reasons)
    for event in fresh.values():
        event["handled"] = True


def _continues(pack: Pack) -> bool:
    return pack.state.epoch < pack.train.epochs and len(pack) > 0


def _epoch_event(pack: Pack, metric: Metric, rows_per_second: float, seconds: float) -> dict[str, Any]:
    best = float(pack.state.best_score.max()) * pack.sign
    return {
        "event": "epoch",
        "epoch": pack.state.epoch,
        "epochs": pack.train.epochs,
        "rows_per_second": round(rows_per_second),
        "seconds_left": round(seconds * (pack.train.epochs - pack.state.epoch), 1) if len(pack) else 0.0,
        "primary": metric.name,
        "best": best if math.isfinite(best) else None,
        "members": len(pack.plans),
        "alive": len(pack),
    }


def _precision(pack: Pack) -> AbstractContextManager[object]:
    if pack.train.precision == "bfloat16":
        return torch.autocast(pack.device.type, torch.bfloat16)
    return nullcontext()
