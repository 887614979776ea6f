"""Compute with one thread where nothing else is asked: tests are small, and threads wait for each other."""

import gc
import os
import sys
import time

import pytest
from live_ray import LiveRay
from reopened import reopened_here

from fmray.inference import fresh

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))  # before anything imports torch
gc.disable()  # until all tests are collected: what is imported stays


def pytest_collection_finish() -> None:
    """Leave imported modules and collected tests, which all stay, out of every later search for garbage."""
    gc.enable()
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--until-second", type=float, help="skip tests that have not begun then, in seconds of the epoch")
    parser.addoption("--whole", action="store_true", help="kill as often as campaigns ask for, not a sample of that")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what would take too long, and take back the threads that a test before has set for its process."""
    until = item.config.getoption("--until-second")
    if until is not None and time.time() > until:
        pytest.skip("not run: the time of --until-second was spent")
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


SAMPLED_KILLS = 6


@pytest.fixture
def num_kills(request):
    """Give how often a campaign that asks for so many kills kills here: a sample of them, or with `--whole` all."""
    whole = request.config.getoption("--whole")
    return lambda wanted: wanted if whole else min(wanted, SAMPLED_KILLS)


IN_A_PROCESS_OF_ITS_OWN = fresh.fresh_process


@pytest.fixture(scope="session", autouse=True)
def _reopen_models_here() -> None:
    """Open the models of runs again in this process, by the function that a fresh one calls.

    Each run of the suite would otherwise wait for another Python that imports torch. What this leaves out is the start
    of that process, and that it knows nothing of this one: tests marked `fresh_process`, and those that run the command
    line, have the real thing.
    """
    fresh.fresh_process = reopened_here


@pytest.fixture(autouse=True)
def _reopen_models_afresh(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("fresh_process") is not None:
        monkeypatch.setattr(fresh, "fresh_process", IN_A_PROCESS_OF_ITS_OWN)


@pytest.fixture(scope="session")
def live():
    """Give a cluster of `ray start`, whose head has two cores, to all tests that need one."""
    cluster = LiveRay(cpus=2)
    yield cluster
    cluster.close()
