"""Remember who is still to be told of what, without asking MLflow."""

import subprocess
import sys
from dataclasses import replace

import pytest

from fmray.errors import DataError
from fmray.store import Store
from fmray.track.notice import Notice, read_notice, untold, write_notice

NOTICE = Notice("k1", "http://host", {"name": "shop", "api_key": "hunter2"}, {"fmray.run": "r"}, 12.5)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def test_a_run_is_untold_until_all_of_it_is_told(store):
    root = store.path("runs/shop/r")
    assert read_notice(root, store) is None
    write_notice(root, store, NOTICE)
    write_notice(store.path("runs/shop/s"), store, replace(NOTICE, key="k2", to="http://other"))
    assert list(untold(store, "http://host")) == [root]
    assert read_notice(root, store) == replace(NOTICE, job={"name": "shop", "api_key": "***"})
    write_notice(root, store, replace(NOTICE, told="finished"))
    assert list(untold(store, "http://host")) == []
    assert list(untold(store, "http://other")) == [store.path("runs/shop/s")]


def test_a_run_that_was_removed_is_told_of_no_more(store):
    root = store.path("runs/shop/r")
    write_notice(root, store, NOTICE)
    store.remove(root)
    assert list(untold(store, "http://host")) == []


def test_a_damaged_notice_is_named(store):
    root = store.path("runs/shop/r")
    store.write_json(f"{root}/mlflow.json", {"key": "k"})
    with pytest.raises(DataError, match=r"runs/shop/r/mlflow\.json is damaged: .* Remove it to have the run told anew"):
        read_notice(root, store)


def test_what_belongs_to_mlflow_is_no_garbage(store):
    write_notice(store.path("runs/shop/r"), store, NOTICE)
    store.write_bytes("mlflow/artifacts/shop/models/m-1/artifacts/MLmodel", b"x")
    store.write_bytes("mlflow.db", b"x")
    with store.lease("mlflow"):
        pass
    assert store.gc(dry_run=False) == []


@pytest.mark.slow
def test_mlflow_is_imported_only_when_there_is_something_to_tell():
    code = "import sys, fmray.workflow, fmray.cli, fmray.inference.serving; print('mlflow' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
