"""Find what the store no longer needs: records that no run lists, drafts of dead processes, temporary files.

Whatever a living process may still use is kept; in doubt, a thing stays.
"""

import logging
import time
from contextlib import closing

from fmray.errors import ClusterError, DataError
from fmray.records import Json
from fmray.store.fences import is_lease
from fmray.store.files import MANIFEST, TEMPORARY, Files, machine
from fmray.store.lease import acquire, is_held, process_start
from fmray.store.places import files_of
from fmray.store.plain import read_text
from fmray.store.redaction import redact

DRAFT = "data-"
"""How the names of data folders begin; one that no manifest names is a draft."""

KEPT = frozenset({"runs", "samples", "splits", "ledger", "sealed", "promotions", "mlflow", "schedules"})
"""Folders of a store in which nothing but temporary files is garbage."""

MADE = "prepared"
"""Kind of records that are made from others, which their manifests list."""

STATES = {"checkpoints": "members"}
"""Folders with states of records in the making -> the kind of those records; an interrupted run lists them."""

PARTS = frozenset({"rows", "fits", "weights"})
"""Kinds that other records are made from: listed by those, and kept while any record is in the making."""

KINDS = KEPT | PARTS | STATES.keys() | {MADE, "members", "scans", "boost"}
"""Folders that a store consists of."""

_SINGLE = frozenset({"scans", "fits"})  # kinds whose records are one JSON file each
_FOREIGN_SECONDS = 86_400  # a temporary file of another machine this old has no writer any more

log = logging.getLogger("fmray")


def clear_drafts(record: str) -> None:
    """Remove the data folders of a record that has no manifest; the caller holds its lease."""
    files = files_of(record)
    for name in files.names(record):
        if name.startswith(DRAFT):
            files.remove(f"{record}/{name}")


def collect(root: str, *, dry_run: bool, single_writer: bool = False) -> list[str]:
    """Remove garbage, or only list it; give the paths.

    Raises:
        DataError: If a run.json is damaged: then it is not known what it lists.
    """
    files = files_of(root)
    removed = [path for path in files.temporaries(root) if _is_abandoned(files, path)]
    listed = _listed(files, root)
    left = KEPT | PARTS if _is_busy(files, f"{root}/{MADE}") else KEPT
    for kind in files.names(root):
        for name in files.names(f"{root}/{kind}") if kind not in left else []:
            path = f"{root}/{kind}/{name}"
            is_listed = listed is None or (kind, name.removesuffix(".json")) in listed
            if kind in _SINGLE and name.endswith(".json"):
                removed += [] if is_listed else [path]
            elif kind in STATES:
                wanted = listed is None or (STATES[kind], name) in listed
                removed += [] if wanted or _is_busy(files, path) else [path]
            else:
                removed += _collect_record(files, path, is_listed, dry_run=dry_run, single_writer=single_writer)
    for path in removed if not dry_run else []:
        files.remove(path)
    return sorted(removed)


def _collect_record(files: Files, path: str, is_listed: bool, *, dry_run: bool, single_writer: bool) -> list[str]:
    garbage = _garbage_in(files, path, is_listed)
    if not garbage or is_held(files, path):
        return []
    if dry_run:
        return garbage
    try:
        lease = acquire(path, wait_seconds=0, single_writer=single_writer)
    except ClusterError:
        return []  # someone was faster
    with closing(lease):
        garbage = _garbage_in(files, path, is_listed)  # again: it may have been finished meanwhile
        for item in garbage if garbage != [path] else _contents(files, path):
            files.remove(item)
        if garbage == [path]:
            lease.vanish()
    return garbage


def _is_busy(files: Files, path: str) -> bool:
    return any(is_held(files, f"{path}/{name}") for name in files.names(path))


def _garbage_in(files: Files, path: str, is_listed: bool) -> list[str]:
    inside = files.names(path)
    drafts = [name for name in inside if name.startswith(DRAFT)]
    if not drafts and not any(name == MANIFEST or is_lease(name) for name in inside):
        return []  # nothing that the store has made
    if not is_listed:
        return [path]
    if MANIFEST in inside:
        try:
            drafts.remove(read_text(files.read(f"{path}/{MANIFEST}"))["folder"])
        except (ValueError, TypeError, KeyError):
            log.warning("%s/%s is damaged: its folder is kept", redact(path), MANIFEST)
            return []
    return [f"{path}/{name}" for name in drafts]


def _contents(files: Files, path: str) -> list[str]:
    """Give what lies in a record but its lease, the manifest first: without it the record is gone."""
    names = [name for name in files.names(path) if not is_lease(name)]
    return [f"{path}/{name}" for name in sorted(names, key=lambda name: name != MANIFEST)]


def _listed(files: Files, root: str) -> set[tuple[str, str]] | None:
    """Give the records that runs list, and those they are made from; None if a living run has not listed its own."""
    listed: set[tuple[str, str]] = set()
    for job in files.names(f"{root}/runs"):
        for name in files.names(f"{root}/runs/{job}"):
            run = f"{root}/runs/{job}/{name}"
            value = _run_json(files, run)
            if is_held(files, run) and "records" not in value:
                log.info("%s is going on and has listed no records yet: all records are kept", redact(run))
                return None
            listed |= {(kind, record) for kind, record in value.get("records", [])}
    made = [record for kind, record in listed if kind == MADE]
    return listed.union(*(_parts(files, f"{root}/{MADE}/{record}") for record in made))


def _parts(files: Files, record: str) -> set[tuple[str, str]]:
    """Give the records that a record was made from."""
    path = f"{record}/{MANIFEST}"
    if not files.exists(path):
        return set()
    try:
        return {(kind, name) for kind, name in read_text(files.read(path)).get("records", [])}
    except (ValueError, AttributeError):
        return set()  # it is damaged, so its parts are as good as any to make it anew


def _run_json(files: Files, root: str) -> Json:
    path = f"{root}/run.json"
    if not files.exists(path):
        return {}
    try:
        value = read_text(files.read(path))
        if isinstance(value, dict):
            return value
    except ValueError:
        pass
    raise DataError(f"{redact(path)} is damaged, so what this run needs is unknown. Repair or remove the run first.")


def _is_abandoned(files: Files, path: str) -> bool:
    writer, _, rest = path.rpartition("/")[2].removeprefix(TEMPORARY).partition("-")
    pid = rest.partition("-")[0]
    if writer == machine() and pid.isdigit():
        return not process_start(int(pid))
    try:
        touched = files.touched(path)
    except DataError:
        return False  # its writer is alive: it has just put it in place
    return touched is not None and time.time() - touched > _FOREIGN_SECONDS
