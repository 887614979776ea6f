"""Compare a search by fmray with the same search as a function trainable of Ray Tune, and with a bare loop.

Run as `python tests/benchmarks/sweep.py [--part warm|cold|bare] [--members 32 256] [--only rivals|fmray] [--rounds 1]`.
Digits, MLP 64-64-10, 20 epochs, batch 64, Adam; learning rate and dropout are searched. Warm: Ray is started, rows are
prepared, torch and Ray Tune are loaded; cold: a process of its own, from its start to its end. Targets, warm: 32 members
>= 12x the speed of fresh actors with ASHA; 256 members >= 6x that of reused actors without stopping and >= 2x with ASHA
on both sides; against members one after another >= 4x for linear and mlp 64, >= 0.9x for mlp 256 at batch 2048.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))
from tune_rival import ETA, GRACE, Outcome, Plan, Table, best_bare, draw, started_ray, tune_sweep

PLAN = Plan(epochs=20, batch_rows=64, optimizer="Adam")
RULE = f"asha: first rung {GRACE}, eta {ETA}"
LR, DROPOUT = (1e-4, 1e-1), (0.0, 0.5)
DIGITS = {"path": "sample:digits", "target": "label"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Rival:
    """Name a way to search with Ray Tune, and by how much fmray is to be faster, by number of members."""

    reuse_actors: bool
    stop: str
    targets: Mapping[int, float]
    buffer: bool = False


RIVALS = {
    "fresh actors, asha": Rival(False, "asha", {32: 12}),
    "reused actors, none": Rival(True, "none", {256: 6}),
    "reused, none, reports buffered": Rival(True, "none", {}, buffer=True),  # an environment variable few know
    "reused actors, asha": Rival(True, "asha", {256: 2}),
}


def job_of(
    members: int,
    stop: str,
    *,
    data: Mapping[str, Any] = DIGITS,
    model: object = None,
    epochs: int = PLAN.epochs,
    batch_rows: int = PLAN.batch_rows,
    **sections: Any,
) -> Json:
    """Give the job that asks of fmray what the rivals do, as a job file would spell it."""
    lr = {"log_uniform": list(LR)}
    rungs = {"eta": ETA, "first_rung": GRACE} if stop == "asha" else {}
    return {
        "name": "sweep-benchmark",
        "data": dict(data),
        "model": model or {"mlp": {"width": 64, "depth": 1, "dropout": {"uniform": list(DROPOUT)}}},
        "train": {
            "epochs": epochs,
            "batch_rows": batch_rows,
            "optimizer": {"adam": {"lr": lr}},
            "early_stop": None,
        },
        "search": {"members": members, "by": "sobol", "stop": stop, **rungs},
        "ensemble": "single",
        "evaluate": {"baselines": []},
        "rigour": {"profile": "draft"},
        **sections,
    }


def fmray_sweep(job: Mapping[str, Any], store: str, held_out: str = "") -> Outcome:
    """Search with fmray, always anew; only the training stage is timed.

    Args:
        job: As a job file would spell it.
        store: Folder; rows that were prepared there before are read back.
        held_out: Metric to read from the test scores of the chosen member.
    """
    from fmray.spec.load import job_from
    from fmray.workflow import run

    done = run(job_from(job), store, fresh=True)
    facts = json.loads((Path(done.root) / "run.json").read_text())
    table = pq.read_table(Path(done.root) / "members.parquet", columns=["role", "epochs", "val_score"]).to_pylist()
    members = [row for row in table if row["role"] != "baseline"]  # what finalists cost, counts
    best = max(row["val_score"] for row in members if row["val_score"] is not None)
    score = done.scores.test[held_out].value if held_out and done.scores else math.nan
    return Outcome(facts["seconds"]["train"], sum(row["epochs"] for row in members), best, score)


def table_of(job: Mapping[str, Any], store: str, metric: str, *, held_out: bool = False) -> Table:
    """Prepare a job's rows with fmray, and give them as arrays."""
    from fmray.data.lanes import Lanes
    from fmray.data.prepare import prepare
    from fmray.data.scan import scan
    from fmray.data.target import decide
    from fmray.spec.load import job_from
    from fmray.store import Store

    asked, place = job_from(job), Store(store)
    dataset = scan(asked.data, asked.folder, place)
    prepared = prepare(dataset, asked, decide(dataset, asked.data, asked.task), place)
    target = prepared.target
    found = {split: Lanes(prepared, split).load(["x", "target"]) for split in ("train", "val", "test")}
    for rows in found.values():
        if target.kind == "number":
            rows["target"] = (rows["target"].reshape(len(rows["x"])) - target.mean[0]) / target.scale[0]
    last = found["test"] if held_out else {name: values[:0] for name, values in found["test"].items()}
    pairs = [rows[name] for rows in (found["train"], found["val"], last) for name in ("x", "target")]
    return Table(*pairs, metric, len(target.classes) or 1, max(target.positive, 0))


