"""Own a run while it is trained: one process writes to it, keeps its journal and records how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from fmray.data.scan import Dataset
from fmray.data.session import session, where_ray_runs
from fmray.errors import ClusterError, FmrayError
from fmray.events import Driver, Note, Report, RunOpened, Stage
from fmray.records import Run
from fmray.report.folder import open_run, read_run, start_run
from fmray.report.journal import Journal, log_to
from fmray.spec.effect import hidden_params, said_of_estimator, said_of_steps
from fmray.spec.job import Job
from fmray.spec.pretrained import said_of_pretrained
from fmray.stages.errors import name_error
from fmray.stages.tracking import publish_ended
from fmray.store import Lease, Store, waiting
from fmray.track.address import Address
from fmray.track.live import Live
from fmray.track.publish import begin, is_told
from fmray.train.heartbeat import beat
from fmray.train.stacks import here


@contextmanager
def claim_run(
    job: Job, dataset: Dataset, store: Store, fresh: bool, report: Report, address: Address | None, wait_seconds: float
) -> Iterator[tuple[Run, Journal | None]]:
    """Claim the run of a job for the length of a `with` block, and give it with its journal.

    A run that is finished, perhaps by the process that held it until now, is given without one.

    Args:
        wait_seconds: How long to wait for another process that trains it.

    Raises:
        ClusterError: If another process holds the run, or has taken it over.
        TrainError: If code of the job failed, or anything that fmray did not expect.
    """
    run = open_run(job, dataset.fingerprint, store, fresh)
    report(RunOpened(run.id, run.root))
    found = Stage("found", f"run {run.id}, finished before; --fresh trains it anew")
    if run.status == "finished":
        report(found)
        if address is not None and not is_told(run, store, address):
            with suppress(ClusterError), store.lease(run.root, wait_seconds=0):  # held: its holder tells
                begin(run, job.to_json(), modules=job.modules(), store=store, address=address)
                publish_ended(run, store, address, Journal(run.root, store, report))
        yield run, None
        return
    if wait_seconds and store.status(run.root) == "running":
        report(Note(f"another process holds this run; waits {wait_seconds:g} s for it to end"))
    with store.lease(run.root, wait_seconds=wait_seconds) as lease:
        if store.status(run.root) == "finished":
            report(found)
            yield read_run(run.root, store), None
            return
        with own_run(job, run, store=store, report=report, address=address, lease=lease) as journal:
            yield run, journal


@contextmanager
def own_run(
    job: Job, run: Run, store: Store, report: Report, address: Address | None, lease: Lease
) -> Iterator[Journal]:
    """Own a run whose lease is held, for the length of a `with` block: keep its journal, and record how it ended.

    Raises:
        ClusterError: If another process has taken the run over.
        TrainError: If code of the job failed, or anything that fmray did not expect.
    """
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
                for text in [
                    *hidden_params(job),
                    *said_of_estimator(job),
                    *said_of_steps(job),
                    *said_of_pretrained(job),
                ]:
                    journal.note(text)
                yield journal
        except BaseException as error:
            _refuse_lost(lease, error)
            named = name_error(error, journal, run.root)
            if isinstance(named, Exception):
                journal.fail(named)
            if named is error:
                raise
            raise named from error
        finally:
            if live is not None:
                live.close()
                if not _loss(lease):
                    publish_ended(run, store, live.address, journal)


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
