from dataclasses import replace
from multiprocessing.pool import ThreadPool

import pytest

from fmray.errors import ClusterError, DataError
from fmray.schedule.book import Book, Decision
from fmray.schedule.ticks import moment
from fmray.store import Store

NOW = moment("2026-05-01T03:00:00Z")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_what_is_written_is_read_back_by_the_next_scheduler(store):
    book = Book(store, "job")
    begun = book.open(NOW)
    state = replace(begun.state, running="2026-05-01T03:00:00Z", queue=("a", "b"), month="2026-05", num_runs=2)
    assert book.write(Decision("started", "2026-05-01T03:00:00Z"), state, NOW)
    assert Book(store, "job").open(NOW) == book.newest
    assert [entry.decision.event for entry in Book(store, "job").entries(9)] == ["begun", "started"]


def test_of_many_who_decide_from_one_state_one_is_heard(store):
    books = [Book(store, "job") for _ in range(8)]
    with ThreadPool(8) as pool:
        for tick in map(str, range(20)):
            states = pool.map(lambda book: book.open(NOW), books)
            assert len({entry.number for entry in states}) == 1
            heard = pool.map(
                lambda pair, tick=tick: pair[1].write(
                    Decision("skipped", tick, str(pair[0])), pair[1].newest.state, NOW
                ),
                enumerate(books),
            )
            assert sum(heard) == 1
    assert [entry.decision.tick for entry in books[0].entries(20)] == [str(n) for n in range(20)]


def test_a_store_that_cannot_tell_who_was_first_is_refused():
    with pytest.raises(ClusterError, match="cannot create a file exclusively"):
        Book(Store("memory://schedule-shared"), "job").open(NOW)
    alone = Book(Store("memory://schedule-alone", single_writer=True), "job")
    assert alone.open(NOW).decision.event == "begun"


def test_garbage_collection_leaves_the_book(store):
    Book(store, "job").open(NOW)
    with Book(store, "job").lease():
        pass
    store.gc(dry_run=False)
    assert Book(store, "job").entries(1)[0].decision.event == "begun"


@pytest.mark.parametrize("kept", [0, 1])
def test_an_entry_that_is_gone_is_noticed_before_its_tick_is_decided_again(store, tmp_path, kept):
    book = Book(store, "job")
    book.open(NOW)
    assert book.write(Decision("started", "2026-05-01T03:00:00Z"), book.newest.state, NOW)
    for path in sorted((tmp_path / "schedules/job/log").iterdir())[kept:]:
        path.unlink()
    with pytest.raises(DataError, match=r"log/00000002\.json is gone"):
        Book(store, "job").open(NOW)
    with pytest.raises(DataError, match=r"log/00000002\.json is gone"):
        Book(store, "job").entries(9)


def test_an_older_entry_that_is_gone_is_no_shorter_history(store, tmp_path):
    book = Book(store, "job")
    book.open(NOW)
    for event in ("started", "finished"):
        assert book.write(Decision(event, "2026-05-01T03:00:00Z"), book.newest.state, NOW)
    (tmp_path / "schedules/job/log/00000002.json").unlink()
    with pytest.raises(DataError, match=r"log/00000002\.json is gone, and there are newer entries"):
        Book(store, "job").entries(1)


def test_a_scheduler_killed_before_the_head_was_written_is_no_damage(store, tmp_path):
    book = Book(store, "job")
    book.open(NOW)
    before = (tmp_path / "schedules/job/head.json").read_bytes()
    assert book.write(Decision("started", "2026-05-01T03:00:00Z"), book.newest.state, NOW)
    (tmp_path / "schedules/job/head.json").write_bytes(before)
    assert Book(store, "job").open(NOW).number == 2
    (tmp_path / "schedules/job/head.json").unlink()  # as in books of an earlier version
    assert Book(store, "job").open(NOW).number == 2
