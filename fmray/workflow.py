"""Carry a job from its file to its report.

Every stage reads records and writes one; a stage whose inputs are unchanged is read back, not redone. That is all there
is to resuming, to retraining cheaply, and to running the same job twice.
"""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache, partial

from fmray.catalogue import MODELS
from fmray.data.folds import Fold
from fmray.data.prepare import prepare
from fmray.data.scan import Dataset, scan
from fmray.data.session import run_here, run_over_ray, session, where_ray_runs
from fmray.data.target import decide
from fmray.ensemble.combine import combine, settled
from fmray.ensemble.folds import FOLD
from fmray.ensemble.voting import refuse_numbers
from fmray.errors import ClusterError, FmrayError, TrainError
from fmray.evaluate.baselines import dummy
from fmray.evaluate.intervals import Array, paired
from fmray.evaluate.score import score
from fmray.evaluate.sides import check_sides
from fmray.events import Driver, Note, Promotion, Report, RunOpened, Stage, ignore
from fmray.failures import STOPPED
from fmray.inference.serving import served
from fmray.metrics.find import defaults, find_metric
from fmray.metrics.metric import Metric
from fmray.printable import in_yaml
from fmray.promote import promote, started_from, starts_of
from fmray.records import Ensemble, Interval, Json, Member, Predictions, Prepared, Run, Scores, Split
from fmray.registry import importable
from fmray.report.card import Card, write_card
from fmray.report.folder import environment, finish_run, open_run, read_run, start_run, write_members
from fmray.report.journal import Journal, log_to
from fmray.rigour.gates import Evidence, judge
from fmray.rigour.ledger import Ledger
from fmray.spec.effect import hidden_params
from fmray.spec.inputs import unread
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Lease, Store, fingerprint, redact, waiting
from fmray.targets.codec import codec_of
from fmray.track.address import Address, address_of
from fmray.track.live import Live
from fmray.track.optuna import write_study
from fmray.track.publish import MOST_SECONDS, begin, is_told, publish, publish_untold
from fmray.track.registry import Registry
from fmray.track.tensorboard import write_events
from fmray.train.capacity import num_workers, require_room
from fmray.train.combine import alone
from fmray.train.device import num_threads, set_up
from fmray.train.failures import CodeError, is_of_user, user_frames
from fmray.train.groups import described
from fmray.train.heartbeat import beat
from fmray.train.population import layout_of
from fmray.train.predict import predict
from fmray.train.saved import write_model
from fmray.train.stacks import here
from fmray.train.workers import code_error
from fmray.tune.members import train_members
from fmray.tune.plans import job_at, left_out_numbers, linear_job, linear_plans
from fmray.tune.search import Search
from fmray.tune.space import num_members
from fmray.tune.summary import account_of
from fmray.tune.sweep import Sweep, Workers, sweep


def run(
    job: Job,
    store: str | Store = "fmray-store",
    *,
    fresh: bool = False,
    report: Report = ignore,
    wait_seconds: float = 0,
) -> Run:
    """Carry a job from its file to its report, in a store given by path; see `execute`."""
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
    """Carry a job from its file to its report; finished stages are read back, not redone.

    A finished run of the same job on the same data is returned as it is; an unfinished one is continued. In the end it
    is decided whether the run becomes champion, if the job asks for it.

    Args:
        fresh: Start anew, beside what is there.
        report: Gets every event: stages, epochs, notes.
        wait_seconds: How long to wait for another process that carries the same run.

    Raises:
        FmrayError: If anything is not as it must be; once that is mended, the run can be continued.
    """
    address = address_of(job.track.mlflow, store) if job.track.mlflow else None
    job = replace(job, track=replace(job.track, mlflow=redact(job.track.mlflow)))  # nobody else gets the password
    with importable(job.folder, job.modules()):
        run = _finish(job, store, fresh=fresh, report=report, address=address, wait_seconds=wait_seconds)
        if job.promote is not None:
            report(Stage("promote", f"{run.id} against the champion of {run.job}"))
            registry = Registry(run.job, store, address) if address else None
            report(Promotion(**promote(run, store, job.promote, registry).to_json()))
        return run


