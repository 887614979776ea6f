"""Tell who is champion from lines that only grow."""

import pytest

from fmray.errors import ClusterError
from fmray.promote.history import History, Standing
from fmray.store import Store


@pytest.fixture
def history(tmp_path) -> History:
    return History(Store(str(tmp_path)), "job")


def test_the_champion_is_the_one_moved_to_last_and_a_rollback_uncovers_the_one_before(history):
    assert history.standing() == Standing()
    with history.alone():
        assert history.move(None, "a", "a", "first")
        assert history.move("a", "b", "b", "promote")
        assert history.move("b", "c", "b", "promote")
        assert history.standing() == Standing("c", "b", (("a", "a"), ("b", "b")))
        assert history.move("c", "b", "b", "rollback")
    assert history.standing() == Standing("b", "b", (("a", "a"),))


def test_a_move_from_another_champion_than_the_one_that_is_moves_nothing(history):
    with history.alone():
        history.move(None, "a", "a", "first")
        assert not history.move(None, "b", "b", "first")
        assert not history.move("b", "c", "c", "promote")
    assert history.standing().champion == "a"
    assert len(history.events()) == 1


def test_nobody_writes_who_is_not_alone(history):
    with pytest.raises(ClusterError, match="under `alone` only"):
        history.add("move")


def test_who_was_replaced_while_deciding_writes_no_more(history, tmp_path):
    with pytest.raises(ClusterError, match="lease 1 was lost"), history.alone():
        for path in (tmp_path / "promotions/job").glob("lease-*.json"):
            path.unlink()
        history.add("move", to="a")
    assert history.events() == []


def test_lines_are_found_by_kind_and_values(history):
    with history.alone():
        for run in "ab":
            history.add("decision", run=run)
        history.add("attempt", run="a")
    assert [event["event"] for event in history.events(run="a")] == ["decision", "attempt"]
    assert len(history.events("decision")) == 2
