"""Stop a run at a point, let another process finish it, continue the first. Run as `stopped.py FOLDER POINT...`.

Prints one JSON object a point: {"point", "first": its exit code, "second": that of the other process, "told": what the
first one said, "changed": files of the finished run that are not as the second process left them}. Both are forked from
this process, which has imported all they need, so that a point costs no more than two small runs.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmray import workflow
from fmray.cli import main
from fmray.inference import predict as predicting
from fmray.promote.history import History
from fmray.report.journal import Journal
from fmray.store import lease
from fmray.train import saved

WAIT_SECONDS = 60
lease.STALE_SECONDS = 1.0


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

    def stopping(journal: Journal, event: dict[str, Any]) -> None:
        take(journal, event)
        if event["event"] == "stage" and event["stage"] == stage:
            stop()

    Journal.__call__ = stopping  # type: ignore[method-assign]


POINTS: dict[str, Callable[[], None]] = {
    "scan": lambda: before(workflow, "open_run"),
    "found": lambda: before(workflow.Store, "lease"),
    **{name: lambda name=name: after_event(name) for name in
       ("prepare", "train", "baseline", "combine", "evaluate", "report", "publish")},
    "model": lambda: before(saved, "copy_file"),
    "card": lambda: before(workflow, "write_card"),
    "end": lambda: before(workflow, "finish_run"),
    "promote": lambda: before(History, "add"),
    "predict": lambda: before(predicting, "_carry"),
}  # fmt: skip


def start(folder: Path, words: list[str], prepare: Callable[[], None] | None = None) -> int:
    """Give the process id of a command that is carried out in a process of its own."""
    if pid := os.fork():
        return pid
    told = os.open(folder / "told", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 1)
    os.dup2(told, 2)
    if prepare is not None:
        prepare()
    code = 1
    try:
        main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def contents(folder: Path) -> dict[str, str]:
    """Give a digest of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".tmp-")
    }


def try_point(folder: Path, point: str) -> dict[str, Any]:
    """Stop one command at a point; see the module."""
    home = folder / point
    home.mkdir()
    store = home / "store"
    words = ["run", str(folder / "job.yaml"), "--store", str(store)]
    words += ["--set", "track.mlflow=default"] if point == "publish" else []
    words += ["--set", "promote.evidence=fresh"] if point == "promote" else []
    place = store / "runs/job"
    if point == "predict":
        main_in_child(home, words)
        (run,) = place.iterdir()
        place = home / "out"
        words = ["predict", str(run), str(folder / "data/d.parquet"), "--out", str(place)]
    first = start(home, words, POINTS[point])
    _, status = os.waitpid(first, os.WUNTRACED)
    assert os.WIFSTOPPED(status), (home / "told").read_text()
    place = store / "promotions/job" if point == "promote" else place
    while any(time.time() - path.stat().st_mtime < 1.2 for path in home.rglob("lease-*.json")):
        time.sleep(0.05)
    other = home / "other"
    other.mkdir()
    second = main_in_child(other, words)
    finished = contents(place)
    os.kill(first, signal.SIGCONT)
    _, status = os.waitpid(first, 0)
    now = contents(place)
    return {
        "point": point,
        "first": os.waitstatus_to_exitcode(status),
        "second": second,
        "told": (home / "told").read_text() + f"\n[other]\n{(other / 'told').read_text()[-600:]}" * bool(second),
        "files": len(finished),
        "changed": sorted(name for name in finished.keys() | now.keys() if finished.get(name) != now.get(name)),
    }


def main_in_child(home: Path, words: list[str]) -> int:
    """Carry a command out in a process of its own, and give its exit code."""
    _, status = os.waitpid(start(home, words), 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    for asked in sys.argv[2:]:
        print(json.dumps(try_point(Path(sys.argv[1]), asked)), flush=True)
