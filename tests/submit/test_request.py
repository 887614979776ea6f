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
