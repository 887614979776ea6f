"""Choose how many members form a pack and how many packs train concurrently, by what is fastest per member.

The choice is made once per structure, by timing a few steps or, if runs must be deterministic, from sizes alone; it is
recorded with the members and replayed on resume.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from fmray.spec.sections import RunOptions
from fmray.tasks.task import Batch
from fmray.train.ingest import Rows, Steps
from fmray.train.pack import Pack, Plan
from fmray.train.population import why_not_packable
from fmray.train.step import train_step
from fmray.tune.concurrent import run_concurrently

BuildPack = Callable[[Sequence[Plan]], Pack]
log = logging.getLogger("fmray")

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
TIMED_STEPS = (2, 7)
"""Minimum and maximum number of steps timed per width."""
TIMING_SHARE = 0.02
"""Share of the steps to come that may be spent on timing, so that short trainings are not timed for long."""
TIMING_TOLERANCE = 1.1
"""Tolerance for noise in timings: the widest pack whose time is at most this many times the shortest is chosen."""
CACHE_BYTES = 16 << 20
"""Bytes that a pack may use per step to fit into the processor's cache; used when widths are chosen by size alone."""
MIN_THREADED_FLOPS = 5e8
"""Steps of at least this many floating-point operations use several threads."""


def choose_width(plans: Sequence[Plan], build: BuildPack, rows: Rows, deterministic: bool) -> int:
    """Return the number of members per pack that takes the least time per member.

    Args:
        plans: Members of one structure.
        build: Builds a pack of plans.
        rows: Training rows; one batch of them is used for timing.
        deterministic: Decide by sizes alone, so that every machine chooses the same.
    """
    if len(plans) == 1:
        return 1
    first = build(plans[:1])
    batch = next(rows.batches(first.train.order, 0, 0, first.train.batch_rows))
    why_not = "bfloat16 autocast does nothing under vmap" if first.train.precision == "bfloat16" else ""
    if first.population.entry != "native":
        sample = {name: value[:8].cpu() for name, value in batch.inputs.items()}
        why_not = why_not or why_not_packable(plans[0].blueprint, rows.schema, first.task.num_outputs, sample)
        if why_not:
            log.info("members train one by one: %s", why_not)
            return 1
    widths = [width for width in WIDTHS if width < len(plans)] + [min(len(plans), WIDTHS[-1])]
    if deterministic:
        # float32: about six arrays of parameter size (weights, gradients, moments, best, ...), and the activations
        per_member = 4 * (first.population.flat.shape[1] * 6 + len(batch) * activations(first) * rows.entries_per_row)
        return max([width for width in widths if width * per_member <= CACHE_BYTES], default=1)
    steps = _num_timed_steps(first, rows, len(plans), sum(widths))
    seconds = {width: _step_seconds([build(plans[:width])], batch, steps) / width for width in widths}
    log.info("seconds per member and step by pack width: %s", {w: f"{s:.2e}" for w, s in seconds.items()})
    return max(width for width, needed in seconds.items() if needed <= TIMING_TOLERANCE * min(seconds.values()))


