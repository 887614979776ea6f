import threading
import time
from concurrent.futures import CancelledError
from functools import partial

import pytest

from fmray.tune.concurrent import run_concurrently


def test_results_come_in_the_order_of_the_pieces_whoever_is_done_first():
    def piece(number: int) -> int:
        time.sleep(0.02 * (3 - number))
        return number

    for lanes in (1, 2, 8):
        assert run_concurrently([partial(piece, number) for number in range(4)], lanes) == [0, 1, 2, 3]


def test_so_many_pieces_and_no_more_are_done_at_a_time():
    now, most, lock, both = 0, 0, threading.Lock(), threading.Barrier(2, timeout=5)

    def piece() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        both.wait()  # nobody goes on before two are here
        with lock:
            now -= 1

    run_concurrently([piece] * 6, 2)
    assert most == 2


@pytest.mark.parametrize("error", [ValueError("this one"), KeyboardInterrupt()])
def test_the_first_piece_that_fails_stops_the_others_and_its_error_is_the_one_raised(error):
    stopped, begun = threading.Event(), []

    def long() -> None:
        begun.append("long")
        if not stopped.wait(10):
            raise AssertionError("nobody was stopped")
        raise CancelledError

    def bad() -> None:
        raise error

    with pytest.raises(type(error)):
        run_concurrently([long, bad, long, long, long], 2, stopped.set)
    assert len(begun) <= 2  # what has not begun never does
