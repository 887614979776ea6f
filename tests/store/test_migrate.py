"""Write a store as versions before checksums wrote it, and bring it to the present format: nothing may be lost."""

import json
import zlib
from pathlib import Path

import pytest

from fmray.cli import main
from fmray.errors import ClusterError, DataError
from fmray.store import Store
from fmray.store.local import LocalFiles
from fmray.store.migrate import migrate
from fmray.store.sealed import has_checksum

SCORES = {"primary": "roc_auc", "value": 0.75, "unit": "ab"}
EVENTS = [{"event": "note", "text": "one"}, {"event": "note", "text": "two\u2028lines"}]
LATER = {"event": "note", "text": "said after the end"}
RUN = "runs/job/aaaaaaaaaaaa"


def entry(data: bytes) -> dict:
    return {"size": len(data), "crc32": zlib.crc32(data)}


def files_of(root: Path) -> dict[str, bytes]:
    inside = (path for path in root.rglob("*") if path.is_file() and ".lease/" not in str(path))
    return {str(path.relative_to(root)): path.read_bytes() for path in inside}


@pytest.fixture
def old(tmp_path):
    """Write format 1: plain JSON, chained ledger, a run that lists its files, a record with a manifest of its own."""

    def make(number=1):
        root = tmp_path / "old"
        (root / RUN).mkdir(parents=True)
        (root / "store.json").write_text(json.dumps({"format": number}))
        scores = json.dumps(SCORES, indent=1).encode()
        events = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in EVENTS).encode()
        (root / RUN / "scores.json").write_bytes(scores)
        (root / RUN / "gates.json").write_text("[]")
        (root / RUN / "events.jsonl").write_bytes(events + (json.dumps(LATER) + "\n").encode() + b'{"event": "torn')
        listed = {"scores.json": entry(scores), "events.jsonl": entry(events), "gates.json": entry(b"[]")}
        facts = {"run_id": "aaaaaaaaaaaa", "status": "finished", "files": listed, "records": []}
        (root / RUN / "run.json").write_text(json.dumps(facts, indent=1))
        (root / RUN / "model").mkdir()
        (root / RUN / "model/model.json").write_text('{"format": 4, "checksum": "its own"}')
        (root / "ledger").mkdir()
        (root / "ledger/x.jsonl").write_text('{"hash":"0","look":1}\n')
        (root / "members/bb").mkdir(parents=True)
        (root / "members/bb/manifest.json").write_text('{"folder": "data-1", "files": {}, "checksum": "0"}')
        (root / "members/bb/data-1").mkdir()
        (root / "members/bb/data-1/prepared.json").write_text('{"a": 1}')
        return root

    return make


def require_migrated(root: Path) -> None:
    store = Store(str(root))
    assert json.loads((root / "store.json").read_text())["format"] == 2
    assert store.is_sealed
    assert not store.is_read_only
    assert store.read_json(f"{RUN}/scores.json") == SCORES
    assert store.events(f"{RUN}/events.jsonl") == [*EVENTS, LATER]
    assert store.events("ledger/x.jsonl") == [{"hash": "0", "look": 1}]
    facts = store.read_json(f"{RUN}/run.json")
    for name, listed in facts["files"].items():
        data = (root / RUN / name).read_bytes()
        assert entry(data[: listed["size"]]) == listed, name
    assert facts["status"] == "finished"


@pytest.mark.parametrize("number", [0, 1])
def test_an_old_store_is_sealed_and_keeps_every_value(old, number):
    root = old(number)
    before = files_of(root)
    assert Store(str(root)).is_read_only == (number == 0)
    plan = migrate(Store(str(root)))
    require_migrated(root)
    after = files_of(root)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"{RUN}/{name}" for name in ("scores.json", "events.jsonl", "run.json")} | {"store.json"}
    assert set(after) == set(before)
    assert {*plan.seal, *plan.runs, "store.json"} == changed
    assert migrate(Store(str(root))).is_done


def test_a_dry_run_changes_nothing_and_says_what_it_would(old):
    root = old()
    before = files_of(root)
    plan = migrate(Store(str(root)), dry_run=True)
    assert files_of(root) == before
    assert plan.runs == [f"{RUN}/run.json"]
    assert plan.seal == [f"{RUN}/events.jsonl", f"{RUN}/scores.json"]


def test_a_migration_that_is_killed_after_any_write_is_finished_by_the_next(old, monkeypatch):
    write = LocalFiles.write
    left = [0]

    def killed(self, path, data):
        if "lease-" not in path:  # of a process that is killed, nobody waits for the lease
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
        write(self, path, data)

    finished = []
    for number in range(6):
        root = old()
        root = root.rename(root.parent / f"store-{number}")
        left[0] = number
        monkeypatch.setattr(LocalFiles, "write", killed)
        try:
            migrate(Store(str(root)))
            finished.append(number)
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(LocalFiles, "write", write)
        migrate(Store(str(root)))
        require_migrated(root)
    assert finished == [4, 5]  # run.json, two files, store.json


def test_a_damaged_file_is_named_and_nothing_is_changed(old):
    root = old()
    (root / RUN / "scores.json").write_text(json.dumps({**SCORES, "value": 0.99}))
    before = files_of(root)
    with pytest.raises(DataError, match=r"scores\.json is not what run\.json of its run lists"):
        migrate(Store(str(root)))
    (root / RUN / "scores.json").write_text("{")
    with pytest.raises(DataError, match=r"scores\.json is damaged"):
        migrate(Store(str(root)))
    assert {name for name, data in files_of(root).items() if data != before[name]} == {f"{RUN}/scores.json"}


def test_a_store_in_use_is_left_alone(old):
    root = old()
    with Store(str(root)).lease(RUN), pytest.raises(ClusterError, match="is held by a living process"):
        migrate(Store(str(root)))
    assert not has_checksum((root / RUN / "scores.json").read_bytes())


def test_a_new_store_has_nothing_to_do(tmp_path):
    store = Store(str(tmp_path / "new"))
    store.write_json(f"{RUN}/scores.json", SCORES)
    before = files_of(tmp_path / "new")
    assert migrate(store).is_done
    assert files_of(tmp_path / "new") == before


def test_what_is_sealed_later_is_laid_out_as_what_is_sealed_at_once(old, tmp_path):
    root = old()
    migrate(Store(str(root)))
    new = Store(str(tmp_path / "new"))
    new.write_json(f"{RUN}/scores.json", SCORES)
    assert (tmp_path / "new" / RUN / "scores.json").read_bytes() == (root / RUN / "scores.json").read_bytes()


def test_the_command_says_what_it_did(old, capsys):
    def invoke(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        return ended.value.code, json.loads(capsys.readouterr().out.splitlines()[-1])

    root = old()
    code, answer = invoke("migrate", "--store", str(root), "--dry-run", "--json")
    assert (code, answer["dry_run"], len(answer["changed"])) == (0, True, 3)
    code, answer = invoke("migrate", "--store", str(root), "--json")
    assert (code, len(answer["changed"])) == (0, 3)
    require_migrated(root)
