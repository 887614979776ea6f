"""Tell a model registry who is champion.

The history in the store decides; a registry that others read follows it, and catches up whenever it is told again.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from fmray.errors import ClusterError
from fmray.records import Run
from fmray.report.folder import read_run
from fmray.store import Store
from fmray.track import registry as mlflow
from fmray.track.address import address_of
from fmray.track.notice import read_notice


class Registry(Protocol):
    """Keep versions of one job's model, and names that stand for one of them."""

    def register(self, run: Run) -> int:
        """Give the version of a finished run, made where there is none."""
        ...

    def alias(self, name: str) -> int | None:
        """Give the version that a name stands for."""
        ...

    def move(self, name: str, expected: int | None, new: int) -> bool:
        """Let a name stand for another version, unless it stands for something else than expected: then False."""
        ...

    def versions(self) -> Sequence[Any]:
        """Give all versions, the oldest first."""
        ...


def registry_of(job: str, root: str, store: Store, to: str = "") -> Registry | None:
    """Give the registry that a run was told to, None if it was told to none.

    Args:
        root: Directory of the run.
        to: Address to take instead, as `track.mlflow` spells it.

    Raises:
        SpecError: If the address lacks its password.
    """
    notice = read_notice(root, store)
    where = to or (notice.to if notice is not None else "")
    return mlflow.Registry(job, store, address_of(where, store)) if where else None


def tell(registry: Registry, names: dict[str, str | None], folder: str, store: Store) -> str:
    """Let names stand for runs, and say what went wrong; empty if nothing did.

    Args:
        names: Alias -> id of a run; None leaves it where it is.
        folder: Where the runs of the job lie.
    """
    try:
        for name, run_id in names.items():
            if run_id is None:
                continue
            version = registry.register(read_run(f"{folder}/{run_id}", store))
            before = registry.alias(name)
            if before != version and not registry.move(name, before, version):
                return f"another process moved '{name}' meanwhile"
    except ClusterError as error:
        return str(error)
    return ""
