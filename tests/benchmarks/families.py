"""Compare jobs on real data with bare scripts for the same rows, side by side.

Run as `python tests/benchmarks/families.py [NAME ...]`; FMRAY_DATA names the folder of real data sets. A family is a job
of `jobs/` and a rival in `text_rivals.py`, which is what a good engineer writes in an afternoon without a framework. Both
read one copy of the data, in which the column `side` says which rows train, validate and test; both choose on validation
and read test once. Printed are the test scores with 95 % intervals and the CPU seconds of the whole commands, one after
the other; the exit status is 1 where fmray misses what is asked. `--only ours|rivals` runs one of them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("FMRAY_DATA", ROOT.parent / "shared/data"))
TEST = 0.2
Json = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Name a job, the data it reads and what the rival trains.

    Args:
        job: Of `jobs/`.
        rival: Of `text_rivals.py`.
        metric: That both are scored by.
        floor: Score that the test rows must reach.
        data: Folder of the data; by default called as the job is.
        once: Column of which every value counts once, where copies of a row would stand on several sides.
        validation: Share of the rows that are not test.
    """

    job: str
    rival: str
    metric: str
    floor: float
    data: str = ""
    once: str = ""
    validation: float = 0.1


FAMILIES = {
    "sms_spam tfidf": Family("sms_spam", "tfidf", "roc_auc", 0.990, once="text"),
    "banking77 tfidf": Family("banking77", "tfidf", "accuracy", 0.896),
    "goemotions tfidf": Family("goemotions", "tfidf_labels", "f1_macro", 0.436),
    "sms_spam heads": Family("sms_spam_heads", "minilm", "roc_auc", 0.997, "sms_spam", once="text"),
    "banking77 heads": Family("banking77_heads", "minilm", "accuracy", 0.935, "banking77", validation=0.05),
    "banking77 encoder": Family("banking77_encoder", "encoder", "accuracy", 0.900, "banking77", validation=0.05),
}


def write_rows(family: Family, folder: Path) -> None:
    """Copy the data and say in column `side` where each row belongs; what is published stays test."""
    table = pq.read_table(DATA / (family.data or family.job))
    if family.once:
        distinct = table[family.once].to_pandas().drop_duplicates().index
        table = table.take(pa.array(distinct))
    random = np.random.default_rng(5).random(table.num_rows)
    if "split" in table.column_names:
        published = np.array(table["split"].to_pylist())
        side = np.where((published == "train") & (random < family.validation), "val", published)
        if np.isin(published, ["val", "dev", "valid", "validation"]).any():
            side = np.where(published == "test", "test", np.where(published == "train", "train", "val"))
        table = table.drop_columns(["split"])
    else:
        side = np.select([random < TEST, random < TEST + (1 - TEST) * family.validation], ["test", "val"], "train")
    pq.write_table(table.append_column("side", pa.array(side.tolist())), folder / "part-0.parquet")


def timed(command: list[str], folder: Path) -> tuple[Json, float]:
    """Run a command that ends with a line of JSON; give it and the CPU seconds of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.strip().splitlines()[-1]), seconds


def ours(family: Family, folder: Path) -> tuple[Json, float]:
    """Run the job on the copied rows."""
    job = yaml.safe_load((ROOT / "jobs" / f"{family.job}.yaml").read_text())
    job["data"] = {**job["data"], "path": "rows"}
    job = {**job, "split": {"by": "given", "column": "side"}}
    job["evaluate"] = {**job.get("evaluate", {}), "primary": family.metric}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    told, seconds = timed([sys.executable, "-m", "fmray.cli", "run", "job.yaml", "--json"], folder)
    found = told["scores"]["test"][family.metric]
    return {"score": found["value"], "low": found["low"], "high": found["high"]}, seconds


def theirs(family: Family, folder: Path) -> tuple[Json, float]:
    """Run the rival on the copied rows."""
    script = str(Path(__file__).with_name("text_rivals.py"))
    job = yaml.safe_load((ROOT / "jobs" / f"{family.job}.yaml").read_text())
    command = [sys.executable, script, family.rival, str(folder / "rows"), job["data"]["target"], family.metric]
    return timed(command, folder)


def show(who: str, found: Json, seconds: float, floor: float) -> bool:
    """Print a score, and tell whether it is high enough."""
    reached = "reaches" if found["score"] >= floor else "MISSES"
    interval = f"[{found['low']:.4f}, {found['high']:.4f}]"
    print(f"  {who}: {found['score']:.4f} {interval}, {reached} {floor}; {seconds:.0f} CPU s", flush=True)
    return bool(found["score"] >= floor)


def main() -> None:
    """Run the families that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAMILIES))
    parser.add_argument("--only", choices=["ours", "rivals"])
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(FAMILIES):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join(FAMILIES)}.")
    reached = True
    for name in asked.names or FAMILIES:
        family = FAMILIES[name]
        print(f"{name}: {family.metric} on test rows", flush=True)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "rows").mkdir()
            write_rows(family, folder / "rows")
            if asked.only != "rivals":
                reached &= show("fmray", *ours(family, folder), family.floor)
            if asked.only != "ours":
                show("rival", *theirs(family, folder), family.floor)
    if not reached:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
