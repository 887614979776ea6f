"""Runs of one job on data that grow, trained once."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray import workflow
from fmray.records import Run
from fmray.report.folder import read_run
from fmray.spec.load import job_from
from fmray.store import Store

SIZES = (900, 1500, 1500)


def write_rows(path: Path, num_rows: int, seed: int) -> None:
    """Write rows of which some are equal."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(num_rows, 3))
    z = x[:, 0] + x[:, 1] + 0.4 * random.normal(size=num_rows)
    table = {f"f{i}": column for i, column in enumerate(x.T)}
    table |= {"who": random.integers(0, num_rows // 6, num_rows) + 10_000 * seed}
    rows = pa.table(table | {"y": np.where(z > 0, "b", "a"), "z": z})
    pq.write_table(pa.concat_tables([rows, rows.slice(0, 40)]), path)


@dataclass
class House:
    """Hold data, store and runs."""

    folder: Path
    store: Store

    def run(self, stage: int, epochs: int, target: str = "y", fresh: bool = False, **sections) -> Run:
        """Train on the first so many files; more epochs, a better model."""
        ignore = [name for name in ("y", "z", "who") if name not in (target, sections.get("data", {}).get("group"))]
        data = {"path": f"stage{stage}", "target": target, "ignore": ignore, **sections.pop("data", {})}
        train = {"epochs": epochs, "batch_rows": 64, "optimizer": {"adam": {"lr": 0.004}}, "early_stop": None}
        asked = {
            "name": "p", "data": data, "train": train, "model": "linear", "split": {"test": 0.4},
            "evaluate": {"baselines": ["dummy"], "primary": "accuracy" if target == "y" else "mse"}, **sections,
        }  # fmt: skip
        return workflow.execute(job_from(asked, self.folder), self.store, fresh=fresh)

    def copy(self, folder: Path) -> "House":
        """Give a store of one's own; lanes and data stay where they are."""
        for kind in ("runs", "splits", "ledger"):
            shutil.copytree(f"{self.store.root}/{kind}", folder / kind)
        shutil.copyfile(f"{self.store.root}/store.json", folder / "store.json")
        return replace(self, store=Store(str(folder)))

    def at(self, run: Run) -> Run:
        """Give a run as it lies in this store."""
        return read_run(self.store.path("runs", run.job, run.id), self.store)


def build(folder: Path) -> House:
    for stage in range(len(SIZES)):
        (folder / f"stage{stage}").mkdir()
        for number, size in enumerate(SIZES[: stage + 1]):
            write_rows(folder / f"stage{stage}/d{number}.parquet", size, number)
    return House(folder, Store(str(folder / "store")))


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[House, dict[str, Run]]:
    house = build(tmp_path_factory.mktemp("promote"))
    runs = {
        "weak": house.run(0, 6),
        "draft": house.run(0, 6, rigour={"profile": "draft"}),
        "failed": house.run(0, 6, data={"ignore": ["z", "who", "f0", "f1"]}),
        "strong": house.run(1, 40),
        "worse": house.run(2, 10),
    }
    return house, runs


@pytest.fixture
def house(trained, tmp_path) -> tuple[House, dict[str, Run]]:
    """Runs that nobody decided about yet."""
    own = trained[0].copy(tmp_path / "store")
    return own, {name: own.at(run) for name, run in trained[1].items()}
