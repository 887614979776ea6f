"""Train a few members, from which models of every kind are put together without training again."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fmray.data.prepare import prepare
from fmray.data.scan import Dataset, scan
from fmray.evaluate.table import Table, read
from fmray.inference.model import SavedModel, open_model
from fmray.metrics.find import find_metric
from fmray.records import Ensemble, Member, Prepared
from fmray.spec.job import Job
from fmray.spec.load import job_from
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.pack import Plan
from fmray.train.predict import predict
from fmray.train.saved import write_model
from fmray.tune.sweep import sweep

NUM_ROWS = 400
CITIES = ("Bonn", "Oslo", "Rome")


def rows(num_rows: int = NUM_ROWS, seed: int = 0) -> pa.Table:
    """Give numbers, whole numbers, text, dates, and targets of either kind."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(num_rows, 2))
    days = np.datetime64("2024-01-01") + random.integers(0, 365, num_rows).astype("timedelta64[D]")
    return pa.table(
        {
            "f0": x[:, 0],
            "f1": x[:, 1].astype(np.float32),
            "n": random.integers(0, 5, num_rows),
            "city": np.array(CITIES)[random.integers(0, 3, num_rows)],
            "day": pa.array(days.astype("datetime64[us]")),
            "id": np.arange(num_rows),
            "y": np.where(x[:, 0] > x[:, 1], "yes", "no"),
            "z": 100 * x[:, 0] + 5,
            "w": x[:, 1] - 3,
        }
    )


@dataclass(frozen=True)
class Trained:
    """Hold members and what they learned from."""

    folder: Path
    job: Job
    dataset: Dataset
    prepared: Prepared
    task: Ref
    members: tuple[Member, ...]

    def write(self, ensemble: Ensemble, folder: Path) -> Path:
        """Write the folder of a model."""
        chosen = [self.members[index] for index in ensemble.members]
        store = Store(str(self.folder / "store"))
        write_model(str(folder), chosen, ensemble, self.prepared, self.task, self.dataset, self.job, store)
        return folder

    def open(self, ensemble: Ensemble, folder: Path) -> SavedModel:
        """Write a model and open it."""
        return open_model(self.write(ensemble, folder))

    def said(self, ensemble: Ensemble, folder: Path, split: str = "val") -> Table:
        """Give what a run would write about a split."""
        chosen = [self.members[index] for index in ensemble.members]
        return read(predict(chosen, ensemble, self.prepared, split, self.task, str(folder / f"{split}.parquet")))


def train(folder: Path, seeds: int = 2, name: str = "small", **sections) -> Trained:
    """Train a few members on the rows of a folder."""
    job = job_from({"name": name, "train": {"epochs": 2, "batch_rows": 64}, **sections}, folder)
    store = Store(str(folder / "store"))
    dataset = scan(job.data, job.folder, store)
    task = Ref("regression" if "y" not in job.data.target else "classification")
    prepared = prepare(dataset, job, task, store)
    metric = find_metric("accuracy" if task.name == "classification" else "r2", prepared.target)
    model = job.model if job.model.name != "mlp" else Ref("mlp", {"width": 6})
    plans = [Plan(i, i, model, Ref("adamw", {"lr": 0.01}), task, {}) for i in range(seeds)]
    return Trained(folder, job, dataset, prepared, task, sweep(job, plans, prepared, metric, store).members)


def with_other_steps(trained: Trained, steps: list) -> Trained:
    """Train as many members again, on the same rows prepared in another way, and let all of them predict."""
    other = train(trained.folder, name="other", data=trained.job.to_json()["data"], steps=steps)
    number = len(trained.members)
    more = tuple(replace(member, index=number + member.index) for member in other.members)
    variants = {other.prepared.fingerprint: other.prepared}
    prepared = replace(trained.prepared, variants=variants)
    return replace(trained, prepared=prepared, members=trained.members + more)


def mean(*weights: float) -> Ensemble:
    return Ensemble("average", tuple(range(len(weights))), weights)


def write_data(folder: Path, *tables: pa.Table) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=90)
    return folder
