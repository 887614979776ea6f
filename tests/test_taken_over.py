"""A process that was stopped past its lease writes nothing into what another one has finished meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).with_name("stopped.py")
JOB = """name: job
data: {path: data/d.parquet, target: y}
model: linear
train: {epochs: 12, batch_rows: 32, optimizer: {adam: {lr: 0.02}}, early_stop: null}
rigour: {prefer: simple}
"""


def try_points(folder: Path, *points: str) -> dict[str, dict]:
    (folder / "data").mkdir()
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 3))
    y = np.where(x[:, 0] + x[:, 1] + 0.3 * random.normal(size=600) > 0, "b", "a")
    pq.write_table(pa.table({**{f"f{i}": c for i, c in enumerate(x.T)}, "y": y}), folder / "data/d.parquet")
    (folder / "job.yaml").write_text(JOB)
    asked = [sys.executable, str(SCRIPT), str(folder), *points]
    done = subprocess.run(
        asked, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {found["point"]: found for found in map(json.loads, done.stdout.splitlines())}


def require_untouched(found: dict[str, dict], said: str = "took over") -> None:
    """Make sure that the first process wrote nothing into what the second one finished, and ended with an error."""
    for point, one in found.items():
        assert one["second"] == 0, (point, one["told"])
        assert one["files"] > 1
        assert one["changed"] == [], (point, one["changed"], one["told"])
        assert one["first"] != 0, (point, one["told"])
        assert said in one["told"], (point, one["told"])
        assert "Traceback" not in one["told"], (point, one["told"])


@pytest.mark.slow
def test_a_run_stopped_past_its_lease_leaves_what_another_process_finished_as_it_is(tmp_path):
    stages = ("prepare", "train", "baseline", "combine", "evaluate", "look", "report", "model", "end")
    require_untouched(try_points(tmp_path, *stages))


@pytest.mark.slow
def test_predictions_stopped_past_their_lease_leave_what_another_process_finished_as_it_is(tmp_path):
    require_untouched(try_points(tmp_path, "predict"))


@pytest.mark.slow
def test_a_decision_stopped_past_its_lease_leaves_what_another_process_decided_as_it_is(tmp_path):
    require_untouched(try_points(tmp_path, "promote", "witness"))


@pytest.mark.slow
def test_what_mlflow_was_told_meanwhile_is_not_touched_by_a_process_stopped_past_its_lease(tmp_path):
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    found = try_points(tmp_path, "publish", "files", "alias")
    publish = found.pop("publish")  # here the run was finished before, and there is nothing left to tell
    assert (publish["first"], publish["second"], publish["changed"]) == (0, 0, []), publish["told"]
    require_untouched(found)


@pytest.mark.slow
def test_an_export_that_was_stopped_leaves_what_another_process_exported_as_it_is(tmp_path):
    require_untouched(try_points(tmp_path, "export"), said="another process has written to")


@pytest.mark.slow
def test_a_run_stopped_before_it_holds_a_lease_is_read_back_once_another_process_has_finished_it(tmp_path):
    for point, found in try_points(tmp_path, "scan", "found").items():
        assert (found["second"], found["changed"]) == (found["first"], []), (point, found)
        assert found["first"] == 0, (point, found["told"])
        assert "finished before" in found["told"]
