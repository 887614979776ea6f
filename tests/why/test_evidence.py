"""Collect evidence from runs that are damaged, half there, or lie on a disk that hangs."""

import json
import time

import pytest
from why.made import driver, place

from fmray.report.contents import leave_witness
from fmray.store import Store
from fmray.why import collect, judge
from fmray.why.evidence import ask, events_of, places_of, time_storage


@pytest.fixture
def run(tmp_path):
    store = Store(str(tmp_path / "store"))
    root = store.path("runs", "job", "abc")
    store.write_json(f"{root}/run.json", {"run_id": "abc", "job": "job", "status": "running", "records": []})
    return root, store


def known(run):
    return collect("abc", *run)


def test_a_look_that_hangs_and_one_that_raises_are_answers_beside_the_others():
    started = time.monotonic()
    told = ask({"hangs": lambda: time.sleep(60), "raises": lambda: 1 / 0, "says": lambda: 7}, 0.3)
    assert time.monotonic() - started < 2
    assert told["hangs"] == {"error": "no answer within 0.3 s"}
    assert told["raises"]["error"].startswith("ZeroDivisionError")
    assert told["says"] == {"value": 7}


def test_lines_that_are_no_events_are_left_out_and_the_others_keep_their_numbers():
    text = '{"event": "a", "time": 1}\nnot json\n[1]\n{"no": 1}\n\n{"event": "b", "time": 2}\n{"event": "c", "tor'
    assert [(line.place, line.event.name) for line in events_of(text)] == [
        ("events.jsonl:1", "a"),
        ("events.jsonl:6", "b"),
    ]


def test_a_file_written_to_the_store_is_timed_and_leaves_nothing(run):
    _, store = run
    before = store.list("")
    assert 0 <= time_storage(store) < 30
    assert store.list("") == before


def test_a_run_that_was_never_carried_is_interrupted_and_answers(run):
    found = known(run)
    assert found.status == "interrupted"
    assert judge(found)[0].kind == "stopped"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff\xfe", b'{"status": 3}'])
def test_a_damaged_run_json_is_no_end(run, damage):
    root, store = run
    store.write_bytes(f"{root}/run.json", damage)
    store.write_bytes(f"{root}/events.jsonl", b"\xff\n" + damage)
    store.write_bytes(f"{root}/lease-00000001.json", damage)
    assert judge(known(run))[0].fix


def test_a_finished_run_that_lost_its_run_json_is_not_called_interrupted(run):
    root, store = run
    leave_witness(root, store, {"run_id": "a", "time": "now"})
    store.remove(f"{root}/run.json")
    found = known(run)
    assert "run.json is damaged: the run has finished" in found.error
    assert found.status == "unknown"


def test_a_run_whose_directory_is_empty_answers(run):
    root, store = run
    store.remove(f"{root}/run.json")
    assert judge(known(run))[0].fix


def test_runs_of_an_fmray_that_wrote_less_down_are_judged_as_well(run):
    root, store = run
    epoch = {"epoch": 2, "epochs": 9, "rows_per_second": 10, "primary": "auc", "best": None, "seconds_left": 7.0}
    for event in ({"event": "stage", "stage": "train", "text": "x"}, {"event": "epoch", **epoch}):
        store.append(f"{root}/events.jsonl", {"time": time.time(), **event})
    with store.lease(root):  # so it runs
        (found,) = judge(known(run))
        assert (found.kind, "epoch 2 of 9" in found.cause) == ("fine", True)
    store.append(f"{root}/events.jsonl", {"time": time.time(), "event": "failed", "kind": "DataError", "text": "a. b."})
    for status in ("failed", "finished"):
        store.write_json(f"{root}/run.json", {"status": status})
        assert judge(known(run))[0].fix


def test_the_newest_workers_stand_for_a_run_and_the_driver_where_there_are_none():
    workers = {"event": "workers", "time": 1, "places": [place(0, 1), place(1, 2)]}
    again = {"event": "workers", "time": 1, "places": [place(0, 3), place(1, 4)]}
    lines = [json.dumps(event) for event in (driver(), workers, again)]
    assert [one["pid"] for one in places_of(events_of("\n".join([*lines, ""])))] == [3, 4]
    assert [one["rank"] for one in places_of(events_of(lines[0] + "\n"))] == [None]
    trials = [json.dumps({"event": "workers", "time": 1, "trial": n, "places": [place(None, n)]}) for n in (1, 2)]
    assert [one["pid"] for one in places_of(events_of("\n".join([lines[0], *trials])))] == [1, 2]


def test_a_finished_run_is_not_written_to(run):
    root, store = run
    store.write_json(f"{root}/run.json", {"status": "finished", "run_id": "abc", "job": "job"})
    assert known(run).storage == {}
