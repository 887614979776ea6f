"""Use the command line as a person would: separate processes, their output, their exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmray.cli import main
from fmray.store.sealed import say_unverified

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def fmray(tmp_path: Path):
    """Call fmray with arguments, in an empty folder."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, **options
        )

    return call


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call fmray from Python, in an empty folder: no process has to start and import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in os.environ.keys() - INHERITED.keys():
        monkeypatch.delenv(name)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        stdout, stderr = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, stdout, stderr)

    return call


INHERITED = {name: value for name, value in os.environ.items() if not name.startswith("FMRAY_")}
ENVIRONMENT = {**INHERITED, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fmray.cli", *map(str, arguments)]


def write_job(folder: Path, text: str = "", num_rows: int = 400) -> Path:
    random = np.random.default_rng(0)
    x = random.normal(size=(num_rows, 3))
    y = np.where(x[:, 0] + x[:, 1] * x[:, 2] > 0, "yes", "no")
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(pa.table({f"f{i}": c for i, c in enumerate(x.T)} | {"y": y}), folder / "data/a.parquet")
    job = folder / "small.yaml"
    job.write_text(f"data: {{path: data, target: y}}\n{text or 'train: {epochs: 2, batch_rows: 32}'}\n")
    return job


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_run_ends_with_scores_and_the_path_of_its_report(fmray, tmp_path):
    write_job(tmp_path, "train: {epochs: 30, batch_rows: 32, optimizer: {adam: {lr: 0.01}}}\nrigour: {profile: draft}")
    done = fmray("run", "small.yaml")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "fmray · small · small.yaml"
    assert Path(lines[-1]).read_text().startswith("<!DOCTYPE html>")
    assert "roc_auc 0." in done.stdout
    again = fmray("run", "small.yaml", "--json")
    assert last_json(again)["status"] == "finished"
    assert last_json(again)["run_dir"] == str(Path(lines[-1]).parent)
    folder = Path(lines[-1]).parent
    expected = {"job.yaml", "run.json", "events.jsonl", "history.parquet", "members.parquet", "predictions", "sealed",
                "model", "scores.json", "gates.json", "card.json", "report.html", "driver.log"}  # fmt: skip
    assert expected <= {path.name for path in folder.iterdir()}
    assert "look 1" in fmray("ledger", folder).stdout
    before = (folder / "report.html").read_bytes()
    assert fmray("report", folder).returncode == 0
    assert (folder / "report.html").read_bytes() == before
    kept = {path for kind in ("prepared", "members") for path in (tmp_path / "fmray-store" / kind).rglob("*.*")}
    assert fmray("gc").returncode == 0
    assert kept
    assert all(path.exists() for path in kept)


@pytest.mark.slow
def test_the_first_line_comes_before_torch_is_imported(tmp_path):
    write_job(tmp_path)
    code = (
        "import builtins, sys\nreal = builtins.__import__\n"
        "def watched(name, *a, **k):\n"
        "    if name.split('.')[0] in ('torch', 'ray'): print('IMPORTED', name, flush=True); sys.exit(9)\n"
        "    return real(name, *a, **k)\n"
        "builtins.__import__ = watched\nfrom fmray.cli import main\nmain(['run', 'small.yaml'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.splitlines()[0].startswith("fmray · small")
    assert done.stdout.splitlines()[1].startswith("IMPORTED")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "none.yaml"], 5, "none.yaml: cannot be read"),
        (["run", "small.yaml", "--set", "train.epoch=3"], 5, "Did you mean 'epochs'?"),
        (["run", "small.yaml", "--sett", "a=b"], 5, "No such option"),
        (["rnu"], 5, "No such command"),
        (["run"], 5, "Missing argument"),
        (["check", "small.yaml", "--set", "data.target=yy"], 5, "column 'yy' is not in a.parquet. Did you mean"),
        (["check", "small.yaml", "--set", "data.path=nowhere"], 5, "nowhere"),
        (["check", "small.yaml", "--set", "steps=[{clip: {columns: [f9], low: 0}}]"], 5, "column 'f9' is not there"),
        (["check", "small.yaml", "--set", "evaluate.slices=[f9]"], 5, "column 'f9' is not in the data"),
        (["check", "small.yaml", "--set", "evaluate.primary=r2"], 5, "'r2' judges a number, the target is a class"),
        (["check", "small.yaml", "--set", "evaluate.metrics=[rmse]"], 5, "'rmse' judges a number"),
        (
            ["check", "small.yaml", "--set", "train.optimizer={adam: {lr: fast}}"],
            5,
            "'fast'. Accepted: a number in (0, inf).",
        ),
        (["check", "small.yaml", "--set", "model=no_net:Net"], 5, "module 'no_net' is neither beside the job file"),
        (["report", "."], 5, "holds no run.json"),
        (["gc", "--store", "nowhere"], 5, "'nowhere' is no store"),
    ],
)
def test_bad_input_is_named_with_exit_code_5_and_json_on_request(in_process, tmp_path, arguments, code, message):
    write_job(tmp_path)
    assert_refused(in_process(*arguments, "--json"), code, message)


