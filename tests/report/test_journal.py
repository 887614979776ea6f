import pytest

from fmray import workflow
from fmray.events import Epoch, PackStarted, Place
from fmray.report.journal import Journal
from fmray.spec.load import job_from
from fmray.store import Store

JOB = {"data": {"path": "sample:iris", "target": "target"}, "model": "linear", "run": {"workers": 0},
       "train": {"epochs": 4, "batch_rows": 64, "early_stop": None}, "evaluate": {"baselines": []}}  # fmt: skip


def epochs(store, root):
    return [
        event["epoch"]
        for event in store.events(f"{root}/events.jsonl")
        if event["event"] == "epoch" and event.get("role") == "member"
    ]


def test_a_pack_that_begins_from_nothing_cuts_what_was_written_of_it(tmp_path):
    store = Store(str(tmp_path))
    root = store.path("runs/a/b")
    first = Journal(root, store, lambda event: None)
    for epoch in (1, 2):
        first(Epoch(epoch=epoch))
        first(Epoch(epoch=epoch, place=Place(pack=1)))
    again = Journal(root, store, lambda event: None)
    again(PackStarted())
    again(Epoch(epoch=1))
    told = [(event["pack"], event["epoch"]) for event in store.events(f"{root}/events.jsonl")]
    assert sorted(told) == [(0, 1), (1, 1), (1, 2)]


def test_a_run_killed_before_its_first_checkpoint_has_each_epoch_once(tmp_path):
    store, seen = Store(str(tmp_path / "store")), []

    def kill(event):
        if isinstance(event, Epoch) and event.place.role == "member":
            seen.append(event.epoch)
            if event.epoch == 2:
                raise KeyboardInterrupt

    job = job_from(JOB, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        workflow.execute(job, store, report=kill)
    run = workflow.execute(job, store)
    assert seen == [1, 2]
    assert epochs(store, run.root) == [1, 2, 3, 4]
