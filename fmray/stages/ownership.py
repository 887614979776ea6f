"""Own a run while it is trained: one process writes to it, keeps its journal and records how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from fmray.data.session import session, where_ray_runs
from fmray.errors import ClusterError, FmrayError
from fmray.events import Driver, Report
from fmray.records import Run
from fmray.report.folder import start_run
from fmray.report.journal import Journal, log_to
from fmray.spec.effect import hidden_params, said_of_estimator
from fmray.spec.job import Job
from fmray.stages.errors import name_error
from fmray.stages.tracking import publish_ended
from fmray.store import Lease, Store, waiting
from fmray.track.address import Address
from fmray.track.live import Live
from fmray.track.publish import begin
from fmray.train.heartbeat import beat
from fmray.train.stacks import here


@contextmanager
def owned(job: Job, run: Run, store: Store, report: Report, address: Address | None, lease: Lease) -> Iterator[Journal]:
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
                for text in [*hidden_params(job), *said_of_estimator(job)]:
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
