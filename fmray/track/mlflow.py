"""Speak with MLflow; nobody else does.

The library is imported when there is something to tell, since that takes over a second. Its telemetry, its printing
and its own retries are off: whoever calls has kept what it tells, and tells it again later. Nothing of MLflow's global
state is used, so a program that uses MLflow itself is not disturbed.
"""

import importlib.metadata
import json
import logging
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fmray.errors import ClusterError, DataError, FmrayError
from fmray.records import Json
from fmray.store.fences import guards
from fmray.track.address import FOLDER, Address
from fmray.track.entries import Entry, Point

ANSWER_SECONDS = 4
"""How long a server may take for one answer, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise."""
WAIT_SECONDS = 30.0
"""How long to wait for another process that writes to the store's own database."""
MOST_POINTS, MOST_WORDS = 800, 100
"""Points, and parameters or tags, that go into one request; MLflow takes 1000 in all, 100 of each of the latter."""
KEY, NESTED = "fmray.key", "fmray.nested"
"""Tags by which runs are found again: of a run, and of the nested runs of one."""
Words = Sequence[tuple[str, str]]

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_SECONDS),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
_OURS = {
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
_REQUIRED = ("fmray", "mlflow", "torch", "pandas", "numpy", "polars", "pyarrow", "safetensors")


@dataclass(frozen=True)
class Served:
    """Hold what turns the model of a run into one that MLflow can serve.

    Args:
        code: Path of the Python file that loads it, in MLflow's "models from code".
        example, answer: A few rows as they come, and what the model says of them, as pandas frames.
        packages: That the model needs beside those of all models.
    """

    code: str
    example: Any
    answer: Any
    packages: tuple[str, ...] = ()


@contextmanager
def connected(address: Address, most_seconds: float | None = None) -> Iterator["Connection"]:
    """Open MLflow at an address.

    Args:
        most_seconds: Time after which nothing more is asked of it.

    Raises:
        ClusterError: For whatever goes wrong there, without secrets; or if another process is busy there for long.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before the import, which asks
    alone = nullcontext() if address.store is None else address.store.lease(FOLDER, wait_seconds=WAIT_SECONDS)
    try:
        with alone, _quiet() as mlflow:
            yield Connection(mlflow, mlflow.MlflowClient(address.uri, address.uri), address, most_seconds)
    except FmrayError:
        raise
    except Exception as error:  # drivers and servers of many makers: whatever it is, training must not end by it
        reason = " ".join(address.hide(str(error)).split())[:500] or type(error).__name__
        raise ClusterError(f"MLflow at {address.shown}: {reason}.".replace("..", "."), "track.mlflow") from None


@contextmanager
def _quiet() -> Iterator[Any]:
    settings = {**_OURS, **{name: value for name, value in _SETTINGS.items() if name not in os.environ}}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3")]
    levels = [logger.level for logger in loggers]
    is_main = threading.current_thread() is threading.main_thread()
    # filters belong to the whole process, so that only its main thread may change them for a while
    unwarned = warnings.catch_warnings(action="ignore") if is_main else nullcontext()
    try:
        with unwarned:
            import mlflow  # sets the level of its logger

            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield mlflow
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Connection:
    """Tell MLflow of runs, each thing once however often it is told."""

    def __init__(self, mlflow: Any, client: Any, address: Address, most_seconds: float | None) -> None:
        self.refused = mlflow.MlflowException
        self._client = client
        self._mlflow = mlflow
        self._address = address
        self._until = None if most_seconds is None else time.monotonic() + most_seconds
        self._most = most_seconds

    @property
    def client(self) -> Any:
        """MLflow's client, asked for anew before each request, so that none is made too late or by a lost holder.

        Raises:
            ClusterError: If another process has taken over what this one holds, or the time is up.
        """
        return self._request()

    def _request(self) -> Any:
        _require_held()
        if self._until is not None and time.monotonic() > self._until:
            raise ClusterError(
                f"MLflow at {self._address.shown}: not done after {self._most:g} s. The rest is told later.",
                "track.mlflow",
            )
        return self._client

    def experiment(self, name: str) -> str:
        """Give the id of an experiment, made where there is none."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = self._address.artifacts
            try:
                return str(self.client.create_experiment(name, None if place is None else f"{place}/{name}"))
            except self.refused:
                found = self.client.get_experiment_by_name(name)  # another process was faster
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise ClusterError(f"experiment '{name}' was deleted. Restore it, or rename the job.", "track.mlflow")
        return str(found.experiment_id)

    def run(self, experiment: str, key: str, name: str, began: float) -> Any:
        """Give the run that goes by a key, made where there is none; of doubles, left by lost answers, the first."""
        found = self.client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", order_by=["attributes.start_time"])
        found = sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        for double in found[1:]:
            self.client.delete_run(double.info.run_id)
        return found[0] if found else self.client.create_run(experiment, int(began * 1000), {KEY: key}, name)

    def nest(self, experiment: str, parent: str, entry: Entry, began: float) -> Any:
        """Make the nested run of an entry."""
        tags = {NESTED: entry.mark, "mlflow.parentRunId": parent}
        return self.client.create_run(experiment, int(began * 1000), tags, entry.name)

    def nested(self, experiment: str, parent: str) -> dict[str, Any]:
        """Give the nested runs of a run by their marks."""
        found = self.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=1000)
        marked: dict[str, Any] = {}
        for run in sorted(found, key=lambda run: run.info.run_id):
            mark = run.data.tags.get(NESTED, "")
            if mark in marked:
                self.client.delete_run(run.info.run_id)
            else:
                marked[mark] = run
        return marked

    def tell(self, run: Any, entry: Entry, model: str = "") -> None:
        """Write what MLflow does not have yet of an entry, and end the run.

        Args:
            run: As MLflow gave it.
            model: Id of the logged model that the scores on validation and test belong to.
        """
        known = run.data
        params = [(name, text) for name, text in entry.params.items() if name not in known.params and text]
        tags = [(name, text) for name, text in entry.tags.items() if known.tags.get(name, "") != text]
        self._write(run, params, tags=tags, points=self._missing(run, entry.points), model=model)
        self.client.set_terminated(run.info.run_id, entry.status, int(entry.ended * 1000))

    def progress(self, run: Any, points: Sequence[Point]) -> None:
        """Write what a run that goes on does not have yet, and show it as running."""
        if run.info.status != "RUNNING":  # it failed before, and is continued
            self.client.update_run(run.info.run_id, "RUNNING")
        self._write(run, (), tags=(), points=self._missing(run, points), model="")

    def _missing(self, run: Any, points: Sequence[Point]) -> list[Point]:
        known = {
            (metric, point.step)
            for metric in {point.metric for point in points} & run.data.metrics.keys()
            for point in self.client.get_metric_history(run.info.run_id, metric)
        }
        return [point for point in points if (point.metric, point.step) not in known]

    def _write(self, run: Any, params: Words, tags: Words, points: Sequence[Point], model: str) -> None:
        make = self._mlflow.entities
        most = range(0, max(len(params), len(tags)), MOST_WORDS), range(0, len(points), MOST_POINTS)
        for words, start in zip_longest(*most):
            some: Json = {"params": [], "tags": [], "metrics": []}
            if words is not None:
                some["params"] = [make.Param(*pair) for pair in params[words : words + MOST_WORDS]]
                some["tags"] = [make.RunTag(*pair) for pair in tags[words : words + MOST_WORDS]]
            if start is not None:
                some["metrics"] = [
                    make.Metric(p.metric, p.value, int(p.seconds * 1000), p.step, model_id=_judged(p, model))
                    for p in points[start : start + MOST_POINTS]
                ]
            self.client.log_batch(run.info.run_id, **some)

    def data(self, run: Any, name: str, digest: str, source: Json, profile: Json) -> None:
        """Say what a run learned from; said again, MLflow keeps it once."""
        entities = self._mlflow.entities
        known = entities.Dataset(
            name=name[:500],
            digest=digest[:36],
            source_type="local",
            source=json.dumps(source),
            profile=json.dumps(profile),
        )
        tag = entities.InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run.info.run_id, [entities.DatasetInput(known, [tag])])

    def files(self, run: Any, files: Mapping[str, bytes]) -> None:
        """Store files as artefacts of a run, in place of those of the same names."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            self.client.log_artifacts(run.info.run_id, folder)

    def model(self, experiment: str, run: Any, key: str, folder: str, served: Served) -> str:
        """Log the model in a folder so that MLflow can serve it, once, and give its id.

        Raises:
            DataError: If MLflow has no words for what the model takes or gives.
        """
        found = self.client.search_logged_models([experiment], f"tags.`{KEY}` = '{key}'")
        ready = [model for model in found if str(model.status) == "READY"]
        if ready:
            return str(ready[0].model_id)
        for partial in found:
            self.client.delete_logged_model(partial.model_id)
        identity = run.info.run_id
        entities = self._mlflow.entities
        with tempfile.TemporaryDirectory() as place:
            made = self.client.create_logged_model(experiment, "model", identity, {KEY: key})
            try:
                self._mlflow.pyfunc.save_model(
                    f"{place}/model",
                    mlflow_model=self._mlflow.models.Model(run_id=identity, model_id=made.model_id),
                    python_model=served.code,
                    artifacts={"model": folder},
                    signature=self._mlflow.models.infer_signature(served.example, served.answer),
                    input_example=served.example,
                    pip_requirements=requirements(served.packages),
                )
            except self.refused as error:
                self.client.delete_logged_model(made.model_id)
                raise DataError(f"the model cannot be served by MLflow: {error}. Use fmray predict.") from error
            self.client.log_outputs(identity, [entities.LoggedModelOutput(made.model_id, step=0)])
            self.client.log_model_artifacts(made.model_id, f"{place}/model")
            self.client.finalize_logged_model(made.model_id, "READY")
        return str(made.model_id)


def _require_held() -> None:
    """Make sure that this process still holds what it tells of: MLflow hears of a run from its holder alone."""
    for fence in guards():
        fence.check()


def requirements(packages: Sequence[str]) -> list[str]:
    """Name what a served model needs, in the versions at hand; builds such as `+cpu` are left to whoever installs.

    Args:
        packages: That this model needs beside those of all models.
    """
    found = []
    for name in (*_REQUIRED, *packages):
        try:
            found.append(f"{name}=={importlib.metadata.version(name).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
    return found


def _judged(point: Point, model: str) -> str | None:
    """Give the model that a point speaks of, if it is a score."""
    return model if model and point.metric.startswith(("test/", "val/")) else None
