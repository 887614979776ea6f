"""Move every member by one optimizer step, however many micro-batches and workers compute it.

What one worker finds out, all know before any of them moves: a loss that is not finite, memory that does not suffice.
Shape legend: K members, B rows.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from fmray.data.canonical import mix
from fmray.errors import FmrayError
from fmray.failures import DEVICE_MEMORY, MEMORY, Kind
from fmray.seeding import derive
from fmray.tasks.task import Batch, Losses, draws_by_epoch, mixed
from fmray.train.estimators import Estimators
from fmray.train.failures import ShortOfMemoryError, kind_of, one_line
from fmray.train.group import ALONE, Group
from fmray.train.heartbeat import beat
from fmray.train.live import keyed
from fmray.train.optim import clip
from fmray.train.pack import Pack

Faults = list[dict[str, Any]]
Sums = list[tuple[Tensor, Tensor | float]]
"""Per micro-batch, the summed losses and weights (K,) of the members."""
LEAST_WEIGHT = torch.finfo(torch.float32).tiny


def train_step(
    pack: Pack, batch: Batch, factor: float | Mapping[str, float], group: Group = ALONE, flag: bool = False
) -> bool:
    """Move every member by one optimizer step on the rows of a batch; where the task has phases, by one in each.

    The gradient is the weighted mean over the global batch, however many micro-batches and workers compute it.

    Args:
        factor: Share of the learning rate that the schedule grants now, in every phase or in each.
        group: The workers that hold the batch.
        flag: Anything one worker wants all to know.

    Returns:
        Whether any worker raised its flag.

    Raises:
        ShortOfMemoryError: If memory did not suffice on any worker. All raise it, and what they hold is of no more use.
    """
    short: tuple[Kind, str] | None = None
    try:
        for phase in pack.task.phases:
            share = factor[phase] if isinstance(factor, Mapping) else factor
            flag = _step(pack, batch, phase, factor=share, group=group, flag=flag)
        return flag
    except Exception as error:
        kind = kind_of(error)
        if group.size > 1 or kind not in (MEMORY, DEVICE_MEMORY):
            if group.size == 1 and len(batch) != pack.train.batch_rows and not isinstance(error, FmrayError):
                error.batch_rows = len(batch)  # type: ignore[attr-defined]  # code may fail on the last batch alone
            raise
        short = kind, one_line(error)
    # the first error is gone by now, and with it all that it kept alive
    raise ShortOfMemoryError(short[1], short[0], rows=_micro_rows(pack, batch))


def _step(pack: Pack, batch: Batch, phase: str, factor: float, group: Group, flag: bool) -> bool:
    population = pack.population
    state = pack.state
    train = pack.train
    population.zero_grad()
    sums, faults, short = _learn(pack, batch, phase, group)
    population.gather_grad()
    loss_K, weight_K, flagged, is_short = _agree(pack, sums, flag=flag, group=group, is_short=short is not None)
    if is_short:
        _raise_short(short, _micro_rows(pack, batch), group)
    if group.size > 1 and not math.isfinite(loss_K.sum().item()):
        faults = [fault for own in group.all_gather(faults) for fault in own]
    _note(pack, faults)
    # no row of the batch may count for a member: its gradient is 0 then, not 0 / 0
    population.grad.div_(weight_K if isinstance(weight_K, float) else weight_K[:, None].clamp_min(LEAST_WEIGHT))
    pack.optimizer.silence(population.grad, state.epoch, phase)
    if train.clip_norm is not None:
        clip(population.grad, train.clip_norm)
    pack.step_optimizer(factor, phase)
    state.loss_sum += loss_K
    if phase == pack.task.phases[0]:  # the loss of an epoch is the sum over phases of mean losses
        state.weight_sum += weight_K
    beat()
    return flagged


def _learn(pack: Pack, batch: Batch, phase: str, group: Group) -> tuple[Sums, Faults, tuple[Kind, str] | None]:
    """Sum losses and gradients over micro-batches; among others, a worker that is short of memory must not leave."""
    sums: Sums = []
    faults: Faults = []
    try:
        for micro in _micro_batches(pack, batch):
            pack.population.prepare_step(pack.state.global_step, micro.places)
            with precision_of(pack):
                losses = _losses(pack, micro, phase)
            loss_K, weight_K = losses.sums()
            torch.autograd.backward([loss_K], [pack.ones_K])
            sums.append((loss_K.detach(), weight_K))
            if not math.isfinite(sums[-1][0].sum().item()):
                faults += _faults(pack, micro, losses.loss.detach())
    except Exception as error:
        kind = kind_of(error)
        if group.size == 1 or kind not in (MEMORY, DEVICE_MEMORY):
            raise
        return [], [], (kind, one_line(error))
    return sums, faults, None


def _micro_batches(pack: Pack, batch: Batch) -> Iterator[Batch]:
    rows = _micro_rows(pack, batch)
    batch = pack.row_weights.weigh(pack.live.change(batch))
    if len(pack.task.phases) > 1:  # such tasks draw numbers for rows, others at every step
        key = np.uint64(derive(pack.train.seed, "rows", pack.state.global_step))
        hashed = mix(batch.rows.numpy().astype(np.uint64), key) >> np.uint64(33)
        batch = replace(batch, keys=torch.from_numpy(hashed.astype(np.int32)).to(pack.device))
    if draws_by_epoch(pack.task) and batch.ids is not None:
        batch = replace(batch, keys=keyed(batch.ids, derive(pack.train.seed, "masks", batch.epoch)))
    for first in range(0, len(batch), rows):
        yield batch if pack.train.accumulate == 1 else batch.slice(first, first + rows)


def _micro_rows(pack: Pack, batch: Batch) -> int:
    return max(1, -(-len(batch) // pack.train.accumulate))


def _raise_short(own: tuple[Kind, str] | None, rows: int, group: Group) -> NoReturn:
    """Have all workers raise the same error."""
    found = group.all_gather((own, rows))
    rank, (kind, text) = next((rank, short) for rank, (short, _) in enumerate(found) if short is not None)
    raise ShortOfMemoryError(text, kind, rank, max(rows for _, rows in found))


def _losses(pack: Pack, batch: Batch, phase: str) -> Losses:
    if batch.own is None or batch.partner is None:
        return pack.task.loss(pack.population, batch, phase)
    output = pack.population(batch)
    own, partner = (pack.task.loss(lambda _: output, rows, phase) for rows in (batch, batch.partner))
    return mixed(own, partner, batch.own)


def _agree(
    pack: Pack, sums: Sums, flag: bool, group: Group, is_short: bool
) -> tuple[Tensor, Tensor | float, bool, bool]:
    """Sum gradients, losses, weights and flags over micro-batches and workers, in one exchange."""
    loss_K, weight_K = sums[0] if sums else (torch.zeros_like(pack.ones_K), 0.0)
    for more_loss_K, more_weight_K in sums[1:]:
        loss_K = loss_K + more_loss_K
        weight_K = weight_K + more_weight_K
    if group.size == 1:
        return loss_K, weight_K, flag, is_short
    tail = pack.population.reduced[pack.population.flat.numel() :]
    num = len(pack)
    # two flags in one number: those raised count 1 each, a worker short of memory more than all of them
    tail[:num] = loss_K
    tail[num : 2 * num] = weight_K
    tail[-1] = flag + is_short * (group.size + 1)
    group.all_reduce(pack.population.reduced)
    raised = float(tail[-1])
    return tail[:num].clone(), tail[num : 2 * num].clone(), raised > 0, raised > group.size


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


def precision_of(pack: Pack | Estimators) -> AbstractContextManager[object]:
    """Give the arithmetic that a pack computes in."""
    if pack.train.precision == "bfloat16":
        return torch.autocast(pack.device.type, torch.bfloat16)
    return nullcontext()
