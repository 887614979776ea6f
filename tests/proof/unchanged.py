"""Show that a change to fmray changes no result: record what every job of `jobs/` ends in, before and after, and compare.

    python tests/proof/unchanged.py record before.json            # on the version before; all jobs and a seeded search
    python tests/proof/unchanged.py record after.json             # on the version after
    python tests/proof/unchanged.py compare before.json after.json

Recorded per job: the row ids of the first batches, digests of the prepared rows, of every member's tensors and of the
predictions on validation and test, the scores and the gates. `run.deterministic` is set, since the width of a pack is
otherwise chosen by timing. Everything is compared to the bit; the exit code is 1 where anything differs.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import fmray
from fmray.data.lanes import Lanes
from fmray.ragged import flattened
from fmray.records import Prepared
from fmray.spec.load import load_job

JOBS = Path(fmray.__file__).resolve().parents[1] / "jobs"
FIRST_BATCHES = 3
OVERRIDES = {
    "mnist_resnet": ["train.epochs=1"],  # a minute an epoch
    "california_search": ["search.members=24", "train.epochs=12"],
}


def record(path: Path, overrides: list[str], store: str) -> dict[str, Any]:
    """Run a job in a store of its own and describe what it ended in."""
    settings = [f"--set={given}" for given in ["run.deterministic=true", *overrides]]
    command = [sys.executable, "-m", "fmray.cli", "run", str(path), "--store", store, "--json", *settings]
    done = subprocess.run(command, capture_output=True, text=True, cwd=JOBS.parent)
    lines = done.stdout.splitlines()
    if not lines or json.loads(lines[-1]).get("status") != "finished":
        return {"failed": (done.stderr or done.stdout)[-2000:]}
    root = Path(json.loads(lines[-1])["run_dir"])
    card = json.loads((root / "card.json").read_text())
    prepared = Prepared.from_json(card["prepared"])
    job = load_job(path, overrides)
    return {
        "rows": dict(prepared.rows),
        "prepared": {split: _lanes_digest(prepared, split) for split in ("train", "val", "test")},
        "first_batches": _first_batches(prepared, job),
        "tensors": [member["tensor_hash"] for member in card["members"]],
        "baselines": [member["tensor_hash"] for member in card["baselines"]],
        "members": [[member["status"], member["epochs"], member["best_epoch"]] for member in card["members"]],
        "ensemble": {name: card["ensemble"][name] for name in ("name", "members", "weights", "combine")},
        "predictions": {
            name: _table_digest(root / name) for name in ("predictions/val.parquet", "sealed/test.parquet")
        },
        "scores": json.loads((root / "scores.json").read_text())["test"],
        "val_scores": json.loads((root / "scores.json").read_text())["val"],
        "gates": [[gate["gate"], gate["status"]] for gate in card["gates"]],
    }


def _lanes_digest(prepared: Prepared, split: str) -> dict[str, str]:
    lanes = Lanes(prepared, split)
    arrays = flattened(lanes.load([name for name in ("x", "target", "row_id", "weight") if name in lanes.columns()]))
    return {name: _digest(values) for name, values in arrays.items()}


def _first_batches(prepared: Prepared, job: Any) -> list[str]:
    """Digest the row ids of the first batches of the first epoch, in their order."""
    size = job.train.batch_rows
    if not isinstance(size, int):  # searched
        size = 256
    order = Lanes(prepared, "train").order(job.train.order, job.train.seed, 0)
    ids = Lanes(prepared, "train").load(["row_id"])["row_id"]
    return [_digest(ids[order[start : start + size]]) for start in range(0, FIRST_BATCHES * size, size)]


def _table_digest(path: Path) -> str:
    table = pq.read_table(path)
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(table.column_names):
        digest.update(name.encode())
        for value in table.column(name).combine_chunks().buffers():
            digest.update(value or b"")
    return digest.hexdigest()


def _digest(values: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values), digest_size=16).hexdigest()


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List where the records of a job differ; one that failed is equal to none."""
    failed = [
        f"{when}: failed: {found['failed']}"
        for when, found in (("before", before), ("after", after))
        if "failed" in found
    ]
    return failed or differences(before, after)


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """List every place where two records differ, as dotted paths."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = list(dict.fromkeys([*before, *after]))
        pairs = [(name, before.get(name, "absent"), after.get(name, "absent")) for name in names]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(place), one, other) for place, (one, other) in enumerate(zip(before, after, strict=True))]
    else:
        return [] if before == after else [f"{where}: {str(before)[:300]} became {str(after)[:300]}"]
    return [line for name, one, other in pairs for line in differences(one, other, f"{where}.{name}".lstrip("."))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("file", type=Path)
    recording.add_argument("--jobs", nargs="*", default=sorted(path.stem for path in JOBS.glob("*.yaml")))
    comparing = commands.add_parser("compare")
    comparing.add_argument("files", type=Path, nargs=2)
    given = parser.parse_args()
    if given.command == "compare":
        before, after = (json.loads(file.read_text()) for file in given.files)
        found = {job: compared(before[job], after[job]) for job in before if job in after}
        for job, lines in found.items():
            print(f"{job}: {'equal' if not lines else f'{len(lines)} differences'}", *lines[:20], sep="\n    ")
        missing = sorted(set(before) ^ set(after))
        if missing:
            print(f"recorded in one file only: {', '.join(missing)}")
        return 1 if missing or any(found.values()) else 0
    results = json.loads(given.file.read_text()) if given.file.exists() else {}
    for job in given.jobs:
        with tempfile.TemporaryDirectory() as store:
            results[job] = record(JOBS / f"{job}.yaml", OVERRIDES.get(job, []), store)
        given.file.write_text(json.dumps(results, indent=1))
        print(f"{job}: {results[job].get('failed', 'recorded')}", flush=True)
    return 1 if any("failed" in result for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
