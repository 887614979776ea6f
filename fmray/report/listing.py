"""List the runs of a store: one read for each that has finished, and its lease for the others."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from fmray.errors import FmrayError
from fmray.records import Json
from fmray.report.contents import CURE, WITNESS, refuse_older
from fmray.store import Store

NUM_THREADS = 16  # a remote store takes its time to answer, and longer lists no longer
RUN = "run.json"


@dataclass(frozen=True)
class Line:
    """Say in one line how a run stands.

    Args:
        job, run_id, root: Which one.
        status: "finished", "failed", "running", "interrupted", or "damaged" where its run.json cannot be read.
        metric, value, low, high: Its primary metric on the test rows, once it has finished; None before.
        time: Seconds since 1970 at which it ended, or was started last; 0 where that was not written down.
        reason: Why it failed, or which file is damaged.
    """

    job: str
    run_id: str
    root: str
    status: str
    metric: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    time: float = 0.0
    reason: str = ""

    def to_json(self) -> Json:
        """Give the line as plain values."""
        return asdict(self)


def list_runs(store: Store, job: str = "") -> list[Line]:
    """Give a line for every run, newest first.

    Args:
        job: Only runs of this job.
    """
    jobs = [job] if job else store.list("runs")
    names = [(name, run) for name in jobs for run in store.list(store.path("runs", name))]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        lines = list(pool.map(lambda pair: _line(store, *pair), names))
    return sorted(lines, key=lambda line: (-line.time, line.job, line.run_id))


def _line(store: Store, job: str, run: str) -> Line:
    root = store.path("runs", job, run)
    try:
        facts = json.loads(store.read_text(f"{root}/{RUN}"))  # the store's own reading looks at every value
        status = facts["status"] if facts["status"] in ("finished", "failed") else store.status(root)
        refuse_older(root, store, status)
        primary = facts.get("primary") or (_primary(store, root) if status == "finished" else {})
        told = {name: float(primary[name]) for name in ("value", "low", "high") if name in primary}
        when = float(facts.get("time", 0.0))
        return Line(
            job,
            run,
            root=root,
            status=status,
            metric=primary.get("metric", ""),
            **told,
            time=when,
            reason=facts.get("error", ""),
        )
    except (FmrayError, AttributeError, KeyError, TypeError, ValueError) as error:
        # a run that was stopped before its first file is no damage
        is_damaged = any(store.exists(f"{root}/{name}") for name in (RUN, WITNESS))
        if not is_damaged:
            return Line(job, run, root, store.status(root))
        said = error.message if isinstance(error, FmrayError) else ""
        reason = said if root in said else f"{root}/{RUN} cannot be read. {CURE}"
        return Line(job, run, root, "damaged", reason=reason)


def _primary(store: Store, root: str) -> Json:
    """Read the score of a run from before run.json held it."""
    scores = store.read_json(f"{root}/scores.json")
    return {"metric": scores["primary"], **scores["test"][scores["primary"]]}