def rival_sweep(name: str, table: Table, members: int, folder: str) -> Outcome:
    """Search with Ray Tune in one of its ways."""
    from ray import tune

    space = {"lr": tune.loguniform(*LR), "dropout": tune.uniform(*DROPOUT)}
    rival = RIVALS[name]
    eta = ETA if rival.stop == "asha" else None
    how = {"reuse_actors": rival.reuse_actors, "buffer": rival.buffer, "eta": eta}
    return tune_sweep(table, space, members, PLAN, folder, **how)


def warm(members: list[int], only: str, rounds: int) -> None:
    """Print all comparisons from a started Ray and prepared rows."""
    heading(f"warm: Ray started, rows prepared, torch loaded; {RULE}")
    with tempfile.TemporaryDirectory() as folder, started_ray():
        store = f"{folder}/store"
        table = table_of(job_of(2, "none"), store, "accuracy")
        print(f"{len(table.x)} rows to train, {len(table.val_x)} to validate, {table.x.shape[1]} inputs")
        if only != "fmray":
            rival_sweep("reused actors, none", table, 2, folder)  # Ray Tune is loaded, workers are up
        if only != "rivals":
            fmray_sweep(job_of(2, "none"), store)
        for number in members:
            for name, rival in RIVALS.items():
                if number > 32 and not rival.reuse_actors:
                    continue  # ten minutes that show nothing new
                theirs = (lambda name=name, number=number: rival_sweep(name, table, number, folder), "fmray")
                ours = (lambda number=number, stop=rival.stop: fmray_sweep(job_of(number, stop), store), "rivals")
                pair = alternate(theirs, ours, only, rounds)
                line(f"{number:3} members, {name}", *pair, rival.targets.get(number))


