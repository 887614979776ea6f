"""Check that failures are told apart, with the errors that Ray, torch and the system really raise."""

import errno
import pickle

import pytest
import ray
import torch
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayTaskError
from ray.train import PreemptionError, PreemptionInfo, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError

from fmray.errors import ClusterError, DataError, SpecError
from fmray.store import named_errors
from fmray.train.failures import (
    MOST_LOST,
    Budget,
    ShortOfMemoryError,
    gravest,
    is_lost_peer,
    kind_of,
    one_line,
    place_of,
)

ACTOR = b"\x01" * 16
GLOO = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer [127.0.0.1]:4321")


def died(message: str, **more: object) -> ActorDiedError:
    return ActorDiedError(
        ActorDiedErrorContext(error_message=message, actor_id=ACTOR, class_name="RayTrainWorker", **more)
    )


KILLED = died(
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) ..."
)
LOST = died("The actor died because its node has died. Node Id: 4f2a\n\tthe actor's node was terminated unexpectedly")
PREEMPTED = died("drained", node_death_info=NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED))


def refused(number: int) -> ClusterError | DataError:
    """Give what the store raises for an error of the system."""
    try:
        with named_errors("/store/states"):
            raise OSError(number, "refused")
    except (ClusterError, DataError) as error:
        return error


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def huge() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SpecError("no", "model"), "user"),
        (ValueError("shapes"), "user"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), "user"),
        (FileNotFoundError("/home/me/words.txt"), "user"),
        (MemoryError(), "memory"),
        (huge(), "memory"),
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "device memory"),
        (torch.distributed.DistBackendError("NCCL error: Cuda failure 'out of memory'"), "device memory"),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), "worker"),
        (ShortOfMemoryError("too much", "device memory"), "device memory"),
        (NodeDiedError("gone"), "node"),
        (LOST, "node"),
        (PREEMPTED, "node"),
        (PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"4f": [1]})), "node"),
        (ControllerError(WorkerGroupStartupTimeoutError(3)), "node"),
        (KILLED, "worker"),
        (ActorUnavailableError("connection reset", ACTOR), "worker"),
        (GLOO, "worker"),
        (refused(errno.EIO), "storage"),
        (refused(errno.ENOSPC), "storage"),
        (refused(errno.EACCES), "user"),
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), "storage"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_tells_what_kind_of_failure_it_is_alone_and_wrapped_by_ray(error, kind):
    assert kind_of(error) == kind
    assert kind_of(WorkerHealthCheckFailedError("A worker health check failed.", error)) == kind
    assert kind_of(WorkerGroupError("failed", {2: error})) == kind
    if isinstance(error, ValueError | torch.OutOfMemoryError | MemoryError):
        assert kind_of(RayTaskError("work", "trace", error).as_instanceof_cause()) == kind


@pytest.mark.parametrize(
    ("errors", "rank"),
    [
        ({0: GLOO, 1: KILLED, 2: GLOO}, 1),
        ({0: GLOO, 1: ValueError("mine")}, 1),
        ({0: RuntimeError("an odd consequence"), 1: LOST}, 1),
        ({0: KILLED, 2: OutOfMemoryError("low on memory")}, 2),
        ({0: GLOO, 1: GLOO}, 0),
    ],
)
def test_the_worker_that_failed_first_is_told_from_those_that_lost_it(errors, rank):
    assert gravest(errors) == rank


def test_losing_a_peer_is_told_from_a_fault():
    assert is_lost_peer(GLOO)
    assert not is_lost_peer(ValueError("gloomy"))


def test_each_kind_has_a_budget_of_its_own():
    budget = Budget(2)
    assert [budget.allows("worker") for _ in range(3)] == [True, True, False]
    assert all(budget.allows("node") for _ in range(MOST_LOST))
    assert not budget.allows("node")
    assert [budget.allows("hang") for _ in range(2)] == [True, False]
    assert not budget.allows("user")


def test_an_error_of_memory_comes_through_a_pickle_whole():
    again = pickle.loads(pickle.dumps(ShortOfMemoryError("too much", "device memory", 2, 7)))
    assert (again.message, again.kind, again.rank, again.rows) == ("too much", "device memory", 2, 7)


def test_a_fault_says_where_it_was_raised_and_keeps_it_on_its_way_through_ray():
    error = raised(ValueError("first line\nsecond"))
    error.add_note(place_of(error))
    again = pickle.loads(ray.cloudpickle.dumps(error))
    assert one_line(again).startswith("ValueError: first line (test_failures.py:")
    assert one_line(again).endswith("in raised)")


def test_the_place_of_a_fault_inside_a_library_is_the_users_line_that_called_it():
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(3, 4)(torch.zeros(2, 5))
    assert place_of(caught.value).startswith("test_failures.py:")
