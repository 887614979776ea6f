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
from fmray.inference.rows import Unseen, as_trained
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
SPAN = pa.struct([("type", pa.string()), ("start", pa.int32()), ("end", pa.int32())])

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
    "list of spans": of(pa.list_(SPAN), [{"type": "a", "start": 0, "end": 1}], [{"type": "b", "start": 0, "end": 1}]),
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
            (part,) = model.reader.slices(rows, [""], Unseen())
            (way,) = model.reader.ways.values()
            (blocks,) = part.x.values()
            made[group] = Together(model, summary, blocks.arrays["x"], way.schema.feature_names(), part.faults)
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
@pytest.mark.filterwarnings("ignore")  # MLflow's own, which fmray keeps quiet as well
@pytest.mark.parametrize("name", LABELS)
def test_predictions_through_mlflow_equal_labels_of_every_type(case, name, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    from fmray.inference.serving import served

    model = case(name).run(target="c", ignore=["y"])
    shown = served(str(Path(model.folder).parent))
    mlflow.pyfunc.save_model(
        tmp_path / "served",
        python_model=shown.code,
        artifacts={"model": str(model.folder)},
        signature=mlflow.models.infer_signature(shown.example, shown.answer),
        pip_requirements=[],
    )
    table = pa.table(columns(name)).select(shown.example.columns)
    said = mlflow.pyfunc.load_model(str(tmp_path / "served")).predict(table.to_pandas())["prediction"]
    expected = model.predict(table)["prediction"].to_pandas()
    assert said.dtype == expected.dtype
    assert said.tolist() == expected.tolist()


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
        own = {"group_nulls": "own"} if role == "group" else {}
        job = case.job(**{role: ["c", "id"] if role == "key" else "c"}, **own)
        if role == "group":
            table = table.append_column("side", pa.array(["train", "val", "test", "train"] * (ROWS // 4)))
            write(case.folder / "data", name, table)
            job = replace(job, split=Split(by="given", column="side"))
        dataset = scan(job.data, ".")
        prepared = prepare(dataset, job, decide(dataset, job.data, job.task), Store(str(case.folder / "store")))
        assert prepared.rows["read"] == ROWS, name


# ----------------------------------------------------------------------------------------------------------------------
# What was decided, names, and files that differ


def noted(folder: Path, **data: object) -> str:
    """Give what a preview says was decided."""
    return "\n".join(preview(Case(folder, "int64").job(**data)).notes)


def test_bytes_that_are_text_are_said_and_can_be_read_as_bytes(tmp_path):
    write(tmp_path / "data", "", pa.table(columns("fixed_size_binary of text")))
    assert "bytes of 'c' are valid UTF-8 and read as text; data.read_as: {c: bytes}" in noted(tmp_path)
    job = Case(tmp_path, "").job(read_as={"c": "bytes"})
    assert [column.kind for column in preview(job).columns.columns if column.name == "c"] == ["bytes"]


def test_bytes_that_are_no_text_after_the_first_rows_are_refused_by_file_and_column(tmp_path):
    for place in range(5):
        last = b"\xff\xfe" if place == 4 else b"ab"
        write(
            tmp_path / "data",
            "",
            pa.table({"c": [b"ab", last], "id": [2 * place, 2 * place + 1], "y": ["a", "b"]}),
            f"{place}.parquet",
        )
    job = Case(tmp_path, "").job()
    dataset = scan(job.data, ".")
    with pytest.raises(FmrayError, match=r"4.parquet: column 'c' holds bytes here that are no UTF-8.*data.read_as"):
        [read_item(dataset, item) for item in work_items(dataset)]


def test_lists_of_another_length_after_the_first_rows_are_refused_by_file_and_column(tmp_path):
    for place in range(5):
        last = [1.0] if place == 4 else [1.0, 2.0]
        write(
            tmp_path / "data",
            "",
            pa.table({"c": [[1.0, 2.0], last], "id": [2 * place, 2 * place + 1], "y": ["a", "b"]}),
            f"{place}.parquet",
        )
    job = Case(tmp_path, "").job()
    dataset = scan(job.data, ".")
    with pytest.raises(FmrayError, match=r"4.parquet: column 'c' cannot be read.*lists of 1 to 2 values here, and 2"):
        [read_item(dataset, item) for item in work_items(dataset)]


def test_few_whole_floats_are_classes_and_it_is_said_with_the_word_that_changes_it(tmp_path):
    write(tmp_path / "data", "", pa.table(columns("float64")))
    told = noted(tmp_path, target="c", ignore=["y"])
    assert "'c' holds 2 numbers (0, 1), which are classes; task: regression predicts a number" in told


def test_floats_that_hardly_repeat_are_numbers(tmp_path):
    write(tmp_path / "data", "", pa.table({"x": np.arange(20.0) ** 1.5, "id": range(20), "y": np.arange(20.0)}))
    assert preview(Case(tmp_path, "").job()).task.name == "regression"


@pytest.mark.parametrize("first", [pa.timestamp("us"), pa.date32()], ids=str)
def test_times_with_and_without_a_zone_are_refused_naming_both_files_or_their_zone_is_said(tmp_path, first):
    kinds = {"0.parquet": first, "1.parquet": pa.timestamp("us", "Asia/Tokyo")}
    moments = {"0.parquet": DT(2023, 1, 1), "1.parquet": DT(2023, 1, 1, tzinfo=UTC)}
    for place, (file, kind) in enumerate(kinds.items()):
        given = {"at": pa.array([moments[file]], kind), "id": [place], "y": ["a"]}
        write(tmp_path / "data", "", pa.table(given), file)
    with pytest.raises(FmrayError, match=r"'at'.*0\.parquet.*1\.parquet.*data\.time_zone"):
        scan(Case(tmp_path, "").job().data, ".")
    dataset = scan(Case(tmp_path, "").job(time_zone="Asia/Tokyo").data, ".")
    (item,) = work_items(dataset)
    assert read_item(dataset, item)["at"].to_pylist() == [DT(2022, 12, 31, 15, tzinfo=UTC), DT(2023, 1, 1, tzinfo=UTC)]


def test_a_time_zone_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(FmrayError, match=r"Asia/Tokio.*Accepted: UTC, or a name"):
        Case(tmp_path, "").job(time_zone="Asia/Tokio")


def test_the_year_9999_survives_in_int96(tmp_path):
    write(tmp_path / "data", "INT96", pa.table(columns("INT96")))
    dataset = scan(Case(tmp_path, "INT96").job().data, ".")
    (item,) = work_items(dataset)
    assert max(read_item(dataset, item)["c"].to_pylist()) == DT(9999, 12, 31)


def test_a_column_called_like_a_pattern_is_refused_and_one_without_a_name_is_read(tmp_path):
    table = pa.table(columns("int64"))
    write(tmp_path / "data", "", table.append_column("^x$", table["x"]).append_column("", table["x"]))
    with pytest.raises(FmrayError, match=r"column '\^x\$' is called like a pattern"):
        preview(Case(tmp_path, "").job())
    assert "" in [column.name for column in preview(Case(tmp_path, "").job(ignore=["^x$"])).columns.columns]


def test_an_invisible_character_in_a_name_is_shown_escaped(tmp_path):
    write(tmp_path / "data", "", pa.table(columns("int64")).rename_columns(["\ufeffc", "x", "id", "y"]))
    with pytest.raises(FmrayError, match=r"Did you mean '\\ufeffc'\?"):
        scan(Case(tmp_path, "").job(ignore=["c"]).data, ".")


@pytest.mark.slow
def test_new_rows_come_in_other_types_of_the_same_kind_and_equal_what_was_trained(tmp_path):
    trained = columns("float64") | {
        "t": TYPES["timestamp[ms] with offset"](), "s": TYPES["string"](), "b": TYPES["binary of text"](),
        "v": TYPES["fixed_size_list of floats"](), "c": pa.array(values(3.0, 4.0)),
    }  # fmt: skip
    write(tmp_path / "data", "", pa.table(trained))
    model = Case(tmp_path, "").run()
    other = trained | {
        "t": trained["t"].cast(pa.timestamp("us", "Asia/Tokyo")), "s": trained["s"].dictionary_encode(),
        "b": trained["b"].cast(pa.large_string()), "v": trained["v"].cast(pa.large_list(pa.float64())),
        "c": trained["c"].cast(pa.int16()),
    }  # fmt: skip
    assert model.predict(pa.table(other)).equals(model.predict(pa.table(trained)))
    for name, wrong in {"t": TYPES["timestamp[us]"](), "c": TYPES["string"](), "s": TYPES["int64"]()}.items():
        with pytest.raises(FmrayError, match=rf"'{name}' holds .* where training rows held"):
            model.predict(pa.table(trained | {name: wrong}))


@pytest.mark.slow
def test_columns_may_be_called_anything_as_features_and_as_slices(tmp_path):
    odd = [
        "",
        "\ufeffx",
        "x",
        "X",
        "z ",
        "a.b",
        "a",
        "x[0]",
        "new\nline",
        "sl/ash",
        "back\\slash",
        "prediction",
        "row_id",
    ]
    odd += ["file", "target", "weight", "group", "L" * 2000, "slice_x", "{b}", "q\"'"]
    random = np.random.default_rng(0)
    sliced = {name: random.choice(["u", "v\x1b[31m", "w/\n"], ROWS) for name in ("s/l", "new\nl", "[red]x")}
    table = pa.table({**{name: random.normal(size=ROWS) for name in odd}, **sliced, "y": values("a", "b")})
    write(tmp_path / "data", "", table)
    job = Case(tmp_path, "").job(key="none")
    finished = run(replace(job, evaluate=replace(job.evaluate, slices=tuple(sliced))), str(tmp_path / "store"))
    model = open_model(finished.root)
    assert set(model.input_types.names) >= {*odd, *sliced}
    summary = predict(str(model.folder), str(tmp_path / "data"), str(tmp_path / "out"), place="local")
    assert (summary["rows"], summary["faults"]) == (ROWS, {})
