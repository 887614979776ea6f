"""Tell real MLflow databases and servers of a real run, and ask MLflow's own client what they know."""

import json
import os
import pickletools
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from track.conftest import SECRET, free_port, make_job, mlflow_server, serving, tell

from fmray import workflow
from fmray.cli import main
from fmray.errors import ClusterError, DataError
from fmray.events import Epoch, Note, Stage, to_json
from fmray.inference.model import open_model
from fmray.inference.serving import served
from fmray.report.card import read_card
from fmray.stages import reporting
from fmray.store import Store
from fmray.track import live
from fmray.track import mlflow as door
from fmray.track.address import address_of
from fmray.track.notice import read_notice, untold
from fmray.track.publish import begin, publish, publish_untold

pytestmark = pytest.mark.slow
EPOCHS = (3, 6)
"""Of a run of three epochs and two members: in one pack, or in two where a trial found them faster side by side."""


def known(address):
    """Ask MLflow for all it has: the run, its nested runs by name, and every point of every curve."""
    import mlflow

    client = mlflow.MlflowClient(address.uri, address.uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "shop")
    runs = client.search_runs([experiment.experiment_id])
    curves = {
        (run.info.run_name, metric): [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, metric)]
        for run in runs
        for metric in run.data.metrics
    }
    return client, {run.info.run_name: run for run in runs}, curves, len(runs)


def expected(run):
    """Read the points of the members' curves from the run's own table."""
    table = pq.read_table(f"{run.root}/history.parquet").to_pandas()
    table = table[table["role"] == "member"]
    return {
        (f"member-{member:05d}", metric): list(zip(part["epoch"], part["value"], strict=True))
        for (member, metric), part in table.groupby(["member", "metric"])
    }


def assert_complete(address, run):
    client, runs, curves, number = known(address)
    assert number == 3
    assert {runs[name].info.status for name in runs} == {"FINISHED"}
    for name, points in expected(run).items():
        assert sorted(curves[name]) == points
    return client, runs, curves


def test_sqlite_in_the_store_knows_all_of_a_run_and_its_model(shop):
    store, run = shop
    address = tell(store, run, "default")
    client, runs, curves = assert_complete(address, run)
    (first,) = (r for name, r in runs.items() if name == run.id)
    test = run.scores.test["roc_auc"]
    assert curves[run.id, "test/roc_auc"] == [(0, test.value)]
    assert (curves[run.id, "test/roc_auc/low"], curves[run.id, "test/roc_auc/high"]) == (
        [(0, test.low)],
        [(0, test.high)],
    )
    assert curves[run.id, "baseline/linear/roc_auc"] == [(0, run.scores.baselines["linear"]["roc_auc"].value)]
    assert first.data.params["train.epochs"] == "3"
    assert first.data.tags["fmray.test_identity"] == store.read_json(f"{run.root}/run.json")["data"]["test_identity"]
    (data,) = first.inputs.dataset_inputs
    assert json.loads(data.dataset.profile)["read"] == 400
    names = {file.path for file in client.list_artifacts(first.info.run_id)}
    assert {"report.html", "scores.json", "gates.json", "card.json", "job.yaml", "history.parquet"} <= names
    (version,) = client.search_model_versions("name = 'shop'")
    assert version.tags["fmray.run"] == run.id
    model = client.get_logged_model(read_notice(run.root, store).model)
    assert version.source == model.artifact_location
    assert {score.key for score in model.metrics} >= {"test/roc_auc", "val/roc_auc"}
    assert list(untold(store, address.shown)) == []