@dataclass(frozen=True)
class PackLayout:
    """How the members of a structure train.

    Args:
        width: Members per pack.
        threads: Torch threads per pack.
        lanes: Packs that train concurrently, each in a thread; not the lanes of the data.
    """

    width: int
    threads: int
    lanes: int = 1

    def num_waves(self, members: int) -> int:
        """Return how many packs each thread trains, one after the other."""
        return -(-members // (self.width * self.lanes))


def choose_layout(
    plans: Sequence[Plan], build: BuildPack, rows: Rows, run: RunOptions, *, single_worker: bool
) -> PackLayout:
    """Choose how members train: how many per pack, with how many threads, and how many packs concurrently.

    Torch synchronises its threads at every operation: if another process occupies a core, small steps take up to forty
    times as long with two threads as with one, and they gain little on an idle machine. So small steps use one thread,
    unless the job sets a number. Concurrent packs wait for nothing but the GIL.

    Args:
        single_worker: No other worker trains the same packs, so they may train in any order.
    """
    max_threads = torch.get_num_threads()
    single = build(plans[:1])
    # floating-point operations of a step of one member
    step_flops = 6.0 * single.population.flat.numel() * single.train.batch_rows * rows.entries_per_row

    def threads(width: int, lanes: int = 1) -> int:
        return max_threads // lanes if run.threads != "auto" or step_flops * width >= MIN_THREADED_FLOPS else 1

    try:
        torch.set_num_threads(threads(min(len(plans), WIDTHS[-1])))
        width = choose_width(plans, build, rows, run.deterministic)
        layout = PackLayout(width, threads(width))
        if single_worker and single.device.type == "cpu" and single.population.entry == "native" and rows.in_memory:
            double = partial(_double_lanes, threads, max_threads, len(plans), run.deterministic)
            layout = _add_lanes(layout, double, plans=plans, build=build, rows=rows)
    finally:
        torch.set_num_threads(max_threads)
    return layout


def _double_lanes(
    threads: Callable[[int, int], int], max_threads: int, members: int, deterministic: bool, layout: PackLayout
) -> PackLayout | None:
    """Return a layout with twice the concurrent packs, narrower if there are not enough of them; None if impossible.

    In deterministic runs, neither width nor threads may change: the last bits of the results depend on them.
    """
    lanes = 2 * layout.lanes
    width = layout.width if deterministic else min(layout.width, math.ceil(members / lanes))
    if lanes > max_threads or math.ceil(members / width) < lanes:
        return None
    if deterministic and threads(width, lanes) != layout.threads:
        return None
    return PackLayout(width, threads(width, lanes), lanes)


def _add_lanes(
    layout: PackLayout,
    double: Callable[[PackLayout], PackLayout | None],
    plans: Sequence[Plan],
    build: BuildPack,
    rows: Rows,
) -> PackLayout:
    """Double the concurrent packs as long as that shortens the time for all members.

    Any gain counts: new threads often share a core at first, so short timings underestimate it.
    """
    first = build(plans[:1])
    batch = next(rows.batches(first.train.order, 0, 0, first.train.batch_rows))
    steps = _num_timed_steps(first, rows, len(plans), 2 * min(len(plans), layout.width * torch.get_num_threads()))

    def seconds(tried: PackLayout) -> float:
        torch.set_num_threads(tried.threads)
        packs = [build(plans[: tried.width]) for _ in range(tried.lanes)]
        return tried.num_waves(len(plans)) * _step_seconds(packs, batch, steps)

    best = layout
    cost = 0.0
    tried = double(layout)
    while tried is not None:
        cost = cost or seconds(best)
        needed = seconds(tried)
        log.info("seconds per step of all members: %.2e with %s, %.2e with %s", cost, best, needed, tried)
        if needed >= cost:
            break
        best = tried
        cost = needed
        tried = double(tried)
    return best


def activations(pack: Pack) -> int:
    """Estimate how many activations a member keeps per row: the sum of its layers' widths."""
    return sum(shape[-1] for shape in pack.population.shapes.values() if len(shape) > 1)


def _num_timed_steps(first: Pack, rows: Rows, members: int, at_a_time: int) -> int:
    """Return how many steps to time at each width, so that timing takes no more than its share of all steps."""
    remaining = members * Steps.of(first.train, rows.num_rows).total
    minimum, maximum = TIMED_STEPS
    return min(maximum, max(minimum, int(TIMING_SHARE * remaining / at_a_time) - 1))


def _step_seconds(packs: Sequence[Pack], batch: Batch, steps: int) -> float:
    """Return the median time of a step after one warm-up step; the minimum would hide the load of other processes.

    For concurrent packs, this is the median of the slowest pack.
    """

    def step(pack: Pack) -> float:
        train_step(pack, batch, 1.0)
        times = []
        for _ in range(steps):
            started = time.perf_counter()
            train_step(pack, batch, 1.0)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    return max(run_concurrently([partial(step, pack) for pack in packs], len(packs)))
