import json
import multiprocessing
import multiprocessing.pool
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fmray.errors import ClusterError, DataError, SpecError
from fmray.store import FORMAT, Store, fingerprint, read_atomic_folder, verify, write_atomic_folder


@pytest.fixture(params=["local", "memory"])
def any_store(request, tmp_path):
    """A store on the local disk and on another fsspec filesystem."""
    if request.param == "local":
        yield Store(str(tmp_path / "store"))
        return
    root = f"memory://store-{os.getpid()}-{random.random()}"
    yield Store(root, single_writer=True)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def record(store, kind="things", name="t1", text="hello"):
    with store.create(kind, name) as draft:
        if draft.existing is None:
            Path(draft.folder, "data.txt").write_text(text)
            return draft.commit({"text": text})
        return draft.existing


def test_what_is_written_is_read_back(any_store):
    value = {"a": 1.5, "b": [None, True, "é"], "c": {"nan": float("nan"), "inf": float("-inf")}}
    any_store.write_json("runs/x/value.json", value)
    assert repr(any_store.read_json("runs/x/value.json")) == repr(value)
    any_store.write_bytes("runs/x/raw", b"\0\1")
    assert any_store.read_bytes("runs/x/raw") == b"\0\1"
    assert any_store.list("runs/x") == ["raw", "value.json"]
    any_store.remove("runs/x")
    assert not any_store.exists("runs/x/raw")
    assert any_store.list("runs/x") == []


def test_events_are_appended_cut_and_survive_a_torn_last_line(any_store):
    for number in range(4):
        any_store.append("runs/e.jsonl", {"n": number})
    any_store.rewrite_events("runs/e.jsonl", lambda event: event["n"] < 2)
    assert [e["n"] for e in any_store.events("runs/e.jsonl")] == [0, 1]
    any_store.write_bytes("runs/e.jsonl", any_store.read_bytes("runs/e.jsonl") + b'{"n": 9')
    assert [e["n"] for e in any_store.events("runs/e.jsonl")] == [0, 1]
    any_store.append("runs/e.jsonl", {"n": 5})
    assert [e["n"] for e in any_store.events("runs/e.jsonl")] == [0, 1, 5]


def test_a_damaged_event_names_its_line(store):
    for number in range(3):
        store.append("runs/e.jsonl", {"n": number})
    store.write_bytes("runs/e.jsonl", store.read_bytes("runs/e.jsonl").replace(b'"n":1', b'"n":7'))
    with pytest.raises(DataError, match=r"e\.jsonl:2 is damaged"):
        store.events("runs/e.jsonl")


def test_a_record_exists_once_it_is_committed(store):
    assert store.find("things", "t1") is None
    with store.create("things", "t1") as draft:
        Path(draft.folder, "data.txt").write_text("hello")
        assert store.find("things", "t1") is None
        draft.commit({"text": "hello"})
    found = store.find("things", "t1")
    assert found["text"] == "hello"
    assert Path(found["folder"], "data.txt").read_text() == "hello"
    verify(found["folder"], found["files"])


def test_a_draft_that_fails_leaves_nothing(store):
    with pytest.raises(ValueError, match="no"), store.create("things", "t1") as draft:
        Path(draft.folder, "data.txt").write_text("half")
        raise ValueError("no")
    assert store.find("things", "t1") is None
    assert not list(Path(store.root).rglob("data.txt"))


def test_a_record_made_before_is_given_and_not_made_again(store):
    first = record(store)
    assert record(store, text="other") == first


@pytest.mark.parametrize("damage", ["size", "missing", "bytes", "manifest", "folder outside"])
def test_damage_is_named(store, damage):
    found = record(store)
    data = Path(found["folder"], "data.txt")
    manifest = Path(store.root, "things/t1/manifest.json")
    match damage:
        case "size":
            data.write_text("hell")
        case "missing":
            data.unlink()
        case "bytes":
            data.write_text("hellO")
            with pytest.raises(DataError, match=r"data\.txt"):
                verify(found["folder"], found["files"])
            return
        case "manifest":
            manifest.write_text(manifest.read_text().replace("hello", "hellO"))
        case "folder outside":
            manifest.write_text("{}")
    with pytest.raises(DataError, match=r"data\.txt|manifest\.json"):
        store.find("things", "t1")