def _finish(job: Job, store: Store, fresh: bool, report: Report, address: Address | None, wait_seconds: float) -> Run:
    """Carry a job to its report, or find the run that was, and tell MLflow of it."""
    report(Stage("scan", f"looking at {job.data.path}"))
    dataset = scan(job.data, job.folder, store, fresh=fresh, also=job.named_columns)
    run = open_run(job, dataset.fingerprint, store, fresh)
    report(RunOpened(run.id, run.root))
    if run.status == "finished":
        _found(run, report)
        if address is not None and not is_told(run, store, address):
            with suppress(ClusterError), store.lease(run.root, wait_seconds=0):  # held: its holder tells
                begin(run, job.to_json(), modules=job.modules(), store=store, address=address)
                _tell(run, store, address, Journal(run.root, store, report))
        return run
    if wait_seconds and store.status(run.root) == "running":
        report(Note(f"another process holds this run; waits {wait_seconds:g} s for it to end"))
    with store.lease(run.root, wait_seconds=wait_seconds) as lease:
        if store.status(run.root) == "finished":  # by the process that held it until now
            return _found(read_run(run.root, store), report)
        return _hold(job, dataset, run=run, store=store, report=report, address=address, lease=lease)


def _found(run: Run, report: Report) -> Run:
    report(Stage("found", f"run {run.id}, finished before; --fresh trains it anew"))
    return run


def _hold(
    job: Job, dataset: Dataset, run: Run, store: Store, report: Report, address: Address | None, lease: Lease
) -> Run:
    """Carry a run whose lease is held, and leave word of how it ended, unless another process has taken it over."""
    with log_to(f"{run.root}/driver.log", store):
        start_run(run, job, store)
        notice = (
            None if address is None else begin(run, job.to_json(), modules=job.modules(), store=store, address=address)
        )
        live = Live(run.root, store, address=address, notice=notice, report=report) if address and notice else None
        journal = Journal(run.root, store, live or report)
        if lease.replaced:
            journal.note(lease.replaced)
        try:
            one = session() if job.run.workers not in ("auto", 0) else nullcontext()  # for all stages
            with one, waiting(journal, beat):
                journal(Driver([here()], where_ray_runs()))
                for text in hidden_params(job):
                    journal(Note(text))
                done = _run_stages(job, dataset, run=run, store=store, journal=journal)
        except BaseException as error:
            _refuse_lost(lease, error)
            named = _named(error, journal, run.root)
            if isinstance(named, Exception):
                journal.fail(named)
            if named is error:
                raise
            raise named from error
        finally:
            if live is not None:
                live.close()
                if not _loss(lease):
                    _tell(run, store, live.address, journal)
        return done


def _named(error: BaseException, journal: Journal, root: str) -> BaseException:
    """Give an error of the user's code in one line, with its place and that of its traceback; others as they are."""
    if isinstance(error, CodeError):
        return _told(CodeError(error.said, error.stacks, root))
    if not is_of_user(error):
        return error
    found = code_error(error, "stacks/error.txt", journal, STOPPED)
    if user_frames(error):
        return _told(CodeError(found.said, found.stacks, root, journal.at))
    return TrainError(
        f"{found.said}, which fmray did not expect. Its traceback is in {root}/{found.stacks}.", journal.at
    )


def _refuse_lost(lease: Lease, error: BaseException) -> None:
    """Say that the run is another process's now, whatever it was that this one noticed first.

    Raises:
        ClusterError: If it is.
    """
    if loss := _loss(lease):
        raise ClusterError(
            f"another process has taken over this run, since this one gave no sign of life for too long: {loss}. "
            "Nothing more was written. Run the job again to read what the other one makes of it."
        ) from error


def _loss(lease: Lease) -> str:
    """Say how a lease was lost, "" if it was not; a store that does not answer takes nothing over."""
    try:
        return lease.fence.loss()
    except FmrayError:
        return ""


def _told(error: CodeError) -> TrainError:
    """Give the error as one of the classes that callers know."""
    return TrainError(error.message, error.where)


def _tell(run: Run, store: Store, address: Address, journal: Journal) -> None:
    """Tell MLflow of a run that has ended, and of those that ended while it was away; the run is none the worse."""
    if store.status(run.root) not in ("failed", "finished"):
        return
    with journal.stage("publish", f"MLflow: {address.shown}"):
        try:
            publish(run.root, store, address=address, describe=served, most_seconds=MOST_SECONDS)
        except FmrayError as error:
            journal.note(f"{error} Told later: by the next run of this store, or by `fmray track {run.root}`.")
            return
        try:
            publish_untold(store, address, served, MOST_SECONDS)
        except FmrayError as error:
            journal.note(f"earlier runs, which MLflow missed: {error}")


