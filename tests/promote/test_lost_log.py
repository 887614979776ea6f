"""A promotion log that was cut, emptied or edited is an error and never a first promotion."""

import json
from pathlib import Path

import pytest

from fmray.errors import DataError
from fmray.promote.history import History
from fmray.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "store"))
    for run in "abc":
        store.write_json(f"runs/job/{run}/run.json", {"status": "finished"})
    return store


@pytest.fixture
def folder(store) -> Path:
    history = History(store, "job")
    with history.alone():
        for run in "abc":
            history.add("decision", run=run, number=1)
            history.move(history.standing().champion, run, run, "promote")
    return Path(history.folder)


def decide(store: Store) -> None:
    with History(store, "job").alone():
        pass


def keep(folder: Path, count: int) -> None:
    log = folder / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:count]))


def test_a_whole_log_is_read(store, folder):
    decide(store)
    assert History(store, "job").standing().champion == "c"


@pytest.mark.parametrize("count", range(6))
def test_a_log_that_was_cut_is_refused_with_its_head_and_without(store, folder, count):
    keep(folder, count)
    with pytest.raises(DataError, match=r"line \d is gone.* A lost log is an error, not a first promotion"):
        decide(store)
    (folder / "log.head.json").unlink()
    with pytest.raises(DataError, match=r"is gone"):
        decide(store)


def test_a_log_that_was_removed_with_its_folder_is_refused_since_the_runs_know_it(store, folder):
    for path in [folder / "log.jsonl", folder / "log.head.json"]:
        path.unlink()
    with pytest.raises(DataError, match=r"line \d is gone, and .*runs/job/\w/witness/promotions.json knows it"):
        decide(store)


def test_a_head_that_was_removed_or_put_back_is_named(store, folder):
    head = folder / "log.head.json"
    old = head.read_bytes()
    history = History(store, "job")
    with history.alone():
        history.add("decision", run="a", number=2)
        history.add("decision", run="a", number=3)
    head.write_bytes(old)
    with pytest.raises(DataError, match="is older than"):
        decide(store)
    head.unlink()
    with pytest.raises(DataError, match="head.json is gone"):
        decide(store)


def test_a_line_that_lost_another_in_the_middle_is_named(store, folder):
    log = folder / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(DataError, match="entry 3 is not as it was written"):
        decide(store)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_at_any_write_of_a_line_the_next_one_goes_on(store, monkeypatch, number):
    """A line is written, then the head, then the witness; none of them missing is an alarm."""

    class Killed(BaseException):
        pass

    history = History(store, "job")
    with history.alone():
        history.add("decision", run="a", number=1)
    writes = []

    def dying(write):
        def carry(*given):
            writes.append(given)
            if len(writes) == number:
                raise Killed
            return write(*given)

        return carry

    with monkeypatch.context() as patch, pytest.raises(Killed), history.alone():
        patch.setattr(store, "append", dying(store.append))
        patch.setattr(store, "write_json", dying(store.write_json))
        writes.append(())  # the head of the line before is made sure of first
        writes.clear()
        history.add("decision", run="b", number=2)
    with history.alone():
        history.add("decision", run="c", number=3)
    history.verify()


def test_a_log_of_an_earlier_version_is_continued_and_guarded_from_then_on(store):
    history = History(store, "job")
    for number in (1, 2):
        store.append(f"{history.folder}/log.jsonl", {"event": "decision", "run": "a", "number": number})
    with history.alone():
        history.add("decision", run="b", number=3)
    history.verify()
    log = Path(history.folder, "log.jsonl")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="entry 2 is not as it was written"):
        decide(store)


def test_evidence_that_was_swapped_is_refused(store):
    history = History(store, "job")
    store.write_json(f"{history.folder}/sealed/000001.json", {"verdict": "keep"})
    with history.alone():
        digest = history.digest("sealed/000001.json")
        found = history.add("decision", run="a", number=1, evidence="sealed/000001.json", digest=digest)
    store.write_json(f"{history.folder}/sealed/000001.json", {"verdict": "promote"})
    with pytest.raises(DataError, match="is not what decision 1 was based on"):
        history.require_evidence(found)


def test_garbage_collection_and_copies_of_a_store_leave_the_chain_whole(store, folder, tmp_path):
    import shutil

    store.gc(dry_run=False)
    decide(store)
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(str(tmp_path / "copy"))
    decide(copy)
    assert json.loads((tmp_path / "copy/promotions/job/log.head.json").read_text())["look"] == 6
