"""Remember which runs MLflow still has to be told of.

What is to be told lies in the run's directory before anyone is told: events.jsonl line by line while it goes on, then
its records. `mlflow.json` beside them says to whom, and how far that got; its key is what MLflow knows the run by. A
run that was not told to its end is named in the store's `mlflow/untold`, where the next run of the store finds it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from fmray.errors import DataError
from fmray.records import Json
from fmray.store import Store
from fmray.track.address import FOLDER

FILE = "mlflow.json"
UNTOLD = "untold"


@dataclass(frozen=True)
class Notice:
    """Say what is to be told of a run beside its records, and how far that got.

    Args:
        key: Names the run to MLflow, also where two stores hold runs of one id.
        to: Address it is told to, without secrets.
        job: As asked, without secrets.
        tags: What is known of the run from its first moment: digests, versions.
        began: Unix time.
        told: How the run had ended when all of it was told; "" before.
        run, model: What MLflow calls the run and its model; "" before it has them.
    """

    key: str
    to: str
    job: Json
    tags: dict[str, str]
    began: float
    told: Literal["", "failed", "finished"] = ""
    run: str = ""
    model: str = ""


def read_notice(root: str, store: Store) -> Notice | None:
    """Read the notice of a run; None if MLflow was never to be told of it.

    Raises:
        DataError: If it is damaged.
    """
    path = f"{root}/{FILE}"
    if not store.exists(path):
        return None
    try:
        return Notice(**store.read_json(path))
    except TypeError as error:
        raise DataError(f"{path} is damaged: {error}. Remove it to have the run told anew.") from error


def write_notice(root: str, store: Store, notice: Notice) -> None:
    """Write the notice of a run, and name the run among those that are not told yet, or no longer."""
    entry = store.path(FOLDER, UNTOLD, f"{notice.key}.json")
    if not notice.told:  # first, so that no notice is forgotten
        store.write_json(entry, {"root": root.removeprefix(f"{store.root}/"), "to": notice.to})
    store.write_json(f"{root}/{FILE}", asdict(notice))
    if notice.told:
        store.remove(entry)


def untold(store: Store, shown: str) -> Iterator[str]:
    """Give the directories of the runs that one address was not told of to their end."""
    for name in store.list(store.path(FOLDER, UNTOLD)):
        entry = store.read_json(store.path(FOLDER, UNTOLD, name))
        if entry["to"] == shown and store.exists(f"{entry['root']}/{FILE}"):
            yield store.path(entry["root"])
