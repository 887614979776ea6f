"""Carry every row of the table in docs/types.md through run and predict."""

import datetime
import decimal
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.prepare import prepare
from fmray.data.preview import preview
from fmray.data.scan import read_item, scan, work_items
from fmray.data.target import decide
from fmray.errors import FmrayError
from fmray.inference.intake import find_rows
from fmray.inference.model import SavedModel, open_model
from fmray.inference.predict import predict
from fmray.inference.rows import as_trained
from fmray.spec.load import job_from
from fmray.spec.sections import Split
from fmray.store import Store
from fmray.workflow import run

DOCS = Path(__file__).resolve().parents[1] / "docs/types.md"
ROWS = 160
POSITIVE = np.random.default_rng(5).random(ROWS) < 0.5
"""Which rows are of the second class; the column `x` says so."""


def table_of_docs() -> dict[str, tuple[str, str]]:
    """Read type -> (as a feature, as a label) from the docs."""
    rows = [line.strip("|").split("|") for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    return {cells[0].strip(): (cells[1].strip(), cells[2].strip()) for cells in rows if cells[0].strip() != "Type"}


def values(first: object, second: object) -> list[object]:
    """Give one value to rows of the first class, another to those of the second."""
    return [second if positive else first for positive in POSITIVE]


def of(kind: pa.DataType, first: object, second: object) -> Callable[[], pa.Array]:
    """Make a column of two values."""
    return lambda: pa.array(values(first, second), kind)


def stored(kind: pa.DataType, first: object, second: object) -> Callable[[], pa.Array]:
    """Make a column of an extension type."""
    return lambda: pa.ExtensionArray.from_storage(kind, pa.array(values(first, second), kind.storage_type))


def of_pandas(dtype: object, first: object, second: object) -> Callable[[], pa.Array]:
    """Make a column as pandas writes it."""
    return lambda: pa.array(pd.Series(values(first, second), dtype=dtype), from_pandas=True)


def sometimes(kind: pa.DataType, first: object, second: object) -> Callable[[], pa.Array]:
    """Make a column in which a value is missing."""
    return lambda: pa.array([None, *values(first, second)[1:]], kind)


def tensors(version: int) -> Callable[[], pa.Array]:
    """Make a column of tensors as Ray Data writes them."""

    def make() -> pa.Array:
        from ray.data.extensions import ArrowTensorType, ArrowTensorTypeV2

        kind = (ArrowTensorType if version == 1 else ArrowTensorTypeV2)((2, 2), pa.float32())
        storage = pa.array(values([1, 2, 3, 4], [5, 6, 7, 8]), kind.storage_type)
        return pa.ExtensionArray.from_storage(kind, storage)

    return make


def tensors_of_several_shapes() -> pa.Array:
    from ray.data.extensions import ArrowVariableShapedTensorArray

    return ArrowVariableShapedTensorArray.from_numpy([np.ones((1 + p, 2)) for p in POSITIVE])


D, DT, UTC = datetime.date, datetime.datetime, datetime.UTC
DAYS = D(2020, 1, 31), D(2021, 2, 28)
TIMES = DT(2020, 1, 31, 5), DT(2021, 2, 28, 17, 30)
ZONED = DT(2020, 1, 31, 5, tzinfo=UTC), DT(2021, 2, 28, 17, 30, tzinfo=UTC)
CENTS = decimal.Decimal("1.00"), decimal.Decimal("2.00")
LONG = decimal.Decimal("12345678901234567890.01"), decimal.Decimal("12345678901234567890.02")
FLOATS = pa.list_(pa.float64())
STRUCT = pa.struct([("a", pa.int64())])

TYPES: dict[str, Callable[[], pa.Array]] = {
    "bool": of(pa.bool_(), False, True),
    **{f"{u}int{bits}": of(getattr(pa, f"{u}int{bits}")(), 1, 2) for u in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": sometimes(getattr(pa, f"float{bits}")(), 0.0, 1.0) for bits in (16, 32, 64)},
    "float64 with fractions": lambda: pa.array(np.where(POSITIVE, 2.0, 0.5) + np.arange(ROWS) / 1000),
    "decimal32": of(pa.decimal32(5, 2), *CENTS),
    "decimal64": of(pa.decimal64(10, 2), *CENTS),
    "decimal128": of(pa.decimal128(12, 2), *CENTS),
    "decimal256": of(pa.decimal256(50, 2), *CENTS),
    "string": of(pa.string(), "no", "yes"),
    "large_string": of(pa.large_string(), "no", "yes"),
    "string_view": of(pa.string_view(), "no", "yes"),
    "binary of text": of(pa.binary(), b"no ", b"j\xc3\xa4"),
    "large_binary of text": of(pa.large_binary(), b"no", b"yes"),
    "binary_view of text": of(pa.binary_view(), b"no", b"yes"),
    "fixed_size_binary of text": of(pa.binary(2), b"CA", b"NY"),
    "binary of one length": of(pa.binary(), b"\x00\xff\x10", b"\xfe\x01\x02"),
    "fixed_size_binary": of(pa.binary(3), b"\x00\xff\x10", b"\xfe\x01\x02"),
    "binary of several lengths": of(pa.binary(), b"\xff\xfe", b"\xff\xfe\xfd"),
    "date32": of(pa.date32(), *DAYS),
    "date64": of(pa.date64(), *DAYS),
    **{f"timestamp[{unit}]": of(pa.timestamp(unit), *TIMES) for unit in ("s", "ms", "us", "ns")},
    "timestamp[us] with zone": of(pa.timestamp("us", "Asia/Tokyo"), *ZONED),
    "timestamp[ms] with offset": of(pa.timestamp("ms", "+02:00"), *ZONED),
    "INT96": of(pa.timestamp("us"), DT(2020, 1, 31), DT(9999, 12, 31)),
    "time32": of(pa.time32("s"), datetime.time(1), datetime.time(2)),
    "time64": of(pa.time64("us"), datetime.time(1), datetime.time(2)),
    "duration": of(pa.duration("s"), datetime.timedelta(1), datetime.timedelta(2)),
    "null": lambda: pa.nulls(ROWS),
    "dictionary of strings": lambda: pa.array(values("no", "yes")).dictionary_encode(),
    "dictionary of integers": lambda: pa.array(values(3, 4)).dictionary_encode(),
    "list of floats, one length": of(FLOATS, [1, 2], [3, 4]),
    "large_list of integers, one length": of(pa.large_list(pa.int16()), [1, 2], [3, 4]),
    "list_view of floats, one length": of(pa.list_view(pa.float32()), [1, 2], [3, 4]),
    "list of floats, several lengths": of(FLOATS, [1], [3, 4]),
    "fixed_size_list of floats": of(pa.list_(pa.float32(), 2), [1, 2], [3, 4]),
    "fixed_size_list with missing lists": sometimes(pa.list_(pa.float64(), 2), [1, 2], [3, 4]),
    "fixed_size_list of fixed_size_lists": of(pa.list_(pa.list_(pa.int32(), 2), 1), [[1, 2]], [[3, 4]]),
    "list of strings": of(pa.list_(pa.string()), ["a"], ["b"]),
    "struct": of(STRUCT, {"a": 1}, {"a": 2}),
    "map": of(pa.map_(pa.string(), pa.int32()), [("a", 1)], [("b", 2)]),
    "list of structs": of(pa.list_(STRUCT), [{"a": 1}], [{"a": 2}]),
    "extension arrow.uuid (logical type UUID)": stored(pa.uuid(), uuid.UUID(int=7).bytes, uuid.UUID(int=2**100).bytes),
    "extension arrow.json (logical type JSON)": stored(pa.json_(), "{}", '{"a": 1}'),
    "extension arrow.bool8": stored(pa.bool8(), 0, 1),
    "extension arrow.opaque": stored(pa.opaque(pa.string(), "inet", "pg"), "::1", "127.0.0.1"),
    "extension arrow.fixed_shape_tensor": stored(pa.fixed_shape_tensor(pa.float32(), [2, 1]), [1, 2], [3, 4]),
    "Ray tensors, ArrowTensorType": tensors(1),
    "Ray tensors, ArrowTensorTypeV2": tensors(2),
    "Ray tensors of several shapes": tensors_of_several_shapes,
    "pandas categorical": of_pandas("category", "no", "yes"),
    "pandas string[pyarrow]": of_pandas("string[pyarrow]", "no", "yes"),
    "pandas Int64 with missing values": lambda: pa.array(pd.Series([None, *values(1, 2)[1:]], dtype="Int64")),
    "pandas boolean with missing values": lambda: pa.array(
        pd.Series([None, *values(False, True)[1:]], dtype="boolean")
    ),
    "pandas Period": lambda: pa.array(pd.Series(values(pd.Period("2020-01"), pd.Period("2021-02")))),
    "pandas Interval": lambda: pa.array(pd.Series(values(pd.Interval(0, 1), pd.Interval(1, 2)))),
}
NEEDS_RAY = {name for name in TYPES if name.startswith("Ray")}
SLOW = [pytest.param(name, marks=pytest.mark.slow) if name in NEEDS_RAY else name for name in TYPES]


def columns(name: str) -> dict[str, pa.Array]:
    """Give a column `c` of a type, a number that goes with it, and two classes that go with that."""
    noise = np.random.default_rng(1).normal(size=ROWS)
    return {
        "c": TYPES[name](),
        "x": pa.array(np.where(POSITIVE, 2.0, -2.0) + 0.1 * noise),
        "id": pa.array(np.arange(ROWS)),
        "y": pa.array(values("a", "b")),
    }


def write(folder: Path, name: str, table: pa.Table, file: str = "a.parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / file, use_deprecated_int96_timestamps=name == "INT96")
    return folder


@dataclass(frozen=True)
class Case:
    """Hold a job on a column of one type."""

    folder: Path
    name: str

    def job(self, **data: object):
        given = {"path": str(self.folder / "data"), "target": "y", "key": "id", "max_quarantine": 0.2, **data}
        sections = {
            "model": "linear",
            "train": {"epochs": 2, "batch_rows": 16, "optimizer": {"adamw": {"lr": 0.1}}},
            "evaluate": {"baselines": []},
            "run": {"workers": 0, "prepare": "local"},
            "rigour": {"profile": "draft"},
        }
        return job_from({"name": "types", "data": given, **sections}, str(self.folder))

    def run(self, **data: object):
        return open_model(run(self.job(**data), str(self.folder / "store")).root)


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        write(tmp_path / "data", name, pa.table(columns(name)))
        return Case(tmp_path, name)

    return make


def test_the_docs_list_the_types_that_are_tested_and_no_others():
    assert list(table_of_docs()) == list(TYPES)


@pytest.mark.parametrize("name", SLOW)
def test_a_feature_is_read_as_the_docs_say_or_refused_with_their_words(case, name):
    told = table_of_docs()[name][0]
    if told.startswith("refused: "):
        with pytest.raises(FmrayError, match=re.escape(told.removeprefix("refused: "))) as refused:
            preview(case(name).job())
        assert "'c'" in str(refused.value)
        return
    seen = preview(case(name).job())
    assert {column.name: column.kind for column in seen.columns.columns}["c"] == told


@pytest.mark.parametrize("name", SLOW)
def test_a_label_is_read_as_the_docs_say_or_refused_with_their_words(case, name):
    told = table_of_docs()[name][1]
    if told.startswith("refused: "):
        with pytest.raises(FmrayError, match=re.escape(told.removeprefix("refused: "))) as refused:
            preview(case(name).job(target="c", ignore=["y"]))
        assert "'c'" in str(refused.value)
        return
    seen = preview(case(name).job(target="c", ignore=["y"]))
    assert seen.target.kind == told


FEATURES = [name for name, (feature, _) in table_of_docs().items() if not feature.startswith("refused")]
LABELS = [name for name, (_, label) in table_of_docs().items() if label == "class"]
FAST = ("int64",)


def some(names: list[str]) -> list[object]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@dataclass(frozen=True)
class Together:
    """Hold what was predicted by a model of many features side by side."""

    model: SavedModel
    summary: dict[str, object]
    x: np.ndarray
    names: list[str]
    faults: np.ndarray


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Together]:
    """Run and predict jobs on as many types side by side as one writer can write."""
    made: dict[str, Together] = {}

    def make(name: str) -> Together:
        group = "INT96" if name == "INT96" else "Ray" if name in NEEDS_RAY else "other"
        if group not in made:
            types = {"INT96": ["INT96"], "Ray": sorted(NEEDS_RAY & set(FEATURES))}.get(group)
            types = types or [each for each in FEATURES if each not in NEEDS_RAY and each != "INT96"]
            folder = tmp_path_factory.mktemp("together")
            table = pa.table({**{each: TYPES[each]() for each in types}, **columns("int64")}).drop(["c"])
            case = Case(folder, group)
            write(folder / "data", group, table)
            model = case.run()
            summary = predict(str(model.folder), str(folder / "data"), str(folder / "out"), place="local")
            dataset = find_rows(str(folder / "data"), model.saved, model.input_schema.columns)
            rows = as_trained(read_item(dataset, work_items(dataset)[0]), model.input_schema.columns, model.input_types)
            (part,) = model.reader.slices(rows, [""], {})
            (way,) = model.reader.ways.values()
            (x,) = part.x.values()
            made[group] = Together(model, summary, x, way.schema.feature_names(), part.faults)
        return made[group]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_what_a_feature_of_every_type_says_reaches_the_model_when_it_predicts(together, name):
    found = together(name)
    assert name in found.model.input_types.names
    assert found.summary["rows"] == ROWS
    mine = [place for place, feature in enumerate(found.names) if feature.startswith(name)]
    if name == "null":
        return  # nothing is said
    sound = found.faults == 0
    assert sound.sum() >= ROWS - 1
    first, second = found.x[sound & ~POSITIVE][:, mine], found.x[sound & POSITIVE][:, mine]
    assert np.abs(first.mean(0) - second.mean(0)).max() > 0.1
    if name == "fixed_size_list with missing lists":
        assert [reason for reason in found.summary["faults"] if f"'{name}'" in reason]


@pytest.mark.parametrize("name", some(LABELS))
def test_predictions_equal_labels_of_every_type_without_a_cast(case, name):
    made = case(name)
    model = made.run(target="c", ignore=["y"])
    labels = pa.chunked_array([columns(name)["c"]])
    told = model.predict(pa.table(columns(name)))["prediction"]
    predict(str(model.folder), str(made.folder / "data"), str(made.folder / "out"), place="local")
    written = pq.read_table(made.folder / "out/part-000000.parquet")["prediction"]
    assert told.to_pylist() == written.to_pylist()
    known = [(a, b) for a, b in zip(written.to_pylist(), labels.to_pylist(), strict=True) if b is not None]
    if isinstance(known[0][1], pd.Period):
        known = [(a, b.ordinal) for a, b in known]
    assert np.mean([a == b for a, b in known]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("role", ["group", "key", "time"])
def test_a_column_of_every_plain_type_can_be_group_key_and_time(tmp_path, role):
    plain = [name for name in FEATURES if not name.startswith(("Ray", "null", "fixed_size_list"))]
    plain = [name for name in plain if table_of_docs()[name][0] in ("number", "text", "time")]
    if role == "time":
        plain = [name for name in plain if table_of_docs()[name][0] == "time"]
    for place, name in enumerate(plain):
        case = Case(tmp_path / str(place), name)
        table = pa.table(columns(name))
        write(case.folder / "data", name, table)
        job = case.job(**{role: ["c", "id"] if role == "key" else "c"})
        if role == "group":
            table = table.append_column("side", pa.array(["train", "val", "test", "train"] * (ROWS // 4)))
            write(case.folder / "data", name, table)
            job = replace(job, split=Split(by="given", column="side"))
        dataset = scan(job.data, ".")
        prepared = prepare(dataset, job, decide(dataset, job.data, job.task), Store(str(case.folder / "store")))
        assert prepared.rows["read"] == ROWS, name
