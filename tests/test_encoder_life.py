"""Encoders go through the whole life of a job on every task of rows and on tags: run, record, reopened, alone again."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.inference.model import open_model
from fmray.records import Run
from fmray.report.card import read_card
from fmray.spec.job import Job
from fmray.store import Store
from fmray.workflow import execute

pytestmark = pytest.mark.slow
WORDS = ["red", "green", "blue", "yellow", "black", "white", "brown", "grey"]
TASKS = {
    "classification": ("order", "accuracy"),
    "multi_label": ("colours", "f1_micro"),
    "regression": ("reds", "r2"),
    "tagging": ("tags", "token_accuracy"),
}
"""Task -> its target and primary metric."""


def sentences(num_rows: int, seed: int) -> pa.Table:
    """Draw texts of 2 to 9 colours, with what can only be told by who sees a whole text, or by who counts.

    order: whether red stands before blue; colours: which of red and green there are; reds: how many reds; tags: whether
    the word behind is red.
    """
    source = np.random.default_rng(seed)
    words = [source.choice(WORDS, source.integers(0, 8)).tolist() for _ in range(num_rows)]
    for row in words:
        pair = ["red", "blue"] if source.random() < 0.5 else ["blue", "red"]
        row[:] = [word for word in row if word != "blue"]
        at = sorted(source.integers(0, len(row) + 1, 2).tolist())
        row.insert(at[0], pair[0])
        row.insert(at[1] + 1, pair[1])
    columns = {
        "text": [" ".join(row) for row in words],
        "words": pa.array(words, pa.list_(pa.string())),
        "order": ["after" if row.index("blue") < row.index("red") else "before" for row in words],
        "colours": pa.array([[c for c in ("red", "green") if c in row[:3]] for row in words], pa.list_(pa.string())),
        "reds": [float(row.count("red")) for row in words],
        "tags": [["X" if later == "red" else "O" for later in [*row[1:], ""]] for row in words],
        "id": np.arange(num_rows),
    }
    return pa.table(columns)


def job_of(task: str, folder: Path, model: object, **changes: object) -> Job:
    target, _ = TASKS[task]
    others = [name for name in ("text", "words", "order", "colours", "reds", "tags") if name != target]
    source = "words" if task == "tagging" else "text"
    step = (
        {"tokenize_words": {"columns": source}}
        if task == "tagging"
        else {"tokenize": {"columns": source, "kind": "words"}}
    )
    asked = {
        "name": f"encoded_{task}",
        "data": {"path": str(folder), "target": target, "key": "id", "ignore": [n for n in others if n != source]},
        "task": task,
        "steps": [step],
        "model": model,
        "train": {"epochs": 8, "batch_rows": 32, "optimizer": {"adamw": {"lr": 0.005}}, "seeds": 2},
        "ensemble": {"average": {"keep": "always"}},
        "evaluate": {"baselines": ["dummy"]},
        "rigour": {"profile": "draft"},
        "run": {"workers": 0, "threads": 1, "prepare": "local", "deterministic": True},
    }
    return Job.from_json({**asked, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("sentences") / "data"
    made.mkdir()
    pq.write_table(sentences(900, 3), made / "a.parquet", row_group_size=300)
    return made


@pytest.fixture(scope="module", params=list(TASKS))
def task(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def done(task, folder, tmp_path_factory) -> Run:
    model = {"encoder": {"width": 32, "depth": 2, "heads": 2, "dropout": 0.1}}
    return execute(job_of(task, folder, model), Store(str(tmp_path_factory.mktemp(task) / "store")))


def test_it_learns_what_depends_on_several_tokens(done, task):
    _, metric = TASKS[task]
    least = {"classification": 0.95, "multi_label": 0.9, "regression": 0.9, "tagging": 0.97}
    assert done.scores.test[metric].value > least[task]


def test_the_record_of_a_member_says_what_has_an_output_of_its_own(done, task):
    card = read_card(done.root, Store(done.root.rpartition("/runs/")[0]))
    assert {member.model["params"]["per"] for member in card.members} == {"token" if task == "tagging" else "row"}


def test_a_model_folder_alone_says_of_each_row_what_it_says_of_all(done, task, tmp_path):
    (tmp_path / "moved").mkdir()
    Path(done.root, "model").rename(tmp_path / "moved/model")
    model = open_model(str(tmp_path / "moved/model"))
    new = sentences(40, 5).select(["words" if task == "tagging" else "text"])
    whole = model.predict(new)
    assert whole.num_rows == 40
    numbers = [name for name in whole.column_names if name.startswith("p_") or task == "regression"]
    for row in range(0, 40, 13):
        alone = model.predict(new.slice(row, 1))
        for name in numbers:
            assert np.allclose(alone[name][0].as_py(), whole[name][row].as_py(), rtol=1e-5, atol=1e-6)
