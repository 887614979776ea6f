"""Print the page of a run, and refuse what is no run."""

import json

import pytest

from fmray.cli import main
from fmray.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    made = Store(str(tmp_path / "store"))
    root = made.path("runs", "job", "abc")
    made.write_json(f"{root}/run.json", {"run_id": "abc", "job": "job", "status": "failed", "error": "old"})
    for event in ({"event": "stage", "stage": "train", "text": "9 rows"}, FAILED):
        made.append(f"{root}/events.jsonl", {"time": 1.0, **event})
    return made


FAILED = {"event": "failed", "kind": "DataError", "text": "data.target: 'tarket' is no column. Did you mean 'target'?"}


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["why", *map(str, arguments)])
    return end.value.code, capsys.readouterr().out.splitlines()


def test_the_first_line_says_the_cause_and_the_last_the_fix(store, capsys):
    code, lines = answer(capsys, store.path("runs", "job", "abc"))
    assert code == 0
    assert lines[0] == "job/abc · failed · data.target: 'tarket' is no column"
    assert any(line.split()[:1] == ["events.jsonl:2"] for line in lines[1:-1])
    assert lines[-1].startswith("fix: Did you mean 'target'? If so, change it, then run the same command again")


@pytest.mark.parametrize("name", ["abc", "job/abc", "fmray-abc-3"])
def test_a_run_is_found_by_its_id_with_its_job_and_by_a_submission(store, capsys, name):
    code, lines = answer(capsys, name, "--store", store.root, "--json")
    told = json.loads(lines[-1])
    assert (code, told["status"], told["kind"]) == (0, "failed", "user error")
    assert {"cause", "evidence", "fix"} <= told.keys()
    assert told["evidence"][0] == {"where": "events.jsonl:2", "text": FAILED["text"]}


@pytest.mark.parametrize("name", ["", ".", "runs", "runs/job", "../..", "job/xyz"])
def test_what_is_no_run_is_bad_input(store, capsys, monkeypatch, name):
    monkeypatch.chdir(store.root)
    code, lines = answer(capsys, name, "--store", store.root, "--json")
    assert code == 5
    assert json.loads(lines[-1])["error"]["where"] == "RUN"