def test_told_twice_or_by_two_at_once_mlflow_knows_it_once(shop):
    store, run = shop
    address = tell(store, run, "default")
    _, runs, curves, number = known(address)
    (store_root, notice) = f"{run.root}/mlflow.json", read_notice(run.root, store)
    store.write_json(store_root, {**store.read_json(store_root), "told": ""})  # as if the last answer had been lost
    code = (
        "import sys; from fmray.store import Store; from fmray.track.address import address_of;"
        "from fmray.track.publish import publish; from fmray.inference.serving import served;"
        "store = Store(sys.argv[1]); publish(sys.argv[2], store, address_of('default', store), served)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, store.root, run.root]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    client, runs_after, curves_after, number_after = known(address)
    assert (number_after, curves_after) == (number, curves)
    assert {name: r.info.run_id for name, r in runs_after.items()} == {name: r.info.run_id for name, r in runs.items()}
    assert len(client.search_model_versions("name = 'shop'")) == 1
    assert read_notice(run.root, store) == notice


def test_a_teller_that_dies_anywhere_leaves_what_the_next_one_completes(shop, monkeypatch):
    """Die after no request, after three, after six ... until it gets through; each teller goes on from the last one."""
    store, run = shop
    address = address_of("default", store)
    begin(run, read_card(run.root, store).job, (), store, address)
    real, deaths = door.Connection._request, 0
    while True:
        left = deaths + 1

        def request(connection):
            nonlocal left
            left -= 1
            if left < 0:
                raise ClusterError("died")
            return real(connection)

        monkeypatch.setattr(door.Connection, "_request", request)
        try:
            publish(run.root, store, address, served)
            break
        except ClusterError:
            deaths += 3
    assert deaths > 3
    client, _, curves = assert_complete(address, run)
    assert all(len(points) == len({step for step, _ in points}) for points in curves.values())
    assert len(client.search_model_versions("name = 'shop'")) == 1


def test_no_file_of_a_run_or_of_its_model_holds_a_pickle(shop):
    store, run = shop
    tell(store, run, "default")
    files = [Path(folder, name) for folder, _, names in os.walk(store.root) for name in names]
    logged = [file for file in files if "/mlflow/artifacts/" in str(file)]
    assert any(file.name == "MLmodel" for file in logged)
    for file in [*logged, *Path(run.root).rglob("*")]:
        if file.is_file():
            assert not is_pickle(file.read_bytes()), file


def is_pickle(content):
    """Tell whether a program of pickle stands at the start of a file, or a zip archive that may hold one."""
    if content.startswith(b"PK\x03\x04"):
        return True
    try:
        found = [opcode.name for opcode, _, _ in pickletools.genops(content)]
    except Exception:
        return False
    return found[-1:] == ["STOP"]


def test_the_check_for_pickles_finds_them():
    import pickle

    import torch

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert is_pickle(pickle.dumps({"a": [1, 2.5]}, protocol))
    import io

    file = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, file)
    assert is_pickle(file.getvalue())


def test_a_server_killed_mid_run_and_brought_back_learns_all_of_it_once(carried, database, tmp_path, monkeypatch):
    """MLflow hears of the first epoch; then it dies, and the run ends without it."""
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # this machine may be busy
    shutil.copy(database, tmp_path / "server.db")
    port, store, notes = free_port(), Store(str(tmp_path / "store")), []
    heard = []
    with ExitStack() as alive:
        address = address_of(alive.enter_context(mlflow_server(tmp_path, port)), store)

        def report(event):
            is_first = isinstance(event, Epoch) and event.epoch == 1 and event.place.role == "member"
            if is_first and not heard:  # members that train side by side each have a first epoch
                heard.append(event)
                assert wait_for_progress(address) == "RUNNING"
                alive.close()
            if isinstance(event, Note):
                notes.append(event.text)

        run = workflow.execute(make_job(carried, track={"mlflow": address.uri}), store, report=report)
    assert run.status == "finished"
    assert "Told later: by the next run of this store" in notes[-1]
    assert list(untold(store, address.shown)) == [run.root]
    with mlflow_server(tmp_path, port):
        assert publish_untold(store, address, served) == 1
        _, _, curves = assert_complete(address, run)
        events = [
            e for e in store.events(f"{run.root}/events.jsonl") if e["event"] == "epoch" and e["role"] == "member"
        ]
        best = [(step, event["best"]) for step, event in enumerate(events, 1)]
        assert sorted(curves[run.id, "progress/best_roc_auc"]) == best
        assert publish_untold(store, address, served) == 0


def wait_for_progress(address):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(ValueError):  # no such experiment yet
            _, runs, curves, _ = known(address)
            if any(metric.startswith("progress/") for _, metric in curves):
                return next(iter(runs.values())).info.status
        time.sleep(0.2)
    return "nothing was told"


