"""Compare steady epochs of one member with a bare in-memory PyTorch loop: same model, batch, rows and threads.

Run as `python tests/benchmarks/epochs.py [rows]`. Target: at least 0.95x the rows per second.
"""

import sys
import tempfile
from pathlib import Path

from rivals import bare_epochs, our_epochs, plans_of, ratio, regression_rows

from fmray.train.device import set_up
from fmray.train.ingest import Rows

ROUNDS = 5


def measure(num_rows: int) -> dict[int, float]:
    """Give our speed as a share of the bare loop's, per batch size."""
    shares = {}
    with tempfile.TemporaryDirectory() as folder:
        job, prepared = regression_rows(Path(folder), num_rows)
        device = set_up(job.run, job.train)
        whole = next(Rows(prepared, "train", device).in_sequence(num_rows))
        for batch_rows in (256, 2048):
            ours = our_epochs(job, prepared, plans_of([64], 1), {"batch_rows": batch_rows})
            theirs = bare_epochs(whole.inputs["x"], whole.target, [64], 1e-3, batch_rows)
            our, their, quotient = ratio(ours, theirs, ROUNDS)
            shares[batch_rows] = 1 / quotient
            print(
                f"batch {batch_rows:5}: fmray {len(whole) / our:12,.0f} rows/s, "
                f"bare loop {len(whole) / their:12,.0f} rows/s, {1 / quotient:.2f}x",
                flush=True,
            )
    return shares


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