def _run_stages(job: Job, dataset: Dataset, run: Run, store: Store, journal: Journal) -> Run:
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
    if job.model.name in MODELS:
        for text in unread(job.model.name, MODELS.params(job.model.name).reads, prepared.schema):
            journal.note(text)
    metric = find_metric(job.evaluate.primary or defaults(prepared.target)[0], prepared.target)
    for text in check_sides(prepared, metric, job.evaluate.metrics or defaults(prepared.target)[1]):
        journal.note(text)
    refuse_numbers(job.ensemble.name, job.ensemble.params, prepared.target.kind)
    if not job.ranges:
        journal.note(f"training in {workers or 'this process'}{' workers' if elsewhere else ''} ({rule})")
    work = _Work(
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
    )

    members = num_members(job) if job.ranges else job.train.seeds.n
    with journal.stage("train", f"{prepared.num_rows('train'):,} rows, {members} members"):
        trained = work.train()
    work = work.knowing(trained)
    with journal.stage("baseline", ", ".join(job.evaluate.baselines) or "none"):
        work, linear = work.train_linear()
    with journal.stage("combine", job.ensemble.name):
        ensemble = work.combine(trained)
    with journal.stage("evaluate", f"{prepared.num_rows('test'):,} test rows, looked at once"):
        scores, gates = work.judge(trained, linear, ensemble)
    with journal.stage("report", run.root):
        return work.report(trained, linear, ensemble, scores=scores, gates=gates)


