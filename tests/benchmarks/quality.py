"""Compare what fmray's search finds with what Optuna's TPE and ASHA find in plain Ray Tune, for the same epochs.

Run as `python tests/benchmarks/quality.py [--data adult california] [--seeds 10 [--first 0]] [--only rivals|fmray] [--cache FILE]`;
FMRAY_DATA names the folder of real data sets. Paired over seeds: a seed fixes the rows, which both sides read from the
same prepared arrays, and what is drawn. Both choose among MLPs of the same ranges by the same validation rows; the score
is on rows that neither selects by. The rival is taken where it had trained as many member-epochs as fmray did in all.
Targets: lower 95 % bound of the mean difference > -0.003 ROC-AUC (Adult), > -0.01 R2 (California).
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent))
from sweep import fmray_sweep, job_of, table_of
from tune_rival import ETA, Outcome, Plan, Point, started_ray, tune_sweep

BESIDE = Path(__file__).parents[3] / "shared/data"
ROWS = {"train": 4000, "val": 1000, "test": 8000}
MEMBERS = 128
MOST_EPOCHS = 600
"""The rival's budget; fmray's own is what its members take, at most this."""
PLAN = Plan(epochs=20, batch_rows=128, optimizer="AdamW")
WIDTHS, DEPTHS = [32, 64, 128], [1, 2]
LR, DECAY, DROPOUT = (1e-4, 1e-1), (1e-6, 1e-1), (0.0, 0.5)
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Hold one data set to compare on.

    Args:
        folder: Of its Parquet files.
        data: Section of the job, without the path.
        metric: What both sides maximise.
        target: The lower bound that is to be beaten.
    """

    folder: str
    data: Mapping[str, Any]
    metric: str
    target: float


CASES = {
    "adult": Case(
        "adult",
        {
            "target": "income",
            "labels": {">50K.": ">50K", "<=50K.": "<=50K"},
            "positive": ">50K",
            "null_values": ["?"],
            "ignore": ["fnlwgt"],
        },
        "roc_auc",
        -0.003,
    ),
    "california": Case("california_housing", {"target": "median_house_value"}, "r2", -0.01),
}


def write_subset(case: Case, seed: int, folder: Path) -> None:
    """Draw rows of all splits from the whole data set, and say in column `part` where each belongs."""
    root = Path(os.environ.get("FMRAY_DATA", BESIDE)) / case.folder
    whole = pq.read_table(root)
    whole = whole.drop_columns([name for name in ("split",) if name in whole.column_names])
    drawn = np.random.default_rng(seed).permutation(whole.num_rows)[: sum(ROWS.values())]
    part = np.repeat(list(ROWS), list(ROWS.values()))
    folder.mkdir(parents=True)
    pq.write_table(whole.take(drawn).append_column("part", pa.array(part)), folder / "part-0.parquet")


def quality_job(case: Case, name: str, seed: int, folder: Path) -> Json:
    """Give fmray's side of the search as a job."""
    ranges = {"width": {"choice": WIDTHS}, "depth": {"choice": DEPTHS}, "dropout": {"uniform": list(DROPOUT)}}
    job = job_of(
        MEMBERS,
        "asha",
        data={**case.data, "path": str(folder)},
        model={"mlp": ranges},
        epochs=PLAN.epochs,
        batch_rows=PLAN.batch_rows,
        split={"by": "given", "column": "part"},
        evaluate={"baselines": [], "primary": case.metric},
    )
    rates = {"lr": {"log_uniform": list(LR)}, "weight_decay": {"log_uniform": list(DECAY)}}
    train = {**job["train"], "optimizer": {"adamw": rates}, "seed": seed}
    return {**job, "name": f"quality-{name}-{seed}", "train": train, "search": {**job["search"], "epochs": MOST_EPOCHS}}


def rival_of(case: Case, job: Json, store: str, seed: int, folder: Path) -> Outcome:
    """Search the same ranges with Optuna's TPE and ASHA, two trials at a time on reused actors."""
    from ray import tune

    space = {
        "width": tune.choice(WIDTHS),
        "depth": tune.choice(DEPTHS),
        "dropout": tune.uniform(*DROPOUT),
        "lr": tune.loguniform(*LR),
        "weight_decay": tune.loguniform(*DECAY),
    }
    table = table_of(job, store, case.metric, held_out=True)
    return tune_sweep(
        table,
        space,
        MOST_EPOCHS,  # as many trials as the budget lasts for
        PLAN,
        str(folder),
        reuse_actors=True,
        eta=ETA,
        tpe_seed=seed,
        budget=MOST_EPOCHS,
    )


