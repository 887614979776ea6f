import json
import subprocess
import sys
from pathlib import Path

import pytest

from fmray.errors import DataError
from fmray.rigour.chain import Chain
from fmray.rigour.ledger import Ledger
from fmray.store import Store


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Store(str(tmp_path)))


def lines(tmp_path):
    return (tmp_path / "ledger/t.jsonl").read_text().splitlines()


def put(tmp_path, found):
    (tmp_path / "ledger/t.jsonl").write_text("".join(line + "\n" for line in found))


def look(ledger, run, subject="s"):
    return ledger.look("t", run, "score", subject)


def test_looks_are_counted_per_test_set_over_all_runs(ledger):
    assert [look(ledger, run) for run in ("a", "b", "c")] == [1, 2, 3]
    assert ledger.look("other", "a", "score", "s") == 1


def test_a_run_that_continues_with_the_same_predictions_has_looked_once(ledger):
    assert [look(ledger, "a"), look(ledger, "b"), look(ledger, "a")] == [1, 2, 1]
    assert look(ledger, "a", "other predictions") == 3


def test_an_entry_says_who_when_and_what_for(ledger):
    look(ledger, "a")
    entry = ledger.looks("t")[0]
    assert {"look", "run", "purpose", "subject", "who", "when", "previous", "hash"} == entry.keys()


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_a_removed_entry_is_noticed_wherever_it_stood(ledger, tmp_path, removed):
    for run in "abc":
        look(ledger, run)
    found = lines(tmp_path)
    put(tmp_path, found[:removed] + found[removed + 1 :])
    with pytest.raises(DataError, match=r"entry|look 3 is gone"):
        ledger.verify("t")
    with pytest.raises(DataError):
        look(ledger, "d")


def test_a_changed_byte_is_noticed(ledger, tmp_path):
    for run in "ab":
        look(ledger, run)
    first, second = lines(tmp_path)
    put(tmp_path, [json.dumps({**json.loads(first), "run": "x"}), second])
    with pytest.raises(DataError, match="entry 1 is not as it was written"):
        ledger.verify("t")


def test_a_ledger_removed_altogether_is_noticed(ledger, tmp_path):
    look(ledger, "a")
    (tmp_path / "ledger/t.jsonl").unlink()
    with pytest.raises(DataError, match="look 1 is gone"):
        ledger.verify("t")


LOOK = (
    "import sys\nfrom fmray.rigour.ledger import Ledger\nfrom fmray.store import Store\n"
    "Ledger(Store(sys.argv[1])).look('t', sys.argv[2], 'score', 's')\n"
)


def test_processes_that_look_at_once_get_different_numbers(ledger, tmp_path):
    workers = [subprocess.Popen([sys.executable, "-c", LOOK, str(tmp_path), f"run {i}"]) for i in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert [entry["look"] for entry in ledger.verify("t")] == [1, 2, 3]


def test_the_last_look_and_the_head_removed_together_are_missed_by_the_run_that_looked(ledger, tmp_path):
    store = Store(str(tmp_path))
    for run in "ab":
        store.write_json(f"runs/j/{run}/run.json", {"status": "finished"})
        ledger.look("t", run, "score", "s", "j")
    put(tmp_path, lines(tmp_path)[:1])
    (tmp_path / "ledger/t.head.json").unlink()
    with pytest.raises(DataError, match=r"look 2 is gone, and .*runs/j/b/witness/ledger-t\.json knows it"):
        ledger.verify("t")


def test_a_head_removed_alone_is_noticed(ledger, tmp_path):
    for run in "abc":
        look(ledger, run)
    (tmp_path / "ledger/t.head.json").unlink()
    with pytest.raises(DataError, match="head.json is gone"):
        look(ledger, "d")


class Interrupted(Store):
    """Let another process look right after the lines were read."""

    def events(self, path):
        found = super().events(path)
        for run in ("late", "later"):
            Ledger(Store(self.root)).look("t", run, "score", "s")
        return found


def test_a_look_while_the_ledger_is_verified_is_no_damage(ledger, tmp_path):
    look(ledger, "a")
    assert len(Ledger(Interrupted(str(tmp_path))).verify("t")) == 1
    assert len(ledger.verify("t")) == 3


@pytest.mark.parametrize("word", ["checksum", '"checksum"'])
def test_a_job_may_be_called_after_a_key_of_the_store(ledger, word):
    ledger.look("t", "a", f"score of {word}", "s")
    assert len(ledger.verify("t")) == 1


def test_a_long_log_without_hashes_is_read_once_and_said_to_be_unverified_once(tmp_path, caplog):
    store = Store(str(tmp_path))
    path = store.path("promotions", "demo", "log.jsonl")
    chain = Chain(store, path, "promotions", counter="line", cure="", jobs=[])
    for number in range(3):
        store.append(path, {"event": "decision", "number": number})
    with caplog.at_level("WARNING", "fmray"):
        chain.verify()
        chain.verify()
    assert caplog.text.count("without hashes") == 1
    chain.add({"event": "decision", "number": 3})
    assert len(chain.verify()) == 4
    text = (tmp_path / "promotions/demo/log.jsonl").read_text()
    (tmp_path / "promotions/demo/log.jsonl").write_text("".join(text.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="not as it was written"):
        chain.verify()
