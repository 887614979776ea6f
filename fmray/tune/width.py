"""Decide how many members train together, so that packing never loses.

The choice is made once per structure, by timing a few steps or, where runs must be deterministic, from sizes alone; it
is recorded with the members and replayed on resume.
"""

import logging
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from fmray.spec.sections import RunOptions
from fmray.tasks.task import Batch
from fmray.train.ingest import Rows, num_steps
from fmray.train.loop import train_step
from fmray.train.pack import Pack, Plan
from fmray.train.population import packs

log = logging.getLogger("fmray")

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
TRIAL_STEPS = (2, 7)
"""Fewest and most steps that are timed per width."""
TRIAL_SHARE = 0.02
"""Of all steps to come, what trials may take; a short training is not timed for longer than it takes."""
CACHE_BYTES = 16 << 20
THREADED_WORK = 5e8
"""Floating-point operations of a step from which on it trains with several threads."""


def choose_width(plans: Sequence[Plan], build: Callable[[Sequence[Plan]], Pack], rows: Rows, exact: bool) -> int:
    """Give the number of members per pack that costs least per member.

    Args:
        plans: Members of one structure.
        build: Makes a pack of plans.
        rows: Training rows, a few of which serve as trial.
        exact: Decide from sizes alone, so that every machine decides alike.
    """
    if len(plans) == 1:
        return 1
    first = build(plans[:1])
    batch = next(rows.batches(first.train.order, 0, 0, first.train.batch_rows))
    why_not = "bfloat16 autocast does nothing under vmap" if first.train.precision == "bfloat16" else ""
    if first.population.entry != "native":
        few = {name: value[:8].cpu() for name, value in batch.inputs.items()}
        why_not = why_not or packs(plans[0].blueprint, rows.schema, first.task.num_outputs, few)
        if why_not:
            log.info("members train one by one: %s", why_not)
            return 1
    widths = [width for width in WIDTHS if width < len(plans)] + [min(len(plans), WIDTHS[-1])]
    if exact:
        per_member = 4 * (first.population.flat.shape[1] * 6 + len(batch) * activations(first))
        return max([width for width in widths if width * per_member <= CACHE_BYTES], default=1)
    to_come = len(plans) * first.train.epochs * num_steps(rows.num_rows, first.train.batch_rows)
    fewest, most = TRIAL_STEPS
    steps = min(most, max(fewest, int(TRIAL_SHARE * to_come / sum(widths)) - 1))
    seconds = {width: _step_seconds(build(plans[:width]), batch, steps) / width for width in widths}
    log.info("seconds per member and step by pack width: %s", {w: f"{s:.2e}" for w, s in seconds.items()})
    return min(seconds, key=lambda width: seconds[width])


def choose(
    plans: Sequence[Plan], build: Callable[[Sequence[Plan]], Pack], rows: Rows, run: RunOptions
) -> tuple[int, int]:
    """Give the number of members per pack, and of the threads that a pack trains with.

    Threads wait for each other at every operation. Where another process holds a core, small steps take up to forty
    times as long with two threads as with one; on a quiet machine they gain little. So small steps train with one,
    unless the job names a number.
    """
    most, one = torch.get_num_threads(), build(plans[:1])
    work = 6.0 * one.population.flat.numel() * one.train.batch_rows  # of a step of one member

    def threads(width: int) -> int:
        return most if run.threads != "auto" or work * width >= THREADED_WORK else 1

    try:
        torch.set_num_threads(threads(min(len(plans), WIDTHS[-1])))
        width = choose_width(plans, build, rows, run.deterministic)
    finally:
        torch.set_num_threads(most)
    return width, threads(width)


def activations(pack: Pack) -> int:
    """Estimate the numbers one member keeps per row: the widths of its layers."""
    return sum(shape[-1] for shape in pack.population.shapes.values() if len(shape) > 1)


def _step_seconds(pack: Pack, batch: Batch, steps: int) -> float:
    """Give the median, after one step to warm up: the best would not know of a machine that others use as well."""
    train_step(pack, batch, 1.0)
    found = []
    for _ in range(steps):
        started = time.perf_counter()
        train_step(pack, batch, 1.0)
        found.append(time.perf_counter() - started)
    return statistics.median(found)
