"""Send jobs to a cluster, look at it first, and see what becomes of them."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer

from fmray.cli.answer import INTERRUPTED
from fmray.cli.options import (
    BAD_INPUT,
    DEFAULT_STORE,
    DONE,
    FAILED,
    AsJson,
    JobFile,
    Overrides,
    StorePath,
    app,
    error_console,
    out,
)
from fmray.cli.runs import show_end
from fmray.console import PlainConsole

Address = Annotated[
    str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="URL of the cluster's dashboard.")
]
WithFmray = Annotated[bool, typer.Option("--with-fmray", help="Send fmray along, for images that lack it.")]
Patience = Annotated[
    float,
    typer.Option(
        "--patience", envvar="FMRAY_PATIENCE", min=1, help="Multiply by this the seconds that nodes have to answer."
    ),
]
Submission = Annotated[str, typer.Argument(metavar="ID", help="Submission, or run, whose newest attempt is meant.")]
LOCAL = "http://127.0.0.1:8265"
LOOK_SECONDS = 60.0


@app.command()
def submit(
    job_file: JobFile,
    address: Address = LOCAL,
    store: StorePath = DEFAULT_STORE,
    set_: Overrides = [],  # noqa: B006
    with_fmray: WithFmray = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew, beside what is there.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show its progress, and end as the run ends.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    look_first: Annotated[bool, typer.Option("--preflight/--no-preflight", help="Look at the nodes first.")] = True,
    patience: Patience = 1.0,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Send a job to a cluster; sent again, attach to it while it is alive, else continue it."""
    from fmray.spec.load import load_job
    from fmray.submit import Cluster, plan

    console = error_console if as_json else out
    request = plan(load_job(job_file, set_), store, with_fmray=with_fmray, fresh=fresh)
    if dry_run:
        shown = request.to_json(1)
        if not as_json:
            out.say(*json.dumps(shown, indent=1, ensure_ascii=False).splitlines())
        return DONE, {"status": "dry run", "request": shown}
    cluster = Cluster(address)
    with ThreadPoolExecutor(1) as pool:  # the data are looked at here while the nodes answer there
        asked = pool.submit(_ask, cluster, request, patience) if look_first else None
        notes = request.notes
        alive = any(one.run_id == request.run_id and one.is_alive for one in cluster.attempts())
        code, looked = _judge(asked.result(), request, console) if asked and not alive else (DONE, {})
        if code != DONE:
            return code, looked
    for note in notes:
        _say(console, note)
    attempt, is_new = cluster.submit(request)
    _say(console, f"{'submitted' if is_new else 'attached to'} {attempt.id} · run {attempt.run_id} of {attempt.job}")
    answer = {"status": "submitted" if is_new else "attached", **_told(attempt), "notes": list(notes)}
    answer["warnings"] = looked.get("warnings", [])
    return _follow(cluster, attempt.id, console, answer) if wait else (DONE, answer)


