"""Compute with one thread where nothing else is asked: tests are small, and threads wait for each other."""

import gc
import os
import sys

import pytest
from live_ray import LiveRay

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))  # before anything imports torch
gc.disable()  # until all tests are collected: what is imported stays


def pytest_collection_finish() -> None:
    """Leave imported modules and collected tests, which all stay, out of every later search for garbage."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Take back the threads that a run of the test before has set for its process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def live():
    """Give a cluster of `ray start`, whose head has two cores, to all tests that need one."""
    cluster = LiveRay(cpus=2)
    yield cluster
    cluster.close()
