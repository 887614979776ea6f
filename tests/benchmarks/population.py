"""Compare epochs of many members with the bare loop of one: how much cheaper is a member in company?

Run as `python tests/benchmarks/population.py [rows]`. Targets at batches 64 and 256: five members <= 2x the time of
one, 32 members <= 8x; at 2048 the crossover is printed, and the chosen width is never slower than 0.9x of one after
another.
"""

import sys
import tempfile
from pathlib import Path

from rivals import bare_epochs, our_epochs, plans_of, ratio, regression_rows

from fmray.train.device import set_up
from fmray.train.ingest import Rows
from fmray.train.pack import Pack, Plan
from fmray.tune.width import choose_width

ROUNDS = 3
WIDTHS = [64, 64]


def measure(num_rows: int, batches: tuple[int, ...] = (64, 256, 2048)) -> dict[tuple[int, int], float]:
    """Give the time of an epoch in bare epochs of one member, per batch size and number of members."""
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        job, prepared = regression_rows(Path(folder), num_rows)
        device = set_up(job.run, job.train)
        rows = Rows(prepared, "train", device)
        whole = next(rows.in_sequence(num_rows))
        for batch_rows in batches:
            theirs = bare_epochs(whole.inputs["x"], whole.target, WIDTHS, 1e-3, batch_rows)
            for members in (1, 5, 32):
                ours = our_epochs(job, prepared, plans_of(WIDTHS, members), {"batch_rows": batch_rows})
                times[batch_rows, members] = ratio(ours, theirs, ROUNDS)[2]
                print(
                    f"batch {batch_rows:5}, {members:2} members: {times[batch_rows, members]:6.2f}x one bare epoch, "
                    f"{members / times[batch_rows, members]:5.2f}x as fast as one after another",
                    flush=True,
                )

            def build(plans: list[Plan], batch_rows: int = batch_rows) -> Pack:
                train = type(job.train)(batch_rows=batch_rows, early_stop=None)
                return Pack(plans, prepared.schema, prepared.target, train, True, device)

            width = choose_width(plans_of(WIDTHS, 32), build, rows, deterministic=False)
            ours = our_epochs(job, prepared, plans_of(WIDTHS, width), {"batch_rows": batch_rows})
            gain = width / ratio(ours, theirs, ROUNDS)[2]
            times[batch_rows, 0] = gain
            print(f"batch {batch_rows:5}, chosen width {width}: {gain:.2f}x as fast as one after another", flush=True)
    return times


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 262_144)