def test_a_folder_without_its_manifest_is_not_there(tmp_path):
    write_atomic_folder(str(tmp_path / "a"), {"x": b"1"}, {"n": 1})
    manifest, files = read_atomic_folder(str(tmp_path / "a"))
    assert (manifest["n"], files) == (1, {"x": b"1"})
    next((tmp_path / "a").rglob("manifest.json")).unlink()
    with pytest.raises(DataError, match="manifest"):
        read_atomic_folder(str(tmp_path / "a"))


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd/../x", "a//b", "a/./b", "a\\b", "x" * 300])
def test_no_path_leads_out_of_the_store(store, path):
    with pytest.raises(SpecError, match="no path inside"):
        store.write_bytes(path, b"")


def test_a_newer_format_is_refused_and_an_older_one_only_read(tmp_path):
    Store(str(tmp_path)).write_json("runs/a.json", 1)
    (tmp_path / "store.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(DataError, match="is newer than"):
        Store(str(tmp_path))
    (tmp_path / "store.json").write_text(json.dumps({"format": FORMAT - 1}))
    old = Store(str(tmp_path))
    assert old.read_json("runs/a.json") == 1
    with pytest.raises(DataError, match="can only be read"):
        old.write_json("runs/a.json", 2)


def test_secrets_reach_no_file(store):
    secret = "hunter2-7f3a"
    value = {
        "api_token": secret,
        "uri": f"s3://me:{secret}@host/x",
        "nested": [{"password": secret}],
        "text": f"--token={secret}",
    }
    store.write_json("runs/a.json", value)
    store.append("runs/e.jsonl", value)
    record_value = {"secret": secret}
    with store.create("things", "t") as draft:
        draft.commit(record_value)
    files = [path for path in Path(store.root).rglob("*") if path.is_file() and "lease" not in path.name]
    assert len(files) >= 4
    assert not [path for path in files if secret in path.read_text()]


def test_fingerprints_are_equal_for_equal_values_and_for_no_others(tmp_path):
    code = "from fmray.store import fingerprint; print(fingerprint({'b': 1, 'a': (1.5, None)}, 'x'))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == fingerprint({"a": [1.5, None], "b": 1}, "x")
    values = [1, 1.0, "1", True, None, [1], {"1": 1}, b"1", (1, 2), (12,)]
    assert len({fingerprint(value) for value in values}) == len(values)
    with pytest.raises(SpecError, match="part 0"):
        fingerprint(lambda: 1)


def maker(store: Store, seconds: float) -> subprocess.Popen[str]:
    """Start a process that makes a record, taking its time, or reads it."""
    script = Path(__file__).with_name("make_record.py")
    call = [sys.executable, str(script), store.root, str(seconds)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_of_two_processes_one_makes_a_record_and_the_other_reads_it(store):
    workers = [maker(store, 1.0) for _ in range(3)]
    assert sorted(worker.communicate(timeout=60)[0].strip() for worker in workers) == ["made", "read", "read"]


@pytest.mark.slow
def test_where_the_maker_is_killed_the_waiting_one_makes_it(store):
    with maker(store, 600) as first:
        until = time.monotonic() + 60
        while not list(Path(store.root).rglob("data.txt")) and time.monotonic() < until:
            time.sleep(0.05)
        with maker(store, 0) as second:
            time.sleep(1)
            first.kill()
            assert second.communicate(timeout=60)[0].strip() == "made"
    assert len(list(Path(store.root).rglob("data.txt"))) == 1


@pytest.mark.slow
def test_a_writer_that_slept_while_another_took_over_may_not_commit(store, monkeypatch):
    monkeypatch.setattr("fmray.store.lease.STALE_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=r"lease 1 was lost"), store.create("things", "t1") as draft:
        holder = next(Path(store.root, "things/t1").glob("lease-*.json"))
        newer = {**json.loads(holder.read_text()), "fence": 2, "token": "other"}
        holder.with_name("lease-00000002.json").write_text(json.dumps(newer))
        draft.commit({"n": 1})


@pytest.mark.slow
def test_a_writer_killed_at_any_instant_leaves_nothing_torn(tmp_path):
    chosen = random.Random(0)
    for trial in range(12):
        root = tmp_path / str(trial)
        script = Path(__file__).with_name("kill_writer.py")
        with subprocess.Popen([sys.executable, str(script), str(root)], stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            time.sleep(chosen.uniform(0.02, 0.3))
            process.kill()
        store = Store(str(root))
        if store.exists("runs/j/value.json"):
            value = store.read_json("runs/j/value.json")
            assert value["text"] == str(value["number"]) * 500
        events = store.events("runs/j/events.jsonl")
        assert [event["number"] for event in events] == list(range(1, len(events) + 1))
        whole = 0
        for name in store.list("runs/j/states"):
            try:
                manifest, files = read_atomic_folder(store.path("runs/j/states", name))
            except DataError:
                assert name == store.list("runs/j/states")[-1]
                continue
            whole += 1
            assert files["a"] == (str(manifest["number"]) * 500).encode()
        found = [store.find("things", name) for name in store.list("things")]
        assert sum(manifest is None for manifest in found) <= 1
        for manifest in filter(None, found):
            verify(manifest["folder"], manifest["files"])
        store.gc(dry_run=False)
        assert not [path for path in Path(root).rglob("*") if path.name.startswith(".")], "temporary files stay"


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], check=False).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_is_named_leaves_no_half_record_and_heals(small_disk):
    store = Store(str(small_disk / "store"))
    ballast = small_disk / "ballast"
    with pytest.raises(DataError, match="disk is full"), store.create("things", "t1") as draft:
        Path(draft.folder, "data.txt").write_bytes(bytes(3 << 20))
    assert store.find("things", "t1") is None
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    with pytest.raises(DataError, match="disk is full|No space"):
        store.write_bytes("runs/a", bytes(1 << 20))
    assert not store.exists("runs/a")
    ballast.unlink()
    assert record(store)["text"] == "hello"


def run_json(store, name, records, status="finished"):
    store.write_json(f"runs/job/{name}/run.json", {"status": status, "records": records})


def test_garbage_is_what_no_run_lists(store):
    record(store, "prepared", "kept")
    record(store, "prepared", "lost")
    run_json(store, "r1", [["prepared", "kept"]])
    store.write_json("ledger/t.jsonl.json", {})
    assert store.gc(dry_run=True) == [store.path("prepared/lost")]
    assert store.find("prepared", "lost")
    assert store.gc(dry_run=False) == [store.path("prepared/lost")]
    assert store.find("prepared", "lost") is None
    assert store.find("prepared", "kept")
    assert store.exists("ledger/t.jsonl.json")


def test_checkpoints_stay_as_long_as_an_unfinished_run_lists_their_members(store):
    for name in ("wanted", "forgotten"):
        write_atomic_folder(store.path("checkpoints", name, "00000/states/1"), {"a": b""}, {})
    run_json(store, "r1", [["members", "wanted"]], "running")
    assert store.gc(dry_run=False) == [store.path("checkpoints/forgotten")]
    assert store.exists("checkpoints/wanted/00000/states/1")


def test_checkpoints_in_use_stay_whatever_is_listed(store):
    with store.lease("checkpoints/busy/00000"):
        assert store.gc(dry_run=False) == []
    assert store.exists("checkpoints/busy")


def test_the_status_of_a_run_follows_from_its_lease(store):
    run_json(store, "r1", [], "running")
    assert store.status("runs/job/r1") == "interrupted"
    with store.lease("runs/job/r1"):
        assert store.status("runs/job/r1") == "running"
    run_json(store, "r1", [], "failed")
    assert store.status("runs/job/r1") == "failed"


def test_a_lease_held_by_another_thread_is_waited_for_no_longer_than_said(store):
    holder = multiprocessing.pool.ThreadPool(1)
    with store.lease("runs/job/r1"), pytest.raises(ClusterError, match="is held by"):
        holder.apply(lambda: store.lease("runs/job/r1", wait_seconds=0.2).__enter__())
    holder.close()
    holder.join()
    with store.lease("runs/job/r1", wait_seconds=0) as lease:
        lease.check()


def test_an_event_is_one_visible_line_whatever_names_it_holds(tmp_path):
    store, text = Store(str(tmp_path / "store")), "a\nb\x1b[31m\x9b31m\u202ec\u2028d\ufeff"
    store.append("runs/a/1/events.jsonl", {"event": "note", "text": text})
    (line,) = (tmp_path / "store/runs/a/1/events.jsonl").read_text().split("\n")[:-1]
    assert line.isprintable()
    assert store.events("runs/a/1/events.jsonl")[0]["text"] == text
