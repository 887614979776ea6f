"""A task of two phases goes through the whole life of a job: run, one look, report, and predictions for new rows."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from train.test_phases import write_ring

from fmray import workflow
from fmray.errors import SpecError
from fmray.records import Member
from fmray.spec.load import job_from
from fmray.store import Store

ASKED = {
    "name": "ring", "data": {"path": "rows", "target": ["x", "y"], "key": "id"}, "task": "gan", "steps": ["standardise"],
    "model": {"gan_points": {"width": 32}}, "ensemble": "single",
    "train": {
        "epochs": 8, "batch_rows": 64, "early_stop": None, "optimizer": {"adam": {"lr": 0.001, "betas": [0.5, 0.9]}},
        "phases": {"discriminator": {"optimizer": {"adam": {"lr": 0.002, "betas": [0.5, 0.9]}}}},
    },
    "evaluate": {"primary": "mmd", "metrics": ["mmd"], "baselines": ["dummy"]}, "run": {"workers": 0},
}  # fmt: skip


@pytest.mark.slow
def test_generated_points_are_nearer_to_the_ring_than_its_centre_is(tmp_path):
    write_ring(tmp_path / "rows", 1500)
    run = workflow.execute(job_from(ASKED, tmp_path), Store(str(tmp_path / "store")))
    card = json.loads(Path(run.root, "card.json").read_text())
    found = run.scores.test["mmd"]
    assert found.high < run.scores.baselines["dummy"]["mmd"].value / 3
    member = Member.from_json(card["members"][0])
    history = [event["value"] for event in member.history if event["metric"] == "mmd"]
    assert len(history) == 8
    assert min(history) < history[0]
    assert Path(run.report).exists()
    points = pq.read_table(f"{run.root}/predictions/val.parquet").to_pandas()[["y_0", "y_1"]]
    assert points.std().min() > 0.5  # they are not all one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate": {"primary": "mmd"}}, "linear generates nothing"),
        ({"ensemble": "average"}, "points of several generators are not averaged"),
        ({"train": {"phases": {"generator": {"schedule": "plateau"}}}}, "plateau goes by the score of all phases"),
        ({"train": {"phases": {"generator": {"optimizer": {"adam": {"lr": -1}}}}}}, r"train\.phases\.generator\.optimizer\.adam\.lr"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_for_a_generator_is_refused_in_the_job(tmp_path, changes, message):
    with pytest.raises(SpecError, match=message):
        job_from({**ASKED, **changes}, tmp_path)
