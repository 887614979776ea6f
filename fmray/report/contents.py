"""Know every file of a finished run, and tell one that was changed, removed or put in another's place.

`run.json` lists them with size and checksum; it is written last. `finished.json` beside it says that it was, so that
neither its loss nor an older one in its place makes a finished run look unfinished.
"""

import zlib
from collections.abc import Collection

from fmray.errors import DataError
from fmray.records import Json
from fmray.rigour.chain import WITNESS as LOOKS
from fmray.store import Store
from fmray.store.manifest import compare, measure

RUN, WITNESS, EVENTS, REPORT = "run.json", "finished.json", "events.jsonl", "report.html"
_GROWS = frozenset({RUN, WITNESS, "driver.log", "mlflow.json"})
"""Files that are written after the run has finished, or need no checksum in run.json."""
_CHANGES = ("lease-", f"{LOOKS}/")
"""How names begin of files that change later: who holds the run, and its newest look and decision."""
CURE = "Restore it from a copy, or run the job again with --fresh."


def measure_run(root: str, store: Store) -> Json:
    """Give size and checksum of every file of a run that no longer changes, and of the events until now."""
    found = store.sizes(root)
    return measure(root, [name for name in found if name not in _GROWS and not name.startswith(_CHANGES)])


def verify_run(root: str, store: Store, facts: Json, names: Collection[str] | None = None) -> None:
    """Compare files of a finished run with what its run.json says; runs of earlier versions say nothing.

    Args:
        facts: What run.json says.
        names: Files to compare; by default all, where they lie elsewhere by their sizes.

    Raises:
        DataError: Naming the file that is missing or damaged.
    """
    listed: Json = facts.get("files", {})
    wanted = [name for name in listed if names is None or name in names]
    sizes = store.sizes(root) if names is None else {}
    for name in wanted:
        if names is None and name not in sizes:
            raise DataError(f"{root}/{name} is missing, {RUN} lists it. {CURE}")
        if name == EVENTS:  # which goes on after the end
            data = store.read_bytes(f"{root}/{EVENTS}")[: listed[name]["size"]]
            compare(
                f"{root}/{name}",
                {"size": len(data), "crc32": zlib.crc32(data)},
                expected=listed[name],
                said_by=RUN,
                cure=CURE,
            )
        elif names is None and "://" in root:
            compare(
                f"{root}/{name}",
                {"size": sizes[name], "crc32": listed[name]["crc32"]},
                expected=listed[name],
                said_by=RUN,
                cure=CURE,
            )
    here = [name for name in wanted if name != EVENTS and (names is not None or "://" not in root)]
    for name, found in measure(root, here).items():
        compare(f"{root}/{name}", found, expected=listed[name], said_by=RUN, cure=CURE)


def leave_witness(root: str, store: Store, facts: Json) -> None:
    """Say beside run.json that the run has finished."""
    store.write_json(f"{root}/{WITNESS}", {"run_id": facts["run_id"], "time": facts["time"]})


def refuse_older(root: str, store: Store, status: str) -> None:
    """Make sure that a run that does not say it has finished never did.

    Raises:
        DataError: If its run.json was removed or replaced since.
    """
    if status != "finished" and store.exists(f"{root}/{WITNESS}"):
        raise DataError(
            f"{root}/{RUN} is damaged: the run has finished, and this file is gone or from before its end. {CURE}"
        )
