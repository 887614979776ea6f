"""Check who starts again after which failure, and what a user is told where nobody does."""

import errno
import os

import pytest
from ray.exceptions import OutOfMemoryError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError

from fmray.errors import ClusterError, DataError, TrainError
from fmray.failures import Kind
from fmray.train.failures import Budget
from fmray.train.restart_policy import Fault, decide

KILLED = WorkerGroupError("failed", {1: OutOfMemoryError("Task was killed due to the node running low on memory.")})


def after(kind: Kind, *numbers: int | None, error: Exception = KILLED, budget: Budget | None = None):
    """Decide as often as there are numbers of micro-batches to come, and give the events."""
    events, budget, left = [], budget or Budget(1), list(numbers)
    for attempt in range(1, len(numbers) + 1):
        fault = Fault(kind, "rank 1: it went", error, 1, "4f2a", "stacks/1" if kind == "hang" else None)
        decide(fault, budget, attempt, lambda: left.pop(0), events.append)
    return events


@pytest.mark.parametrize("kind", ["memory", "device memory"])
def test_workers_killed_for_want_of_memory_go_on_with_smaller_steps_and_are_not_counted(kind):
    events = after(kind, 2, 4, 8, 16)
    assert [event.action for event in events] == ["halved the micro-batch"] * 4
    assert not any(event.counted for event in events)
    assert "in 16 micro-batches" in events[-1].text
    assert [event.attempt for event in events] == [1, 2, 3, 4]


def test_workers_killed_for_want_of_memory_end_the_training_where_no_step_can_be_smaller():
    with pytest.raises(TrainError, match=r"train.batch_rows: memory does not suffice for one row at a time: rank 1"):
        after("memory", 2, None)


def test_lost_nodes_are_not_counted_beside_workers_that_are():
    budget = Budget(1)
    assert len(after("node", *[None] * 20, budget=budget)) == 20
    assert [event.counted for event in after("worker", None, budget=budget)] == [True]
    with pytest.raises(
        ClusterError, match=r"run.max_failures: the workers failed more than 1 times, .*rank 1: it went"
    ):
        after("worker", None, budget=budget)


def test_a_cluster_in_which_no_node_comes_ends_the_training():
    with pytest.raises(ClusterError, match="run.workers: no node had room"):
        after("node", None, error=ControllerError(WorkerGroupStartupTimeoutError(3)))


def test_a_second_hang_ends_the_training_and_says_where_the_stacks_are():
    with pytest.raises(ClusterError, match=r"run.hang_seconds: the workers hung 2 times.*stacks/1 of the run"):
        after("hang", None, None)


def test_storage_that_refused_a_worker_is_tried_again_unless_it_is_full():
    away = OSError(errno.EIO, os.strerror(errno.EIO))
    assert [event.counted for event in after("storage", None, error=away)] == [True]
    with pytest.raises(ClusterError):
        after("storage", None, error=WorkerGroupError(os.strerror(errno.ENOSPC), {0: away}))


def test_what_fmray_refuses_is_raised_as_it_is():
    error = DataError("disk is full")
    with pytest.raises(DataError) as caught:
        after("storage", None, error=error)
    assert caught.value is error


def test_a_mistake_of_the_user_is_raised_at_the_first_time():
    with pytest.raises(TrainError, match="rank 1: it went. Correct the code"):
        after("user", None)
