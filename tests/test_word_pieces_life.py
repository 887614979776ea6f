"""Tags of words are learned by a pretrained encoder that reads pieces of words, through the whole life of a job."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_bert
from life import close_members, kill_after, same_bits

from fmray.errors import SpecError
from fmray.evaluate.table import read
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.records import Predictions, Run
from fmray.report.card import read_card
from fmray.spec.job import Job
from fmray.spec.load import job_from
from fmray.store import Store
from fmray.workflow import execute

pytest.importorskip("transformers", reason="the extra `hf` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("word_pieces_life")]
COLOURS = [word for word in tiny_bert.WORDS if not word.startswith("##")][:8]
LISTS = pa.list_(pa.string())


def tags_of(words: list[str]) -> list[str]:
    """Mark cards, as lost ones where the row says so in small letters, which its pieces do not tell from capitals."""
    kind = "LOST" if "lost" in words else "KEPT"
    return [f"B-{kind}" if word == "card" else f"I-{kind}" if word == "cards" else "O" for word in words]


def sentences(num_rows: int, seed: int) -> pa.Table:
    """Draw sentences of 1 to 12 words, some cut into pieces, some unknown; rows without words have no tags."""
    source = np.random.default_rng(seed)
    words = [*COLOURS[:4], "card", "cards", "card", "cards", "reders", "zebra"]
    told = [[*words, *[source.choice(["lost", "LOST"])] * 2] for _ in range(num_rows)]
    lists = [source.choice(row, source.integers(1, 13)).tolist() for row in told]
    lists[3:6] = [["lost", "", "card"]] * 3
    tags = [tags_of(row) for row in lists]
    lists[7] = tags[7] = None
    columns = {"words": pa.array(lists, LISTS), "tags": pa.array(tags, LISTS), "id": np.arange(num_rows)}
    return pa.table(columns | {"text": [" ".join(row or ()) for row in lists]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("sentences")
    (made / "data").mkdir()
    pq.write_table(sentences(500, 3), made / "data/a.parquet", row_group_size=100)
    tiny_bert.write(made / "bert", initializer_range=0.1)
    return made


def job_of(folder: Path, **changes: object) -> Job:
    words = {"columns": "words", "parts": ["pieces", "whole", "shape"], "pretrained": "bert", "max_tokens": 14}
    options = {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True, "checkpoint_seconds": 0}
    asked = {
        "name": "pieces",
        "data": {"path": "data", "target": "tags", "key": "id", "ignore": ["text"]},
        "task": "tagging",
        "steps": [{"tokenize_words": words}],
        "model": {"hf": {"folder": "bert", "beside": "shape", "dropout": 0.01}},
        "train": {"epochs": 12, "batch_rows": 16, "optimizer": {"adamw": {"lr": 0.003}}, "early_stop": None},
        "rigour": {"profile": "draft"},
        "run": options | changes.pop("run", {}),
    }
    return job_from({**asked, **changes}, folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store") / "store"))


@pytest.fixture(scope="module")
def done(folder, store) -> Run:
    return execute(job_of(folder), store)


def members_of(run: Run):
    return read_card(run.root, Store(run.root.rpartition("/runs/")[0])).members


def test_it_learns_what_a_word_alone_does_not_tell_and_says_what_it_reads(done):
    assert done.scores.primary == "entity_f1"
    assert done.scores.test["entity_f1"].value > 0.85
    assert done.scores.test["entity_f1"].value > done.scores.baselines["linear"]["entity_f1"].value + 0.2
    report = Path(done.report).read_text(encoding="utf-8")
    assert "a word is told by its first" in report
    assert "are read in windows of 14 that end between words, so none is left out" in report
    assert "stand as unknown" in report


def test_entities_are_counted_as_seqeval_counts_them_over_all_words_of_the_test_rows(done):
    theirs = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    path = f"{done.root}/sealed/test.parquet"
    lists = pq.read_table(path)
    names = read_card(done.root, Store(done.root.rpartition("/runs/")[0])).prepared.target.classes
    said = [[names[int(np.argmax(p))] for p in row] for row in lists["p"].to_pylist()]
    true = [[names[tag] for tag in row] for row in lists["target"].to_pylist()]
    assert [len(row) for row in said] == [len(row) for row in true]
    assert done.scores.test["entity_f1"].value == pytest.approx(theirs.f1_score(true, said), rel=1e-12)
    table = read(Predictions(path, "test", ("p",), pq.read_metadata(path).num_rows))
    assert table.output.sum(1) == pytest.approx(1)


def test_predictions_of_new_files_are_a_tag_per_word_however_long_the_row(done, tmp_path):
    new = sentences(60, 5)
    long = ["red", "lost", "card"] * 30
    words = pa.chunked_array([pa.array([None, long, [], ["lost", None], *new["words"].to_pylist()[4:]], LISTS)])
    new = new.set_column(0, "words", words).drop(["tags"])
    pq.write_table(new, tmp_path / "new.parquet", row_group_size=25)
    predict(done.root, str(tmp_path / "new.parquet"), str(tmp_path / "out"), place="local")
    written = pq.read_table(tmp_path / "out/part-000000.parquet")
    told = open_model(done.root).predict(new)
    assert written["prediction"].to_pylist() == told["prediction"].to_pylist()
    said = told["prediction"].to_pylist()
    assert [len(row) for row in said] == [len(row or []) for row in words.to_pylist()]
    assert np.mean([tag == true for tag, true in zip(said[1], tags_of(long), strict=True)]) > 0.9
    right = [
        tag == true
        for row, tags in zip(said[8:], sentences(60, 5)["tags"].to_pylist()[8:], strict=True)
        for tag, true in zip(row, tags, strict=True)
    ]
    assert np.mean(right) > 0.9


def test_the_saved_model_says_of_its_rows_what_the_run_said(done):
    model = open_model(done.root)
    ours = model.predict(model.example)["p"].to_pylist()
    theirs = pq.read_table(f"{done.root}/predictions/val.parquet")["p"].to_pylist()
    for row in ours:
        assert any(len(row) == len(other) and np.allclose(row, other, atol=1e-5) for other in theirs)


@pytest.mark.parametrize("format_", ["torch", "onnx"])
def test_export_is_refused_by_name(done, format_, tmp_path):
    with pytest.raises(SpecError, match="reads rows of different lengths"):
        export(done.root, format_, str(tmp_path / "out"))


def test_killed_and_run_again_it_ends_in_the_same_bits(done, folder, tmp_path):
    store = str(tmp_path / "store")
    kill_after(2, "test_word_pieces_life", "job_of", folder=folder, store=store)
    again = execute(job_of(folder), Store(store))
    same_bits(done, again)


def test_spans_of_a_text_are_found_by_pieces_of_its_words(folder, store, tmp_path):
    table = sentences(500, 3)
    spans = [
        [
            {"type": found[0].upper(), "start": found.start(), "end": found.end()}
            for found in re.finditer(r"cards?", row)
        ]
        for row in table["text"].to_pylist()
    ]
    (tmp_path / "data").mkdir()
    pq.write_table(table.drop(["words", "tags"]).append_column("spans", pa.array(spans)), tmp_path / "data/a.parquet")
    steps = [{"tokenize_words": {"columns": "text", "parts": ["pieces"], "pretrained": str(folder / "bert")}}]
    data = {"path": str(tmp_path / "data"), "target": "spans", "text": "text", "key": "id"}
    model = {"hf": {"folder": "bert", "dropout": 0.0}}
    asked = {"data": data, "steps": steps, "model": model, "evaluate": {"baselines": ["dummy"]}}
    run = execute(job_of(folder, name="spans", task="span_extraction", **asked), store)
    assert run.scores.test["span_f1"].value > 0.8
    text = "red lost cards, card blue"
    (found,) = open_model(run.root).predict(pa.table({"text": [text]}))["prediction"].to_pylist()
    assert [(one["type"], one["start"], one["text"]) for one in found] == [("CARDS", 9, "cards"), ("CARD", 16, "card")]


def test_a_model_of_words_is_refused_where_there_are_pieces_alone(folder, store):
    steps = [{"tokenize_words": {"columns": "words", "parts": ["pieces"], "pretrained": "bert"}}]
    with pytest.raises(SpecError, match="tagger reads tokens, and no step makes them"):
        execute(job_of(folder, steps=steps, model="tagger"), store)


@pytest.mark.cluster
def test_two_workers_end_where_one_process_does(done, folder, tmp_path):
    two = execute(job_of(folder, run={"workers": 2}), Store(str(tmp_path / "store")))
    close_members(done, two, share=2e-2)
