"""Stop a run at a point, let another process finish it, continue the first. Run as `stopped.py FOLDER POINT...`.

Prints one JSON object a point: {"point", "first": its exit code, "second": that of the other process, "told": what the
first one said, "files": number of files once the second one had ended, "changed": those of them that are not as it
left them}. Both are forked from this process, which has imported all they need. They find in the store what the stages
before the point leave, so that a point costs what follows it.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmray import workflow
from fmray.cli import main
from fmray.events import Event, Stage
from fmray.inference import export as exporting
from fmray.inference import predict as predicting
from fmray.promote.history import History
from fmray.report.journal import Journal
from fmray.rigour.chain import Chain
from fmray.stages import ownership, reporting
from fmray.store import Store, lease
from fmray.store.sources import code_digest
from fmray.track.address import address_of
from fmray.track.mlflow import Connection, connected
from fmray.track.registry import Registry
from fmray.train import saved

lease.STALE_SECONDS = 0.3  # nobody waits for a process that lives, so none can be taken for a dead one


def stop() -> None:
    """Stand still until continued."""
    os.kill(os.getpid(), signal.SIGSTOP)


def before(owner: Any, name: str) -> None:
    """Stop once before a function is called."""
    function: Callable[..., Any] = getattr(owner, name)

    def stopping(*given: Any, **named: Any) -> Any:
        setattr(owner, name, function)
        stop()
        return function(*given, **named)

    setattr(owner, name, stopping)


def after_event(stage: str) -> None:
    """Stop once a stage has begun."""
    take = Journal.__call__

    def stopping(journal: Journal, event: Event) -> None:
        take(journal, event)
        if isinstance(event, Stage) and event.name == stage:
            stop()

    Journal.__call__ = stopping  # type: ignore[method-assign]


POINTS: dict[str, Callable[[], None]] = {
    "scan": lambda: before(ownership, "open_run"),
    "found": lambda: before(workflow.Store, "lease"),
    **{name: lambda name=name: after_event(name) for name in
       ("prepare", "train", "baseline", "combine", "evaluate", "report", "publish")},
    "look": lambda: before(Chain, "bear_witness"),
    "model": lambda: before(saved, "copy_file"),
    "end": lambda: before(reporting, "finish_run"),
    "files": lambda: before(Connection, "files"),
    "predict": lambda: before(predicting, "_predict_items"),
    "export": lambda: before(exporting, "_compare"),
    "promote": lambda: before(History, "add"),
    "witness": lambda: before(Chain, "bear_witness"),
    "alias": lambda: before(Registry, "move"),
}  # fmt: skip
EARLY = ("scan", "found", "prepare")
"""Points before which nothing is in the store."""
TRAINING = ("train", "baseline")
"""Points before which rows are prepared."""
OF_A_RUN = ("predict", "export", "promote", "witness", "alias")
"""Points of commands that take a finished run."""
TELLING = ("publish", "files", "alias")
"""Points of commands that tell MLflow."""


def in_child(told: Path, act: Callable[[], None]) -> int:
    """Give the process id of a process of its own that does something; what it says goes to a file."""
    if pid := os.fork():
        return pid
    output = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        act()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def exit_code(pid: int) -> int:
    """Wait for the end of a process."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def contents(folder: Path) -> dict[str, str]:
    """Give a digest of every file that is there to stay; lease files say who came by, not what was made."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith((".tmp-", "lease-")) for part in path.parts)
    }


def run_words(folder: Path, store: Path) -> list[str]:
    """Give the command that runs the job."""
    return ["run", str(folder / "job.yaml"), "--store", str(store)]


def finished_store(folder: Path) -> Path:
    """Give the folder of a store with a finished run, made once."""
    place = folder / "finished"
    if not place.exists():
        place.mkdir()
        assert exit_code(in_child(place / "told", lambda: main(run_words(folder, place / "store")))) in (0, 2)
    return place


def empty_database(folder: Path) -> Path:
    """Give a database of MLflow that is laid out, which takes it seconds, and empty; made once."""
    place = folder / "mlflow"

    def lay_out() -> None:
        with connected(address_of("default", Store(str(place)))) as connection:
            connection.client.search_experiments()

    if not place.exists():
        assert exit_code(in_child(folder / "laid-out", lay_out)) == 0
    return place / "mlflow.db"


def fill(folder: Path, store: Path, point: str) -> None:
    """Put into a new store what stages before a point leave."""
    if point not in EARLY:
        left_out = () if point in OF_A_RUN else ("runs", "ledger", *(("members",) if point in TRAINING else ()))
        shutil.copytree(finished_store(folder) / "store", store, ignore=lambda at, names: left_out)
    if point in TELLING:
        shutil.copy(empty_database(folder), store)


def command(folder: Path, home: Path, point: str) -> list[str]:
    """Give the command that a point belongs to."""
    store = home / "store"
    words = run_words(folder, store)
    if point not in OF_A_RUN:
        return [*words, *(["--set", "track.mlflow=default"] if point in TELLING else [])]
    (run,) = (store / "runs/job").iterdir()
    if point == "predict":
        return ["predict", str(run), str(folder / "data/d.parquet"), "--out", str(home / "out")]
    if point == "export":
        return ["export", str(run), "--out", str(home / "out")]
    words = ["--store", str(store)]
    if point == "alias":
        assert (
            exit_code(in_child(folder / "tracked", lambda: main(["track", str(run), *words, "--to", "default"]))) == 0
        )
    return ["promote", str(run), *words]


def try_point(folder: Path, point: str) -> dict[str, Any]:
    """Stop one command at a point; see the module."""
    home = folder / point
    home.mkdir()
    told = [folder / f"{point}-{name}.txt" for name in ("first", "second")]
    fill(folder, home / "store", point)
    words = command(folder, home, point)

    def act() -> None:
        POINTS[point]()
        main(words)

    first = in_child(told[0], act)
    _, status = os.waitpid(first, os.WUNTRACED)
    assert os.WIFSTOPPED(status), told[0].read_text()
    while any(time.time() - path.stat().st_mtime < 1.2 * lease.STALE_SECONDS for path in home.rglob("lease-*.json")):
        time.sleep(0.05)
    second = exit_code(in_child(told[1], lambda: main(words)))
    finished = contents(home)
    os.kill(first, signal.SIGCONT)
    code = exit_code(first)
    now = contents(home)
    return {
        "point": point,
        "first": code,
        "second": second,
        "told": told[0].read_text() + f"\n[other]\n{told[1].read_text()[-600:]}" * bool(second),
        "files": len(finished),
        "changed": sorted(name for name in finished.keys() | now.keys() if finished.get(name) != now.get(name)),
    }


if __name__ == "__main__":
    if set(sys.argv[2:]) & {*TELLING}:
        import mlflow  # noqa: F401 - once, instead of in every process
    code_digest("fmray.workflow")  # reads code, which every process would do
    for asked in sys.argv[2:]:
        print(json.dumps(try_point(Path(sys.argv[1]), asked)), flush=True)