@pytest.mark.slow
def test_a_process_that_is_given_bad_input_ends_with_exit_code_5_and_json(fmray, tmp_path):
    write_job(tmp_path)
    assert_refused(fmray("run", "small.yaml", "--sett", "a=b", "--json"), 5, "No such option")
    assert_refused(fmray("check", "small.yaml", "--set", "data.path=nowhere", "--json"), 5, "nowhere")


def assert_refused(done: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    assert done.returncode == code
    assert message in done.stderr.replace("\n", " ")
    answer = last_json(done)
    assert answer["status"] == "failed"
    assert message in f"{answer['error']['where']}: {answer['error']['message']}"
    assert "Traceback" not in done.stderr


def test_mistakes_of_the_job_and_of_its_columns_are_told_at_once_each_at_its_line(fmray, tmp_path):
    write_job(tmp_path)
    (tmp_path / "bad.yaml").write_text("data:\n  path: data\n  target: yy\n  ignore: [zz]\ntrain: {epoch: 2}\n")
    done = fmray("check", "bad.yaml", "--json")
    assert done.returncode == 5
    error = last_json(done)["error"]
    wheres = ["bad.yaml:3 data.target", "bad.yaml:4 data.ignore", "bad.yaml:5 train.epoch"]
    assert [one["where"] for one in error["errors"]] == wheres
    assert [line.partition(": ")[2].partition(": ")[0] for line in done.stderr.splitlines()] == wheres
    assert (error["where"], error["kind"]) == (wheres[0], "SpecError")


@pytest.mark.slow
def test_columns_that_sections_of_a_job_name_are_told_at_once_each_at_its_line(fmray, tmp_path):
    job = write_job(tmp_path)
    text = "split: {by: given, column: fold}\nsteps:\n  - drop: {columns: [f8, f9]}\n"
    job.write_text(job.read_text() + text + "evaluate: {primary: r2, slices: [town, f0]}\ntask: classification\n")
    first = job.read_text().splitlines().index("split: {by: given, column: fold}") + 1
    done = fmray("check", job.name, "--set", "data.group=house")
    assert [" ".join(line.split()[1:3]) for line in done.stderr.splitlines()] == [
        f"small.yaml:{first} split.column:",
        f"small.yaml:{first + 3} evaluate:",  # the metric
        f"small.yaml:{first + 3} evaluate.slices:",
        "--set data.group:",
    ], done.stderr
    done = fmray("check", job.name, "--set", "split={by: hash}", "--set", "evaluate.slices=[]")
    assert [line.partition(" is not there")[0] for line in done.stderr.splitlines()][:2] == [
        f"error: small.yaml:{first + 1} steps.drop.columns: column '{name}'" for name in ("f8", "f9")
    ], done.stderr


def test_a_plan_is_shown_without_importing_torch_or_ray(fmray, tmp_path):
    write_job(tmp_path)
    done = fmray("check", "small.yaml", "--json")
    assert done.returncode == 0, done.stderr
    plan = last_json(done)["plan"]
    assert plan["task"] == "classification"
    assert plan["target"].startswith("y: 2 classes")
    assert "400 rows in 1 files" in plan["data"]
    assert "3 numbers per row" in plan["inputs"]


def test_the_schema_is_json(fmray):
    assert json.loads(fmray("schema").stdout)["title"] == "fmray job"


@pytest.mark.slow
def test_a_failed_gate_is_exit_code_2(fmray, tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    table = pa.table({"f": random.normal(size=500), "y": random.permutation(["a", "b"] * 250)})
    pq.write_table(table, tmp_path / "data/a.parquet")
    (tmp_path / "noise.yaml").write_text("data: {path: data, target: y}\ntrain: {epochs: 2}\n")
    done = fmray("run", "noise.yaml", "--json")
    assert done.returncode == 2, done.stderr
    assert "G22" in last_json(done)["failed_gates"]
    assert fmray("run", "noise.yaml").returncode == 2


@pytest.mark.slow
def test_data_that_fail_a_gate_stop_the_run_with_exit_code_2_and_the_finding(in_process, tmp_path):
    random = np.random.default_rng(0)
    rows = random.normal(size=(700, 2))
    for split, part in {"train": rows[:600], "test": rows[400:], "val": random.normal(size=(50, 2))}.items():
        (tmp_path / f"data/split={split}").mkdir(parents=True)
        columns = {"a": part[:, 0], "b": part[:, 1], "y": (part[:, 0] > 0).astype(int)}
        pq.write_table(pa.table(columns), tmp_path / f"data/split={split}/rows.parquet")
    job = "data: {path: data, target: y}\nsplit: {by: given, column: split}\ntrain: {epochs: 1}\nmodel: linear\n"
    (tmp_path / "leak.yaml").write_text(job)
    done = in_process("run", "leak.yaml", "--json")
    assert done.returncode == 2, done.stderr
    assert last_json(done)["failed_gates"] == ["G03"]
    assert "G03 content duplicate: 200 of 300 test rows" in done.stderr
    (tmp_path / "leak.yaml").write_text(f"{job}rigour: {{waive: {{G03: agreed}}}}\n")
    done = in_process("run", "leak.yaml", "--json")
    gates = json.loads((Path(last_json(done)["run_dir"]) / "gates.json").read_text())
    found = next(gate for gate in gates if gate["gate"] == "G03")
    assert found["status"] == "waived"
    assert "on 200 overlapping test rows and" in found["text"]


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_the_same_command_continues(fmray, tmp_path):
    text = "train: {epochs: 20000, batch_rows: 32, early_stop: null}\nrun: {checkpoint_seconds: 0.2}\nrigour: {profile: draft}"
    write_job(tmp_path, text)
    with subprocess.Popen(
        command("run", "small.yaml", "--json"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        states = tmp_path / "fmray-store/checkpoints"
        until = time.monotonic() + 120
        while time.monotonic() < until and not list(states.glob("*/trials/*/*/states/*-*[1-9]*/manifest.json")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert json.loads(stdout.splitlines()[-1])["status"] == "interrupted"
    assert "run the same command again to continue" in stderr
    run = next((tmp_path / "fmray-store/runs/small").iterdir())
    # Finish it soon: the epochs are part of what was asked, so the rest is left to a second interruption.
    with subprocess.Popen(
        command("run", "small.yaml"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        until = time.monotonic() + 120
        # an event that is being flushed when Ctrl-C comes is taken back, so wait for one more after it
        while time.monotonic() < until:
            if (run / "events.jsonl").read_text().partition('"resumed"')[2].count("\n") > 1:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # by which clusters stop what runs on them
        process.communicate(timeout=60)
    assert process.returncode == 130
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    resumed = [event for event in events if event["event"] == "resumed"]
    assert resumed
    assert resumed[0]["epoch"] > 0
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == sorted(set(epochs))


@pytest.mark.slow
def test_a_deep_check_gives_what_only_values_tell_and_the_run_uses_what_it_prepared(fmray, tmp_path):
    write_job(tmp_path, "train: {epochs: 1, batch_rows: 32}\nrigour: {profile: draft}")
    done = fmray("check", "small.yaml", "--deep", "--json")
    assert done.returncode == 0, done.stderr
    plan = last_json(done)["plan"]
    rows = dict(entry.rsplit(" ", 1) for entry in plan["rows"].split(", "))
    counted = sum(int(rows[name]) for name in ("train", "val", "test", "duplicates", "quarantined", "unlabelled"))
    assert counted == int(rows["read"]) == 400
    assert plan["batches"] == f"{-(-int(rows['train']) // 32)} per epoch"
    classes = dict(entry.split(" ") for entry in plan["target"].partition(": ")[2].split(" (")[0].split(", "))
    assert sum(map(int, classes.values())) == int(rows["train"])
    before = sorted((tmp_path / "fmray-store/prepared").rglob("manifest.json"))
    assert len(before) == 1
    assert not (tmp_path / "fmray-store/runs").exists()
    assert fmray("run", "small.yaml").returncode == 0
    assert sorted((tmp_path / "fmray-store/prepared").rglob("manifest.json")) == before


@pytest.mark.slow
def test_a_run_that_fails_on_its_way_says_in_json_where_it_lies(fmray, tmp_path):
    (tmp_path / "broken.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, schema, num_outputs):\n"
        "        super().__init__()\n        self.map = nn.Linear(schema.width, num_outputs + 1)\n\n"
        "    def forward(self, x):\n        return self.map(x)\n"
    )
    write_job(tmp_path, "model: broken:Net\ntrain: {epochs: 1}")
    done = fmray("run", "small.yaml", "--json")
    answer = last_json(done)
    assert done.returncode == 1
    assert answer["status"] == "failed"
    assert "Give one number per class" in answer["error"]["message"]
    assert json.loads((Path(answer["run_dir"]) / "run.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_secret_in_a_job_is_not_shown(fmray, tmp_path):
    write_job(tmp_path)
    path = "s3://me:hunter2@bucket/x"
    for arguments in (
        ["check", "small.yaml", "--set", f"data.path={path}"],
        ["check", "small.yaml", "--set", "token=hunter2"],
    ):
        done = fmray(*arguments, "--json")
        assert done.returncode == 5
        assert "hunter2" not in done.stdout + done.stderr
    (tmp_path / "my_net.py").write_text("class Net:\n    def __init__(self, schema, num_outputs, api_token): ...\n")
    done = fmray("check", "small.yaml", "--set", "model={my_net:Net: {api_token: hunter2}}", "--json")
    assert done.returncode == 0, done.stderr
    assert "hunter2" not in done.stdout
    assert "hunter2" not in fmray("check", "small.yaml", "--set", "model={my_net:Net: {api_token: hunter2}}").stdout


def test_an_error_that_nobody_foresaw_is_exit_code_1_with_json(fmray, tmp_path):
    write_job(tmp_path)
    code = (
        "import fmray.data.preview\n"
        "def preview(job): raise ZeroDivisionError('never thought of')\n"
        "fmray.data.preview.preview = preview\n"
        "from fmray.cli import main\nmain(['check', 'small.yaml', '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    expected = {"kind": "ZeroDivisionError", "where": "", "message": "never thought of"}
    assert last_json(done) == {"status": "failed", "error": expected}
    assert "Traceback" in done.stderr


def test_records_without_checksums_are_said_on_the_console_to_be_unverified(tmp_path, capsys):
    folder = tmp_path / "store/runs/old/1"
    folder.mkdir(parents=True)
    (tmp_path / "store/store.json").write_text('{"format":1}')
    (folder / "run.json").write_text('{"run_id": "1", "job": "old", "status": "failed", "time": 1.0}')
    say_unverified.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["runs", "--store", str(tmp_path / "store")])
    assert ended.value.code == 0
    assert capsys.readouterr().err.count("without checksums: they are not verified") == 1
    say_unverified.cache_clear()
