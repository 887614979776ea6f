"""Plant faults on real clusters, disks and processes, and expect whoever is asked first to name each of them.

Six are planted here, for runs that stand in them; what can be seen before a run is planted in tests/preflight.
"""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_ray import ROOT, LiveRay

BEFORE, HERE, SUBMIT = "preflight/test_faults.py", "why/test_faults.py", "submit/test_cluster.py"
APART = "test_a_gpu_a_local_disk_missing_data_and_other_versions_are_each_named"
FAULTS = {
    "infeasible GPU": {
        "preflight": (BEFORE, APART),
        "why": (HERE, "test_a_gpu_that_no_node_has_is_named_for_a_run_that_was_not_looked_at_before"),
    },
    "all CPUs taken": {
        "preflight": (
            BEFORE,
            "test_cores_taken_by_others_are_named_with_who_holds_them_and_the_run_waits_until_they_are_free",
        ),
        "why": (HERE, "test_cores_that_another_job_holds_are_named_with_that_job"),
    },
    "local storage on two nodes": {"preflight": (BEFORE, APART)},
    "version skew": {"preflight": (BEFORE, APART)},
    "missing data on one node": {"preflight": (BEFORE, APART)},
    "full disk": {"why": (HERE, "test_a_disk_that_fills_up_is_named_with_what_is_free")},
    "wrong token": {
        "submit": (SUBMIT, "test_a_wrong_token_and_none_are_told_apart"),
        "why": (HERE, "test_a_wrong_token_and_a_wrong_address_are_told_apart_where_only_the_cluster_knows_the_run"),
    },
    "hung rank": {"why": (HERE, "test_a_rank_that_hangs_is_named_with_the_line_it_stands_in")},
    "starved ingest": {"why": (HERE, "test_reading_that_finds_no_core_is_named")},
    "out of memory": {"why": (HERE, "test_a_worker_that_was_killed_for_memory_is_told_from_one_with_a_bug")},
    "dead node": {"why": (HERE, "test_a_node_that_died_and_the_run_that_waits_for_it_are_named")},
    "killed driver": {"why": (HERE, "test_a_bug_ctrl_c_and_a_kill_are_told_apart")},
    "bug in the user's code": {"why": (HERE, "test_a_bug_ctrl_c_and_a_kill_are_told_apart")},
}
"""Fault -> who names it -> the test that plants it."""

NETS = """
import os
import time

import torch


class Net(torch.nn.Module):
    def __init__(self, schema, num_outputs, how):
        super().__init__()
        self.line = torch.nn.Linear(schema.width, num_outputs)
        self.how, self.count, self.kept = how, 0, []

    def forward(self, x):
        self.count += 1
        time.sleep(0.01)
        if self.count > 40 and self.how:
            getattr(self, self.how)()
        return self.line(x)

    def bug(self):
        raise ValueError("3 columns and 4")

    def hang(self):
        while torch.distributed.get_rank() == 1:
            time.sleep(0.5)

    def eat(self):
        while len(self.kept) < 24:
            self.kept.append(bytearray(os.urandom(1 << 20) * 100))
            time.sleep(0.05)
        time.sleep(60)
"""
ELSEWHERE = """
import json, sys
from fmray.submit import Cluster
from fmray.why.evidence import events_of, places_of
from fmray.why.stacks import ask_elsewhere

with open(sys.argv[1]) as file:
    places = places_of(events_of(file.read()))
print(json.dumps(ask_elsewhere(places, Cluster(sys.argv[2]).ask)))
"""
HOLD = """
import sys, time, ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=float(sys.argv[1]))
class Hog:
    def hold(self):
        return True

hogs = [Hog.remote() for _ in range(int(sys.argv[2]))]
ray.get([hog.hold.remote() for hog in hogs])
print("held", flush=True)
time.sleep(300)
"""


def write_job(folder, name, how="", run="workers: 0", train="batch_rows: 128"):
    (folder / "nets.py").write_text(NETS)
    lines = [
        f"name: {name}",
        "data: {path: 'sample:breast_cancer', target: target}",
        f"model: {{'nets:Net': {{how: '{how}'}}}}",
        f"train: {{epochs: 3000, early_stop: null, {train}}}",
        "evaluate: {baselines: [dummy]}",
        f"run: {{{run}, checkpoint_seconds: 0.2}}",
    ]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def wait(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.2)
    return found


def num_epochs(store, name):
    paths = list(Path(store, "runs", name).glob("*/events.jsonl"))
    return sum('"event":"epoch"' in line for path in paths for line in path.read_text().splitlines())


