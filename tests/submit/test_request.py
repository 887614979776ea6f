"""Plan submissions without a cluster: what they are called, and what they would send."""

import json
import shlex
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.cli import main
from fmray.data.scan import scan
from fmray.errors import DataError, SpecError
from fmray.registry import importable
from fmray.report.folder import open_run
from fmray.spec.load import job_from, load_job
from fmray.store import Store
from fmray.submit import plan
from fmray.submit.package import JOB_FILE, unpack


@pytest.fixture
def job(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"x": [0.0, 1.0], "y": [0, 1]}), tmp_path / "data/a.parquet")
    return job_from({"data": {"path": "data", "target": "y"}, "model": "nets:Net"}, tmp_path)


@pytest.fixture(autouse=True)
def _nets(tmp_path):
    (tmp_path / "nets.py").write_text("class Net: ...\n")


def run_there(request, tmp_path, monkeypatch):
    """Name the run as the command on the cluster does, in a folder of its own."""
    unpack(request.package.files, tmp_path / "there")
    monkeypatch.syspath_prepend(tmp_path / "there")
    sent, store = load_job(tmp_path / "there" / JOB_FILE), Store(request.store)
    return open_run(sent, scan(sent.data, sent.folder, store).fingerprint, store, fresh=False)


def test_a_submission_bears_the_id_that_the_run_will_have_there(job, tmp_path, monkeypatch):
    request = plan(job, str(tmp_path / "store"))
    assert run_there(request, tmp_path, monkeypatch).id == request.run_id
    assert request.submission_id(3) == f"fmray-{request.run_id}-3"
    assert plan(job, str(tmp_path / "store")).run_id == request.run_id


def test_a_newer_run_beside_the_first_is_the_one_that_is_continued(job, tmp_path):
    store = Store(str(tmp_path / "store"))
    first = plan(job, store.root).run_id
    store.write_json(store.path("runs", job.name, first, "run.json"), {})
    store.write_json(store.path("runs", job.name, f"{first}-b", "run.json"), {})
    assert plan(job, store.root).run_id == f"{first}-b"


def test_a_run_has_one_id_here_and_there_however_the_path_of_its_data_is_spelled(job, tmp_path):
    (tmp_path / "there").symlink_to(tmp_path / "data")
    store = str(tmp_path / "store")
    with importable(job.folder, job.modules()):
        found = open_run(job, scan(job.data, job.folder, None).fingerprint, Store(store), fresh=False).id
    assert plan(job, store).run_id == found
    for path in ("./data", str(tmp_path / "data"), "there", "file://" + str(tmp_path / "data")):
        assert plan(replace(job, data=replace(job.data, path=path)), store).run_id == found


def test_an_attempt_that_the_cluster_has_forgotten_is_counted_if_the_store_knows_it(job, tmp_path):
    store = Store(str(tmp_path / "store"))
    request = plan(job, store.root)
    assert request.attempts_before == 0
    path = store.path("runs", job.name, request.run_id, "run.json")
    for said, number in ((request.submission_id(12), 12), ("", 0), (f"fmray-{request.run_id}-b-3", 0), ("fmray-x", 0)):
        store.write_json(path, {"submission": said})
        assert plan(job, store.root).attempts_before == number


def test_a_fresh_run_is_named_beside_the_one_that_is_there_and_then_continued_like_any(job, tmp_path):
    store = Store(str(tmp_path / "store"))
    first = plan(job, store.root).run_id
    assert plan(job, store.root, fresh=True).run_id == first
    store.write_json(store.path("runs", job.name, first, "run.json"), {})
    fresh = plan(job, store.root, fresh=True)
    assert fresh.run_id == f"{first}-b"
    assert shlex.split(fresh.entrypoint)[-1] == "--fresh"
    store.write_json(store.path("runs", job.name, fresh.run_id, "run.json"), {})
    again = plan(job, store.root)
    assert again.run_id == fresh.run_id
    assert "--fresh" not in again.entrypoint


def test_other_data_other_code_and_another_question_are_other_runs_but_other_workers_are_not(job, tmp_path):
    store = str(tmp_path / "store")
    first = plan(job, store).run_id
    assert plan(replace(job, run=replace(job.run, workers=2)), store).run_id == first
    assert plan(replace(job, train=replace(job.train, epochs=3)), store).run_id != first
    pq.write_table(pa.table({"x": [0.0, 1.0, 2.0], "y": [0, 1, 1]}), tmp_path / "data/a.parquet")
    assert plan(job, store).run_id != first


def test_paths_are_absolute_where_they_are_sent(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = plan(job, "some store")
    assert request.job.data.path == str(tmp_path / "data")
    assert shlex.split(request.entrypoint)[-3:] == ["--store", f"{tmp_path}/some store", "--json"]
    assert not (tmp_path / "some store").exists()
    assert any("no store is seen" in note for note in request.notes)


def test_data_that_are_not_seen_from_here_leave_the_job_alone_to_name_it(tmp_path):
    job = job_from({"data": {"path": "/no/such/place", "target": "y"}}, tmp_path)
    request = plan(job, str(tmp_path))
    assert request.run_id == plan(job, str(tmp_path)).run_id
    assert any("named after the job alone" in note for note in request.notes)


def test_data_that_are_seen_and_damaged_are_refused_before_anything_is_sent(job, tmp_path):
    (tmp_path / "data/a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="a.parquet"):
        _ = plan(job, str(tmp_path)).run_id


@pytest.mark.parametrize(
    ("path", "store", "where"),
    [("hdfs://me:hush@b/d", "/s", "data.path"), ("/d", "s3://me:hush@b/s", "--store")],
)
def test_addresses_with_secrets_are_refused_since_lists_of_jobs_would_show_them(tmp_path, path, store, where):
    with pytest.raises(SpecError, match="environment of the nodes") as raised:
        plan(job_from({"data": {"path": path, "target": "y"}}, tmp_path), store)
    assert raised.value.where == where
    assert "hush" not in str(raised.value)


def test_a_dry_run_shows_the_request_and_needs_no_cluster(job, tmp_path, capsys):
    (tmp_path / "job.yaml").write_text("data: {path: data, target: y}\nmodel: nets:Net\n")
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "submit",
                str(tmp_path / "job.yaml"),
                "--store",
                str(tmp_path / "s"),
                "--dry-run",
                "--with-fmray",
                "--json",
            ]
        )
    shown = json.loads(capsys.readouterr().out)["request"]
    assert ended.value.code == 0
    assert set(shown["working_dir"]) == {"job.yaml", "nets.py"}
    assert shown["py_modules"]["fmray"] > 100_000
    assert shown["entrypoint"] == f"python -m fmray.cli run job.yaml --store {tmp_path}/s --json"
    assert shown["job"]["data"]["path"] == f"{tmp_path}/data"


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [("127.0.0.1:8265", 5, "Give its URL"), ("http://127.0.0.1:9", 1, "does not answer")],
)
def test_an_address_where_no_dashboard_answers_is_named(address, code, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["jobs", "--address", address, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (ended.value.code, told["status"]) == (code, "failed")
    assert said in told["error"]["message"]
