"""Events of today in the JSON of yesterday: old runs are read, and what is written has not changed."""

import pickle
from dataclasses import fields

import pytest

from fmray import events
from fmray.events import (
    KINDS,
    Driver,
    Epoch,
    Failure,
    Logged,
    Note,
    PackStarted,
    Place,
    Record,
    Resumed,
    SearchStanding,
    Stage,
    Unknown,
    Workers,
    from_json,
    to_json,
)

PLACE = {"role": "member", "trial": 1, "trials": 2, "pack": 0, "packs": 3}
SEARCH = {
    "best": 0.9, "members": 4, "alive": 2, "waiting": 1, "epochs": 7, "expected": 9, "rungs": [1], "packs": 3,
    "seconds_left": 2.0,
}  # fmt: skip
EPOCH = {
    "event": "epoch", "epoch": 2, "epochs": 9, "rows_per_second": 10, "seconds": 1.5,
    "spent": {"rows": 0.0, "checkpoints": 0.1}, "seconds_left": 7.0, "primary": "auc", "best": None, "members": 2,
    "alive": 1, **PLACE,
}  # fmt: skip
WRITTEN = [
    {"event": "stage", "stage": "train", "text": "9 rows"},
    {"event": "note", "text": "x"},
    {"event": "note", "about": "node", "text": "waits"},
    {"event": "run", "id": "a", "root": "/r"},
    {"event": "driver", "places": [{"pid": 1}], "ray": None},
    {"event": "workers", "places": [{"pid": 1}]},
    {"event": "workers", "trial": 3, "places": [{"pid": 1}]},
    {"event": "record", "kind": "members", "fingerprint": "f"},
    {"event": "progress", "stage": "identify rows", "done": 1, "total": 2},
    {"event": "pack", **PLACE},
    {"event": "resumed", "epoch": 1, "step": 2, "class": "exact", **PLACE, "changed": "workers 2 -> 3"},
    EPOCH,
    {**EPOCH, "search": SEARCH},
    {"event": "exploit", "member": 1, "epoch": 2, "from": 0, "params": {"lr": 0.1}, "lineage": [{"epoch": 2}]},
    {"event": "failure", "class": "hang", "text": "t", "action": "waited", "counted": False, "attempt": 1,
     "rank": 0, "node": None, "stacks": "stacks/1"},
    {"event": "stacks", "path": "stacks/1/rank-0.txt", "text": "File"},
    {"event": "failed", "kind": "DataError", "text": "a. b.", "frames": []},
    {"event": "promotion", "job": "j", "run": "r", "verdict": "kept", "champion": None, "text": "t", "evidence": {},
     "notes": []},
    {"event": "of tomorrow", "x": 1},
]  # fmt: skip


@pytest.mark.parametrize("line", WRITTEN, ids=lambda line: line["event"])
def test_an_event_as_earlier_versions_wrote_it_is_read_and_written_alike(line):
    event = from_json(line)
    assert to_json(event) == line
    assert isinstance(event, Unknown) == (line["event"] not in KINDS)


def test_every_event_is_written_somewhere_above_and_travels_between_processes():
    read = [from_json(line) for line in WRITTEN]
    assert {type(event) for event in read} == {*KINDS.values(), Unknown}
    assert pickle.loads(pickle.dumps(read)) == read


def test_every_class_of_event_is_known_by_its_name():
    classes = {one for one in vars(events).values() if isinstance(one, type) and issubclass(one, events.Event)}
    assert classes - {events.Event, Unknown} == set(KINDS.values())
    assert all(kind.event == name for name, kind in KINDS.items())


def test_a_line_keeps_its_time_and_stage_and_a_stage_event_names_its_own():
    line = {"time": 5.0, "stage": "train", **EPOCH}
    assert Logged.from_json(line).to_json() == line
    assert Logged(5.0, "scan", Stage("train", "t")).to_json()["stage"] == "train"


def test_an_epoch_of_a_version_that_wrote_less_is_read():
    event = from_json({"event": "epoch", "epoch": 2, "epochs": 9, "best": None})
    assert event == Epoch(epoch=2, epochs=9)
    assert event.place == Place()


def test_what_is_missing_and_was_always_written_is_refused():
    with pytest.raises(KeyError):
        from_json({"event": "failure", "class": "hang"})


def test_events_hold_what_they_are_given_and_nothing_else():
    assert Note("x").about == ""
    assert Workers([{"pid": 1}]).trial is None
    assert Driver().ray is None
    assert PackStarted().place.key == ("member", 0, 0)
    assert Resumed(1, 2, "exact").changed == ""
    assert Failure("hang", "t", "waited", counted=False).rank is None
    assert Record("members", "f").kind == "members"
    assert {one.name for one in fields(SearchStanding)} == SEARCH.keys()
