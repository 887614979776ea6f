"""Writes go through the fence of the lease they are made under, whichever way they are made."""

import json
import os
import pickle
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from leases import take_over

from fmray.errors import ClusterError
from fmray.store import Store
from fmray.store import lease as leases
from fmray.store.copies import folder_to_write, to_write
from fmray.store.fences import guards, unguard
from fmray.store.lease import acquire, is_held, newest_holder
from fmray.store.places import files_of


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def stamp(place: str, seconds: float, text: str = "") -> Path:
    """Leave the lease of a dead machine, touched so many seconds from now."""
    path = Path(place, "lease-00000001.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    other = {"fence": 1, "token": "t", "owner": "fmray", "host": "gone", "pid": 7, "started": "1",
             "machine": "other", "heartbeat": time.time() + seconds, "released": False}  # fmt: skip
    path.write_text(text or json.dumps(other))
    os.utime(path, (time.time() + seconds,) * 2)
    return path


WRITES = {
    "bytes": lambda store, path: store.write_bytes(path, b"x"),
    "json": lambda store, path: store.write_json(path, {"x": 1}),
    "create": lambda store, path: store.create_json(path, {"x": 1}),
    "append": lambda store, path: store.append(path, {"x": 1}),
    "remove": lambda store, path: store.remove(path),
    "put": lambda store, path: files_of(path).put(__file__, path),
    "make": lambda store, path: files_of(path).make(path),
}


@pytest.mark.parametrize("name", WRITES)
def test_every_way_of_writing_is_refused_once_the_lease_is_lost_and_leaves_no_trace(store, name):
    root = store.path("runs/j/a")
    with store.lease(root):
        take_over(root)
        before = sorted(path for path in Path(root).rglob("*"))
        with pytest.raises(ClusterError, match="took over as number 2"):
            WRITES[name](store, f"{root}/inside/file.json")
        assert sorted(path for path in Path(root).rglob("*")) == before


@pytest.mark.parametrize("write", [to_write, folder_to_write])
def test_a_file_that_was_being_made_when_the_lease_was_lost_is_not_put_in_place(store, write):
    root = store.path("runs/j/a")
    with store.lease(root):
        with pytest.raises(ClusterError, match="took over"), write(f"{root}/made") as path:
            Path(path, "x").write_text("x") if write is folder_to_write else Path(path).write_text("x")
            take_over(root)
        assert [name for name in os.listdir(root) if "lease" not in name] == []


def test_what_fails_because_the_lease_was_lost_is_said_to_be_lost(store):
    root = store.path("runs/j/a")
    with pytest.raises(ClusterError, match="took over"), store.lease(root):
        take_over(root)
        raise FileNotFoundError("the folder that the other process removed")


def test_a_fence_that_was_sent_holds_in_the_process_that_received_it(store):
    root = store.path("runs/j/a")
    with store.lease(root) as lease:
        sent = pickle.dumps(lease.fence)
    fence = pickle.loads(sent)  # here stands for a worker
    try:
        assert fence in guards()
        with store.lease(root) as newer:
            store.write_bytes(f"{root}/x", b"x")  # the newer lease of this process is the one that counts
            assert newer.fence in guards()
    finally:
        leases.unguard(root, fence)


def test_a_lease_stamped_in_the_future_is_no_sign_of_life(store, monkeypatch):
    monkeypatch.setattr(leases, "STALE_SECONDS", 0.6)
    root = store.path("runs/j/a")
    stamp(root, 3600)
    assert not is_held(files_of(root), root)
    assert store.status(root) == "interrupted"
    lease = acquire(root, wait_seconds=0)  # a moment of watching tells that the stamp stands still
    assert lease.number == 2
    assert "stamped 3" in lease.replaced
    assert "in the future" in lease.replaced
    lease.release()


def test_a_holder_whose_clock_is_wrong_is_not_replaced_while_its_stamp_moves(store, monkeypatch):
    monkeypatch.setattr(leases, "STALE_SECONDS", 0.6)
    root = store.path("runs/j/a")
    path = stamp(root, 3600)
    ahead = [3600.0]

    def beat(seconds: float) -> None:
        ahead[0] += 1
        os.utime(path, (time.time() + ahead[0],) * 2)

    monkeypatch.setattr(leases.time, "sleep", beat)
    with pytest.raises(ClusterError, match=r"is held by gone:7 .* in the future\. Wait until it ends"):
        acquire(root, wait_seconds=0)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "[" * 100_000, '{"heartbeat": "soon"}', "null", "\x00"])
def test_an_unreadable_lease_is_judged_by_its_age_alone(store, text):
    root = store.path("runs/j/a")
    stamp(root, -1e6, text or " ")
    lease = acquire(root, wait_seconds=0)
    assert lease.number == 2
    lease.release()


def test_a_lease_file_that_is_not_spelt_as_ours_is_passed_over(store):
    root = store.path("runs/j/a")
    Path(root).mkdir(parents=True)
    Path(root, "lease-7.json").write_text("{}")
    with store.lease(root) as lease:
        assert lease.number == 1


def test_a_reused_process_id_does_not_hold_a_lease(store):
    root = store.path("runs/j/a")
    with store.lease(root):
        holder = newest_holder(files_of(root), root)
    stale = replace(holder, released=False, started="another time")
    Path(root, "lease-00000001.json").write_text(json.dumps(asdict(stale)))
    assert not is_held(files_of(root), root)
    acquire(root, wait_seconds=0).release()


def test_a_place_that_was_made_anew_is_written_to_where_its_former_lease_is_still_known(tmp_path):
    place = str(tmp_path / "record")
    left = pickle.loads(pickle.dumps(leases.Fence(place, 2, "former", (place,))))  # as a worker keeps it
    try:
        with leases.hold(place) as lease:
            assert lease.number == 1
            files_of(place).write(f"{place}/a.json", b"{}")
            assert lease.fence in guards()
    finally:
        unguard(place, left)
