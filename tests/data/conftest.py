"""Share a store, small Parquet files and the real data sets between the tests of the data floor."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.prepare import prepare
from fmray.data.scan import ITEM_BYTES, scan
from fmray.data.target import decide
from fmray.events import Report, ignore
from fmray.records import Prepared
from fmray.spec.job import Job
from fmray.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Open an empty store."""
    return Store(str(tmp_path / "store"))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write columns as a Parquet file under `data/` and give that folder."""

    def write(name: str, columns: dict[str, object] | pa.Table, **options: object) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
        return tmp_path / "data"

    return write


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Find a real data set by name, or skip the test where there is none."""
    beside = Path(__file__).resolve().parents[2].parent / "shared/data"
    root = Path(os.environ.get("FMRAY_DATA", beside))

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"{root / name} is absent; set FMRAY_DATA to the folder of real data sets")
        return root / name

    return find


@pytest.fixture
def prepared(store: Store) -> Callable[..., Prepared]:
    """Prepare a folder for target `y`, in this process; keywords are further sections of the job."""

    def make(
        folder: Path | str,
        *,
        data: dict[str, object] | None = None,
        store: Store = store,
        item_bytes: int = ITEM_BYTES,
        report: Report = ignore,
        **sections: object,
    ) -> Prepared:
        asked = {"name": "test", "steps": [], "run": {"prepare": "local"}, **sections}
        job = Job.from_json({**asked, "data": {"path": str(folder), "target": "y", **(data or {})}})
        dataset = scan(job.data, ".", store)
        return prepare(dataset, job, decide(dataset, job.data, job.task), store, report, item_bytes)

    return make
