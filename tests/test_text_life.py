"""Text goes through the whole life of a job: run, report, killed and continued, predicted, served, on workers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from life import close_members, served_by_mlflow

from fmray.errors import SpecError
from fmray.inference.export import export
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.records import Member, Run
from fmray.report.card import read_card
from fmray.spec.job import Job
from fmray.store import Store
from fmray.workflow import execute

pytestmark = pytest.mark.slow
WORDS = ["red", "green", "blue", "yellow", "black", "white", "brown", "grey", "pink"]
KINDS = {
    "tokens": {
        "steps": [{"tokenize": {"columns": ["question", "answer"], "kind": "words"}}, "standardise"],
        "model": {"bag_of_embeddings": {"width": 8, "dropout": 0.2}},
    },
    "bag": {
        "steps": [{"tfidf": {"columns": ["question", "answer"], "buckets": 4096}}, "standardise"],
        "model": "linear",
    },
}


def texts(num_rows: int, seed: int) -> pa.Table:
    """Draw questions and answers of no to 13 words; a row is positive where one of them says red."""
    source = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(source.choice(WORDS, source.integers(0, 14)))

    rows = {"question": [text() for _ in range(num_rows)], "answer": [text() for _ in range(num_rows)]}
    rows["question"][7] = None
    rows |= {"n": source.standard_normal(num_rows), "id": np.arange(num_rows)}
    rows["y"] = [int("red" in (q or "") + a) for q, a in zip(rows["question"], rows["answer"], strict=True)]
    return pa.table(rows)


def write_texts(folder: Path) -> None:
    folder.mkdir(parents=True)
    pq.write_table(texts(900, 3), folder / "a.parquet", row_group_size=200)


def job_of(kind: str, folder: Path, **run: object) -> Job:
    return Job.from_json(
        {
            "name": "texts",
            "data": {"path": str(folder), "target": "y", "key": "id"},
            "train": {"epochs": 6, "batch_rows": 64, "optimizer": {"adamw": {"lr": 0.05}}, "seeds": 2},
            "ensemble": {"average": {"keep": "always"}},
            "rigour": {"profile": "draft"},
            "run": {"workers": 0, "prepare": "local", "deterministic": True, "checkpoint_seconds": 0, **run},
            **KINDS[kind],
        }
    )


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("texts") / "data"
    write_texts(made)
    return made


@pytest.fixture(scope="module")
def done(kind, folder, tmp_path_factory) -> Run:
    return execute(job_of(kind, folder), Store(str(tmp_path_factory.mktemp(kind) / "store")))


def members_of(run: Run) -> list[Member]:
    return list(read_card(run.root, Store(run.root.rpartition("/runs/")[0])).members)


def test_it_learns_what_both_texts_say_and_has_a_report(done):
    assert done.scores.test["roc_auc"].low > 0.9
    assert "question" in Path(done.report).read_text(encoding="utf-8")


def test_new_files_are_predicted_as_the_run_predicted(done, tmp_path):
    model = open_model(done.root)
    new = texts(300, 5)
    pq.write_table(new.drop(["y"]), tmp_path / "new.parquet")
    predict(done.root, str(tmp_path / "new.parquet"), str(tmp_path / "out"), place="local")
    written = pq.read_table(tmp_path / "out/part-000000.parquet")
    assert written["p_1"].to_pylist() == pytest.approx(model.predict(new)["p_1"].to_pylist(), abs=1e-6)
    truth = new["y"].to_numpy()
    assert np.mean((written["p_1"].to_numpy() > 0.5) == truth) > np.maximum(truth.mean(), 1 - truth.mean()) + 0.05
    ours = model.predict(model.example)["p_1"].to_numpy()
    theirs = pq.read_table(f"{done.root}/predictions/val.parquet")["p_1"].to_numpy()
    assert np.abs(theirs[None] - ours[:, None]).min(1).max() < 1e-6


@pytest.mark.parametrize("format_", ["torch", "onnx"])
def test_export_is_refused_by_name(done, format_, tmp_path):
    with pytest.raises(SpecError, match="reads rows of different lengths"):
        export(done.root, format_, str(tmp_path / "out"))


@pytest.mark.filterwarnings("ignore")  # MLflow's own, which fmray keeps quiet as well
def test_mlflow_serves_what_the_model_says(done, tmp_path):
    said, table = served_by_mlflow(done, texts(40, 6), tmp_path)
    assert said["p_1"].tolist() == pytest.approx(open_model(done.root).predict(table)["p_1"].to_pylist(), abs=1e-6)


KILLED = """
import os, signal, sys
from pathlib import Path
from fmray.events import Epoch
from fmray.store import Store
from fmray.workflow import execute
from test_text_life import job_of

seen = 0

def die(event):
    global seen
    seen += isinstance(event, Epoch)
    if seen == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

execute(job_of(sys.argv[1], Path(sys.argv[2])), Store(sys.argv[3]), report=die)
"""


def test_killed_and_run_again_it_ends_in_the_same_bits(done, kind, folder, tmp_path):
    tests = Path(__file__).parent
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests.parent, tests)))}
    store = str(tmp_path / "store")
    for epochs in (2, 1):
        call = [sys.executable, "-c", KILLED, kind, str(folder), store, str(epochs)]
        killed = subprocess.run(call, env=given, capture_output=True, text=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = execute(job_of(kind, folder), Store(store))
    facts = [[(m.tensor_hash, m.val_score, m.best_epoch) for m in members_of(run)] for run in (done, again)]
    assert facts[0] == facts[1]
    assert again.scores.test == done.scores.test


@pytest.mark.cluster
def test_two_workers_end_where_one_process_does(done, kind, folder, tmp_path):
    two = execute(job_of(kind, folder, workers=2), Store(str(tmp_path / "store")))
    close_members(done, two, share=1e-3)
