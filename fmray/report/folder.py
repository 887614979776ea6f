"""Lay out the directory of a run, and say what belongs into it.

A run's id follows from what was asked and from the data (`identity`), so asking again finds the same directory.
"""

import importlib.metadata
import io
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from fmray.errors import DataError
from fmray.records import Json, Member, Run, Scores
from fmray.report.card import Card, read_card, write_report
from fmray.report.contents import REPORT, leave_witness, measure_run, refuse_older, verify_run
from fmray.report.identity import name_run
from fmray.rigour.gates import failed
from fmray.rigour.ledger import Ledger
from fmray.spec.job import Job
from fmray.store import Store, captured_environment, redact
from fmray.store.copies import to_write
from fmray.store.lease import SUBMISSION
from fmray.store.manifest import measure
from fmray.store.plain import to_plain

RUN = "run.json"
MEMBER_COLUMNS = {"member": pa.int64(), "role": pa.string(), "model": pa.string(), "structure": pa.int64(),
                  "pack": pa.int64(), "params": pa.string(), "seed": pa.int64(), "status": pa.string(),
                  "reason": pa.string(), "epochs": pa.int64(), "best_epoch": pa.int64(), "val_score": pa.float64(),
                  "rungs": pa.string(), "tensor_hash": pa.string()}  # fmt: skip
PACKAGES = ("fmray", "torch", "ray", "polars", "pyarrow", "numpy", "pandas", "safetensors")


def open_run(job: Job, data_fingerprint: str, store: Store, fresh: bool) -> Run:
    """Find the run of this job on this data, or name a new one.

    Args:
        data_fingerprint: Of the files as scanned.
        fresh: Start anew, beside what is there.
    """
    identity = name_run(job, data_fingerprint, store, fresh)
    root = store.path("runs", job.name, identity)
    if not store.exists(f"{root}/{RUN}"):
        refuse_older(root, store, "interrupted")
        return Run(identity, job.name, root, "interrupted")
    return read_run(root, store)


def read_run(root: str, store: Store) -> Run:
    """Read a run back from its directory.

    Raises:
        DataError: If there is no run, or it is damaged.
    """
    if not store.exists(f"{root}/{RUN}"):
        refuse_older(root, store, "interrupted")
        raise DataError(f"{root} holds no run.json. Give the directory of a run.")
    facts = store.read_json(f"{root}/{RUN}")
    run = Run(facts["run_id"], facts["job"], root, store.status(root))
    refuse_older(root, store, run.status)
    if run.status != "finished":
        return run
    verify_run(root, store, facts)
    scores = Scores.from_json(store.read_json(f"{root}/scores.json"))
    return replace(run, scores=scores, report=f"{root}/{REPORT}", failed_gates=tuple(facts["failed_gates"]))


def start_run(run: Run, job: Job, store: Store) -> None:
    """Write `job.yaml` and the first `run.json`, which keeps what a continued run uses and has decided already."""
    path = f"{run.root}/{RUN}"
    before = store.read_json(path) if store.exists(path) else {}
    asked = {key: value for key, value in redact(job.to_json()).items() if key != "folder"}
    store.write_bytes(f"{run.root}/job.yaml", _yaml(asked).encode())
    store.write_json(
        path,
        {
            "run_id": run.id,
            "job": run.job,
            "status": "running",
            "time": round(time.time(), 3),
            "records": before.get("records", []),
            "failed_gates": [],
            **{name: before[name] for name in ("warm_start", "start") if name in before},
            "submission": os.environ.get(SUBMISSION, ""),
        },
    )


def finish_run(run: Run, card: Card, widths: Sequence[int], store: Store) -> Run:
    """Complete `run.json`, after everything else is in place, and give the finished run.

    Args:
        widths: Members per pack, as they were trained.
    """
    path = f"{run.root}/{RUN}"
    prepared = card.prepared
    scores = card.scores
    found = scores.test[scores.primary]
    facts = {
        "status": "finished",
        "time": round(time.time(), 3),
        "primary": {"metric": scores.primary, "value": found.value, "low": found.low, "high": found.high},
        "failed_gates": list(failed(card.gates)),
        "data": {"manifest": list(prepared.manifest), "split": prepared.split, "test_identity": prepared.test_identity},
        "rows": dict(prepared.rows),
        "quarantine": dict(prepared.quarantine),
        "environment": card.environment,
        "seeds": {"train": card.job["train"]["seed"], "members": [member.seed for member in card.members]},
        "pack_widths": list(widths),
        "seconds": dict(card.timings),
        "tensor_hashes": {str(member.index): member.tensor_hash for member in card.members},
    }
    facts = store.read_json(path) | facts | {"files": measure_run(run.root, store)}
    store.write_json(path, facts)
    leave_witness(run.root, store, facts)
    return read_run(run.root, store)


def remake_report(root: str, store: Store) -> str:
    """Make the page of a run again from what its card says, and give its path.

    Raises:
        DataError: If the card is damaged, or a look at the test set was removed from the ledger.
    """
    card = read_card(root, store)
    Ledger(store).verify(card.prepared.test_identity)  # the page says how often the test set was looked at
    facts = store.read_json(f"{root}/{RUN}")
    if "files" not in facts:  # of an earlier version
        return write_report(card, store)
    others = {name: entry for name, entry in facts["files"].items() if name != REPORT}
    # nothing is claimed of the page while it is replaced: a process killed in between leaves no false alarm
    store.write_json(f"{root}/{RUN}", {**facts, "files": others})
    path = write_report(card, store)
    store.write_json(f"{root}/{RUN}", {**facts, "files": {**others, **measure(root, [REPORT])}})
    return path


def environment(device: str, threads: int) -> Json:
    """Describe what the result may depend on beyond job and data."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device,
        "packages": versions,
        "variables": captured_environment(),
    }


def write_members(root: str, members: Sequence[Member]) -> None:
    """Write `history.parquet` (member, role, epoch, metric, value) and `members.parquet`.

    A row of the latter is all that is known of a member; its parameters by dotted path and its rungs are JSON.
    """
    history = [{"member": member.index, "role": member.role, **entry} for member in members for entry in member.history]
    columns = {
        "member": pa.int64(),
        "role": pa.string(),
        "epoch": pa.int64(),
        "metric": pa.string(),
        "value": pa.float64(),
    }
    with to_write(f"{root}/history.parquet") as path:
        pq.write_table(pa.Table.from_pylist(history, pa.schema(list(columns.items()))), path)
    rows = [
        {
            "member": member.index,
            "role": member.role,
            "model": member.model["name"],
            "structure": member.structure,
            "pack": member.pack,
            "params": json.dumps(redact(member.params), default=str),
            "seed": member.seed,
            "status": member.status,
            "reason": member.reason,
            "epochs": member.epochs,
            "best_epoch": member.best_epoch,
            "val_score": member.val_score,
            "rungs": json.dumps(member.rungs),
            "tensor_hash": member.tensor_hash,
        }
        for member in members
    ]
    with to_write(f"{root}/members.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(MEMBER_COLUMNS.items()))), path)


def _yaml(value: Json) -> str:
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(to_plain(value), text)  # text that was quoted in the job is of ruamel's own type
    return text.getvalue()


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
