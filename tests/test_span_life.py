"""Spans of texts go through the whole life of a job: run, report, predicted on new files, served, on workers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from life import close_members, served_by_mlflow

from fmray.errors import DataError, SpecError
from fmray.evaluate.table import read
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.records import Predictions, Run
from fmray.report.card import Card, read_card
from fmray.spec.job import Job
from fmray.store import Store
from fmray.targets.spans import PREDICTION
from fmray.workflow import execute

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("span_life")]
NAMES = ["Kim", "Zoë", "Jose\u0301", "Lee", "ﬁona"]
PLAIN = ["please", "book", "it", "’", "👍🏽", "so", "…", "ok"]
SPAN = pa.struct([("slot", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
SPANS = pa.list_(SPAN)
Found = set[tuple[str, int, int]]


def turn(source: np.random.Generator, asked: list[str] | None) -> tuple[str, list[dict[str, object]]]:
    """Make up what a caller says; a number alone is a time or a number of people, by what was asked for."""
    text = ""
    spans = []

    def say(what: str, kind: str = "") -> None:
        nonlocal text
        text += " " * int(source.integers(1, 3)) if text else ""
        if kind:
            spans.append({"slot": kind, "start": len(text), "end": len(text) + len(what)})
        text += what

    if asked:
        say(str(source.integers(1, 12)), asked[0])
        return text, spans
    for _ in range(source.integers(1, 5)):
        match source.integers(0, 4):
            case 0:
                say("at")
                say(f"{source.integers(1, 12)}:{source.integers(10, 59)}pm", "time")
            case 1:
                say("name is")
                say(str(source.choice(NAMES)), "name")
            case 2:
                say(f"{source.integers(2, 9)} of us", "people")
            case _:
                say(str(source.choice(PLAIN)))
    return text, spans


def turns(num_rows: int, seed: int) -> pa.Table:
    source = np.random.default_rng(seed)
    asked = [[None, None, ["time"], ["people"]][source.integers(0, 4)] for _ in range(num_rows)]
    said = [turn(source, one) for one in asked]
    columns = {"text": pa.array([text for text, _ in said]), "asked": pa.array(asked, pa.list_(pa.string()))}
    columns["spans"] = pa.array([spans for _, spans in said], SPANS)
    return pa.table(columns | {"id": np.arange(num_rows), "kind": source.choice(["call", "chat"], num_rows)})


def job_of(folder: Path, **changes: object) -> Job:
    data = {"path": str(folder), "target": "spans", "text": "text", "key": "id"}
    run = {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True, "checkpoint_seconds": 0}
    asked = {
        "name": "spans",
        "task": "span_extraction",
        "steps": [
            {"tokenize_words": {"columns": "text", "parts": ["whole", "shape"], "beside": "asked"}},
            {"drop": {"columns": "kind"}},
        ],
        "model": {"tagger": {"embedding": 8, "width": 24, "dropout": 0.1}},
        "train": {"epochs": 8, "batch_rows": 32, "optimizer": {"adamw": {"lr": 0.02}}, "seeds": 2},
        "ensemble": {"average": {"keep": "always"}},
        "evaluate": {"slices": ["kind"]},
        "rigour": {"profile": "draft"},
    }
    given = {**asked, **changes}
    return Job.from_json({**given, "data": data | given.get("data", {}), "run": run | given.get("run", {})})


def write(folder: Path, table: pa.Table) -> Path:
    folder.mkdir()
    pq.write_table(table, folder / "a.parquet", row_group_size=100)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("turns") / "data", turns(600, 3))


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory) -> Run:
    return execute(job_of(folder), Store(str(tmp_path_factory.mktemp("spans") / "store")))


def card_of(run: Run) -> Card:
    return read_card(run.root, Store(run.root.rpartition("/runs/")[0]))


def true_of(table: pa.Table) -> list[Found]:
    return [{(one["slot"], one["start"], one["end"]) for one in row or ()} for row in table["spans"].to_pylist()]


def said_of(column: pa.ChunkedArray) -> list[Found]:
    return [{(one["type"], one["start"], one["end"]) for one in row or ()} for row in column.to_pylist()]


def f1(true: list[Found], said: list[Found]) -> float:
    right = sum(len(a & b) for a, b in zip(true, said, strict=True))
    return 2 * right / (sum(map(len, true)) + sum(map(len, said)))


def test_it_learns_what_the_baselines_cannot(done):
    assert done.scores.primary == "span_f1"
    assert done.scores.test["span_f1"].value > 0.95
    assert done.scores.baselines["dummy"]["span_f1"].value < 0.1
    assert list(done.scores.test) == ["span_f1", "span_precision", "span_recall"]
    assert {"kind=call", "kind=chat"} <= set(done.scores.slices)
    report = Path(done.report).read_text(encoding="utf-8")
    assert "F1 per type of span" in report
    assert "training spans (100.00%) can be found, by whole words" in report


def test_the_score_is_that_of_offsets_into_the_texts_that_the_saved_model_predicts(done, folder):
    table = pq.read_table(folder / "a.parquet")
    path = f"{done.root}/sealed/test.parquet"
    rows = read(Predictions(path, "test", ("p",), pq.read_metadata(path).num_rows))
    from fmray.data.hashing import row_hash

    ids = {tuple(one) for one in rows.row_id.tolist()}
    mine = [tuple(one) in ids for one in row_hash(table, ["id"]).tolist()]
    test = table.filter(pa.array(mine))
    assert len(test) == pq.read_metadata(path).num_rows
    found = f1(true_of(test), said_of(open_model(done.root).predict(test)["prediction"]))
    assert done.scores.test["span_f1"].value == pytest.approx(found, rel=1e-12)


def test_gates_count_spans_of_types_and_not_tags_that_no_span_needs(done):
    """Names are one word each, so none goes on: `I-name` has no word at all."""
    found = {gate["gate"]: gate for gate in card_of(done).gates}
    assert found["G14"]["status"] == "pass"
    assert found["G20"]["status"] == "pass", found["G20"]
    assert "agrees with a second computation" in found["G13"]["text"]


def test_the_table_of_predictions_shows_the_spans_of_each_row(done, folder):
    shown = pq.read_table(f"{done.root}/predictions/val.parquet")["spans"]
    assert shown.type == pa.list_(PREDICTION)
    said = said_of(open_model(done.root).predict(pq.read_table(folder / "a.parquet"))["prediction"])
    rows = said_of(shown)
    assert len(rows) > 30
    assert any(rows)
    assert all(row in said for row in rows)


def test_predictions_of_new_files_are_spans_with_offsets_into_the_text_as_read(done, tmp_path):
    new = turns(120, 5)
    texts = new["text"].to_pylist()
    texts[:4] = [None, " \n", "name is  Jose\u0301!", "👍🏽👍🏽 at 7:30pm"]
    asked = [None] * 4 + new["asked"].to_pylist()[4:]
    columns = {
        "text": pa.array(texts),
        "asked": pa.array(asked, pa.list_(pa.string())),
        "id": new["id"],
        "kind": new["kind"],
    }
    given = pa.table(columns)
    pq.write_table(given, tmp_path / "new.parquet", row_group_size=50)
    predict(done.root, str(tmp_path / "new.parquet"), str(tmp_path / "out"), place="local")
    written = pq.read_table(tmp_path / "out/part-000000.parquet")
    told = open_model(done.root).predict(given)
    assert written["prediction"].type == told["prediction"].type == pa.list_(PREDICTION)
    assert said_of(written["prediction"]) == said_of(told["prediction"])
    found = told["prediction"].to_pylist()
    assert found[:2] == [[], []]
    assert [(one["type"], one["text"]) for one in found[2] + found[3]] == [("name", "Jose\u0301"), ("time", "7:30pm")]
    assert (found[3][0]["start"], found[3][0]["end"]) == (8, 14)
    for text, row in zip(texts, found, strict=True):
        assert all(one["text"] == text[one["start"] : one["end"]] and 0 < one["p"] <= 1 for one in row)
    assert f1(true_of(new)[4:], said_of(told["prediction"])[4:]) > 0.95


def test_what_was_asked_for_tells_what_a_number_is(done):
    rows = {"text": ["7", "7"], "asked": [["time"], ["people"]], "kind": ["call", "call"]}
    found = said_of(open_model(done.root).predict(pa.table(rows))["prediction"])
    assert found == [{("time", 0, 1)}, {("people", 0, 1)}]


@pytest.mark.parametrize("format_", ["torch", "onnx"])
def test_export_is_refused_by_name(done, format_, tmp_path):
    with pytest.raises(SpecError, match="reads rows of different lengths"):
        export(done.root, format_, str(tmp_path / "out"))


@pytest.mark.filterwarnings("ignore")  # MLflow's own, which fmray keeps quiet as well
def test_mlflow_serves_what_the_model_says(done, tmp_path):
    said, table = served_by_mlflow(done, turns(40, 6), tmp_path)
    told = open_model(done.root).predict(table)["prediction"].to_pylist()
    assert [[dict(one) for one in row] for row in said["prediction"]] == told


def test_rows_with_spans_that_cannot_be_are_set_aside_by_reason_and_few_at_most(folder, tmp_path):
    table = pq.read_table(folder / "a.parquet")
    spans = table["spans"].to_pylist()
    spans[5] = [{"slot": "name", "start": 0, "end": 999}]
    spans[6] = [{"slot": "name", "start": 2, "end": 2}]
    broken = write(tmp_path / "broken", table.set_column(2, "spans", pa.array(spans, SPANS)))
    small = {"train": {"epochs": 1, "batch_rows": 32}, "ensemble": "single", "evaluate": {"baselines": ["dummy"]}}
    run = execute(job_of(broken, **small), Store(str(tmp_path / "store")))
    assert card_of(run).prepared.quarantine == {
        "a span of 'spans' lies outside of 'text'": 1,
        "a span of 'spans' ends where it begins, or before": 1,
    }
    with pytest.raises(DataError, match=r"data\.max_quarantine: 2 of 600 rows cannot be used"):
        execute(job_of(broken, data={"max_quarantine": 0.0}, **small), Store(str(tmp_path / "store")))


def test_a_type_that_no_training_row_has_is_refused_with_the_row(folder, tmp_path):
    table = pq.read_table(folder / "a.parquet")
    table = table.append_column("side", pa.array(np.resize(["train", "train", "val", "test"], 600)))
    spans = table["spans"].to_pylist()
    spans[3] = [{"slot": "place", "start": 0, "end": 1}]
    strange = write(tmp_path / "strange", table.set_column(2, "spans", pa.array(spans, SPANS)))
    job = job_of(strange, split={"by": "given", "column": "side"})
    with pytest.raises(
        DataError, match=r"spans of 'spans' in validation or test that no training row has: 'place': 1 row"
    ):
        execute(job, Store(str(tmp_path / "store")))


@pytest.mark.cluster
def test_two_workers_end_where_one_process_does(done, folder, tmp_path):
    two = execute(job_of(folder, run={"workers": 2}), Store(str(tmp_path / "store")))
    close_members(done, two, share=1e-3)
    assert two.scores.test["span_f1"].value == pytest.approx(done.scores.test["span_f1"].value, abs=0.02)
