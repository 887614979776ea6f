"""Run every example as a person would: as a script, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ON_A_CLUSTER = ("04_cluster_life",)
SCRIPTS = [
    pytest.param(script, id=script.stem, marks=[pytest.mark.cluster] * (script.stem in ON_A_CLUSTER))
    for script in sorted((ROOT / "examples").glob("[0-9]*.py"))
]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_ends_with_a_report(script: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    report = tmp_path / done.stdout.splitlines()[-1]
    assert report.name == "report.html"
    assert report.stat().st_size > 10_000
