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


@pytest.mark.slow
def test_a_run_stopped_past_its_lease_leaves_what_another_process_finished_as_it_is(tmp_path):
    stages = ("prepare", "train", "baseline", "combine", "evaluate", "report", "model", "end", "predict")
    for point, found in try_points(tmp_path, *stages).items():
        assert found["second"] in (0, 2), (point, found["told"])
        assert found["files"] > 1
        assert found["changed"] == [], (point, found["changed"])
        assert found["first"] == 1, (point, found["told"])
        assert "took over" in found["told"], (point, found["told"])
        assert "Traceback" not in found["told"], (point, found["told"])


@pytest.mark.slow
def test_a_run_stopped_before_it_holds_a_lease_is_read_back_once_another_process_has_finished_it(tmp_path):
    for point, found in try_points(tmp_path, "scan", "found").items():
        changed = [name for name in found["changed"] if "lease-" not in name]
        assert (found["second"], changed) == (found["first"], []), (point, found)
        assert found["first"] in (0, 2), (point, found["told"])  # 2: a gate failed
        assert "finished before" in found["told"]