@dataclass
class Cache:
    """Keep outcomes of the rival in a file, by all that they depend on."""

    path: Path

    def get(self, key: str) -> Outcome | None:
        """Give what was kept, or None."""
        found = self._all().get(key)
        return found and Outcome(**{**found, "trail": tuple(Point(*point) for point in found["trail"])})

    def put(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        trail = [list(asdict(point).values()) for point in outcome.trail]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({**self._all(), key: {**asdict(outcome), "trail": trail}}))

    def _all(self) -> Json:
        return json.loads(self.path.read_text()) if self.path.exists() else {}


def key_of(name: str, seed: int) -> str:
    """Name an outcome of the rival by what decides it."""
    asked = json.dumps([ROWS, MOST_EPOCHS, asdict(PLAN), WIDTHS, DEPTHS, LR, DECAY, DROPOUT, ETA])
    rival = (Path(__file__).parent / "tune_rival.py").read_bytes()
    return f"{name}-{seed}-{hashlib.sha256(asked.encode() + rival).hexdigest()[:12]}"


def compare(name: str, seeds: Sequence[int], only: str, cache: Cache) -> None:
    """Print scores, epochs and seconds per seed, then the mean difference and its lower bound."""
    case, differences = CASES[name], []
    print(f"\n{name}: {case.metric} on {ROWS['test']} rows that neither side selects by; rival / fmray")
    for seed in seeds:
        with tempfile.TemporaryDirectory() as place:
            folder, store = Path(place) / "rows", f"{place}/store"
            write_subset(case, seed, folder)
            job = quality_job(case, name, seed, folder)
            rival = None
            if only != "fmray" or cache.get(key_of(name, seed)):
                rival = cache.get(key_of(name, seed)) or rival_of(case, job, store, seed, Path(place))
                cache.put(key_of(name, seed), rival)
            ours = None if only == "rivals" else fmray_sweep(job, store, case.metric)
        differences += show(seed, rival, ours)
    if len(differences) > 1:
        verdict(differences, case)


def show(seed: int, rival: Outcome | None, ours: Outcome | None) -> list[float]:
    """Print a seed's line, the rival as it stood after as many epochs as ours; give the difference of scores, if any."""
    if rival is None:
        print(f"  seed {seed}: - / {ours}", flush=True)
        return []
    epochs = min(ours.epochs, len(rival.trail)) if ours else len(rival.trail)
    then = rival.trail[epochs - 1]
    their = f"{then.held_out:.4f} (val {then.best:.4f}), {epochs} epochs, {then.seconds:.1f} s"
    if ours is None:
        print(f"  seed {seed}: {their} / -", flush=True)
        return []
    our = f"{ours.held_out:.4f} (val {ours.best:.4f}), {ours.epochs} epochs, {ours.seconds:.1f} s"
    print(f"  seed {seed}: {their} / {our}; difference {ours.held_out - then.held_out:+.4f}", flush=True)
    return [ours.held_out - then.held_out]


def verdict(differences: Sequence[float], case: Case) -> None:
    """Print the mean difference and its lower one-sided 95 % bound by Student's t."""
    mean, error = np.mean(differences), np.std(differences, ddof=1) / len(differences) ** 0.5
    low = mean - student.ppf(0.95, len(differences) - 1) * error
    print(
        f"  fmray - rival: mean {mean:+.4f}, lower 95 % bound {low:+.4f} (target > {case.target}), n {len(differences)}"
    )


def main() -> None:
    """Run what is asked for."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", nargs="+", choices=list(CASES), default=list(CASES))
    asked.add_argument("--seeds", type=int, default=10)
    asked.add_argument("--first", type=int, default=0, help="Seed to begin with.")
    asked.add_argument("--only", choices=["rivals", "fmray", "both"], default="both")
    asked.add_argument("--cache", type=Path, default=Path.home() / ".cache/fmray-benchmarks/quality.json")
    given = asked.parse_args()
    with started_ray():
        for name in given.data:
            compare(name, range(given.first, given.seeds), given.only, Cache(given.cache))


if __name__ == "__main__":
    main()
