"""Compare jobs on real data with what a bare script reaches on the same rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FMRAY_DATA", ROOT.parent / "shared" / "data"))


def run(folder: Path, job: dict[str, object]) -> dict[str, object]:
    """Carry out a job, and give its scores."""
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "fmray.cli", "run", "job.yaml", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])["scores"]


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "sms_spam").is_dir(), reason=f"{DATA} has no sms_spam")
@pytest.mark.parametrize("name", ["sms_spam", "sms_spam_tokens"])
def test_text_is_told_apart_as_by_tfidf_and_logistic_regression_of_scikit_learn(tmp_path, name):
    """On the same rows: neither ROC-AUC nor accuracy of scikit-learn lies above the interval of ours."""
    rows = pq.read_table(DATA / "sms_spam").to_pandas().drop_duplicates("text").reset_index(drop=True)
    rows["side"] = np.random.default_rng(5).choice(["train", "val", "test"], len(rows), p=[0.6, 0.15, 0.25])
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), tmp_path / "data" / "a.parquet")
    job = yaml.safe_load((ROOT / "jobs" / f"{name}.yaml").read_text())
    job["data"]["path"], job["split"] = "data", {"by": "given", "column": "side"}
    scores = run(tmp_path, {**job, "rigour": {"profile": "draft"}, "run": {"workers": 0}})

    train, test = (rows[rows.side == side] for side in ("train", "test"))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000).fit(words.fit_transform(train.text), train.label == "spam")
    p = model.predict_proba(words.transform(test.text))[:, 1]
    theirs = {
        "roc_auc": roc_auc_score(test.label == "spam", p),
        "accuracy": accuracy_score(test.label == "spam", p > 0.5),
    }
    assert scores["looks"] == 1
    for metric, value in theirs.items():
        assert scores["test"][metric]["high"] >= value, (metric, scores["test"][metric], value)
