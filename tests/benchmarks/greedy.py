"""Show what the greedy ensemble gains over the best single member on real data, on validation and on test.

Run as `python tests/benchmarks/greedy.py [JOB ...]`; FMRAY_DATA names the folder of real data sets. Each job's members are
trained once, and speak twice: as `ensemble: greedy`, and as `ensemble: single`. Both are chosen on validation alone; each is
one counted look at the test rows. Target: the interval of the gain excludes zero, on both.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from fmray import run
from fmray.evaluate.intervals import Array, paired
from fmray.metrics.find import find_metric
from fmray.records import Ensemble, Interval, Target
from fmray.report.card import read_card
from fmray.spec.job import Job
from fmray.spec.load import load_job
from fmray.spec.ref import Ref
from fmray.store import Store

JOB = Path(__file__).parents[2] / "jobs/letter_ensemble.yaml"


@dataclass(frozen=True)
class Spoken:
    """Hold a finished run: who speaks, and what is said on the test rows, in the order of their ids."""

    ensemble: Ensemble
    target: Target
    said: Array
    truth: Array
    looks: int
    seconds: float


def speak(job: Job, store: Store) -> Spoken:
    """Carry a job to its report, and read what its model says on the test rows."""
    started = time.perf_counter()
    done = run(job, store)
    seconds, card = time.perf_counter() - started, read_card(done.root, store)
    table = pq.read_table(f"{done.root}/sealed/test.parquet").sort_by("row_id")
    outputs = [name for name in table.column_names if name.startswith(("p_", "y_"))]
    said = np.stack([table.column(name).to_numpy() for name in outputs], axis=1)
    truth = table.column("target").to_numpy()
    return Spoken(card.ensemble, card.prepared.target, said, truth, done.scores.looks, seconds)


def compare(job: Job, store: Store) -> None:
    """Print the gain of the job's ensemble over its best single member."""
    many, one = speak(job, store), speak(replace(job, ensemble=Ref("single")), store)
    primary, members = job.evaluate.primary, job.search.members
    print(f"\n{job.name}: {members} members, {primary}; trained and judged in {many.seconds:.0f} s", flush=True)
    print(f"  {many.ensemble.reason}")
    print(f"  single: member {one.ensemble.members[0]}, {one.ensemble.reason}")
    if many.ensemble.gain is None:
        print("  the ensemble was not kept")
    else:
        show("validation, cross-fitted and widened", many.ensemble.gain)
    names = dict.fromkeys([primary, "accuracy" if many.target.kind == "class" else "r2"])
    for name in names:
        metric = find_metric(name, many.target)
        gain = paired(metric, (many.said, many.truth, None), (one.said, one.truth, None), None, job.evaluate.level)[0]
        scores = " / ".join(f"{metric.value(each.said, each.truth, None):.4f}" for each in (one, many))
        show(f"test, {name} single / greedy {scores}, looks {one.looks}", gain)


def show(what: str, gain: Interval) -> None:
    """Print a gain, and whether its interval excludes zero."""
    verdict = "excludes zero" if gain.low > 0 else "holds zero"
    print(f"  {what}: gain {gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}), n {gain.n:,}, {verdict}")


def main() -> None:
    """Compare for each job."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("jobs", nargs="*", type=Path, default=[JOB])
    for path in asked.parse_args().jobs:
        with tempfile.TemporaryDirectory() as folder:
            compare(load_job(path), Store(f"{folder}/store"))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
