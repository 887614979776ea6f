"""Run a job from its file to its report: the stages, in order.

Every stage reads records and writes one. If its inputs are unchanged, the stored record is loaded and the stage is
skipped. Resuming, cheap retraining and running the same job twice all work this way.
"""

from dataclasses import replace

from fmray.data.scan import scan
from fmray.events import Promotion, Report, Stage, ignore
from fmray.promote import promote
from fmray.records import Run
from fmray.registry import importable
from fmray.spec.job import Job
from fmray.spec.pretrained import with_pretrained
from fmray.stages.ownership import claim_run
from fmray.stages.preparing import prepare_rows
from fmray.stages.reporting import write_results
from fmray.stages.scoring import combine_members, judge_training, score_model
from fmray.stages.training import train_linear, trainer_of, with_variants
from fmray.store import Store, redact
from fmray.track.address import address_of
from fmray.track.registry import Registry
from fmray.tune.plans import describe_members
from fmray.tune.search import train_members


def run(
    job: Job,
    store: str | Store = "fmray-store",
    *,
    fresh: bool = False,
    report: Report = ignore,
    wait_seconds: float = 0,
) -> Run:
    """Run a job in a store, given as a `Store` or as its path; see `execute`."""
    opened = Store(store) if isinstance(store, str) else store
    return execute(job, opened, fresh=fresh, report=report, wait_seconds=wait_seconds)


def execute(
    job: Job,
    store: Store,
    *,
    fresh: bool = False,
    report: Report = ignore,
    wait_seconds: float = 0,
) -> Run:
    """Run every stage of a job and return its run; stages that are stored already are skipped.

    A finished run of the same job on the same data is returned as it is; an unfinished one is resumed. If the job has a
    `promote` section, the run is then compared with the current champion and may replace it.

    Args:
        fresh: Start a new run; existing runs are kept.
        report: Called with every event: stages, epochs, notes.
        wait_seconds: How long to wait for another process that trains the same run.

    Raises:
        FmrayError: If the job, the data or the cluster has a problem. Fix the cause and run the job again to resume.
    """
    address = address_of(job.track.mlflow, store) if job.track.mlflow else None
    # only `address` keeps the password: the job itself is stored and reported
    job = replace(job, track=replace(job.track, mlflow=redact(job.track.mlflow)))
    job = with_pretrained(job)
    with importable(job.folder, job.modules()):
        report(Stage("scan", f"scanning {job.data.path}"))
        dataset = scan(job.data, job.folder, store, fresh=fresh, extra_columns=job.named_columns)
        with claim_run(
            job, dataset, store=store, fresh=fresh, report=report, address=address, wait_seconds=wait_seconds
        ) as (run, journal):
            if journal is not None:  # None: the run had finished before, and is only returned
                context = prepare_rows(job, dataset, run=run, store=store, journal=journal)
                with journal.stage("train", f"{context.prepared.num_rows('train'):,} rows, {describe_members(job)}"):
                    trained = train_members(trainer_of(context), context.prepared, context.workers, context.device)
                context = with_variants(context, trained)  # a search over steps prepares rows in several ways
                with journal.stage("baseline", ", ".join(job.evaluate.baselines) or "none"):
                    context, linear = train_linear(context)
                with journal.stage("combine", job.ensemble.name):
                    ensemble = combine_members(context, trained)
                context = judge_training(context, trained, ensemble)
                with journal.stage("evaluate", f"{context.prepared.num_rows('test'):,} test rows, evaluated only once"):
                    scores, gates = score_model(context, trained, linear, ensemble)
                with journal.stage("report", run.root):
                    run = write_results(context, trained, linear, ensemble, scores=scores, gates=gates)
        if job.promote is not None:
            report(Stage("promote", f"{run.id} against the champion of {run.job}"))
            registry = Registry(run.job, store, address) if address else None
            report(Promotion(**promote(run, store, job.promote, registry).to_json()))
        return run
