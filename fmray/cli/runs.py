"""Carry jobs to their reports, and look at what came out."""

import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from fmray.cli.loading import load_torch
from fmray.cli.options import (
    DEFAULT_STORE,
    DONE,
    GATE_FAILED,
    AsJson,
    JobFile,
    Overrides,
    RunFolder,
    StorePath,
    app,
    error_console,
    out,
)
from fmray.console import PlainConsole
from fmray.errors import DataError
from fmray.events import Event, Promotion, RunOpened, to_json


@app.command()
def run(
    context: typer.Context,
    job_file: JobFile,
    store: StorePath = DEFAULT_STORE,
    set_: Overrides = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew, beside what is there.")] = False,
    more: Annotated[int, typer.Option("--more", min=0, help="Try so many members beyond what the job says.")] = 0,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Carry a job to its report, or continue it where it stopped; with --more, extend its search."""
    from fmray.spec.load import load_job

    job = load_job(job_file, [*set_, f"search.more={more}"] if more else set_)
    console = error_console if as_json else out
    console.say(f"fmray · {job.name} · {job_file}")
    load_torch()
    from fmray.progress import Watch
    from fmray.store import Store
    from fmray.store.lease import STALE_SECONDS, SUBMISSION
    from fmray.workflow import execute

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # the attempt before may have died with its machine, which shows in its silence only
    patience = STALE_SECONDS if os.environ.get(SUBMISSION) else 0
    with Watch(console) as watch:

        def report(event: Event) -> None:
            if isinstance(event, RunOpened):
                context.obj["run_dir"] = event.root
            if isinstance(event, Promotion):
                context.obj["promotion"] = to_json(event)
            watch(event)

        # what the job's own code prints must not stand where the answer is read
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            done = execute(job, Store(store), fresh=fresh, report=report, wait_seconds=patience)
    answer = {
        "status": done.status,
        "run_id": done.id,
        "run_dir": done.root,
        "report": done.report,
        "failed_gates": list(done.failed_gates),
        "scores": done.scores.to_json() if done.scores else {},
    }
    if not as_json:
        show_end(answer, console)
    return (GATE_FAILED if done.failed_gates else DONE), answer


def show_end(answer: dict[str, Any], console: PlainConsole) -> None:
    """Say what a finished run answers: its score, and where its report lies."""
    from fmray.records import Scores
    from fmray.report.card import verdict
    from fmray.report.plots import spell

    scores = Scores.from_json(answer["scores"])
    found = scores.test[scores.primary]
    pieces = "groups" if "grouped" in found.method else "rows"
    gates = answer["failed_gates"]
    lines = [
        f"{scores.primary} {spell(found)} on {found.n:,} test {pieces}, look {scores.looks}",
        verdict(scores),
        *([f"gates that failed: {', '.join(gates)}"] if gates else []),
        answer["report"],
    ]
    console.say(*lines)


@app.command()
def report(
    run_folder: RunFolder, store: StorePath = DEFAULT_STORE, as_json: AsJson = False
) -> tuple[int, dict[str, Any]]:
    """Make the report of a finished run again."""
    from fmray.report.folder import remake_report

    opened, root = _open_run(run_folder, store)
    path = remake_report(root, opened)
    if not as_json:
        out.say(path)
    return DONE, {"status": "finished", "run_dir": root, "report": path}


@app.command()
def ledger(
    run_folder: RunFolder, store: StorePath = DEFAULT_STORE, as_json: AsJson = False
) -> tuple[int, dict[str, Any]]:
    """Show who looked at the test set of a run, and make sure that no look was removed."""
    from fmray.report.card import read_card
    from fmray.rigour.ledger import Ledger

    opened, root = _open_run(run_folder, store)
    entries = Ledger(opened).verify(read_card(root, opened).prepared.test_identity)
    if not as_json:
        for entry in entries:
            out.say(f"look {entry['look']}  {entry['when']}  {entry['who']}  run {entry['run']}  {entry['purpose']}")
    return DONE, {"status": "verified", "looks": entries}


def _open_run(run_folder: str, store: str) -> tuple[Any, str]:
    """Open the store that a run's directory lies in."""
    from fmray.store import Store

    if "://" in run_folder:
        return Store(run_folder.rpartition("/runs/")[0] or store), run_folder.rstrip("/")
    folder = Path(run_folder).resolve()
    if not (folder / "run.json").exists():
        raise DataError(f"{run_folder} holds no run.json. Give the directory of a run.", "RUN")
    inside = next((str(parent) for parent in folder.parents if (parent / "store.json").exists()), store)
    return Store(inside), str(folder)


@app.command()
def gc(
    store: StorePath = DEFAULT_STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Remove what no run needs any more."""
    from fmray.store import Store

    if not Path(store).is_dir() and "://" not in store:
        raise DataError(f"'{store}' is no store. Give --store or set FMRAY_STORE.", "--store")
    removed = Store(store).gc(dry_run=dry_run)
    if not as_json:
        out.say(*removed, f"{len(removed)} {'would go' if dry_run else 'removed'}")
    return DONE, {"status": "done", "removed": removed, "dry_run": dry_run}


@app.command()
def migrate(
    store: StorePath = DEFAULT_STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Bring a store of an earlier version to the present format; nothing is lost."""
    from fmray.store import Store
    from fmray.store.migrate import migrate as migrate_store

    if "://" not in store and not (Path(store) / "store.json").is_file():
        raise DataError(f"'{store}' is no store. Give --store or set FMRAY_STORE.", "--store")
    plan = migrate_store(Store(store), dry_run=dry_run)
    changed = [*plan.runs, *plan.seal]
    if not as_json:
        if plan.is_done:
            out.say(f"{store} is of the present format, {plan.format}")
        else:
            verb = "would get" if dry_run else "got"
            out.say(*(changed if dry_run else []), *plan.damaged)
            out.say(f"{len(changed)} files {verb} a checksum, {plan.sealed} have one, {len(plan.damaged)} are damaged")
    answer = {"changed": changed, "sealed": plan.sealed, "damaged": plan.damaged, "dry_run": dry_run}
    return DONE, {"status": "done", **answer}


@app.command()
def version(as_json: AsJson = False) -> tuple[int, dict[str, Any]]:
    """Say which fmray this is."""
    from fmray import __version__

    if not as_json:
        out.say(__version__)
    return DONE, {"status": "done", "version": __version__}
