"""Check that storage which refuses for a while is waited for, and that one which will not answer is not."""

import errno
from collections.abc import Iterator
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fmray.errors import ClusterError, DataError
from fmray.store import Store, patience, read_atomic_folder, waiting, write_atomic_folder

STORE = "flaky://bucket/store"


class Flaky(MemoryFileSystem):
    """Refuse the next operations with these errors of the system, before they do anything, or after."""

    protocol = "flaky"
    refusals: ClassVar[list[int]] = []
    after = False

    def pipe_file(self, path: str, value: bytes, **options: object) -> None:
        if not Flaky.after:
            self._refuse()
        super().pipe_file(path, value, **options)
        self._refuse()

    def cat_file(self, path: str, **options: object) -> bytes:
        if not Flaky.after:
            self._refuse()
        return super().cat_file(path, **options)

    def _refuse(self) -> None:
        if Flaky.refusals:
            number = Flaky.refusals.pop(0)
            raise OSError(number, "refused")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.001)
    yield Store(STORE, single_writer=True)
    Flaky.refusals, Flaky.after = [], False
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("after", [False, True], ids=["refused before", "done, but the answer was lost"])
def test_events_and_checkpoints_go_through_once_storage_answers_again(store, after):
    told, signs = [], []
    with waiting(told.append, lambda: signs.append(1)):
        Flaky.after, Flaky.refusals = after, [errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET]
        store.append("runs/a/events.jsonl", {"event": "epoch", "epoch": 1})
        Flaky.refusals = [errno.ESTALE]
        store.append("runs/a/events.jsonl", {"event": "epoch", "epoch": 2})
        Flaky.refusals = [errno.EIO] * 4
        write_atomic_folder(f"{STORE}/states/1", {"state.json": b"{}"}, {"global_step": 1})
    assert [event["epoch"] for event in store.events("runs/a/events.jsonl")] == [1, 2]
    assert read_atomic_folder(f"{STORE}/states/1")[1] == {"state.json": b"{}"}
    assert {(event.kind, event.action, event.counted) for event in told} == {("storage", "waited", False)}
    assert sum(event.attempt for event in told) == len(signs) == 8


def test_a_file_that_was_created_before_its_answer_was_lost_is_the_callers_own(store):
    with waiting(lambda event: None):
        Flaky.after, Flaky.refusals = True, [errno.ETIMEDOUT]
        assert store.create_json("ticks/1.json", {"who": "me"})
        assert not store.create_json("ticks/1.json", {"who": "another"})


def test_storage_that_stays_away_is_given_up_after_the_stated_time(store):
    Flaky.refusals = [errno.EIO] * 10_000
    with waiting(lambda event: None, total_seconds=0.05), pytest.raises(ClusterError, match="refused"):
        store.write_json("a.json", {})
    assert 10_000 - len(Flaky.refusals) >= 2  # it was tried again


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, DataError), (errno.EACCES, ClusterError)])
def test_what_will_not_pass_is_said_at_once(store, number, error):
    Flaky.refusals = [number] * 10
    with waiting(lambda event: None), pytest.raises(error):
        store.write_json("a.json", {})
    assert len(Flaky.refusals) == 9


def test_nobody_waits_before_a_run_has_begun(store):
    Flaky.refusals = [errno.ECONNREFUSED] * 10
    with pytest.raises(ClusterError):
        store.read_bytes("store.json")
    assert len(Flaky.refusals) == 9
