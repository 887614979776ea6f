"""Train a population: each epoch is one pass over the data, or a fixed number of steps, followed by validation.

The same loop trains K >= 1 members on W >= 1 workers; there is no special case for one. It depends on neither Ray nor
files: `Rows` delivers batches, `Checkpoints` saves states and `Group` reduces over workers; the caller passes them in.
Shape legend: K members, B rows, P parameters per member.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmray.events import Epoch, Report, ignore
from fmray.failures import DEVICE_MEMORY, MEMORY
from fmray.metrics.metric import Metric, accumulator_of
from fmray.seeding import RNG_LOCK, derive
from fmray.tasks.task import Batch, asked_of, by_entry
from fmray.train.decision import Decide, Decision
from fmray.train.estimators import Estimators
from fmray.train.failures import kind_of, one_line
from fmray.train.group import ALONE, Group
from fmray.train.heartbeat import beat
from fmray.train.ingest import Rows, Sample, Steps
from fmray.train.learner import Learner
from fmray.train.pack import Pack
from fmray.train.schedule import Plateau
from fmray.train.state import Checkpoints, rng_states_of
from fmray.train.step import precision_of, train_step

log = logging.getLogger("fmray")


def fit(
    learner: Learner,
    train_rows: Rows,
    val_rows: Rows | Sample,
    metric: Metric,
    order_seed: int,
    checkpoints: Checkpoints | None = None,
    report: Report = ignore,
    group: Group = ALONE,
    decide: Decide | None = None,
) -> bool:
    """Train until every member has finished or must wait at a rung.

    Training continues from `learner.state`, which may be fresh or restored. Afterwards, it holds the best weights of
    each member.

    Args:
        learner: Members to train: a pack of networks, or an estimator.
        train_rows, val_rows: Training and validation rows; with several workers, this worker's share.
        metric: Primary metric; its value on validation decides early stopping and which weights are kept.
        order_seed: Seed of the order of rows.
        checkpoints: Where the first worker saves states; None on all other workers, or to save none.
        report: Called with one event per epoch.
        group: The workers that train together.
        decide: Says which members stop, see `Decision`. Called on the first worker after every epoch, and again on
            resume from a state saved between epochs.

    Returns:
        Whether every member has finished.
    """
    if learner.state.global_step == 0:  # a restored state brings its RNG state
        # torch's global generator, for modules with random operations; concurrent packs share it, hence the lock
        with RNG_LOCK:
            torch.manual_seed(derive(order_seed, "draws", group.rank))
    train = learner.train
    steps = Steps.of(train, train_rows.num_rows)
    batches = train_rows.endless(train.order, order_seed, train.batch_rows, first_step=learner.state.global_step)
    # A state saved between two epochs may lack the decision made after the first: ask again, the answer is the same.
    between_epochs = learner.state.epoch > 0 and learner.state.step == 0
    must_wait = between_epochs and _apply_decision(learner, decide, group)
    checkpoint_seconds = 0.0  # of the save after the previous epoch; it is reported with the next one
    while _has_epochs_left(learner) and not must_wait:
        started = time.perf_counter()
        epoch_steps = steps.of_epoch(learner.state.epoch) if isinstance(learner, Pack) else learner.num_steps
        steps_left = epoch_steps - learner.state.step
        if isinstance(learner, Pack):
            spent = run_epoch(learner, batches, steps, checkpoints=checkpoints, group=group)
        else:
            spent = _run_estimator_epoch(learner, train_rows, checkpoints, group)
        train_seconds = time.perf_counter() - started
        is_completed = len(learner) > 0  # otherwise all members failed during the epoch, which then does not count
        if is_completed:
            _finish_epoch(learner, val_rows, metric, group)
            must_wait = _apply_decision(learner, decide, group)
        passes = steps_left / (steps.per_pass if isinstance(learner, Pack) else epoch_steps)
        speed = passes * train_rows.num_rows / max(train_seconds, 1e-9)
        epoch_seconds = time.perf_counter() - started + checkpoint_seconds
        waited = 0.0 if train_rows.in_memory else spent["rows"]
        # seconds, see `Epoch.spent`; of the worker that waited longest for rows
        spent = {"rows": max(group.all_gather(waited)), "checkpoints": spent["checkpoints"] + checkpoint_seconds}
        if is_completed:
            report(_epoch_event(learner, metric, rows_per_second=speed, seconds=epoch_seconds, spent=spent))
        # the first worker decides; `_save` is collective, so all must agree
        due = group.broadcast(
            checkpoints is not None and (checkpoints.due() or must_wait or not _has_epochs_left(learner))
        )
        checkpoint_seconds = _save(learner, checkpoints, group) if due else 0.0
    return not must_wait


def predict_rows(
    learner: Learner, rows: Rows, group: Group = ALONE, mask: np.ndarray | None = None
) -> tuple[np.ndarray, Tensor]:
    """Predict all rows of a split, or this worker's share of them, with the current parameters, in dataset order.

    Args:
        mask: Mask (N,) of the rows whose predictions are returned; None returns all.

    Shapes:
        returns: predictions (K, N, C or T) in target units; losses (K,), weighted means over all workers.
    """
    found = [np.zeros((len(learner), 0, learner.task.num_outputs))]
    first = 0

    def collect(batch: Batch, predictions: np.ndarray) -> None:
        nonlocal first
        if mask is not None:
            batch_mask = mask[first : first + len(batch)]
            # more predictions than rows: one per token. Rows without tokens are unlabelled, so they do not occur here
            per_token = predictions.shape[1] > len(batch)
            predictions = predictions[
                :, np.repeat(batch_mask, batch.lengths.cpu().numpy()) if per_token else batch_mask
            ]
        found.append(predictions)
        first += len(batch)

    losses = _predict_all(learner, rows, group, collect)
    return np.concatenate(found[1:] or found, axis=1), losses


def evaluate(learner: Learner, rows: Rows | Sample, metric: Metric, group: Group = ALONE) -> tuple[list[float], Tensor]:
    """Return the score and the loss of each member on the rows of all workers.

    Predictions are reduced to the sums of the metric batch by batch, so they are never in memory for all rows. Workers
    exchange sums, not rows, so the score does not depend on how rows are divided among workers.

    Shapes:
        returns: scores (K,); losses (K,), weighted means over all workers.
    """
    accumulators = [accumulator_of(metric.sums) for _ in range(len(learner))]
    scored = rows.scored()
    targets = scored["target"]
    weights = scored.get("weight")
    first = 0

    def add_batch(_: Batch | None, predictions: np.ndarray) -> None:
        nonlocal first
        part = slice(first, first + predictions.shape[1])
        part_weights = None if weights is None else weights[part]
        for accumulator, output in zip(accumulators, predictions, strict=True):
            accumulator.add(output[:, 0] if output.shape[1] == 1 else output, targets[part], part_weights)
        first = part.stop

    losses = _predict_all(learner, rows, group, add_batch)
    if not len(targets):  # a worker without rows still takes part in the sums
        add_batch(None, np.zeros((len(learner), 0, learner.task.num_outputs)))
    scores: list[float] = []
    # Alone: one member at a time, because totals can be large. In a group: all members in one collective call.
    members_at_a_time = 1 if group.size == 1 else len(accumulators)
    for start in range(0, len(accumulators), members_at_a_time):
        totals = [accumulator.total() for accumulator in accumulators[start : start + members_at_a_time]]
        parts = zip(*group.all_gather(totals), strict=True)
        scores += [metric.sums.value(metric.sums.merge(part)) for part in parts]
    return scores, losses


def _predict_all(
    learner: Learner, rows: Rows | Sample, group: Group, consume: Callable[[Batch, np.ndarray], None]
) -> Tensor:
    """Predict all rows in dataset order, call `consume` with each batch and its predictions; return the losses (K,)."""
    sums = torch.zeros(2, len(learner), dtype=torch.float64)
    learner.population.prepare_step(0, places=None)  # None: evaluation mode, without dropout
    with torch.no_grad(), precision_of(learner):
        for batch, output in _predict_batches(learner, rows):
            # the output is known; only tasks with several phases need the model itself, which they call on other inputs
            model = learner.population if len(learner.task.phases) > 1 else lambda _: output  # noqa: B023
            losses = learner.task.loss(model, batch, learner.task.phases[0])
            loss, weight = losses.sums()
            sums[0] += loss.cpu()
            sums[1] += weight if isinstance(weight, float) else weight.cpu()
            consume(batch, by_entry(learner.task.predict(output, batch), batch).cpu().numpy())
            beat()
    sums = group.all_reduce(sums.to(learner.device)).cpu()
    return sums[0] / sums[1]


def _predict_batches(learner: Learner, rows: Rows | Sample) -> Iterator[tuple[Batch, Tensor]]:
    """Yield batches in dataset order with their outputs; halve the batch size whenever memory runs out."""
    for batch in rows.in_sequence():
        first = 0
        while first < len(batch):
            last = min(first + learner.max_batch_rows, len(batch))
            part = batch if last - first == len(batch) else batch.slice(first, last)
            output = None
            try:
                output = learner.population(asked_of(learner.task, part))
            except Exception as error:
                if kind_of(error) not in (MEMORY, DEVICE_MEMORY) or len(part) == 1:
                    raise
                log.warning("predicting %d rows ran out of memory, trying half as many: %s", len(part), one_line(error))
            if output is None:  # retry outside of `except`: the error keeps the tensors of the failed pass alive
                learner.max_batch_rows = len(part) // 2
                continue
            yield part, output
            first = last


def run_epoch(
    pack: Pack, batches: Iterator[Batch], steps: Steps, checkpoints: Checkpoints | None = None, group: Group = ALONE
) -> dict[str, float]:
    """Train for the rest of the current epoch, starting at `pack.state.step`.

    Args:
        batches: Endless training batches, positioned at `pack.state.global_step`.
        checkpoints: Where the first worker saves states during the epoch; None on all other workers, or to save none.
        group: The workers that train together.

    Returns:
        Seconds spent waiting for batches ("rows") and writing checkpoints ("checkpoints").
    """
    state = pack.state
    epoch_steps = steps.of_epoch(state.epoch)
    waited = 0.0
    saved = 0.0
    while state.step < epoch_steps:
        fetch_started = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - fetch_started
        due = checkpoints is not None and state.step + 1 < epoch_steps and checkpoints.due()
        # the flag travels with the gradients, so all workers learn of a due checkpoint without another all-reduce
        due = train_step(pack, batch, factor=pack.factors(steps), group=group, flag=due)
        state.step += 1
        state.global_step += 1
        if state.health:  # `health` lists non-finite losses
            _drop_faulty(pack)
            if not len(pack):
                break
        if due:
            saved += _save(pack, checkpoints, group)
    return {"rows": waited, "checkpoints": saved}


def _run_estimator_epoch(
    pack: Estimators, rows: Rows, checkpoints: Checkpoints | None, group: Group
) -> dict[str, float]:
    """Train an estimator for the boosting rounds of the current epoch; see `run_epoch`."""

    def due() -> bool:
        return checkpoints is not None and checkpoints.due()

    return pack.run_epoch(rows, due, partial(_save, pack, checkpoints, group), group)


def _apply_decision(learner: Learner, decide: Decide | None, group: Group) -> bool:
    """Drop the members that `decide` stops after this epoch; return whether the others must wait."""
    if decide is None or not len(learner):
        return False
    state = learner.state
    decision: Decision | None = None
    if group.is_first:
        best = state.best_score[state.alive].tolist()
        indices = [learner.plans[member].index for member in state.alive.tolist()]
        decision = decide(state.epoch, dict(zip(indices, best, strict=True)))
    agreed: Decision = group.broadcast(decision)
    rows_by_index = {learner.plans[member].index: row for row, member in enumerate(state.alive.tolist())}
    reasons = {rows_by_index[index]: reason for index, reason in agreed.dropped.items() if index in rows_by_index}
    if reasons:
        learner.drop(list(reasons), "stopped", list(reasons.values()))
    return agreed.must_wait and len(learner) > 0


def _save(learner: Learner, checkpoints: Checkpoints | None, group: Group) -> float:
    """Write the state, with the RNG state of every worker, and return the seconds it took."""
    started = time.perf_counter()
    state = learner.snapshot()
    rng_states = group.all_gather(rng_states_of(learner.device))
    state.rng = {f"{rank}/{name}": value for rank, states in enumerate(rng_states) for name, value in states.items()}
    if checkpoints is not None:
        checkpoints.save(state)
    return time.perf_counter() - started


def _finish_epoch(learner: Learner, val_rows: Rows | Sample, metric: Metric, group: Group) -> None:
    """Score on validation, keep the best weights, and drop members whose patience is exhausted."""
    state = learner.state
    with learner.averaged():
        scores, val_loss = evaluate(learner, val_rows, metric, group)
        # NaN ranks last. Infinities stay: `nan_to_num` would make finite numbers of them, which pass as scores.
        signed = learner.sign * torch.tensor(scores, dtype=torch.float64)
        signed = signed.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        state.epoch += 1
        state.step = 0
        better = _keep_best(learner, signed)  # inside `averaged`: with ema, the averaged weights are the ones to keep
    train_loss = (state.loss_sum / state.weight_sum).tolist()
    for row, member in enumerate(state.alive.tolist()):
        values = {"train_loss": train_loss[row], "val_loss": float(val_loss[row]), metric.name: scores[row]}
        state.history += [
            {"member": learner.plans[member].index, "epoch": state.epoch, "metric": name, "value": value}
            for name, value in values.items()
        ]
    state.loss_sum.zero_()
    state.weight_sum.zero_()
    _update_patience(learner, signed, better)


def _keep_best(learner: Learner, scores: Tensor) -> Tensor:
    """Keep the weights of members that improved; return a mask (K,) of these members."""
    state = learner.state
    stop = learner.train.early_stop
    alive = learner.state.alive
    better = scores > state.best_score[alive] + (stop.min_delta if stop else 0.0)
    better |= state.best_epoch[alive] == 0  # nothing is kept yet: keep the first epoch, even with a NaN score
    rows = torch.nonzero(better)[:, 0]
    learner.keep_best(rows)
    state.best_score[alive[rows]] = scores[rows]
    state.best_epoch[alive[rows]] = state.epoch
    return better


def _update_patience(learner: Learner, scores: Tensor, better: Tensor) -> None:
    """Update the counters of plateau schedule and early stopping; drop members whose patience is exhausted.

    Shapes:
        scores: (K,), higher is better.
    """
    state = learner.state
    stop = learner.train.early_stop
    alive = learner.state.alive
    state.bad_epochs[alive] = torch.where(better, 0, state.bad_epochs[alive] + 1)
    if isinstance(learner.schedule, Plateau):
        _reduce_lr_on_plateau(learner, learner.schedule, scores)
    if stop is not None:
        out_of_patience = torch.nonzero(state.bad_epochs[alive] >= stop.patience)[:, 0].tolist()
        if out_of_patience:
            reason = f"no improvement on validation for {stop.patience} epochs"
            learner.drop(out_of_patience, "stopped", [reason] * len(out_of_patience))


def _reduce_lr_on_plateau(learner: Learner, plateau: Plateau, scores: Tensor) -> None:
    """Lower the learning rate of members without improvement for `patience` epochs.

    Unlike early stopping, this ignores `min_delta`.
    """
    state = learner.state
    alive = learner.state.alive
    better = scores > state.plateau_best[alive]
    bad = torch.where(better, 0, state.plateau_bad[alive] + 1)
    lowered = bad >= plateau.patience
    state.plateau_best[alive] = torch.maximum(scores, state.plateau_best[alive])
    state.plateau_factor[alive] = torch.where(
        lowered, state.plateau_factor[alive] * plateau.ratio, state.plateau_factor[alive]
    )
    state.plateau_bad[alive] = torch.where(lowered, 0, bad)


def _drop_faulty(pack: Pack) -> None:
    """Drop members with a non-finite loss that were not dropped yet; the others keep training."""
    unhandled = [event for event in pack.state.health if not event["handled"]]
    first: dict[int, dict[str, Any]] = {}  # a step of several phases may note a member more than once
    for event in unhandled:
        first.setdefault(event["row_in_pack"], event)
    if not first:
        return
    reasons = [
        f"the loss was not finite at step {event['step']} (epoch {event['epoch']}): {event['where']}, "
        f"training rows at positions {event['positions']}"
        for event in first.values()
    ]
    pack.drop(list(first), "failed", reasons)
    for event in unhandled:
        event["handled"] = True


def _has_epochs_left(learner: Learner) -> bool:
    return learner.state.epoch < learner.train.num_epochs and len(learner) > 0


def _epoch_event(
    learner: Learner, metric: Metric, rows_per_second: float, seconds: float, spent: dict[str, float]
) -> Epoch:
    finite = learner.state.best_score[torch.isfinite(learner.state.best_score)]
    return Epoch(
        epoch=learner.state.epoch,
        epochs=learner.train.num_epochs,
        rows_per_second=round(rows_per_second),
        seconds=round(seconds, 3),
        spent={name: round(value, 3) for name, value in spent.items()},
        seconds_left=round(seconds * (learner.train.num_epochs - learner.state.epoch), 1) if len(learner) else 0.0,
        primary=metric.name,
        best=float(finite.max()) * learner.sign if len(finite) else None,
        members=len(learner.plans),
        alive=len(learner),
    )
