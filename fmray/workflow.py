"""Run a job from its file to its report: the stages, in order.

Every stage reads records and writes one; a stage whose inputs are unchanged is read back, not redone. That is all there
is to resuming, to retraining cheaply, and to running the same job twice.
"""

from dataclasses import replace

from fmray.data.scan import scan
from fmray.events import Promotion, Report, Stage, ignore
from fmray.promote import promote
from fmray.records import Run
from fmray.registry import importable
from fmray.spec.job import Job
from fmray.stages.ownership import claimed
from fmray.stages.preparing import prepare_rows
from fmray.stages.reporting import write_results
from fmray.stages.scoring import combine_members, judge_training, score_model
from fmray.stages.training import search_of, train_linear, with_variants
from fmray.store import Store, redact
from fmray.track.address import address_of
from fmray.track.registry import Registry
from fmray.tune.members import train_members
from fmray.tune.space import num_members


def run(
    job: Job,
    store: str | Store = "fmray-store",
    *,
    fresh: bool = False,
    report: Report = ignore,
    wait_seconds: float = 0,
) -> Run:
    """Run a job from its file to its report, in a store given by path; see `execute`."""
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
    """Run a job from its file to its report; finished stages are read back, not redone.

    A finished run of the same job on the same data is returned as it is; an unfinished one is continued. In the end it
    is decided whether the run becomes champion, if the job asks for it.

    Args:
        fresh: Start anew, beside what is there.
        report: Gets every event: stages, epochs, notes.
        wait_seconds: How long to wait for another process that trains the same run.

    Raises:
        FmrayError: If anything is not as it must be; once that is mended, the run can be continued.
    """
    address = address_of(job.track.mlflow, store) if job.track.mlflow else None
    job = replace(job, track=replace(job.track, mlflow=redact(job.track.mlflow)))  # nobody else gets the password
    with importable(job.folder, job.modules()):
        report(Stage("scan", f"looking at {job.data.path}"))
        dataset = scan(job.data, job.folder, store, fresh=fresh, also=job.named_columns)
        with claimed(
            job, dataset, store=store, fresh=fresh, report=report, address=address, wait_seconds=wait_seconds
        ) as (run, journal):
            if journal is not None:
                context = prepare_rows(job, dataset, run=run, store=store, journal=journal)
                members = num_members(job) if job.ranges else job.train.seeds.n
                with journal.stage("train", f"{context.prepared.num_rows('train'):,} rows, {members} members"):
                    trained = train_members(search_of(context), context.prepared, context.workers, context.device)
                context = with_variants(context, trained)
                with journal.stage("baseline", ", ".join(job.evaluate.baselines) or "none"):
                    context, linear = train_linear(context)
                with journal.stage("combine", job.ensemble.name):
                    ensemble = combine_members(context, trained)
                context = judge_training(context, trained, ensemble)
                with journal.stage("evaluate", f"{context.prepared.num_rows('test'):,} test rows, looked at once"):
                    scores, gates = score_model(context, trained, linear, ensemble)
                with journal.stage("report", run.root):
                    run = write_results(context, trained, linear, ensemble, scores=scores, gates=gates)
        if job.promote is not None:
            report(Stage("promote", f"{run.id} against the champion of {run.job}"))
            registry = Registry(run.job, store, address) if address else None
            report(Promotion(**promote(run, store, job.promote, registry).to_json()))
        return run
