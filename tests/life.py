"""What the life of a job of any family is seen by: killed and run again, served by MLflow, trained on workers."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from safetensors.torch import load_file

from fmray.records import Member, Run
from fmray.report.card import read_card
from fmray.store import Store

TESTS = Path(__file__).parent
KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from fmray.events import Epoch
from fmray.store import Store
from fmray.workflow import execute

name, asked, folder, store, epochs = sys.argv[1:]
seen = 0

def die(event):
    global seen
    seen += isinstance(event, Epoch)
    if seen == int(epochs):
        os.kill(os.getpid(), signal.SIGKILL)

execute(getattr(importlib.import_module(name), asked)(Path(folder)), Store(store), report=die)
"""


def kill_after(epochs: int, test: str, asked: str, *, folder: Path, store: str) -> None:
    """Run the job that a function of a test module gives for a folder, and kill its process at an epoch."""
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS)))}
    call = [sys.executable, "-c", KILLED, test, asked, str(folder), store, str(epochs)]
    killed = subprocess.run(call, env=given, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def members_of(run: Run) -> list[Member]:
    return list(read_card(run.root, Store(run.root.rpartition("/runs/")[0])).members)


def same_bits(one: Run, other: Run) -> None:
    """Make sure that two runs trained the same members to the bit, and say the same of the test rows."""
    facts = [[(m.tensor_hash, m.val_score, m.best_epoch) for m in members_of(run)] for run in (one, other)]
    assert facts[0] == facts[1]
    assert one.scores.test == other.scores.test


def served_by_mlflow(run: Run, table: pa.Table, folder: Path) -> tuple[Any, pa.Table]:
    """Save a model as MLflow's, and give what it says of rows, and the columns of these that it was asked about."""
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    from fmray.inference.serving import served

    shown = served(run.root)
    mlflow.pyfunc.save_model(
        folder / "served",
        python_model=shown.code,
        artifacts={"model": f"{run.root}/model"},
        signature=mlflow.models.infer_signature(shown.example, shown.answer),
        pip_requirements=[],
    )
    asked = table.select(shown.example.columns)
    return mlflow.pyfunc.load_model(str(folder / "served")).predict(asked.to_pandas()), asked


def close_members(one: Run, other: Run, share: float) -> None:
    """Make sure that tensors of two runs differ by less than this share of the largest number of each, or of 1."""
    for mine, theirs in zip(members_of(one), members_of(other), strict=True):
        assert mine.best_epoch == theirs.best_epoch
        ours, others = (
            load_file(f"{run.root}/model/{member.index:05d}/model.safetensors")
            for run, member in ((one, mine), (other, theirs))
        )
        for name, tensor in ours.items():
            assert float((tensor - others[name]).abs().max()) < share * max(1.0, float(tensor.abs().max())), name