def test_a_run_that_fails_is_told_as_such_and_is_the_same_run_once_it_finishes(
    carried, database, tmp_path, monkeypatch
):
    store = Store(str(tmp_path / "store"))
    shutil.copy(database, store.path("mlflow.db"))
    asked = make_job(carried, track={"mlflow": "default"})

    def full(*_):
        raise DataError("disk is full: 7 bytes did not fit.")

    with monkeypatch.context() as patched:
        patched.setattr(reporting, "write_card", full)
        with pytest.raises(DataError, match="disk is full"):
            workflow.execute(asked, store)
    address = address_of("default", store)
    _, runs, curves, _ = known(address)
    ((name, failed),) = runs.items()
    assert failed.info.status == "FAILED"
    assert "disk is full" in failed.data.tags["fmray.error"]
    assert len(curves[name, "progress/best_roc_auc"]) in EPOCHS
    run = workflow.execute(asked, store)
    _, runs, curves = assert_complete(address, run)
    assert runs[run.id].info.run_id == failed.info.run_id
    assert len(curves[run.id, "progress/best_roc_auc"]) in EPOCHS
    assert runs[run.id].data.tags.get("fmray.error", "") == ""


def test_a_run_whose_model_cannot_be_served_is_told_of_all_the_same(shop):
    store, run = shop

    def unservable(root):
        raise DataError("column 'x' is of a type that MLflow lacks.")

    address = address_of("default", store)
    begin(run, read_card(run.root, store).job, (), store, address)
    publish(run.root, store, address, unservable)
    client, runs, _ = assert_complete(address, run)
    assert runs[run.id].data.tags["fmray.model"] == "column 'x' is of a type that MLflow lacks."
    assert client.search_model_versions("name = 'shop'") == []


def test_the_command_tells_of_a_run_that_was_not_to_be_told(shop, capsys):
    store, run = shop
    answers = []
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            main(["track", run.root, "--json"])
        assert left.value.code == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    _, runs, _ = assert_complete(address_of("default", store), run)
    assert runs[run.id].info.run_id == answers[0]["mlflow_run"]


def test_mlflow_serves_what_the_model_says(shop, tmp_path):
    store, run = shop
    address = tell(store, run, "default")
    client, _, _, _ = known(address)
    (version,) = client.search_model_versions("name = 'shop'")
    source = version.source
    model = open_model(run.root)
    rows = model.example.to_pandas().astype({"member": object})
    rows.loc[0, ["age", "price"]] = None
    rows.loc[1, "city"] = "Atlantis"
    rows.loc[2, "member"] = None
    split = rows.to_json(orient="split", index=False, double_precision=15)
    told = json.dumps({"dataframe_split": json.loads(split)})
    port = free_port()
    arguments = ["models", "serve", "--model-uri", source, "--env-manager", "local"]
    with serving(arguments, tmp_path / "serve.log", "/ping", port) as uri:
        import urllib.request

        asked = urllib.request.Request(f"{uri}/invocations", told.encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            given = pd.DataFrame(json.load(answer)["predictions"])
    pd.testing.assert_frame_equal(given, model.predict(rows).to_pandas(), check_dtype=False, rtol=1e-12)


def test_a_server_that_accepts_and_never_answers_costs_a_run_two_answers_time(carried, tmp_path, monkeypatch):
    """One for the message under way when the training ends, one for what is told at the end."""
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.1)
    finished_at = []

    def report(event):
        if isinstance(event, Stage) and event.name == "report":
            finished_at.append(time.monotonic())

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        track = {"mlflow": f"http://127.0.0.1:{deaf.getsockname()[1]}"}
        run = workflow.run(make_job(carried, track=track), str(tmp_path / "store"), report=report)
    assert run.status == "finished"
    # the report itself and the import of mlflow count too
    assert time.monotonic() - finished_at[0] < 2 * door.ANSWER_SECONDS + 5
    assert read_notice(run.root, Store(str(tmp_path / "store"))).told == ""


def test_a_password_in_the_address_gets_in_and_comes_out_nowhere(carried, tmp_path, capfd):
    asked = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Authorization"])
            self.send_response(500)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    events = []
    try:
        uri = f"http://ann:{SECRET}@127.0.0.1:{server.server_port}"
        run = workflow.run(
            make_job(carried, track={"mlflow": uri}),
            str(tmp_path / "store"),
            report=lambda event: events.append(to_json(event)),
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert run.status == "finished"
    assert {given[:6] for given in asked} == {"Basic "}
    assert "http://***@127.0.0.1" in Path(run.root, "job.yaml").read_text()
    said = json.dumps(events, default=str) + "".join(capfd.readouterr())
    assert "Told later" in said
    assert SECRET not in said
    for file in (tmp_path / "store").rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes(), file