@app.command()
def preflight(
    job_file: Annotated[str, typer.Option("--job", help="Job file.")],
    address: Address = LOCAL,
    store: StorePath = DEFAULT_STORE,
    set_: Overrides = [],  # noqa: B006
    with_fmray: WithFmray = False,
    patience: Patience = 1.0,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Look whether a job finds on every node of a cluster what it needs."""
    from fmray.spec.load import load_job
    from fmray.submit import Cluster, plan

    request = plan(load_job(job_file, set_), store, with_fmray=with_fmray)
    return _judge(_ask(Cluster(address), request, patience), request, error_console if as_json else out)


def _ask(cluster: Any, request: Any, patience: float) -> dict[str, Any]:
    from fmray.preflight import MARK, probe_command

    command = probe_command(request.store, request.data, request.package.installed, patience)
    return dict(cluster.ask(command, MARK, LOOK_SECONDS * patience))


def _judge(facts: dict[str, Any], request: Any, console: PlainConsole) -> tuple[int, dict[str, Any]]:
    """Say what stands in the way, and give the exit code."""
    from fmray.preflight import LEAST_FREE, Needs, judge
    from fmray.store import source_digest

    files = request.dataset.files if request.dataset else ()
    counts = bool(files and request.data) and not request.dataset.by_log  # a node counts what lies in the folder
    needs = Needs(
        run=request.job.run,
        searched=bool(request.job.ranges),
        store=request.store,
        data=request.data,
        seen=(len(files), sum(file.size for file in files)) if counts else None,
        source="" if request.fmray else source_digest("fmray"),
        # lanes take about what rows do in memory, and the passes before them as much again
        free_bytes=max(LEAST_FREE, 2 * sum(sum(file.group_bytes) for file in files)),
    )
    found = judge(facts, needs)
    failures, warnings = ([one for one in found if one.passes == passes] for passes in (False, True))
    names = [node["name"] for node in facts["nodes"]]
    verdict = "failed" if failures else "passed, but the run will wait for its turn" if warnings else "passed"
    _say(console, f"preflight {verdict} · {len(names)} node{'s' * (len(names) != 1)}, {facts['seconds']} s")
    for one in found:
        _say(error_console, str(one))
    answer: dict[str, Any] = {"status": "passed", "nodes": names, "seconds": facts["seconds"]}
    answer |= {"failures": [], "warnings": [warning.to_json() for warning in warnings]}
    if not failures:
        return DONE, answer
    error = {"kind": "ClusterError", "where": "preflight", "message": str(failures[0])}
    answer |= {"status": "failed", "error": error, "failures": [failure.to_json() for failure in failures]}
    return (BAD_INPUT if any(failure.is_bad_input for failure in failures) else FAILED), answer


@app.command()
def jobs(address: Address = LOCAL, as_json: AsJson = False) -> tuple[int, dict[str, Any]]:
    """List what was submitted to a cluster."""
    from rich.table import Table

    from fmray.submit import Cluster

    attempts = Cluster(address).attempts()
    if not as_json:
        table = Table("submission", "job", "status", "started", "seconds", box=None, pad_edge=False)
        for one in attempts:
            started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.started)) if one.started else ""
            table.add_row(one.id, one.job, one.status.lower(), started, f"{one.seconds:g}")
        out.print(table)
    return DONE, {"status": "done", "jobs": [one.to_json() for one in attempts]}


@app.command()
def logs(
    submission: Submission,
    address: Address = LOCAL,
    follow: Annotated[bool, typer.Option("--follow", help="Show more as it comes, and end as the run ends.")] = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Show what a submitted run has printed."""
    from fmray.submit import Cluster

    cluster = Cluster(address)
    attempt = cluster.find(submission)
    console = error_console if as_json else out
    if follow:
        return _follow(cluster, attempt.id, console, _told(attempt))
    text = cluster.logs(attempt.id)
    if not as_json:
        lines = _Lines(console)
        lines(text)
        if lines.answer().get("status") == "finished":
            show_end(lines.answer(), console)
    return DONE, {"status": "done", **_told(attempt), "log": text}


@app.command()
def stop(submission: Submission, address: Address = LOCAL, as_json: AsJson = False) -> tuple[int, dict[str, Any]]:
    """Stop a submitted run; submitted again, it goes on from its checkpoints."""
    from fmray.submit import Cluster

    cluster = Cluster(address)
    attempt = cluster.stop(cluster.find(submission).id)
    if not as_json:
        again = "; submitted again, it continues" if attempt.status == "STOPPED" else ""
        _say(out, f"{attempt.id}: {attempt.status.lower()}{again}")
    return DONE, {"status": attempt.status.lower(), **_told(attempt)}


def _told(attempt: Any) -> dict[str, Any]:
    return {"submission_id": attempt.id, "run_id": attempt.run_id, "attempt": attempt.number, "store": attempt.store}


def _follow(cluster: Any, name: str, console: PlainConsole, answer: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Show the run's lines but for its own answer, which becomes part of this one."""
    lines = _Lines(console)
    try:
        ended = cluster.follow(name, lines)
    except KeyboardInterrupt:
        _say(error_console, f"{name} goes on: `fmray logs {name} --follow` shows it, `fmray stop {name}` ends it")
        return INTERRUPTED, {**answer, "status": "left"}
    own = lines.answer()
    if own.get("status") == "finished":
        show_end(own, console)
    if ended.status == "STOPPED":
        _say(error_console, f"{name} was stopped; submit the job again to continue")
        own |= {"status": "interrupted"}
    elif ended.exit_code and not own:  # it ended without a word of its own
        said = (ended.message.splitlines() or ["no reason given"])[0]
        own |= {"status": "failed", "error": {"kind": "ClusterError", "where": name, "message": said}}
        _say(error_console, f"{name}: {said}")
    return ended.exit_code, {**answer, **own}


class _Lines:
    """Show whole lines as they come, but for one that is the answer of the command that prints them."""

    def __init__(self, console: PlainConsole) -> None:
        self._console = console
        self._rest = ""
        self._answer = ""

    def __call__(self, chunk: str) -> None:
        *lines, self._rest = (self._rest + chunk).split("\n")
        for line in lines:
            if line.startswith('{"') and line.endswith("}"):
                self._answer = line
            else:
                _say(self._console, line)

    def answer(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._answer or "{}"))
        except ValueError:
            return {}


def _say(console: PlainConsole, text: str) -> None:
    from fmray.store import redact

    console.say(redact(text))
