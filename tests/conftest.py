"""Compute with one thread where nothing else is asked: tests are small, and threads wait for each other."""

import os

import pytest
from live_ray import LiveRay

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch


@pytest.fixture(scope="session")
def live():
    """Give a cluster of `ray start`, whose head has two cores, to all tests that need one."""
    cluster = LiveRay(cpus=2)
    yield cluster
    cluster.close()