def test_the_table_of_faults_names_tests_that_exist():
    assert len(FAULTS) >= 10
    for file, name in (found for finders in FAULTS.values() for found in finders.values()):
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)


# --- on this machine alone


def start(path, store):
    command = [sys.executable, "-m", "fmray.cli", "run", str(path), "--store", str(store)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=path.parent)


def ask(run, store, *more):
    command = [sys.executable, "-m", "fmray.cli", "why", str(run), "--store", str(store), "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_bug_ctrl_c_and_a_kill_are_told_apart(tmp_path):
    store = tmp_path / "store"
    start(write_job(tmp_path, "bug", "bug"), store).wait(60)
    (run,) = (store / "runs/bug").iterdir()
    told = ask(run, store)
    assert (told["status"], told["kind"]) == ("failed", "bug")
    assert "nets.py:22 in bug: ValueError: 3 columns and 4" in told["cause"]

    path = write_job(tmp_path, "fine")
    for sent, kind in ((signal.SIGINT, "stopped"), (signal.SIGKILL, "killed")):
        before, process = num_epochs(store, "fine"), start(path, store)
        wait(lambda: num_epochs(store, "fine") > before + 3)  # noqa: B023
        (run,) = (store / "runs/fine").iterdir()
        told = ask(run.name, store)  # by its id
        assert (told["status"], told["kind"]) == ("running", "fine"), told
        process.send_signal(sent)
        process.wait(30)
        told = ask(f"fine/{run.name}", store)  # as `fmray runs` lists it
        assert (told["status"], told["kind"]) == ("interrupted", kind), told
        assert "run the same command again" in told["fix"].lower()


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_is_named_with_what_is_free(tmp_path):
    path = write_job(tmp_path, "full")
    with small_disk(tmp_path / "small", "300k") as disk:
        start(path, disk / "store").wait(60)
        (run,) = (disk / "store/runs/full").iterdir()
        told = ask(run, disk / "store")
        assert (told["status"], told["kind"]) == ("failed", "full disk"), told
        assert "fmray gc" in told["fix"]

    with small_disk(tmp_path / "other", "3m") as disk:  # the lanes fit, and something else takes what is left
        process = start(path, disk / "store")
        try:
            wait(lambda: num_epochs(disk / "store", "full") > 3)
            with suppress_full(), (disk / "hog").open("wb") as hog:
                hog.write(bytes(4 << 20))
            (run,) = (disk / "store/runs/full").iterdir()
            told = ask(run, disk / "store")
            assert told["kind"] == "full disk", told
            assert "0 bytes of 3.15 MB are free" in told["cause"]
        finally:
            process.kill()
            process.wait()


@contextmanager
def suppress_full():
    try:
        yield
    except OSError as error:
        assert "No space" in str(error)


# --- on clusters


@contextmanager
def holding(live, cpus, count):
    given = live.environment(RAY_ADDRESS=f"127.0.0.1:{live.port}")
    command = [sys.executable, "-c", HOLD, str(cpus), str(count)]
    holder = subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert b"held\n" in iter(holder.stdout.readline, b"")
        yield
    finally:
        holder.kill()
        holder.communicate()


@contextmanager
def submitted(live, path, store, *more, code=0):
    told = live.fmray("submit", path, "--store", store, "--no-preflight", *more, code=code)
    try:
        yield told["submission_id"]
    finally:
        live.fmray("stop", told["submission_id"])


def why(live, name, kind, seconds=60, **variables):
    """Ask until the kind is named, and give the answer."""
    answers = []

    def asked():
        answers.append(live.fmray("why", name, **variables))
        return answers[-1] if answers[-1]["kind"] == kind else None

    try:
        return wait(asked, seconds)
    except AssertionError:
        pytest.fail(f"{kind} was not named, but: {answers[-1]}")


@pytest.mark.cluster
@pytest.mark.slow
def test_a_gpu_that_no_node_has_is_named_for_a_run_that_was_not_looked_at_before(live, tmp_path):
    path = write_job(tmp_path, "gpu", run="workers: 2, gpu: true")
    with submitted(live, path, tmp_path / "store", "--wait", code=1) as name:
        told = why(live, name, "infeasible resources")
    assert told["status"] == "failed"
    assert "2 workers want a GPU each, the cluster has 0" in told["cause"]
    assert told["fix"].startswith("Set run.gpu: false")


@pytest.mark.cluster
@pytest.mark.slow
def test_cores_that_another_job_holds_are_named_with_that_job(live, tmp_path):
    path = write_job(tmp_path, "taken", run="workers: 2")
    with holding(live, 1, 2), submitted(live, path, tmp_path / "store") as name:
        told = why(live, name, "resources taken")
    assert told["status"] == "running"
    assert "all CPUs are taken by" in told["cause"]
    assert "python" in told["cause"]


@pytest.mark.cluster
@pytest.mark.slow
def test_reading_that_finds_no_core_is_named(live, tmp_path):
    path = write_job(tmp_path, "starved", run="workers: 2, ingest: ray")
    with holding(live, 0.26, 1), submitted(live, path, tmp_path / "store") as name:
        told = why(live, name, "starved ingest")
    assert "reading finds no free CPU: 2 of 2 CPUs are taken" in told["cause"]
    assert "run.ingest: map" in told["fix"]


@pytest.mark.cluster
@pytest.mark.slow
def test_a_rank_that_hangs_is_named_with_the_line_it_stands_in(live, tmp_path):
    path = write_job(tmp_path, "hung", "hang", run="workers: 2")
    with submitted(live, path, tmp_path / "store") as name:
        wait(lambda: num_epochs(tmp_path / "store", "hung") > 2)
        assert live.fmray("why", name)["kind"] == "fine"
        told = why(live, name, "hang")
        (events,) = (tmp_path / "store/runs/hung").glob("*/events.jsonl")
        command = [sys.executable, "-c", ELSEWHERE, str(events), live.address]
        done = subprocess.run(command, capture_output=True, text=True, env=live.environment(), timeout=600)
    assert "rank 1 stands in nets.py:" in told["cause"]
    assert "in hang, and rank 0 waits for it" in told["cause"]
    far = {
        one["rank"]: one["frames"] for one in json.loads(done.stdout)
    }  # as another machine would ask, over the nodes
    assert "in hang" in far[1][0] + far[1][1]
    assert "all_reduce" in str(far[0])


@pytest.mark.cluster
@pytest.mark.slow
def test_a_node_that_died_and_the_run_that_waits_for_it_are_named(live, tmp_path):
    node = live.add_node(2)
    path = write_job(tmp_path, "dead", run="workers: 3, max_failures: 50")
    try:
        with submitted(live, path, tmp_path / "store") as name:
            wait(lambda: num_epochs(tmp_path / "store", "dead") > 2)
            os.killpg(node.pid, signal.SIGKILL)  # as a machine goes that loses its power
            told = why(live, name, "dead node", 90)
    finally:
        if node in live.processes:
            live.stop(node)
        live.wait_for(1)
    assert any("is dead" in seen["text"] for seen in told["evidence"]), told


@pytest.mark.cluster
@pytest.mark.slow
def test_a_wrong_token_and_a_wrong_address_are_told_apart_where_only_the_cluster_knows_the_run(live):
    asked = ("why", "fmray-abc-1", "--store", "none-here")
    assert live.fmray(*asked, RAY_AUTH_TOKEN="f" * 64)["kind"] == "token"
    assert "is no run in none-here" in live.fmray(*asked, code=5)["error"]["message"]
    command = [sys.executable, "-m", "fmray.cli", *asked, "--address", "http://127.0.0.1:9", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert json.loads(done.stdout)["kind"] == "address"


@pytest.mark.cluster
@pytest.mark.slow
def test_a_worker_that_was_killed_for_memory_is_told_from_one_with_a_bug(live, tmp_path, monkeypatch):
    path = write_job(tmp_path, "wrong", "bug", run="workers: 1, max_failures: 0")
    with submitted(live, path, tmp_path / "store") as name:
        told = why(live, name, "bug")
    assert "ValueError: 3 columns and 4" in told["cause"]

    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(lines[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    kept, most = LiveRay.environment, f"{(total - free + 1.8e9) / total:.3f}"
    limits = {"RAY_memory_usage_threshold": most, "RAY_memory_monitor_refresh_ms": "100"}
    monkeypatch.setattr(LiveRay, "environment", lambda self, **given: kept(self, **{**limits, **given}))
    hungry = LiveRay(cpus=2)
    try:
        path = write_job(tmp_path, "hungry", "eat", run="workers: 1, max_failures: 0", train="batch_rows: 1")
        with submitted(hungry, path, tmp_path / "store") as name:
            told = why(hungry, name, "memory")
        assert "low on memory" in str(told["evidence"])
    finally:
        hungry.close()
    (run,) = (tmp_path / "store/runs/hungry").iterdir()
    told = ask(run, tmp_path / "store")  # its cluster is gone, and it answers all the same
    assert told["run_dir"] == str(run)
    assert told["fix"]
