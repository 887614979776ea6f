"""Check that a model learned from rows sampled by class speaks of the rows as they are."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.data.prepare import prepare
from fmray.data.scan import scan
from fmray.metrics.find import find_metric
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.spec.sections import Train
from fmray.store import Store
from fmray.train.ingest import Rows
from fmray.train.loop import fit, predict_rows
from fmray.train.pack import Pack, Plan

NUM_ROWS = 20_000


def logistic_rows(path):
    """Write rows of a logistic problem in which one row in twelve or so is positive."""
    random = np.random.default_rng(3)
    x = random.standard_normal((NUM_ROWS, 3))
    p = 1 / (1 + np.exp(3 - x @ [1.0, -0.5, 0.25]))
    path.mkdir(parents=True)
    y = (random.random(NUM_ROWS) < p).astype(np.int64)
    pq.write_table(pa.table({f"f{i}": c for i, c in enumerate(x.T)} | {"y": y}), path / "a.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("sample", [{"over": 1.0}, {"under": 1.0}])
def test_after_sampling_the_mean_probability_is_the_true_base_rate(tmp_path, sample):
    logistic_rows(tmp_path / "data")
    job = Job.from_json(
        {"name": "rows", "data": {"path": str(tmp_path / "data"), "target": "y", "sample": sample},
         "steps": [], "run": {"prepare": "local"}}
    )  # fmt: skip
    store, task = Store(str(tmp_path / "store")), Ref("classification")
    prepared = prepare(scan(job.data, ".", store), job, task, store)
    metric = find_metric("log_loss", prepared.target)
    train = Train(epochs=12, batch_rows=256, early_stop=None, schedule=Ref("cosine"))
    plan = Plan(0, 1, Ref("linear"), Ref("adamw", {"lr": 0.05, "weight_decay": 0.0}), task, {})
    pack = Pack([plan], prepared.schema, prepared.target, train, metric.higher_is_better)
    test = Rows(prepared, "test", "cpu")
    fit(pack, Rows(prepared, "train", "cpu"), Rows(prepared, "val", "cpu"), metric, 11)
    said = predict_rows(pack, test)[0][0, :, 1]

    truth, counts = test.scored()["target"], prepared.target.counts
    share = np.mean(truth)
    # The test rows vary, and so does what was learned: from the rarer class's rows, doubly so where others were left out.
    error = np.sqrt(share * (1 - share) * (1 / len(truth) + 2 / sum(counts)))
    assert abs(said.mean() - share) < 3 * error
    unshifted = said / (said + (1 - said) * counts[1] / counts[0])
    assert unshifted.mean() - share > 20 * error
    slope = np.polyfit(np.log(said / (1 - said)), truth - said, 1)[0]
    assert abs(slope) < 0.02  # calibrated along the scale, not in the mean alone
