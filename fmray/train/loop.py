"""Train a population over one pass of the data per epoch.

There is one loop, and it trains K >= 1 members on W >= 1 workers; one is not special. It knows neither Ray nor files:
rows come from `Rows`, states go to `Checkpoints`, sums go through the `Group`, all handed in.
Shape legend: K members, B rows, P parameters per member.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmray.metrics.metric import Metric
from fmray.seeding import DRAWING, derive
from fmray.tasks.task import Batch, Losses, mixed
from fmray.train.group import ALONE, Group
from fmray.train.ingest import Rows, num_steps
from fmray.train.optim import clip
from fmray.train.pack import Pack
from fmray.train.schedule import Plateau, warmup
from fmray.train.state import Checkpoints, generators

Faults = list[dict[str, Any]]
Report = Callable[[dict[str, Any]], None]
LEAST_WEIGHT = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Verdict:
    """Say who trains no further.

    Args:
        dropped: Member -> reason.
        waits: The others must not go on either before more is known; their training is left as it stands.
    """

    dropped: Mapping[int, str] = field(default_factory=dict)
    waits: bool = False


Judge = Callable[[int, dict[int, float]], Verdict]
"""(epochs finished, member -> best score so far, higher for better) -> who goes on; equal questions, equal answers."""


def fit(
    pack: Pack,
    train_rows: Rows,
    val_rows: Rows,
    metric: Metric,
    order_seed: int,
    checkpoints: Checkpoints | None = None,
    report: Report = lambda event: None,
    group: Group = ALONE,
    judge: Judge | None = None,
) -> bool:
    """Train until every member has finished or must wait; the best states lie in the pack.

    Continues from `pack.state`, which may be fresh or restored.

    Args:
        pack: Members to train.
        train_rows, val_rows: Rows to learn from, and to stop and choose by; with several workers, their shares.
        metric: Primary metric; its value on validation decides which state is kept.
        order_seed: Seed of the order of rows.
        checkpoints: Where states go, on the first worker; None keeps none.
        report: Gets one event per epoch.
        group: The workers that train together.
        judge: Asked on the first worker after every epoch, and once more by a training that continues there.

    Returns:
        Whether every member has finished.
    """
    if pack.state.global_step == 0:
        with DRAWING:
            torch.manual_seed(derive(order_seed, "draws", group.rank))  # for modules that draw numbers of their own
    steps = num_steps(train_rows.num_rows, pack.train.batch_rows)
    waits = _ask(pack, judge, group) if pack.state.epoch and not pack.state.step else False
    saved = 0.0
    while _continues(pack) and not waits:
        started, first_step = time.perf_counter(), pack.state.step
        spent = run_epoch(pack, train_rows, steps, order_seed, checkpoints, group)
        seconds = time.perf_counter() - started
        if len(pack):
            _finish_epoch(pack, val_rows, metric, group)
            waits = _ask(pack, judge, group)
        speed = (steps - first_step) / steps * train_rows.num_rows / max(seconds, 1e-9)
        seconds = time.perf_counter() - started + saved
        spent = {"rows": max(group.collect(spent["rows"])), "checkpoints": spent["checkpoints"] + saved}
        report(_epoch_event(pack, metric, speed, seconds, spent))
        due = group.tell(checkpoints is not None and (checkpoints.due() or waits or not _continues(pack)))
        saved = _save(pack, checkpoints, group) if due else 0.0
    return not waits


def train_step(pack: Pack, batch: Batch, factor: float, group: Group = ALONE, flag: bool = False) -> bool:
    """Move every member by one optimizer step on the rows of a batch.

    The gradient is the weighted mean over the global batch, however many micro-batches and workers compute it.

    Args:
        factor: Share of the learning rate that the schedule grants now.
        group: The workers that hold the batch.
        flag: Anything one worker wants all to know.

    Returns:
        Whether any worker raised its flag.
    """
    population, state, train = pack.population, pack.state, pack.train
    population.zero_grad()
    batch = pack.row_weights.weigh(pack.live.change(batch, state.epoch))
    rows = max(1, -(-len(batch) // train.accumulate))
    sums: list[tuple[Tensor, Tensor | float]] = []
    faults: Faults = []
    for first in range(0, len(batch), rows):
        micro = batch if train.accumulate == 1 else batch.slice(first, first + rows)
        population.prepare_step(state.global_step, micro.places)
        with _precision(pack):
            losses = _losses(pack, micro)
        loss_K, weight_K = losses.sums()
        torch.autograd.backward([loss_K], [pack.ones_K])
        sums.append((loss_K.detach(), weight_K))
        if not math.isfinite(sums[-1][0].sum().item()):
            faults += _faults(pack, micro, losses.loss.detach())
    population.gather_grad()
    loss_K, weight_K, flagged = _agree(pack, sums, flag, group)
    if group.size > 1 and not math.isfinite(loss_K.sum().item()):
        faults = [fault for own in group.collect(faults) for fault in own]
    _note(pack, faults)
    # no row of the batch may count for a member: its gradient is 0 then, not 0 / 0
    population.grad.div_(weight_K if isinstance(weight_K, float) else weight_K[:, None].clamp_min(LEAST_WEIGHT))
    if train.clip_norm is not None:
        clip(population.grad, train.clip_norm)
    pack.step_optimizer(factor)
    state.loss_sum += loss_K
    state.weight_sum += weight_K
    return flagged


def outputs(pack: Pack, rows: Rows, group: Group = ALONE) -> tuple[np.ndarray, Tensor]:
    """Predict every row of a split, or of a share of it, with the present parameters, in sequence order.

    Shapes:
        returns: predictions (K, N, C or T) in target units; losses (K,), weighted means over all workers.
    """
    found = [torch.zeros(len(pack), 0, pack.task.num_outputs, dtype=torch.float64)]
    sums = torch.zeros(2, len(pack), dtype=torch.float64)
    pack.population.prepare_step(0, None)
    with torch.no_grad(), _precision(pack):
        for batch in rows.in_sequence():
            output = pack.population(batch)
            losses = pack.task.loss(lambda _: output, batch, pack.task.phases[0])  # noqa: B023
            loss, weight = losses.sums()
            sums[0] += loss.cpu()
            sums[1] += weight if isinstance(weight, float) else weight.cpu()
            found.append(pack.task.predict(output).cpu())
    sums = group.sum(sums.to(pack.device)).cpu()
    return torch.cat(found[1:] or found, dim=1).numpy(), sums[0] / sums[1]


def scores_of(metric: Metric, predictions: np.ndarray, rows: Rows, group: Group = ALONE) -> list[float]:
    """Score each member on all workers' rows; sums travel, not rows, and the number is the same however rows are cut.

    Shapes:
        predictions: (K, N, C or T), of this worker's rows.
    """
    targets, weights = rows.targets(), rows.weights()
    own = [metric.sums.partial(p[:, 0] if p.shape[1] == 1 else p, targets, weights) for p in predictions]
    return [metric.sums.value(metric.sums.merge(parts)) for parts in zip(*group.collect(own), strict=True)]


def run_epoch(
    pack: Pack, rows: Rows, steps: int, order_seed: int, checkpoints: Checkpoints | None, group: Group = ALONE
) -> dict[str, float]:
    """Train on the batches of the current epoch, from the state's step on.

    Gives the seconds that went into waiting for rows that are not in memory, and into checkpoints.

    Args:
        steps: Batches of a whole epoch.
        order_seed: Seed of the order of rows.
        checkpoints: Where states go while the epoch lasts, on the first worker; None keeps none.
        group: The workers that train together.
    """
    state, train = pack.state, pack.train
    batches, waited = iter(rows.batches(train.order, order_seed, state.epoch, train.batch_rows, state.step)), 0.0
    saved = 0.0
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        factor = pack.schedule.factor(state.global_step, steps * train.epochs, steps)
        factor *= warmup(state.global_step, train.warmup_steps)
        due = checkpoints is not None and state.step + 1 < steps and checkpoints.due()
        due = train_step(pack, batch, factor, group, due)
        state.step += 1
        state.global_step += 1
        if state.health:
            _drop_faulty(pack)
            if not len(pack):
                break
        if due:
            saved += _save(pack, checkpoints, group)
    return {"rows": 0.0 if rows.in_memory else waited, "checkpoints": saved}


def _ask(pack: Pack, judge: Judge | None, group: Group) -> bool:
    """Drop the members that a judge sends home, and say whether the others must wait."""
    if judge is None or not len(pack):
        return False
    state, verdict = pack.state, None
    if group.is_first:
        best = state.best_score[state.alive].tolist()
        indices = [pack.plans[member].index for member in state.alive.tolist()]
        verdict = judge(state.epoch, dict(zip(indices, best, strict=True)))
    told: Verdict = group.tell(verdict)
    rows = {pack.plans[member].index: row for row, member in enumerate(state.alive.tolist())}
    reasons = {rows[index]: reason for index, reason in told.dropped.items() if index in rows}
    if reasons:
        pack.drop(list(reasons), "stopped", list(reasons.values()))
    return told.waits and len(pack) > 0


def _losses(pack: Pack, batch: Batch) -> Losses:
    phase = pack.task.phases[0]
    if batch.own is None or batch.partner is None:
        return pack.task.loss(pack.population, batch, phase)
    output = pack.population(batch)
    own, partner = (pack.task.loss(lambda _: output, rows, phase) for rows in (batch, batch.partner))
    return mixed(own, partner, batch.own)


def _save(pack: Pack, checkpoints: Checkpoints | None, group: Group) -> float:
    """Write the state, with what every worker would draw next, and give the seconds it took."""
    started, state = time.perf_counter(), pack.snapshot()
    drawn = group.collect(generators(pack.device))
    state.rng = {f"{rank}/{name}": value for rank, own in enumerate(drawn) for name, value in own.items()}
    if checkpoints is not None:
        checkpoints.save(state)
    return time.perf_counter() - started


def _agree(
    pack: Pack, sums: list[tuple[Tensor, Tensor | float]], flag: bool, group: Group
) -> tuple[Tensor, Tensor | float, bool]:
    """Sum gradients, losses, weights and flags over micro-batches and workers, in one exchange."""
    loss_K, weight_K = sums[0] if sums else (torch.zeros_like(pack.ones_K), 0.0)
    for more_loss_K, more_weight_K in sums[1:]:
        loss_K, weight_K = loss_K + more_loss_K, weight_K + more_weight_K
    if group.size == 1:
        return loss_K, weight_K, flag
    tail = pack.population.reduced[pack.population.flat.numel() :]
    num = len(pack)
    tail[:num], tail[num : 2 * num], tail[-1] = loss_K, weight_K, flag
    group.sum(pack.population.reduced)
    return tail[:num].clone(), tail[num : 2 * num].clone(), bool(tail[-1] > 0)


def _finish_epoch(pack: Pack, val_rows: Rows, metric: Metric, group: Group) -> None:
    """Score on validation, keep what is best, stop whom patience has left; then the next epoch may begin."""
    state = pack.state
    with pack.averaged():
        predictions, val_loss = outputs(pack, val_rows, group)
        scores = scores_of(metric, predictions, val_rows, group)
        signed = torch.tensor(scores, dtype=torch.float64).nan_to_num(nan=-math.inf * pack.sign) * pack.sign
        state.epoch, state.step = state.epoch + 1, 0
        better = _keep_best(pack, signed)
    train_loss = (state.loss_sum / state.weight_sum).tolist()
    for row, member in enumerate(state.alive.tolist()):
        named = {"train_loss": train_loss[row], "val_loss": float(val_loss[row]), metric.name: scores[row]}
        state.history += [
            {"member": pack.plans[member].index, "epoch": state.epoch, "metric": name, "value": value}
            for name, value in named.items()
        ]
    state.loss_sum.zero_()
    state.weight_sum.zero_()
    _judge_epoch(pack, signed, better)


def _keep_best(pack: Pack, scores: Tensor) -> Tensor:
    """Keep the states of members that got better; say which did (K,)."""
    state, stop, alive = pack.state, pack.train.early_stop, pack.state.alive
    better = scores > state.best_score[alive] + (stop.min_delta if stop else 0.0)
    better |= state.best_epoch[alive] == 0
    rows = torch.nonzero(better)[:, 0]
    pack.keep_best(rows)
    state.best_score[alive[rows]], state.best_epoch[alive[rows]] = scores[rows], state.epoch
    return better


def _judge_epoch(pack: Pack, scores: Tensor, better: Tensor) -> None:
    """Update plateaus and patience; `scores` (K,) are higher for better."""
    state, stop, alive = pack.state, pack.train.early_stop, pack.state.alive
    state.bad_epochs[alive] = torch.where(better, 0, state.bad_epochs[alive] + 1)
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


def _faults(pack: Pack, batch: Batch, loss_KB: Tensor) -> Faults:
    """Say which members lost a number that is none, where, and on which rows."""
    state = pack.state
    return [
        {
            "member": pack.plans[int(state.alive[row])].index,
            "row_in_pack": row,
            "epoch": state.epoch + 1,
            "step": state.global_step,
            "where": pack.population.faulty_parameter(row),
            "positions": batch.rows[~torch.isfinite(loss_KB[row]).cpu()][:10].tolist(),
            "handled": False,
        }
        for row in torch.nonzero(~torch.isfinite(loss_KB).all(1))[:, 0].tolist()
    ]


def _note(pack: Pack, faults: Faults) -> None:
    """Remember each member's fault of this step, once, with the rows of all workers."""
    fresh: dict[int, dict[str, Any]] = {}
    for fault in faults:
        known = fresh.setdefault(fault["member"], {**fault, "positions": []})
        known["positions"] = sorted({*known["positions"], *fault["positions"]})[:10]
    pack.state.health += fresh.values()


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


def _epoch_event(
    pack: Pack, metric: Metric, rows_per_second: float, seconds: float, spent: dict[str, float]
) -> dict[str, Any]:
    best = float(pack.state.best_score.max()) * pack.sign
    return {
        "event": "epoch",
        "epoch": pack.state.epoch,
        "epochs": pack.train.epochs,
        "rows_per_second": round(rows_per_second),
        "seconds": round(seconds, 3),
        "spent": {name: round(value, 3) for name, value in spent.items()},
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