def alternate(
    theirs: tuple[Callable[[], Outcome], str], ours: tuple[Callable[[], Outcome], str], only: str, rounds: int
) -> tuple[Outcome | None, Outcome | None]:
    """Search by turns, and give the outcome with the median time of either side; each way names what leaves it out."""
    found: list[list[Outcome]] = [[], []]
    for _ in range(rounds):
        for outcomes, (way, left_out_by) in zip(found, (theirs, ours), strict=True):
            outcomes += [way()] if only != left_out_by else []
    their, our = (sorted(side, key=lambda outcome: outcome.seconds) for side in found)
    return (their[len(their) // 2] if their else None), (our[len(our) // 2] if our else None)


def cold(members: list[int], only: str) -> None:
    """Print all comparisons of processes of their own; ours also scores its choice on test rows and writes a report."""
    heading(f"cold: a process from its start to its end, imports, Ray and preparation included; {RULE}")
    for number in members:
        for name, rival in RIVALS.items():
            if number > 32 and not rival.reuse_actors:
                continue
            theirs = None if only == "fmray" else process("rival", name, number)
            ours = None if only == "rivals" else process("fmray", rival.stop, number)
            line(f"{number:3} members, {name}", theirs, ours, None)


def process(side: str, way: str, members: int) -> Outcome:
    """Search in a process of its own, and take its time from outside."""
    command = [sys.executable, __file__, "--inside", side, way, str(members)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return Outcome(**{**json.loads(done.stdout.splitlines()[-1]), "seconds": seconds})


def inside(side: str, way: str, members: int) -> None:
    """Be the process that a cold search is measured in: each side does what its user would write."""
    with tempfile.TemporaryDirectory() as folder:
        if side == "fmray":
            outcome = fmray_sweep(job_of(members, way), f"{folder}/store")
        else:
            with started_ray():
                outcome = rival_sweep(way, digits_by_hand(), members, folder)
    print(json.dumps(asdict(outcome)))


def digits_by_hand() -> Table:
    """Read, split and standardise the digits as a script would."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x, val_x, y, val_y = train_test_split(x, y, test_size=0.3, random_state=0)
    mean, scale = x.mean(0), x.std(0) + 1e-9
    x, val_x = (((part - mean) / scale).astype(np.float32) for part in (x, val_x))
    return Table(x, y, val_x[:180], val_y[:180], val_x[:0], val_y[:0], "accuracy", 10)


def bare(only: str, rounds: int) -> None:
    """Print what packs gain over members trained one after another, without stopping."""
    heading("bare: members one after another in a bare PyTorch loop, the better of one thread and two")
    linear = {"model": "linear"}
    wide = {"model": {"mlp": {"width": 256, "depth": 1}}, "epochs": 5, "batch_rows": 2048}
    with tempfile.TemporaryDirectory() as folder, started_ray():
        large = write_large(Path(folder) / "large")
        cases: list[tuple[str, int, Json, str, Json, float]] = [
            ("linear, batch 64", 32, linear, "accuracy", {"depth": 0}, 4),
            ("mlp 64, batch 64", 32, {}, "accuracy", {"depth": 1, "width": 64}, 4),
            ("mlp 256, batch 2048", 8, {**wide, **large}, "r2", {"depth": 1, "width": 256}, 0.9),
        ]
        for name, members, changes, metric, shape, target in cases:
            job, store = job_of(members, "none", **changes), f"{folder}/store-{metric}"
            table = table_of(job, store, metric)
            plan = Plan(job["train"]["epochs"], job["train"]["batch_rows"], PLAN.optimizer)
            configs = [{**config, **shape} for config in draw(members, dropout=not changes)]
            if only != "rivals":
                fmray_sweep(job_of(2, "none", **changes), store)

            def theirs(table: Table = table, configs: list[Any] = configs, plan: Plan = plan) -> Outcome:
                return best_bare(table, configs, plan)[0]

            def ours(job: Json = job, store: str = store) -> Outcome:
                return fmray_sweep(job, store)

            line(f"{members:3} members, {name}", *alternate((theirs, "fmray"), (ours, "rivals"), only, rounds), target)


def write_large(folder: Path, num_rows: int = 65_536, width: int = 64) -> Json:
    """Write rows of normal features and a noisy target that is not linear in them; give the sections that read them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_rows, width), dtype=np.float32)
    hidden = np.tanh(x @ rng.standard_normal((width, 8), dtype=np.float32) / 4)
    y = hidden @ rng.standard_normal(8) + 0.5 * rng.standard_normal(num_rows)
    folder.mkdir()
    pq.write_table(pa.table({f"f{i:02}": column for i, column in enumerate(x.T)} | {"y": y}), folder / "part.parquet")
    data = {"path": str(folder), "target": "y"}
    return {"data": data, "steps": ["standardise"], "split": {"val": 0.05, "test": 0.01}}


def heading(text: str) -> None:
    """Print the head of a table."""
    print(f"\n{text}")
    print(f"{'':44} {'rival s':>9} {'fmray s':>9} {'ratio':>8} {'target':>7}  {'epochs':>15}  best on validation")


def line(name: str, theirs: Outcome | None, ours: Outcome | None, target: float | None) -> None:
    """Print a row of a table: rival first, then fmray; a side that was left out is a dash."""

    def pair(show: Callable[[Outcome], str]) -> list[str]:
        return ["-" if side is None else show(side) for side in (theirs, ours)]

    seconds, epochs, best = (
        pair(lambda side: f"{side.seconds:.2f}"),
        pair(lambda side: f"{side.epochs}"),
        pair(lambda side: f"{side.best:.4f}"),
    )
    ratio = f"{theirs.seconds / ours.seconds:.2f}x" if theirs and ours else "-"
    wanted = f"{target:g}x" if target else ""
    print(
        f"{name:44} {seconds[0]:>9} {seconds[1]:>9} {ratio:>8} {wanted:>7}  {'/'.join(epochs):>15}  {' / '.join(best)}",
        flush=True,
    )


def main() -> None:
    """Run what is asked for."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--part", choices=["warm", "cold", "bare", "all"], default="all")
    asked.add_argument("--members", type=int, nargs="+", default=[32, 256])
    asked.add_argument("--only", choices=["rivals", "fmray", "both"], default="both")
    asked.add_argument("--rounds", type=int, default=1)
    asked.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.inside:
        side, way, members = given.inside
        inside(side, way, int(members))
        return
    if given.part in ("warm", "all"):
        warm(given.members, given.only, given.rounds)
    if given.part in ("bare", "all"):
        bare(given.only, given.rounds)
    if given.part in ("cold", "all"):
        cold(given.members, given.only)


if __name__ == "__main__":
    main()
