"""Share prepared rows and small trainings between the tests of the train floor."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.metrics.find import find_metric
from fmray.records import Prepared
from fmray.seeding import derive
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Train
from fmray.store import Store
from fmray.train.ingest import Rows
from fmray.train.loop import fit
from fmray.train.pack import Pack, Plan

FEATURES = 6


def write_rows(path: Path, num_rows: int, target: str) -> None:
    """Write numbers with a target that depends on them: a class of three, or a number."""
    random = np.random.default_rng(7)
    x = random.standard_normal((num_rows, FEATURES))
    signal = x[:, 0] * 2 - x[:, 1] + x[:, 2] * x[:, 3] + random.standard_normal(num_rows)
    y = np.digitize(signal, [-1, 1]) if target == "class" else signal * 3 + 5
    path.mkdir(parents=True)
    pq.write_table(
        pa.table({f"f{i}": c for i, c in enumerate(x.T)} | {"y": y, "id": np.arange(num_rows)}), path / "a.parquet"
    )


@pytest.fixture(scope="session")
def prepared_rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    """Prepare 700 rows once per kind of target; no batch size divides them evenly."""
    made: dict[str, Prepared] = {}

    def get(target: str) -> Prepared:
        if target not in made:
            folder = tmp_path_factory.mktemp(target)
            write_rows(folder / "data", 700, target)
            job = Job.from_json(
                {
                    "name": "rows",
                    "data": {"path": str(folder / "data"), "target": "y", "key": "id"},
                    "steps": ["standardise"],
                    "train": {"order": {"chunk_rows": 4, "window_chunks": 3, "num_lanes": 5}},
                    "run": {"prepare": "local"},
                }
            )
            store = Store(str(folder / "store"))
            task = Ref("classification" if target == "class" else "regression")
            made[target] = prepare(scan(job.data, ".", store), job, task, store)
        return made[target]

    return get


class Training:
    """Train packs on prepared rows with few words."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.task = "classification" if prepared.target.kind == "class" else "regression"
        self.metric = find_metric("accuracy" if self.task == "classification" else "r2", prepared.target)

    def plan(self, index: int, **changes: Any) -> Plan:
        """Describe a member; `model`, `optimizer` and `task` take parameters."""
        return Plan(
            index=index,
            seed=derive(0, "member", index),
            model=Ref(changes.get("name", "mlp"), {"width": 8, "depth": 2, **changes.get("model", {})}),
            optimizer=Ref(changes.get("by", "adamw"), {"lr": 0.01, **changes.get("optimizer", {})}),
            task=Ref(self.task, changes.get("task", {})),
            params={},
        )

    def pack(self, plans: Sequence[Plan], train: Train) -> Pack:
        """Build a pack."""
        return Pack(plans, self.prepared.schema, self.prepared.target, train, self.metric.higher_is_better)

    def rows(self, split: str = "train", **options: Any) -> Rows:
        """Open the rows of a split."""
        return Rows(self.prepared, split, "cpu", **options)

    def fit(self, plans: Sequence[Plan], train: Train, **options: Any) -> Pack:
        """Train to the end."""
        pack = self.pack(plans, train)
        fit(pack, self.rows(), self.rows("val"), self.metric, 11, **options)
        return pack


@pytest.fixture(params=["class", "number"])
def training(request: pytest.FixtureRequest, prepared_rows: Callable[[str], Prepared]) -> Training:
    """Train on either kind of target."""
    return Training(prepared_rows(request.param))


@pytest.fixture(scope="session")
def classes(prepared_rows: Callable[[str], Prepared]) -> Training:
    """Train on three classes."""
    return Training(prepared_rows("class"))


@pytest.fixture(scope="session")
def numbers(prepared_rows: Callable[[str], Prepared]) -> Training:
    """Train on a number."""
    return Training(prepared_rows("number"))
