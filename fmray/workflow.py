"""Carry a job from its file to its report.

Every stage reads records and writes one; a stage whose inputs are unchanged is read back, not redone. That is all there
is to resuming, to retraining cheaply, and to running the same job twice.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from fmray.catalogue import ENSEMBLES
from fmray.data.lanes import Lanes
from fmray.data.prepare import prepare
from fmray.data.scan import Dataset, scan
from fmray.data.target import decide
from fmray.errors import FmrayError
from fmray.evaluate.baselines import dummy
from fmray.evaluate.score import score
from fmray.evaluate.table import read
from fmray.metrics.find import defaults, find_metric
from fmray.records import Predictions, Run, Split
from fmray.report.card import Card, write_card
from fmray.report.folder import environment, finish_run, open_run, start_run, write_members, write_model
from fmray.report.journal import Journal, Report, log_to
from fmray.rigour.gates import Evidence, judge
from fmray.rigour.ledger import Ledger
from fmray.spec.job import Job
from fmray.store import Store, fingerprint
from fmray.train.device import num_threads, set_up
from fmray.train.predict import predict, read_outputs
from fmray.tune.sweep import linear_job, linear_plans, plans_of, sweep


def run(job: Job, store: str | Store = "fmray-store", *, fresh: bool = False, report: Report = lambda event: None) -> Run:
    """Carry a job from its file to its report, in a store given by path; see `execute`."""
    return execute(job, Store(store) if isinstance(store, str) else store, fresh=fresh, report=report)


def execute(job: Job, store: Store, *, fresh: bool = False, report: Report = lambda event: None) -> Run:
    """Carry a job from its file to its report; finished stages are read back, not redone.

    A finished run of the same job on the same data is returned as it is; an unfinished one is continued.

    Args:
        fresh: Start anew, beside what is there.
        report: Gets every event: stages, epochs, notes.

    Raises:
        FmrayError: If anything is not as it must be; once that is mended, the run can be continued.
    """
    with _modules_of(job):
        report({"event": "stage", "stage": "scan", "text": f"looking at {job.data.path}"})
        dataset = scan(job.data, job.folder, store)
        run = open_run(job, dataset.fingerprint, store, fresh)
        if run.status == "finished":
            report({"event": "note", "text": f"run {run.id} is finished already; --fresh trains it anew"})
            return run
        with store.lease(run.root, wait_seconds=0), log_to(f"{run.root}/driver.log"):
            journal = Journal(run.root, store, report)
            start_run(run, job, store)
            try:
                return _carry(job, dataset, run, store, journal)
            except FmrayError as error:
                journal.fail(error)
                raise


def _carry(job: Job, dataset: Dataset, run: Run, store: Store, journal: Journal) -> Run:
    with journal.stage("prepare", f"{dataset.num_rows:,} rows in {len(dataset.files)} files"):
        task = decide(dataset, job.data, job.task)
        prepared = prepare(dataset, job, task, store, journal)
    primary, metrics = defaults(prepared.target)
    primary, metrics = job.evaluate.primary or primary, job.evaluate.metrics or metrics
    metric = find_metric(primary, prepared.target)

    with journal.stage("train", f"{prepared.num_rows('train'):,} rows, {job.train.seeds.n} members"):
        device = set_up(job.run, job.train)
        attempt = run.id.partition("-")[2]
        trained = sweep(job, plans_of(job, task), prepared, metric, store, device, attempt=attempt, report=journal)
    with journal.stage("baseline", ", ".join(job.evaluate.baselines) or "none"):
        plans = linear_plans(job, task) if "linear" in job.evaluate.baselines else []
        linear = sweep(linear_job(job), plans, prepared, metric, store, device, role="baseline", report=journal)

    def val_score(indices: tuple[int, ...]) -> float:
        some = [trained.members[index] for index in indices]
        path = f"{run.root}/predictions/val.parquet"
        return metric.value(*read_outputs(predict(some, [1 / len(some)] * len(some), prepared, "val", task, path, device)))

    with journal.stage("combine", job.ensemble.name):
        choose = ENSEMBLES.find(job.ensemble.name)
        ensemble = choose(trained.members, metric.higher_is_better, val_score, **job.ensemble.params)
        chosen = [trained.members[index] for index in ensemble.members]
        journal.note(f"{ensemble.name}: {ensemble.reason}, {primary} {ensemble.val_score:.4f} on validation")

    @cache
    def speak(subject: str, split: Split) -> Predictions:
        folder = "sealed" if split == "test" else "predictions"
        path = f"{run.root}/{folder}/{split}{'' if subject == 'model' else f'-{subject}'}.parquet"
        if subject == "dummy":
            return dummy(prepared, split, path)
        if subject == "linear":
            return predict([linear.best(metric)], [1.0], prepared, split, task, path, device)
        return predict(chosen, ensemble.weights, prepared, split, task, path, device)

    ledger = Ledger(store)

    def look() -> int:
        subject = fingerprint([member.tensor_hash for member in chosen], ensemble.weights)
        return ledger.look(prepared.test_identity, run.id, f"score of {job.name}", subject)

    with journal.stage("evaluate", f"{prepared.num_rows('test'):,} test rows, looked at once"):
        scores = score(job.evaluate, primary, metrics, prepared, speak, look)
        splits: tuple[Split, ...] = ("val", "test")
        evidence = Evidence(
            scores=scores,
            tables={split: read(speak("model", split)) for split in splits},
            expected_ids={split: Lanes(prepared, split).load(["row_id"])["row_id"] for split in splits},
            num_classes=len(prepared.target.classes),
            members=trained.members,
            chosen=ensemble.members,
            model=job.model.name,
            health=trained.health,
            positive=prepared.target.positive,
        )
        gates = judge(evidence, job.rigour)

    with journal.stage("report", run.root):
        everyone = [*trained.members, *linear.members]
        write_members(run.root, everyone)
        write_model(run.root, chosen, ensemble, prepared, store)
        store.write_json(f"{run.root}/scores.json", scores.to_json())
        store.write_json(f"{run.root}/gates.json", list(gates))
        card = Card(
            job=job.to_json(),
            run_id=run.id,
            root=run.root,
            prepared=prepared,
            members=trained.members,
            baselines=linear.members,
            ensemble=ensemble,
            scores=scores,
            gates=gates,
            environment=environment(str(device), num_threads(job.run)),
            timings=journal.seconds,
            ledger=tuple(ledger.looks(prepared.test_identity)),
            notes=journal.notes,
        )
        write_card(card, store)
        return finish_run(run, card, trained.widths, store)


@contextmanager
def _modules_of(job: Job) -> Iterator[None]:
    """Let the user's own modules be found beside the job file."""
    sys.path.insert(0, job.folder)
    try:
        yield
    finally:
        sys.path.remove(job.folder)
