"""Addresses are read as users write them, and never shown with what lets one in."""

import pytest

from fmray.errors import SpecError
from fmray.spec.load import job_from
from fmray.store import Store
from fmray.track.address import address_of

JOB = {"data": {"path": "rows", "target": "y"}}
URI = "http://ann:hun%40ter2@host:5000"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def test_nobody_is_told_unless_the_job_says_so():
    assert job_from(JOB).track.mlflow is None


@pytest.mark.parametrize("to", ["default", "http://host:5000", "https://host/mlflow", "postgresql+psycopg2://u:p@h/db"])
def test_the_store_a_server_or_a_database_may_be_told(to):
    assert job_from({**JOB, "track": {"mlflow": to}}).track.mlflow == to


@pytest.mark.parametrize("to", [True, 1, "", "localhost:5000", "ftp://host", "http://a b"])
def test_anything_else_is_refused_with_what_is_accepted(to):
    with pytest.raises(SpecError, match=r"track\.mlflow: .*Accepted: "):
        job_from({**JOB, "track": {"mlflow": to}})


def test_variables_of_the_environment_stand_in_an_address(monkeypatch):
    monkeypatch.setenv("MLFLOW_PASSWORD", "hunter2")
    found = job_from({**JOB, "track": {"mlflow": "http://ann:${MLFLOW_PASSWORD}@${WHERE:-host}:5000"}})
    assert found.track.mlflow == "http://ann:hunter2@host:5000"


def test_default_is_a_database_in_the_store(store):
    address = address_of("default", store)
    assert address.uri == f"sqlite:///{store.root}/mlflow.db"
    assert address.shown == "default"


def test_a_store_that_can_hold_no_database_asks_for_a_server():
    with pytest.raises(
        SpecError, match=r"track\.mlflow: 'default' is SQLite in the store, which cannot lie in memory://"
    ):
        address_of("default", Store("memory://store", single_writer=True))


def test_what_is_said_of_an_address_hides_its_password(store):
    address = address_of(URI, store)
    assert (address.uri, address.shown) == (URI, "http://***@host:5000")
    said = address.hide(f"GET {URI}/api failed for ann with hun@ter2 or hun%40ter2")
    assert "ter2" not in said
    assert "ter2" not in repr(address)


def test_an_address_without_its_password_is_not_tried(store):
    with pytest.raises(SpecError, match=r"lacks its password, which is never written. Give the whole address"):
        address_of("http://***@host:5000", store)


def test_drivers_of_databases_are_not_left_to_wait_for_minutes(store):
    assert address_of("postgresql://u:p@h/db", store).uri == "postgresql://u:p@h/db?connect_timeout=5"
    assert address_of("mysql://u:p@h/db?a=b", store).uri == "mysql://u:p@h/db?a=b&connect_timeout=5"
    assert address_of("postgresql://h/db?connect_timeout=60", store).uri.endswith("=60")
