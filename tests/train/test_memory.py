"""Check that a training goes on in smaller steps where memory does not suffice, and stays the same training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train.faulty_net import Narrow
from tune.kill import prepared_rows, write_data

from fmray.errors import TrainError
from fmray.events import to_json
from fmray.metrics.find import find_metric
from fmray.records import Member, Prepared
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.ingest import Rows
from fmray.tune.plans import plans_of
from fmray.tune.sweep import sweep

MODEL = "train.faulty_net:Narrow"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = write_data(tmp_path)
    train = replace(job.train, epochs=2, early_stop=None, seeds=replace(job.train.seeds, n=1))
    return replace(job, train=train, run=replace(job.run, deterministic=False, checkpoint_seconds=60))


@pytest.fixture
def prepared(job: Job, tmp_path: Path) -> Prepared:
    return prepared_rows(job, tmp_path)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bytes]]:
    """Give epoch, step and rows of every batch that is trained on."""
    seen, batches = [], Rows.batches

    def recorded(self, order, seed, epoch, batch_rows, first_step=0):
        for step, batch in enumerate(batches(self, order, seed, epoch, batch_rows, first_step), first_step):
            seen.append((epoch, step, self.lanes.take(batch.rows.numpy(), ["row_id"])["row_id"].tobytes()))
            yield batch

    monkeypatch.setattr(Rows, "batches", recorded)
    return seen


def train(
    job: Job, prepared: Prepared, folder: Path, accumulate: int = 1, **params: Any
) -> tuple[Member, dict[str, torch.Tensor], list[dict[str, Any]]]:
    Narrow.calls = 0
    events: list[dict[str, Any]] = []
    job = replace(job, model=Ref(MODEL, params), train=replace(job.train, accumulate=accumulate))
    metric = find_metric("roc_auc", prepared.target)
    done = sweep(
        job,
        plans_of(job, Ref("classification")),
        prepared,
        metric,
        Store(str(folder)),
        report=lambda event: events.append(to_json(event)),
    )
    return done.members[0], load_file(f"{done.members[0].root}/model.safetensors"), events


def test_steps_that_do_not_fit_are_computed_in_halves_to_the_weights_of_a_training_told_so(
    job, prepared, tmp_path, steps
):
    halved, weights, events = train(job, prepared, tmp_path / "a", most=30)
    rows = list(dict.fromkeys(steps))  # the step that did not fit begins anew
    steps.clear()
    told, expected, _ = train(job, prepared, tmp_path / "b", accumulate=4, most=30)
    assert rows == steps
    assert len(rows) == 2 * -(-prepared.num_rows("train") // 100)
    assert weights.keys() == expected.keys()
    assert halved.tensor_hash == told.tensor_hash
    failures = [event for event in events if event["event"] == "failure"]
    assert [(event["class"], event["action"], event["counted"]) for event in failures] == [
        ("device memory", "halved the micro-batch", False)
    ] * 2
    assert "100 rows at a time" in failures[0]["text"]
    assert "in 4 micro-batches" in failures[1]["text"]


def test_memory_that_gets_short_later_changes_the_steps_from_the_newest_checkpoint_on(job, prepared, tmp_path, steps):
    job = replace(job, run=replace(job.run, checkpoint_seconds=0))
    _, weights, events = train(job, prepared, tmp_path / "a", most=60, after=9)
    rows = list(dict.fromkeys(steps))
    steps.clear()
    _, expected, _ = train(job, prepared, tmp_path / "b", most=1000)
    assert rows == steps
    for name, tensor in expected.items():
        np.testing.assert_allclose(weights[name], tensor, rtol=1e-4, atol=1e-6)
    resumed = [event for event in events if event["event"] == "resumed"]
    assert len(resumed) == 1
    assert resumed[0]["class"].startswith("changed (micro-batch, step ")
    assert (resumed[0]["epoch"], resumed[0]["step"]) != (0, 0)


def test_a_step_that_does_not_fit_with_one_row_ends_the_training(job, prepared, tmp_path):
    with pytest.raises(TrainError, match="does not suffice for a step on one row"):
        train(replace(job, train=replace(job.train, batch_rows=8)), prepared, tmp_path / "a", most=0)


def test_an_evaluation_is_computed_in_parts_that_fit(job, prepared, tmp_path):
    assert prepared.num_rows("val") > 30
    narrow, _, _ = train(job, prepared, tmp_path / "a", accumulate=4, most=30)
    wide, _, _ = train(job, prepared, tmp_path / "b", accumulate=4, most=1000)
    assert narrow.val_score == pytest.approx(wide.val_score, abs=1e-6)


def test_members_whose_width_cannot_be_tried_for_want_of_memory_train_one_by_one(job, prepared, tmp_path):
    seeds = replace(job.train.seeds, n=3)
    _, _, events = train(replace(job, train=replace(job.train, seeds=seeds)), prepared, tmp_path / "a", most=60)
    assert {event["members"] for event in events if event["event"] == "epoch"} == {1}
    assert {event["pack"] for event in events if event["event"] == "epoch"} == {0, 1, 2}
    assert [event["action"] for event in events if event["event"] == "failure"] == ["halved the micro-batch"]
