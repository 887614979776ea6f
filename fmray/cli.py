"""Answer the command line: check a job, run it, look at what came out.

Exit codes: 0 done, 2 a gate failed, 5 bad input, 130 interrupted and resumable, 1 anything else. With `--json` the last
line on stdout is one JSON object, whatever happens. Heavy libraries are imported inside the commands that need them.
"""

import json
import logging
import math
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fmray.errors import DataError, FmrayError, SpecError
from fmray.store import redact

# Typer brings its own click or uses the installed one; its exceptions tell which.
USAGE_ERROR: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
DONE, FAILED, GATE_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 5, 130
DEFAULT_STORE = "fmray-store"

app = typer.Typer(
    name="fmray",
    help="Train populations of PyTorch models from sharded Parquet on Ray, and prove what is reported.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
error_console = Console(stderr=True)

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file, e.g. jobs/quickstart.yaml.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="Directory of a run.")]
StorePath = Annotated[str, typer.Option("--store", envvar="FMRAY_STORE", help="Folder that keeps records and runs.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. train.epochs=3.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave with its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    known: dict[str, Any] = {}
    code, answer = _answer(given, known)
    if answer is not None and "--json" in given:
        print(json.dumps(redact(_strict({**known, **answer}))), flush=True)
    sys.exit(code)


def _answer(arguments: list[str], known: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """Run a command; give its exit code and what it answers.

    Args:
        known: Takes what a command knows before it ends, however it ends: the directory of the run.
    """
    try:
        found = app(arguments, standalone_mode=False, obj=known)
        if isinstance(found, tuple):
            return found
        if found == INTERRUPTED:  # as typer answers Ctrl-C
            raise KeyboardInterrupt
        return (found if isinstance(found, int) else DONE), None
    except USAGE_ERROR as error:
        hint = f"{error.format_message()} Try 'fmray --help'."
        return BAD_INPUT, _failure("usage", "", hint)
    except (KeyboardInterrupt, typer.Abort):
        error_console.print("interrupted; run the same command again to continue")
        return INTERRUPTED, {"status": "interrupted"}
    except FmrayError as error:
        code = BAD_INPUT if isinstance(error, SpecError | DataError) else FAILED
        return code, _failure(type(error).__name__, error.where, error.message)
    except OSError as error:
        return FAILED, _failure(type(error).__name__, str(error.filename or ""), error.strerror or str(error))
    except Exception as error:  # the last line of defence: whatever it is, the caller gets JSON and exit code 1
        error_console.print(redact(traceback.format_exc()), markup=False, highlight=False)
        return FAILED, _failure(type(error).__name__, "", str(error))


def _failure(kind: str, where: str, message: str) -> dict[str, Any]:
    text = redact(f"{where}: {message}" if where else message)
    error_console.print(f"error: {text}", markup=False, highlight=False, soft_wrap=True)
    return {"status": "failed", "error": {"kind": kind, "where": where, "message": message}}


@app.command()
def check(
    job_file: JobFile,
    store: StorePath = DEFAULT_STORE,
    set_: Overrides = [],  # noqa: B006
    deep: Annotated[bool, typer.Option("--deep", help="Prepare the data and show the exact plan.")] = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Show the resolved plan of a job in about a second, or what is wrong with it."""
    from fmray.data.preview import preview
    from fmray.spec.load import load_job

    job = load_job(job_file, set_)
    seen = preview(job)
    _refuse_metrics(job, seen.task.name)
    plan = _plan(job, seen)
    if deep:
        plan |= _exact(job, store)
    plan = redact(plan)
    if not as_json:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, text in plan.items():
            table.add_row(f"[bold]{name}[/bold]", text.replace("[", r"\["))
        Console().print(table)
    return DONE, {"status": "checked", "plan": plan, "job": job.to_json()}


def _refuse_metrics(job: Any, task: str) -> None:
    """Refuse metrics that judge the other kind of target."""
    named = [name for name in (job.evaluate.primary, *(job.evaluate.metrics or ())) if name]
    if not named or ":" in task:
        return  # of a user's own task, only the task can tell what it predicts
    from fmray.catalogue import METRICS
    from fmray.metrics.find import find_metric
    from fmray.records import Target

    target = Target(tuple(job.data.target), "number" if task == "regression" else "class")
    for name in named:
        if name in METRICS:
            find_metric(name, target)
        elif name.startswith("f1[") and target.kind == "number":
            raise SpecError(f"'{name}' judges a class, the target is a number. Name another metric.", "evaluate")


def _exact(job: Any, store: str) -> dict[str, str]:
    """Prepare the data, as a run would, and give what only values tell."""
    from fmray.data.prepare import prepare
    from fmray.data.scan import scan
    from fmray.data.target import decide
    from fmray.metrics.find import find_metric
    from fmray.progress import Watch
    from fmray.store import Store

    opened = Store(store)
    dataset = scan(job.data, job.folder, opened)
    with Watch(error_console) as watch:
        prepared = prepare(dataset, job, decide(dataset, job.data, job.task), opened, watch)
    for name in (job.evaluate.primary, *(job.evaluate.metrics or ())):
        if name:
            find_metric(name, prepared.target)
    target, rows = prepared.target, prepared.rows
    classes = ", ".join(f"{name} {count:,}" for name, count in zip(target.classes, target.counts, strict=True))
    moments = ", ".join(f"mean {m:.6g}, deviation {s:.6g}" for m, s in zip(target.mean, target.scale, strict=True))
    steps = -(-prepared.num_rows("train") // job.train.batch_rows)
    exact = {
        "data": f"{job.data.path}: {dataset.num_rows:,} rows in {len(dataset.files)} files",
        "rows": ", ".join(f"{name} {count:,}" for name, count in rows.items()),
        "target": f"{', '.join(target.columns)}: {classes or moments} (training rows)",
        "inputs": f"{prepared.schema.width} numbers per row",
        "batches": f"{steps:,} per epoch",
        "prepared": prepared.root,
    }
    return exact | ({"notes": "\n".join(prepared.notes)} if prepared.notes else {})


def _plan(job: Any, seen: Any) -> dict[str, str]:
    data, columns = job.data, seen.columns.columns
    kinds = {kind: [c.name for c in columns if c.kind == kind] for kind in dict.fromkeys(c.kind for c in columns)}
    from fmray.data.preview import FOOTERS

    num_files = len(seen.dataset.files)
    more = "" if num_files < FOOTERS else f" (the first {FOOTERS} files; the rest after prepare)"
    split = f"by {job.split.by}" + (f" column '{job.split.column}'" if job.split.column else "")
    stop = job.train.early_stop
    inputs = (
        f"{seen.inputs.width} numbers per row, judged by {seen.num_rows:,} rows" if seen.inputs else "after prepare"
    )
    target = ", ".join(data.target)
    if seen.target is not None and seen.target.classes:
        target += f": {len(seen.target.classes)} classes" + (
            f", positive '{seen.target.classes[seen.target.positive]}'" if seen.target.positive >= 0 else ""
        )
    written = job.to_json()
    plan = {
        "job": f"{job.name}",
        "data": f"{data.path}: {seen.dataset.num_rows:,} rows in {num_files} files{more}",
        "columns": "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
            for kind, names in kinds.items()
        ),
        "target": target,
        "task": seen.task.name,
        "split": f"{split}, val {job.split.val:g}" + ("" if job.split.by == "given" else f", test {job.split.test:g}"),
        "steps": ", ".join(step.name for step in job.steps),
        "inputs": inputs,
        "model": str(written["model"]),
        "train": f"{written['train']['epochs']} epochs at most, batches of {written['train']['batch_rows']} rows, "
        f"{written['train']['optimizer']}, "
        + (f"stops after {stop.patience} epochs without gain" if stop else "never stops early"),
        **(_searched(job) if job.ranges else {}),
        "members": _members(job),
        "judged by": (job.evaluate.primary or "the task's first metric")
        + f", against {', '.join(job.evaluate.baselines) or 'nothing'}",
    }
    if data.sample is not None:
        given = {name: value for name, value in job.to_json()["data"]["sample"].items() if value is not None}
        plan["sample"] = f"{given}: training rows by class, probabilities shifted back"
    return plan | ({"notes": "\n".join(seen.notes)} if seen.notes else {})


def _members(job: Any) -> str:
    name, params, seeds = job.ensemble.name, job.ensemble.params, job.train.seeds.n
    times = [f"{job.train.folds} folds"] if job.train.folds else []
    times += [f"{params.get('members', 10)} bags"] if name == "bagging" else []
    if job.ranges:
        times += [f"{seeds} seeds"] if seeds > 1 else []
        again = f", each trained again with {' and '.join(times)}" if times else ""
        return f"{job.search.finalists} finalists{again}, combined by {name}"
    if name == "adaboost":
        return f"one for each of {params.get('rounds', 'the')} rounds of adaboost"
    return f"{' x '.join([str(seeds), *times])}, combined by {name}; pack width after prepare"


def _searched(job: Any) -> dict[str, str]:
    from fmray.tune.preview import describe

    return describe(job)


@app.command()
def schema(as_json: AsJson = False) -> int:
    """Write the JSON schema of job files, for editors."""
    from fmray.spec.schema import job_schema

    print(json.dumps(job_schema(), indent=None if as_json else 1))
    return DONE


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
    console = error_console if as_json else Console()
    console.print(f"fmray · {job.name} · {job_file}", markup=False, highlight=False)
    from fmray.progress import Watch
    from fmray.workflow import run as carry

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with Watch(console) as watch:

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "run":
                context.obj["run_dir"] = event["root"]
            watch(event)

        done = carry(job, store, fresh=fresh, report=report)
    answer = {
        "status": done.status,
        "run_id": done.id,
        "run_dir": done.root,
        "report": done.report,
        "failed_gates": list(done.failed_gates),
        "scores": done.scores.to_json() if done.scores else {},
    }
    if not as_json:
        _show(done, console)
    return (GATE_FAILED if done.failed_gates else DONE), answer


def _show(done: Any, console: Console) -> None:
    from fmray.report.card import verdict
    from fmray.report.plots import spell

    scores = done.scores
    found = scores.test[scores.primary]
    pieces = "groups" if "grouped" in found.method else "rows"
    lines = [
        f"{scores.primary} {spell(found)} on {found.n:,} test {pieces}, look {scores.looks}",
        verdict(scores),
        *([f"gates that failed: {', '.join(done.failed_gates)}"] if done.failed_gates else []),
        done.report,
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def report(
    run_folder: RunFolder, store: StorePath = DEFAULT_STORE, as_json: AsJson = False
) -> tuple[int, dict[str, Any]]:
    """Make the report of a finished run again."""
    from fmray.report.card import read_card, write_card

    opened, root = _open_run(run_folder, store)
    path = write_card(read_card(root, opened), opened)
    if not as_json:
        print(path)
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
            print(f"look {entry['look']}  {entry['when']}  {entry['who']}  run {entry['run']}  {entry['purpose']}")
    return DONE, {"status": "verified", "looks": entries}


def _open_run(run_folder: str, store: str) -> tuple[Any, str]:
    """Open the store that a run's directory lies in."""
    from fmray.store import Store

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
        for path in removed:
            print(path)
        print(f"{len(removed)} {'would go' if dry_run else 'removed'}")
    return DONE, {"status": "done", "removed": removed, "dry_run": dry_run}


@app.command()
def version(as_json: AsJson = False) -> tuple[int, dict[str, Any]]:
    """Say which fmray this is."""
    from fmray import __version__

    if not as_json:
        print(__version__)
    return DONE, {"status": "done", "version": __version__}


def _strict(value: Any) -> Any:
    """Spell numbers that JSON lacks as null."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


logging.getLogger("fmray").addHandler(logging.NullHandler())
if __name__ == "__main__":
    main()