@dataclass(frozen=True)
class _Work:
    """Hold what every stage after preparation needs."""

    job: Job
    dataset: Dataset
    run: Run
    store: Store
    journal: Journal
    task: Ref
    prepared: Prepared
    metric: Metric
    device: str
    workers: Workers

    def train(self) -> Sweep:
        if (groups := self.job.train.groups) and not self.job.ranges:  # members of a search may name other parameters
            for text in described(groups, layout_of(self.job.model, self.prepared)):
                self.journal.note(text)
        attempt = self.run.id.partition("-")[2]
        search = Search(
            self.job,
            self.task,
            prepare=self._prepare,
            metric=self.metric,
            store=self.store,
            attempt=attempt,
            report=self.journal,
        )
        train = self.job.train
        if train.start is not None:
            find = partial(started_from, self.job, train.start)
        elif train.warm_start is not None:
            find = partial(starts_of, self.job, train.warm_start)
        else:
            return train_members(search, self.prepared, self.workers, self.device)
        starts = find(self.prepared, self.run, store=self.store, note=self.journal.note)
        search = replace(search, starts=starts)
        return train_members(search, self.prepared, self.workers, self.device)

    def knowing(self, trained: Sweep) -> "_Work":
        """Know every way in which the rows of members that may speak were prepared."""
        used = {member.prepared: member for member in trained.members if member.root and member.prepared}
        others = [used[name] for name in sorted(used.keys() - {self.prepared.fingerprint})]
        variants = {one.prepared: self._prepare(*self._way_of(one)) for one in others}
        return replace(self, prepared=replace(self.prepared, variants=variants)) if variants else self

    def train_linear(self) -> tuple["_Work", Sweep]:
        """Train the linear baseline; know how its rows were prepared where that is not as the model's were."""
        job = linear_job(self.job, self.prepared)
        prepared = self.prepared
        plans = linear_plans(job, self.task) if "linear" in job.evaluate.baselines else []
        workers = 0 if self.job.ranges else self.workers
        if plans and (names := left_out_numbers(prepared)):
            self.journal.note(
                f"the linear baseline also sees what auto leaves out for the model: {', '.join(map(in_yaml, names))}"
            )
            prepared = self._prepare(job)
        linear = sweep(
            job,
            plans,
            prepared=prepared,
            metric=self.metric,
            store=self.store,
            workers=workers,
            role="baseline",
            report=self.journal,
        )
        if prepared is self.prepared:
            return self, linear
        variants = {**self.prepared.variants, prepared.fingerprint: prepared}
        return replace(self, prepared=replace(self.prepared, variants=variants)), linear

    def _way_of(self, member: Member) -> tuple[Job, int | None]:
        """Say how the rows of a member were prepared: by which steps, and what fold these learned nothing from."""
        folds = self.job.train.folds
        return job_at(self.job, member), member.params.get(FOLD) if folds and folds.strict else None

    def _prepare(self, job: Job, fold: int | None = None) -> Prepared:
        """Give the rows of a structure, which are those of the job unless it has steps of its own, or a fold has."""
        if fold is None and job.prepared_steps == self.job.at({}).prepared_steps:
            return self.prepared
        folds = self.job.train.folds
        left_out = None if folds is None or fold is None else Fold.of(fold, folds.n, self.job.train.seed)
        return prepare(self.dataset, job, task=self.task, store=self.store, report=self.journal, fold=left_out)

    def combine(self, trained: Sweep) -> Ensemble:
        asked = (self.job, trained.members, self.prepared, self.task, self.metric, self._gain, self.device)
        ensemble = combine(*asked, trained.says if trained.said else None)
        self.journal.note(
            f"{ensemble.name}: {ensemble.reason}, {self.metric.name} {ensemble.val_score:.4f} on validation"
        )
        if text := codec_of(self.prepared.target).about_settings(ensemble.params):
            self.journal.note(text)
        return ensemble

    def _gain(self, ours: Array, theirs: Array, target: Array, weight: Array | None, group: Array | None) -> Interval:
        flat = [output[:, 0] if output.shape[1] == 1 else output for output in (ours, theirs)]
        rows = [(output, target, weight) for output in flat]
        return paired(self.metric, rows[0], theirs=rows[1], group=group, level=self.job.evaluate.level)[0]

    def judge(self, trained: Sweep, linear: Sweep, ensemble: Ensemble) -> tuple[Scores, tuple[Json, ...]]:
        chosen = [trained.members[index] for index in ensemble.members]
        job = self.job
        prepared = self.prepared

        @cache
        def speak(subject: str, split: Split) -> Predictions:
            if subject == "dummy":
                return dummy(prepared, split, self._table(subject, split), dict(self.task.params))
            if subject == "linear":
                best = linear.best(self.metric)
                own = settled(alone(best), [best], prepared=prepared, task=self.task, device=self.device)
                return self._predict([best], own, subject, split)
            return self._predict(chosen, ensemble, subject, split)

        def look() -> int:
            subject = fingerprint(
                [member.tensor_hash for member in chosen], ensemble.weights, ensemble.combine, ensemble.params
            )
            return Ledger(self.store).look(
                prepared.test_identity, self.run.id, f"score of {job.name}", subject, job=job.name
            )

        metrics = job.evaluate.metrics or defaults(prepared.target)[1]
        run = run_over_ray if self.workers != 0 else run_here
        judgement = score(
            job.evaluate, self.metric.name, metrics=metrics, prepared=prepared, predict=speak, look=look, run=run
        )
        evidence = Evidence(
            scores=judgement.scores,
            facts=judgement.facts,
            shown=judgement.shown,
            num_classes=len(prepared.target.classes),
            members=trained.members,
            chosen=ensemble.members,
            model=job.model.name,
            health=trained.health,
            positive=prepared.target.positive,
        )
        return judgement.scores, judge(evidence, job.rigour)

    def report(self, trained: Sweep, linear: Sweep, ensemble: Ensemble, scores: Scores, gates: tuple[Json, ...]) -> Run:
        root = self.run.root
        prepared = self.prepared
        searched = (self.job, trained, prepared, self.metric, ensemble)
        account = account_of(*searched) if self.job.ranges else None
        write_members(root, [*trained.members, *linear.members])
        chosen = [trained.members[index] for index in ensemble.members]
        write_model(
            f"{root}/model",
            chosen,
            ensemble=ensemble,
            prepared=prepared,
            task=self.task,
            dataset=self.dataset,
            job=self.job,
        )
        self.store.write_json(f"{root}/scores.json", scores.to_json())
        self.store.write_json(f"{root}/gates.json", list(gates))
        card = Card(
            job=self.job.to_json(),
            run_id=self.run.id,
            root=root,
            prepared=prepared,
            members=trained.members,
            baselines=linear.members,
            ensemble=ensemble,
            scores=scores,
            gates=gates,
            environment=environment(self.device, num_threads(self.job.run)),
            timings=dict(self.journal.seconds),
            ledger=tuple(Ledger(self.store).verify(prepared.test_identity)),
            notes=self.journal.notes,
            search=account,
            failures=tuple(self.journal.failures()),
        )
        write_card(card, self.store)
        if self.job.track.tensorboard:
            write_events(f"{root}/tensorboard", [*trained.members, *linear.members], self.metric.name)
        if account is not None:
            asked = (self.job.name, self.metric.name, account.space)
            write_study(f"{root}/optuna.log", *asked, trained.members, self.metric.higher_is_better)
        return finish_run(self.run, card, trained.widths, self.store)

    def _predict(self, members: Sequence[Member], ensemble: Ensemble, subject: str, split: Split) -> Predictions:
        path = self._table(subject, split)
        over_ray = self.workers != 0
        return predict(
            members,
            ensemble,
            prepared=self.prepared,
            split=split,
            task=self.task,
            path=path,
            device=self.device,
            over_ray=over_ray,
        )

    def _table(self, subject: str, split: Split) -> str:
        folder = "sealed" if split == "test" else "predictions"
        return f"{self.run.root}/{folder}/{split}{'' if subject == 'model' else f'-{subject}'}.parquet"
