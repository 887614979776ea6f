"""Write scikit-learn's bundled data sets as Parquet shards, so that a first job needs no download.

Shards are the same bytes and bear the same date wherever they are written; a set is used only once its mark exists.
"""

import logging
import os
import posixpath
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn
import sklearn.datasets

from fmray.errors import DataError
from fmray.records import Json
from fmray.store import Store, fingerprint, verify
from fmray.store.manifest import measure

log = logging.getLogger("fmray")

NUM_SHARDS = 4
WRITTEN = 1_577_836_800  # 2020-01-01 UTC: a date that does not tell machines apart


def breast_cancer(store: Store | None) -> str:
    """Give the folder of 569 tumours: 30 numbers, target 0 malignant or 1 benign."""
    return _shards("breast_cancer", store, lambda: _columns(sklearn.datasets.load_breast_cancer()))


def diabetes(store: Store | None) -> str:
    """Give the folder of 442 patients: 10 numbers, target is disease progression after a year."""
    return _shards("diabetes", store, lambda: _columns(sklearn.datasets.load_diabetes(scaled=False)))


def digits(store: Store | None) -> str:
    """Give the folder of 1,797 handwritten digits: 8 x 8 pixels of 0 to 16 in one column, and the label."""
    return _shards("digits", store, _digits)


def iris(store: Store | None) -> str:
    """Give the folder of 150 flowers: 4 numbers, target 0, 1 or 2."""
    return _shards("iris", store, lambda: _columns(sklearn.datasets.load_iris()))


def wine(store: Store | None) -> str:
    """Give the folder of 178 wines: 13 numbers, target 0, 1 or 2."""
    return _shards("wine", store, lambda: _columns(sklearn.datasets.load_wine()))


def _columns(bunch: sklearn.utils.Bunch) -> pa.Table:
    names = [str(name).replace(" ", "_").replace("(", "").replace(")", "") for name in bunch.feature_names]
    return pa.table({**dict(zip(names, bunch.data.T, strict=True)), "target": bunch.target})


def _digits() -> pa.Table:
    bunch = sklearn.datasets.load_digits()
    pixels = pa.FixedSizeListArray.from_arrays(bunch.data.astype(np.float32).ravel(), 64)
    return pa.table({"pixels": pixels, "label": bunch.target})


def _shards(name: str, store: Store | None, load: Callable[[], pa.Table]) -> str:
    store = store or Store(os.path.join(os.path.expanduser("~"), ".cache", "fmray"))
    folder = store.path("samples", name)
    mark = f"{folder}.json"  # beside the folder, of which all is read
    made_by = {"name": name, "libraries": fingerprint(sklearn.__version__, pa.__version__)}
    if not _is_whole(folder, mark, made_by, store):
        table = load()
        edges = np.linspace(0, table.num_rows, NUM_SHARDS + 1).astype(int).tolist()
        names = [f"part-{i:05d}.parquet" for i in range(NUM_SHARDS)]
        for i, name in enumerate(names):
            path = posixpath.join(folder, name)
            store.write_bytes(path, _parquet(table.slice(edges[i], edges[i + 1] - edges[i])))
            if "://" not in path:
                os.utime(path, (WRITTEN, WRITTEN))
        store.write_json(mark, {**made_by, "files": measure(folder, names)})
    return folder


def _is_whole(folder: str, mark: str, made_by: Json, store: Store) -> bool:
    """Tell whether a set lies there as it was written; one that is damaged is written again."""
    if not store.exists(mark):
        return False
    try:
        found = store.read_json(mark)
        verify(folder, found.get("files", {}))
    except DataError as error:
        log.warning("%s The sample is written again.", error)
        return False
    return bool(made_by.items() <= found.items() and "files" in found)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
