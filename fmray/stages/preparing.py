"""Prepare the rows of a run."""

from dataclasses import replace

from fmray.catalogue import ESTIMATORS, MODELS
from fmray.data.prepare import prepare
from fmray.data.scan import Dataset
from fmray.data.target import decide
from fmray.ensemble.voting import refuse_numbers
from fmray.evaluate.sides import check_sides
from fmray.metrics.find import defaults, find_metric
from fmray.records import Run
from fmray.report.gates import data_gates
from fmray.report.journal import Journal
from fmray.spec.inputs import require_inputs, unread
from fmray.spec.job import Job
from fmray.stages.context import Context
from fmray.store import Store
from fmray.train.capacity import num_workers, require_room
from fmray.train.device import set_up


def prepare_rows(job: Job, dataset: Dataset, run: Run, store: Store, journal: Journal) -> Context:
    """Prepare the rows of a run, and decide all that training needs to know."""
    workers, rule = num_workers(job.run)
    if not job.ranges:  # a search makes room for its trials
        require_room(workers, job.run.gpu)
    elsewhere = workers != 0  # then this machine needs no GPU of its own
    run_here = replace(job.run, gpu="auto" if job.run.gpu is True else job.run.gpu) if elsewhere else job.run
    device = str(set_up(run_here, job.train))  # first, so that what this machine lacks is said before any work
    with journal.stage("prepare", f"{dataset.num_rows:,} rows in {len(dataset.files)} files"):
        task = decide(dataset, job.data, job.task)
        prepared = prepare(dataset, job.at({}) if job.ranges else job, task=task, store=store, report=journal)
        for text in prepared.notes:  # also where the record is read back: whoever runs a job is told what it decides
            if text not in journal.notes:
                journal.note(text)
    gates = data_gates(prepared, job, root=run.root, store=store, note=journal.note)
    if job.model.name in MODELS or job.model.name in ESTIMATORS:
        for text in unread(job.model.name, MODELS.params(job.model.name).reads, prepared.schema):
            journal.note(text)
        if not job.ranges:  # which may change the steps; then each trial tells
            declared = MODELS.params(job.model.name)
            require_inputs(job.model.name, declared.reads, declared.needs, prepared.schema)
    metric = find_metric(job.evaluate.primary or defaults(prepared.target)[0], prepared.target, task.params)
    for text in check_sides(prepared, metric, job.evaluate.metrics or defaults(prepared.target)[1]):
        journal.note(text)
    refuse_numbers(job.ensemble.name, job.ensemble.params, prepared.target.kind)
    if not job.ranges:
        journal.note(f"training in {workers or 'this process'}{' workers' if elsewhere else ''} ({rule})")
    return Context(
        job,
        dataset,
        run=run,
        store=store,
        journal=journal,
        task=task,
        prepared=prepared,
        metric=metric,
        device=device,
        workers=workers,
        gates=gates,
    )
