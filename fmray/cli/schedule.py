"""Run jobs by the clock, show what became of their ticks, and hand schedules to Kubernetes."""

from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Annotated, Any

import typer

from fmray.cli.listing import open_store
from fmray.cli.options import DEFAULT_STORE, DONE, AsJson, JobFile, StorePath, app, out

schedule = typer.Typer(
    help="Run jobs by the clock, as their schedule says.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(schedule, name="schedule")


class Target(StrEnum):
    """Name what a schedule can be written as."""

    KUBERNETES = "kubernetes"
    RAYJOB = "rayjob"
    RAYCLUSTER = "raycluster"


JobFiles = Annotated[list[str], typer.Argument(metavar="JOB...", help="Job files with a schedule.")]


@schedule.command()
def run(
    job_files: JobFiles,
    store: StorePath = DEFAULT_STORE,
    address: Annotated[str, typer.Option("--address", help="Submit runs to the cluster there.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Do what is due, wait for its runs, and end.")] = False,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Keep the schedules of jobs, in the foreground; start it twice, and one stands by."""
    import time

    from fmray.schedule.launch import start
    from fmray.schedule.loop import Timer, keep
    from fmray.spec.load import load_job
    from fmray.store import Store

    opened = Store(store)
    told = []

    def say(name: str, entry: Any) -> None:
        told.append({"job": name, **_plain(entry)})
        if not as_json:
            out.say(f"{entry.when}  {name}  {_spell(entry.decision)}")

    def timer(job_file: str) -> Timer:
        launch = partial(start, load_job(job_file).name, job_file, opened, address)
        return Timer(partial(load_job, job_file), opened, launch, say)

    keep([timer(file) for file in job_files], lambda: datetime.now(UTC), time.sleep, once=once)
    return DONE, {"status": "done", "decisions": told}


@schedule.command()
def show(
    job_file: JobFile,
    store: StorePath = DEFAULT_STORE,
    count: Annotated[int, typer.Option("--count", min=1, help="So many ticks and decisions.")] = 10,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Show the next ticks of a job, and what became of past ones."""
    from fmray.schedule.book import Book
    from fmray.schedule.loop import schedule_of
    from fmray.schedule.ticks import stamp, ticks
    from fmray.spec.load import load_job

    job = load_job(job_file)
    coming = [stamp(tick) for tick in islice(ticks(schedule_of(job), datetime.now(UTC)), count)]
    entries = Book(open_store(store), job.name).entries(count)
    if not as_json:
        past = [f"{entry.when}  {_spell(entry.decision)}" for entry in entries]
        out.say(*(past or ["no scheduler was here yet"]), *(f"next  {tick}" for tick in coming))
    return DONE, {"status": "shown", "next": coming, "decisions": [_plain(entry) for entry in entries]}


@schedule.command()
def export(
    job_file: JobFile,
    image: Annotated[str, typer.Option("--image", help="Image with fmray and kubectl, e.g. of cluster/Dockerfile.")],
    store: Annotated[str, typer.Option("--store", envvar="FMRAY_STORE", help="URI of the store.")],
    to: Annotated[Target, typer.Option("--to", help="What to write.")] = Target.KUBERNETES,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Pods beside the head.")] = 2,
    cpus: Annotated[int, typer.Option("--cpus", min=1, help="Of each worker.")] = 4,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="Of each worker.")] = 0,
    as_json: AsJson = False,
) -> tuple[int, dict[str, Any]]:
    """Write a job and its schedule as manifests for Kubernetes with KubeRay."""
    from fmray.schedule.kubernetes import Place, render
    from fmray.spec.load import load_job

    job = load_job(job_file)
    manifests = render(
        to.value,
        job,
        Place(job.name.lower().replace("_", "-"), image, workers=workers, cpus=cpus, gpus=gpus, store=store),
    )
    if not as_json:
        out.say(*manifests.splitlines())
    return DONE, {"status": "exported", "manifests": manifests}


def _plain(entry: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {"when": entry.when, **asdict(entry.decision)}


def _spell(decision: Any) -> str:
    ticks = f"{decision.first} to {decision.tick} ({decision.count} ticks)" if decision.count > 1 else decision.tick
    rest = [part for part in (decision.reason, decision.run_dir) if part]
    return f"{ticks}  {decision.event}" + "".join(f": {part}" for part in rest)
