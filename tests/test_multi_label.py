"""Labels go through the whole life of a job: prepared, learned, judged, reported, predicted, exported."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, hamming_loss

from fmray.cli import main
from fmray.errors import SpecError
from fmray.evaluate.table import read
from fmray.inference.model import open_model
from fmray.inference.predict import predict
from fmray.records import Predictions
from fmray.spec.load import load_job
from fmray.targets.labels import THRESHOLDS
from fmray.workflow import run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("multi_label")]
NAMES = np.array(["amber", "blue", "cyan", "dun"])
JOB = """
name: tags
data: {path: rows.parquet, target: tags}
model: linear
train: {epochs: 12, batch_rows: 64, seeds: 2, optimizer: {adamw: {lr: 0.05}}}
ensemble: {average: {keep: always}}
"""


def rows(num_rows, seed):
    """Draw rows with four labels each of which depends on six numbers; some rows have none, some lists are missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 6))
    logits = x @ np.random.default_rng(0).normal(size=(6, 4)) * 1.5 + [-1, 0, -2, -1.5]
    has = rng.random((num_rows, 4)) < 1 / (1 + np.exp(-logits))
    lists = [NAMES[row].tolist() for row in has]
    lists[3] = None
    columns = {f"x{place}": column for place, column in enumerate(x.T)}
    return pa.table({**columns, "tags": pa.array(lists, pa.list_(pa.string()))})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("labels")
    pq.write_table(rows(1500, 3), home / "rows.parquet")
    (home / "job.yaml").write_text(JOB)
    return home


@pytest.fixture(scope="module")
def done(home):
    return run(load_job(home / "job.yaml"), str(home / "store"))


def test_scores_are_those_of_scikit_learn_on_the_table_of_predictions(done):
    path = f"{done.root}/sealed/test.parquet"
    table = read(Predictions(path, "test", ("p", "decided"), pq.read_metadata(path).num_rows))
    said, target = table.output[:, 4:], table.target
    expected = {
        "f1_micro": f1_score(target, said, average="micro"),
        "f1_macro": f1_score(target, said, average="macro"),
        "subset_accuracy": accuracy_score(target, said),
        "hamming_loss": hamming_loss(target, said),
    }
    found = done.scores.test
    assert {name: found[name].value for name in expected} == pytest.approx(expected, rel=1e-12)
    assert all(0 <= i.low < i.value < i.high <= 1 for i in found.values())
    assert found["f1_micro"].value > done.scores.baselines["dummy"]["f1_micro"].value
    assert pq.read_schema(path).field("p").type == pa.list_(pa.float64(), 4)


def test_it_learns_what_logistic_regression_of_each_label_learns(home, done):
    table = rows(1500, 3).filter(pa.array([True] * 3 + [False] + [True] * 1496))
    new = rows(1000, 4).filter(pa.array([True] * 3 + [False] + [True] * 996))
    x, x_new = (np.stack([t[f"x{i}"].to_numpy() for i in range(6)], 1) for t in (table, new))
    y = np.array([[name in row for name in NAMES] for row in table["tags"].to_pylist()])
    theirs = np.stack([LogisticRegression().fit(x, y[:, c]).predict_proba(x_new)[:, 1] for c in range(4)], 1)
    ours = open_model(done.root).predict(new)
    p = np.stack([ours[f"p_{name}"].to_numpy() for name in NAMES], 1)
    assert np.abs(p - theirs).mean() < 0.03


def test_predictions_on_new_files_are_lists_of_labels_above_the_threshold(home, done, tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(rows(50, 5).drop(["tags"]), tmp_path / "in" / "new.parquet")
    predict(done.root, str(tmp_path / "in" / "new.parquet"), str(tmp_path / "out"), place="local")
    found = pq.read_table(tmp_path / "out" / "part-000000.parquet")
    thresholds = json.loads(Path(f"{done.root}/model/model.json").read_text())["ensemble"]["params"][THRESHOLDS]
    p = np.stack([found[f"p_{name}"].to_numpy() for name in NAMES], 1)
    assert found["prediction"].to_pylist() == [NAMES[row].tolist() for row in p > thresholds]
    assert 0 < thresholds[0] < 1
    assert len(set(thresholds)) == 1


def test_the_report_says_which_threshold_was_chosen(done):
    text = Path(f"{done.root}/report.html").read_text()
    assert "a label is predicted above a probability of" in text
    assert "F1 per label" in text


@pytest.mark.parametrize(("metric", "code", "said"), [("f1[amber]", 0, ""), ("log_loss", 5, "the target is a label")])
def test_check_takes_the_f1_of_a_label(home, capsys, metric, code, said):
    with pytest.raises(SystemExit) as ended:
        main(["check", str(home / "job.yaml"), "--set", "task=multi_label", "--set", f"evaluate.metrics=['{metric}']"])
    assert ended.value.code == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_score_on_validation_is_that_of_the_thresholds_that_are_chosen_there(done):
    record = json.loads(Path(f"{done.root}/model/model.json").read_text())["ensemble"]
    assert record["val_score"] == pytest.approx(done.scores.val["f1_micro"].value, abs=0.01)


def test_another_task_on_lists_is_refused(home):
    (home / "other.yaml").write_text(JOB + "task: classification\n")
    with pytest.raises(SpecError, match=r"classification takes one value per row, column 'tags' holds lists"):
        run(load_job(home / "other.yaml"), str(home / "other"))
