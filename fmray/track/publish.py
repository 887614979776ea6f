"""Tell MLflow of a run that has ended: what was asked, what was learned from, what came out.

Telling may stop anywhere and be done again: runs are found by their key, and only what is missing is written. Whoever
tells holds the lease of the run, so that nobody else does.
"""

import getpass
import importlib.metadata
import logging
import secrets
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace

from fmray.errors import ClusterError, DataError, SpecError
from fmray.records import Json, Run
from fmray.store import Store, fingerprint, redact, source_digest
from fmray.track.address import Address
from fmray.track.entries import cut, entries_of
from fmray.track.mlflow import Connection, Served, connected
from fmray.track.notice import Notice, read_notice, untold, write_notice
from fmray.track.registry import register_model

log = logging.getLogger("fmray")

FILES = (
    *("report.html", "card.json", "scores.json", "gates.json", "run.json", "job.yaml", "events.jsonl"),
    *("members.parquet", "history.parquet"),
)
MOST_SECONDS = 120.0
"""How long a run waits for a slow MLflow before the rest is left for later; one that hangs is given up at once."""

Describe = Callable[[str], Served]
"""Gives what MLflow needs to serve the model of the run in a directory."""


def begin(run: Run, job: Json, modules: tuple[str, ...], store: Store, address: Address) -> Notice:
    """Write down that MLflow is to be told of a run, before there is anything to tell.

    Args:
        job: As asked.
        modules: The user's own, whose source decides the result too.
    """
    known = read_notice(run.root, store)
    if known is not None and known.to == address.shown:
        if known.told == "failed":  # and is continued now
            known = replace(known, told="")
            write_notice(run.root, store, known)
        return known
    tags = {
        "fmray.run": run.id,
        "fmray.job": run.job,
        "fmray.version": importlib.metadata.version("fmray"),
        "fmray.source": source_digest("fmray", *modules),
        "mlflow.source.type": "JOB",
        "mlflow.source.name": f"fmray run {run.job}",
        "mlflow.source.git.commit": _commit(job.get("folder", ".")),
    }
    with suppress(Exception):  # a container may run as nobody in particular
        tags["mlflow.user"] = getpass.getuser()
    key = secrets.token_hex(8) if known is None else known.key
    asked = {name: value for name, value in redact(job).items() if name != "folder"}
    notice = Notice(key, address.shown, job=asked, tags=tags, began=time.time())
    write_notice(run.root, store, notice)
    return notice


def is_told(run: Run, store: Store, address: Address) -> bool:
    """Tell whether MLflow knows all of a run."""
    notice = read_notice(run.root, store)
    return notice is not None and notice.to == address.shown and notice.told == run.status


def publish(root: str, store: Store, address: Address, describe: Describe, most_seconds: float | None = None) -> None:
    """Tell MLflow of a run that has ended; the caller holds its lease, and `begin` was called.

    Raises:
        ClusterError: If MLflow did not take all of it; what is missing is told the next time.
    """
    notice = read_notice(root, store)
    status = store.status(root)
    if notice is None or status not in ("failed", "finished") or notice.told == status:
        return
    with connected(address, most_seconds) as connection:
        told = _tell(root, store, notice=notice, connection=connection, describe=describe)
    write_notice(root, store, replace(told, told=status))


def publish_untold(store: Store, address: Address, describe: Describe, most_seconds: float | None = None) -> int:
    """Tell MLflow of runs that ended while it was away, and give their number; those of living processes are theirs.

    Raises:
        ClusterError: If it is away still, or not done in time.
    """
    number = 0
    until = None if most_seconds is None else time.monotonic() + most_seconds
    for root in list(untold(store, address.shown)):
        with ExitStack() as stack:
            try:
                stack.enter_context(store.lease(root, wait_seconds=0))
            except ClusterError:
                continue
            if store.status(root) in ("failed", "finished"):
                try:
                    publish(
                        root,
                        store,
                        address=address,
                        describe=describe,
                        most_seconds=None if until is None else until - time.monotonic(),
                    )
                    number += 1
                except (DataError, SpecError) as error:  # damaged, or of other code of the user's; the next may not be
                    log.warning("MLflow cannot be told of %s: %s", root, error)
    return number


def _tell(root: str, store: Store, notice: Notice, connection: Connection, describe: Describe) -> Notice:
    first, *members = entries_of(root, store, notice)
    experiment = connection.experiment(notice.job["name"])
    run = connection.run(experiment, notice.key, first.name, notice.began)
    told = replace(notice, run=run.info.run_id)
    if first.status == "FINISHED":
        connection.data(run, **_data(store.read_json(f"{root}/card.json")))
        try:
            told = replace(
                told,
                model=connection.model(experiment, run, key=notice.key, folder=f"{root}/model", served=describe(root)),
            )
        except DataError as error:  # a model that cannot be served is told of all the same
            first.tags["fmray.model"] = cut(str(error), 500)
    known = connection.nested(experiment, told.run)
    for member in members:
        if member.mark not in known or known[member.mark].info.status not in ("FINISHED", "FAILED"):
            nested = known.get(member.mark) or connection.nest(experiment, told.run, member, notice.began)
            connection.tell(nested, member)
    kept = [name for name in FILES if store.exists(f"{root}/{name}")]
    connection.files(run, {name: store.read_bytes(f"{root}/{name}") for name in kept})
    if told.model:
        register_model(connection, told, root, store)
    connection.tell(run, first, told.model)
    return told


def _data(card: Json) -> Json:
    prepared = card["prepared"]
    asked = card["job"]["data"]
    return {
        "name": asked["path"],
        "digest": fingerprint(prepared["manifest"]),
        "source": {"uri": asked["path"]},
        "profile": {**prepared["rows"], "files": len(prepared["manifest"]), "test_identity": prepared["test_identity"]},
    }


def _commit(folder: str) -> str:
    """Give the commit that the job file's folder stands at, "" where there is none."""
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["git", "-C", folder, "rev-parse", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return ""
