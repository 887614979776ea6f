"""Publish runs that have ended to MLflow; a run is none the worse where that fails."""

from fmray.errors import FmrayError
from fmray.inference.serving import served
from fmray.records import Run
from fmray.report.journal import Journal
from fmray.store import Store
from fmray.track.address import Address
from fmray.track.publish import MOST_SECONDS, publish, publish_untold


def publish_ended(run: Run, store: Store, address: Address, journal: Journal) -> None:
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
