"""Check that what went wrong on the way stands in a run's events, on its report and on the console."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray import workflow
from fmray.console import PlainConsole
from fmray.events import Stacks
from fmray.progress import Watch
from fmray.report.card import read_card, render
from fmray.report.journal import Journal
from fmray.spec.load import job_from
from fmray.store import Store
from fmray.train.failures import failure


@pytest.fixture
def job(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 3))
    (tmp_path / "data").mkdir()
    table = {f"f{i}": column for i, column in enumerate(x.T)} | {"y": np.where(x[:, 0] > 0, "b", "a")}
    pq.write_table(pa.table(table), tmp_path / "data/a.parquet")
    asked = {
        "name": "narrow",
        "data": {"path": "data", "target": "y"},
        "model": {"train.faulty_net:Narrow": {"most": 30}},
        "train": {"epochs": 2, "batch_rows": 50},
        "rigour": {"profile": "draft"},
    }
    return job_from(asked, tmp_path)


def test_a_run_short_of_memory_ends_and_says_what_was_done(job, tmp_path):
    store, screen = Store(str(tmp_path / "store")), io.StringIO()
    with Watch(PlainConsole(file=screen, width=300)) as watch:
        run = workflow.execute(job, store, report=watch)
    events = [event for event in store.events(f"{run.root}/events.jsonl") if event["event"] == "failure"]
    assert [(event["class"], event["action"]) for event in events] == [("device memory", "halved the micro-batch")]
    assert "device memory: rank 0: OutOfMemoryError" in screen.getvalue()
    assert "(halved the micro-batch)" in screen.getvalue()
    page = store.read_bytes(f"{run.root}/report.html").decode()
    assert "Failures on the way" in page
    assert "Each step is computed in 2 micro-batches from now on" in page
    card = read_card(run.root, store)
    assert [line.event.text for line in card.failures] == [events[0]["text"]]
    value = card.to_json()
    del value["failures"]  # as a card of an earlier version
    assert "Failures on the way" not in render(type(card).from_json(value))


def test_stacks_are_files_of_the_run_without_secrets_and_their_event_is_not_kept(tmp_path):
    store, seen = Store(str(tmp_path / "store")), []
    root = store.path("runs/a/b")
    journal = Journal(root, store, seen.append)
    text = "File net.py, line 3 in forward\n  s3://me:hunter2@host/x\n"
    journal(Stacks("stacks/1/rank-0.txt", text))
    journal(failure("hang", "stood still", "restarted", stacks="stacks/1"))
    kept = store.read_bytes(f"{root}/stacks/1/rank-0.txt").decode()
    assert "line 3 in forward" in kept
    assert "hunter2" not in kept
    assert [event["event"] for event in store.events(f"{root}/events.jsonl")] == ["failure"]
    assert journal.failures()[0].event.stacks == "stacks/1"
