"""Check a job before it runs, and describe what job files may say."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fmray.cli.options import DEFAULT_STORE, DONE, AsJson, JobFile, Overrides, StorePath, app, error_console, out
from fmray.errors import FmrayError, SpecError
from fmray.printable import in_yaml
from fmray.schema import Schema
from fmray.store import redact


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
    from fmray.spec.job import Job
    from fmray.spec.load import load_job

    looks = []

    def look(job: Job) -> None:
        found: list[FmrayError] = []
        try:
            looks.append(preview(job))
        except FmrayError as error:
            found += error.errors
        try:
            _refuse_metrics(job, looks[0].task.name if looks else job.task.name)
        except FmrayError as error:
            found += error.errors
        if found:
            raise SpecError.join(found)

    job = load_job(job_file, set_, also=look)
    seen = looks[0]
    plan = _plan(job, seen)
    if deep:
        plan |= _exact(job, store)
    plan = redact(plan)
    if not as_json:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, text in plan.items():
            for line, part in enumerate(text.split("\n") if name == "notes" else [text]):
                table.add_row(Text("" if line else name, style="bold"), part)
        out.print(table)
    return DONE, {"status": "checked", "plan": plan, "job": job.to_json()}


def _refuse_metrics(job: Any, task: str) -> None:
    """Refuse metrics that judge the other kind of target."""
    named = [name for name in (job.evaluate.primary, *(job.evaluate.metrics or ())) if name]
    if not named or ":" in task or task == "auto":
        return  # of a user's own task, only the task can tell what it predicts; of auto, the data
    from fmray.catalogue import METRICS
    from fmray.metrics.find import find_metric, judges_one_class
    from fmray.records import Target
    from fmray.targets.codec import codec_for

    codec = codec_for(task)
    target = Target(tuple(job.data.target), codec.kind)
    for name in named:
        if name in METRICS:
            find_metric(name, target)
        elif name.startswith("f1[") and not judges_one_class(codec.kind):
            raise SpecError(f"'{name}' judges a class, the target is a {codec.noun}. Name another metric.", "evaluate")


def _exact(job: Any, store: str) -> dict[str, str]:
    """Prepare the data, as a run would, and give what only values tell."""
    from fmray.data.prepare import prepare
    from fmray.data.scan import scan
    from fmray.data.target import decide
    from fmray.evaluate.sides import check_sides
    from fmray.metrics.find import defaults, find_metric
    from fmray.progress import Watch
    from fmray.store import Store
    from fmray.targets.codec import codec_of

    opened = Store(store)
    dataset = scan(job.data, job.folder, opened, extra_columns=job.named_columns)
    with Watch(error_console) as watch:
        prepared = prepare(dataset, job, task=decide(dataset, job.data, job.task), store=opened, report=watch)
    for name in (job.evaluate.primary, *(job.evaluate.metrics or ())):
        if name:
            find_metric(name, prepared.target)
    target = prepared.target
    rows = prepared.rows
    names = defaults(target)
    found = check_sides(
        prepared, find_metric(job.evaluate.primary or names[0], target), job.evaluate.metrics or names[1]
    )
    steps = -(-prepared.num_rows("train") // job.train.batch_rows)
    exact = {
        "data": f"{job.data.path}: {dataset.num_rows:,} rows in {len(dataset.files)} files",
        "rows": ", ".join(f"{name} {count:,}" for name, count in rows.items()),
        "target": f"{', '.join(target.columns)}: {codec_of(target).describe()} (training rows)",
        "inputs": _inputs(prepared.schema),
        "batches": f"{steps:,} per epoch",
        "prepared": prepared.root,
    }
    notes = [*prepared.notes, *found]
    return exact | ({"notes": "\n".join(notes)} if notes else {})


def _budget(job: Any) -> str:
    """Say how long members train."""
    return f"{job.train.epochs} epochs" if job.train.steps is None else f"{job.train.steps:,} steps"


def _plan(job: Any, seen: Any) -> dict[str, str]:
    data = job.data
    columns = seen.columns.columns
    kinds = {kind: [c.name for c in columns if c.kind == kind] for kind in dict.fromkeys(c.kind for c in columns)}
    from fmray.data.preview import FOOTERS
    from fmray.targets.codec import codec_of

    num_files = len(seen.dataset.files)
    more = "" if num_files < FOOTERS else f" (the first {FOOTERS} files; the rest after prepare)"
    split = f"by {job.split.by}" + (f" column '{job.split.column}'" if job.split.column else "")
    stop = job.train.early_stop
    inputs = f"{_inputs(seen.inputs)}, judged by {seen.num_rows:,} rows" if seen.inputs else "after prepare"
    target = ", ".join(data.target)
    if seen.target is not None and (outline := codec_of(seen.target).outline()):
        target += f": {outline}"
    written = job.to_json()
    plan = {
        "job": f"{job.name}",
        "data": f"{data.path}: {seen.dataset.num_rows:,} rows in {num_files} files{more}",
        "columns": "; ".join(
            f"{len(names)} {kind}: {', '.join(map(in_yaml, names[:12]))}{' …' if len(names) > 12 else ''}"
            for kind, names in kinds.items()
        ),
        "target": target,
        "task": seen.task.name,
        "split": f"{split}, val {job.split.val:g}" + ("" if job.split.by == "given" else f", test {job.split.test:g}"),
        "steps": ", ".join(step.name for step in job.steps),
        "inputs": inputs,
        "model": str(written["model"]),
        "train": f"{_budget(job)} at most, batches of {written['train']['batch_rows']} rows, "
        f"{written['train']['optimizer']}, "
        + (f"stops after {stop.patience} epochs without gain" if stop else "never stops early"),
        **(_searched(job) if job.ranges else {}),
        "members": _members(job),
        "judged by": (job.evaluate.primary or "the task's first metric")
        + f", against {', '.join(job.evaluate.baselines) or 'nothing'}",
    }
    if job.promote is not None:
        plan["promote"] = ", ".join(f"{key} {value}" for key, value in written["promote"].items() if value is not None)
    if data.sample is not None:
        given = {name: value for name, value in job.to_json()["data"]["sample"].items() if value is not None}
        plan["sample"] = f"{given}: training rows by class, probabilities shifted back"
    if job.schedule is not None:
        plan["schedule"] = ", ".join(f"{name}: {value}" for name, value in written["schedule"].items())
    return plan | ({"notes": "\n".join(seen.notes)} if seen.notes else {})


def _inputs(schema: Schema) -> str:
    """Say what a model is given of a row."""
    found = [f"{schema.width} numbers"] if schema.width or not schema.blocks else []
    found += [f"{b.name} ({b.width:,} ids)" for b in schema.blocks.values() if b.is_ragged]
    return f"{' and '.join(found)} per row"


def _members(job: Any) -> str:
    name = job.ensemble.name
    params = job.ensemble.params
    seeds = job.train.seeds.n
    folds = job.train.folds
    times = [f"{folds.n} folds" + (" (steps learn anew for each)" if folds.strict else "")] if folds else []
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
