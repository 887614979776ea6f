"""Show what the plan of a stream costs for 64 simulated ranks: read tasks, bytes, seconds and memory, without a row.

Run as `python tests/benchmarks/plan.py [rows]`. Every rank makes its own plan; the driver makes none.
"""

import pickle
import resource
import sys
import time
from functools import partial

from fmray.data.lanes import Lanes
from fmray.data.order import Share, window_start
from fmray.records import Part, Prepared, Target
from fmray.schema import Column, Schema
from fmray.spec.sections import Order
from fmray.train.stream import ITEM_BYTES, Windows, _read_item

RANKS, EPOCHS, NUM_FEATURES, PART_ROWS = 64, 20, 32, 250_000


def prepared_of(num_rows: int) -> Prepared:
    """Give a record of so many rows, none of which exists."""
    starts = range(0, num_rows, PART_ROWS)
    parts = tuple(Part(f"train-{s:012d}.arrow", s, min(PART_ROWS, num_rows - s)) for s in starts)
    columns = tuple(Column(f"f{i}", "number") for i in range(NUM_FEATURES))
    return Prepared(
        "plan", "/nowhere", Schema(columns), Target(("y",), "number", mean=(0.0,), scale=(1.0,)), 64,
        {"train": parts, "val": (), "test": ()}, (), {}, {}, "",
    )  # fmt: skip


def measure(num_rows: int) -> None:
    """Print the plan of each rank, summed up."""
    lanes, order = Lanes(prepared_of(num_rows), "train"), Order()
    parts = max(1, window_start(order, 1) // RANKS // (ITEM_BYTES // (4 * NUM_FEATURES + 16)))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    plans = [Windows(lanes, ("x", "target"), Share(r, RANKS), order, 0, 0, 0, EPOCHS, parts) for r in range(RANKS)]
    sizes = [len(pickle.dumps(plan)) for plan in plans]
    planned = time.perf_counter() - started
    started = time.perf_counter()
    tasks = [partial(_read_item, None, item) for item in range(len(plans[0]))]
    listed = time.perf_counter() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{num_rows:,} rows, {len(lanes.parts):,} files, {RANKS} ranks, {EPOCHS} epochs: {len(tasks):,} read tasks per "
        f"rank, plans of {max(sizes) / 1e3:,.0f} kB made in {planned / RANKS * 1e3:.1f} ms each, tasks of a rank listed in "
        f"{listed * 1e3:.1f} ms; {grown:.0f} MB more memory for all {RANKS} plans; the driver itself plans nothing",
        flush=True,
    )


if __name__ == "__main__":
    for rows in [int(word) for word in sys.argv[1:]] or [10_000_000, 100_000_000, 1_000_000_000]:
        measure(rows)
