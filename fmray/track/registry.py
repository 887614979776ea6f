"""Keep the versions of a job's model in MLflow's registry, and say which one is meant by a name.

MLflow moves an alias without asking where it stood. Here it moves only from where the mover believes it to be, under a
lease of the store; that binds all who share the store, and none who move aliases past it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fmray.errors import ClusterError
from fmray.records import Run
from fmray.store import Store
from fmray.track.address import FOLDER, Address
from fmray.track.mlflow import KEY, Connection, connected
from fmray.track.notice import Notice, read_notice

RUN, ROOT = "fmray.run", "fmray.root"
"""Tags of a version: the run it came from, and that run's directory in its store."""
WAIT_SECONDS = 30.0
"""How long to wait for another process that moves an alias of the same model."""


@dataclass(frozen=True)
class Version:
    """Describe one version of a model.

    Args:
        number: As MLflow counts, from 1.
        run: Id of the run it came from.
        root: Directory of that run, relative to the store it lies in.
        aliases: Names that stand for it, e.g. "champion".
    """

    number: int
    run: str
    root: str
    aliases: tuple[str, ...] = ()


class Registry:
    """Look after the registered model of a job.

    Every method asks MLflow anew, and raises ClusterError where it does not answer.

    Args:
        name: Of the job, and of the model.
        address: Where MLflow is; see `fmray.track.address.address_of`.
    """

    def __init__(self, name: str, store: Store, address: Address) -> None:
        self.name = name
        self._store = store
        self._address = address

    def register(self, run: Run) -> int:
        """Give the version of a finished run, made where there is none.

        Raises:
            ClusterError: If MLflow does not have the model of the run yet.
        """
        notice = read_notice(run.root, self._store)
        if notice is None or not notice.model:
            raise ClusterError(f"MLflow does not have the model of run {run.id} yet. Give it: fmray track {run.root}")
        with self._connected() as connection:
            return register_model(connection, notice, run.root, self._store)

    def alias(self, name: str) -> int | None:
        """Give the version that a name stands for, None if it stands for none."""
        with self._connected() as connection:
            return _aliases(connection, self.name).get(name)

    def move(self, name: str, expected: int | None, new: int) -> bool:
        """Let a name stand for another version, unless it stands for something else than expected: then False.

        Args:
            expected: What the decision to move it was based on; None if it was to be the first.

        Raises:
            ClusterError: If there is no such version, or another process is moving aliases of this model for long.
        """
        place = self._store.path(FOLDER, "models", self.name)
        with self._store.lease(place, wait_seconds=WAIT_SECONDS) as lease, self._connected() as connection:
            if _aliases(connection, self.name).get(name) != expected:
                return False
            lease.check()
            connection.client.set_registered_model_alias(self.name, name, str(new))
            return True

    def versions(self) -> tuple[Version, ...]:
        """Give all versions, the oldest first."""
        with self._connected() as connection:
            names: dict[int, list[str]] = {}
            for alias, number in _aliases(connection, self.name).items():
                names.setdefault(number, []).append(alias)
            found = [(int(v.version), v.tags) for v in _versions(connection, self.name)]
            return tuple(
                Version(number, tags.get(RUN, ""), tags.get(ROOT, ""), tuple(sorted(names.get(number, ()))))
                for number, tags in found
            )

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        with connected(self._address) as connection:
            yield connection


def register_model(connection: Connection, notice: Notice, root: str, store: Store) -> int:
    """Give the version of the model that a notice names, made where there is none."""
    name = notice.job["name"]
    found = [v for v in _versions(connection, name) if v.tags.get(KEY) == notice.key]
    if found:
        return int(found[0].version)
    if _model(connection, name) is None:
        try:
            connection.client.create_registered_model(name)
        except connection.refused:
            if _model(connection, name) is None:  # else another process was faster
                raise
    tags = {KEY: notice.key, RUN: root.rpartition("/")[2], ROOT: root.removeprefix(f"{store.root}/")}
    # not models:/<id>, which MLflow would look up in its own idea of where it is
    source = connection.client.get_logged_model(notice.model).artifact_location
    made = connection.client.create_model_version(name, source, notice.run, tags, model_id=notice.model)
    link = json.dumps([{"name": name, "version": made.version}])
    connection.client.set_logged_model_tags(notice.model, {"mlflow.modelVersions": link})  # as MLflow's pages expect
    return int(made.version)


def _versions(connection: Connection, name: str) -> list[Any]:
    found = []
    token = None
    while token != "":
        page = connection.client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        found += page
        token = page.token or ""
    return sorted(found, key=lambda version: int(version.version))


def _aliases(connection: Connection, name: str) -> dict[str, int]:
    model = _model(connection, name)
    return {} if model is None else {alias: int(number) for alias, number in model.aliases.items()}


def _model(connection: Connection, name: str) -> Any | None:
    try:
        return connection.client.get_registered_model(name)
    except connection.refused as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
