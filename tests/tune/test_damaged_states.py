"""Damage what an interrupted training left, and continue it: it ends as it would have, or names the file."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray import workflow
from fmray.errors import DataError
from fmray.events import Epoch
from fmray.spec.load import job_from
from fmray.store import Store

pytestmark = pytest.mark.slow

SEARCH = {"members": 8, "by": "optuna", "structures": 2, "first_rung": 1, "eta": 3, "finalists": 1}
JOB = {
    "name": "small", "data": {"path": "rows.parquet", "target": "y"},
    "model": {"mlp": {"width": {"choice": [3, 4]}, "dropout": {"uniform": [0, 0.5]}}},
    "train": {"epochs": 3, "batch_rows": 32, "early_stop": None, "seeds": 1}, "search": SEARCH,
    "evaluate": {"baselines": []}, "run": {"deterministic": True, "threads": 1, "checkpoint_seconds": 0, "workers": 0},
}  # fmt: skip


def interrupted(job, store, number):
    """Carry a job until so many epochs of members are over."""
    left = [number]

    def stop(event):
        if isinstance(event, Epoch) and event.place.role == "member":
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflow.execute(job, store, report=stop)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give the job, a store in which the second trial is in training, and what it comes to if nothing is damaged."""
    folder, random = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    x = random.normal(size=(160, 2))
    pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] > x[:, 1]}), folder / "rows.parquet")
    job = job_from(JOB, folder)
    interrupted(job, Store(str(folder / "store")), 5)
    shutil.copytree(folder / "store", folder / "whole")
    return job, folder / "store", outcome(job, folder / "whole")


def outcome(job, place):
    store = Store(str(place))
    run = workflow.execute(job, store)
    return run.scores.test, store.read_json(f"{run.root}/run.json")["tensor_hashes"]


@pytest.fixture
def place(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "store")
    return tmp_path / "store"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")], ids=["flip", "gone", "empty"]
)
@pytest.mark.parametrize(
    "pattern",
    ["width-*.json", "judgements.jsonl", "proposals.jsonl", "trials/00000/00000/result.json",
     "trials/00000/00000/val.npy", "trials/00000/00000/00000/model.safetensors"],
)  # fmt: skip
def test_a_damaged_file_of_an_interrupted_search_is_named_or_its_loss_changes_nothing(made, place, pattern, damage):
    path = sorted(place.glob(f"checkpoints/*/{pattern}"))[0]
    damage(path)
    try:
        found = outcome(made[0], place)
    except DataError as error:
        assert path.name in str(error)
    else:
        assert found == made[2]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_nothing_changes(made, place):
    states = sorted(place.glob("checkpoints/*/trials/*/*/states/*/state.safetensors"))
    assert len(states) == 2
    flip(states[-1])
    assert outcome(made[0], place) == made[2]


def test_a_store_may_be_moved_while_a_training_is_interrupted(made, place):
    shutil.rmtree(made[1].parent / "elsewhere", ignore_errors=True)
    place.rename(made[1].parent / "elsewhere")
    assert outcome(made[0], made[1].parent / "elsewhere") == made[2]


def test_judgements_that_were_cut_at_a_line_are_noticed(made, place):
    (path,) = place.glob("checkpoints/*/judgements.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(DataError, match=r"judgements\.jsonl is damaged"):
        outcome(made[0], place)
