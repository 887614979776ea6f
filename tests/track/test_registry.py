"""Register the model of a real run, and move its aliases while others try the same."""

import threading

import pytest
from track.conftest import tell

from fmray.errors import ClusterError
from fmray.report.folder import read_run
from fmray.track.registry import Registry, Version

# MLflow uses what SQLAlchemy will not have for ever; outside of the main thread its warnings are not held back
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def registry(shop):
    store, run = shop
    return Registry("shop", store, tell(store, run, "default")), run


def test_a_run_is_one_version_however_often_it_is_registered(registry):
    found, run = registry
    root = run.root.rpartition("store/")[2]
    assert [found.register(run), found.register(run)] == [1, 1]
    assert found.versions() == (Version(1, run.id, root),)


def test_an_alias_moves_only_from_where_it_was_expected(registry):
    found, _ = registry
    assert found.alias("champion") is None
    assert found.move("champion", None, 1)
    assert found.alias("champion") == 1
    assert not found.move("champion", None, 1)
    assert not found.move("champion", 2, 1)
    assert found.move("champion", 1, 1)
    assert found.versions()[0].aliases == ("champion",)


def test_of_many_who_expect_the_same_one_moves_the_alias(registry):
    found, _ = registry
    moved = []
    threads = [threading.Thread(target=lambda: moved.append(found.move("champion", None, 1))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(moved) == [False] * 5 + [True]


def test_a_version_that_is_not_there_is_no_champion(registry):
    found, _ = registry
    with pytest.raises(ClusterError, match=r"version=7\) not found"):
        found.move("champion", None, 7)
    assert found.alias("champion") is None


def test_a_job_without_versions_has_no_champion(registry):
    found, _ = registry
    other = Registry("nobody", found._store, found._address)
    assert (other.alias("champion"), other.versions()) == (None, ())


def test_a_run_that_mlflow_was_not_told_of_is_named(carried, registry):
    found, run = registry
    found._store.remove(f"{run.root}/mlflow.json")
    with pytest.raises(
        ClusterError, match=rf"MLflow does not have the model of run {run.id} yet. Give it: fmray track"
    ):
        found.register(read_run(run.root, found._store))
