"""Plant faults in a real cluster of two nodes, and expect each to be named.

The second node is unlike the first: another fmray lies on its path, and `dir://` means another folder to it, which is
what a local disk, or a mount that failed, looks like from inside.
"""

import os
import shutil
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from live_ray import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

QUICK = """
data: {path: "sample:iris", target: target}
train: {epochs: 2}
evaluate: {baselines: [dummy]}
run: {workers: 2}
"""
HOLD = """
import ray, time
ray.init()

@ray.remote(num_cpus=1)
def hold():
    time.sleep(99)

held = [hold.remote() for _ in range(3)]
while ray.available_resources().get("CPU"):
    time.sleep(0.1)
print("held", flush=True)
ray.get(held)
"""


@pytest.fixture(scope="module")
def nodes(live, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes")
    (live.folder / "head/rows").mkdir()
    pq.write_table(pa.table({"x": [0.0, 1.0], "y": [0, 1]}), live.folder / "head/rows/a.parquet")
    shutil.copytree(ROOT / "fmray", folder / "skewed/fmray", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "skewed/fmray/errors.py").open("a") as source:
        source.write("\n# another version\n")
    (folder / "job.yaml").write_text(QUICK)
    (folder / "far.yaml").write_text("data: {path: 'dir://rows', target: y}\nrun: {workers: 2, gpu: true}\n")
    path = os.pathsep.join([str(folder / "skewed"), live.environment()["PYTHONPATH"]])
    node = live.add_node(1, FSSPEC_DIR=live.disk("node"), PYTHONPATH=path)
    yield folder
    live.stop(node)
    live.wait_for(1)


def failures(live, *arguments, code, **variables):
    told = live.fmray("preflight", *arguments, code=code, **variables)
    assert told["seconds"] < 20
    return {failure["probe"]: failure for failure in told["failures"]}


def test_a_gpu_a_local_disk_missing_data_and_other_versions_are_each_named(live, nodes):
    asked = ("--job", nodes / "far.yaml", "--store", "dir://store")
    found = failures(live, *asked, code=5, FSSPEC_DIR=live.disk("head"))
    assert set(found) == {"gpu", "storage", "data", "versions"}
    assert found["gpu"]["found"] == "2 workers want a GPU each, the cluster has 0"
    assert "--with-fmray" in found["versions"]["fix"]
    assert "does not see what" in found["storage"]["found"]
    assert "s3://bucket/prefix, not dir://store" in found["storage"]["fix"]
    assert found["data"]["node"] != "all nodes"


def test_cores_taken_by_others_are_named_with_who_holds_them_and_the_run_waits_until_they_are_free(live, nodes):
    # another fmray is no matter once it is sent along
    asked = (nodes / "job.yaml", "--store", nodes / "store", "--with-fmray")
    given = live.environment(RAY_ADDRESS=f"127.0.0.1:{live.port}")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], env=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        told = live.fmray("preflight", "--job", *asked)
        assert (told["status"], told["failures"]) == ("passed", [])
        (warning,) = told["warnings"]
        assert warning["probe"] == "cpus"
        assert "3 of 3 CPUs are taken by other work (3 CPU by `" in warning["found"]
        assert "will wait for its turn" in told["text"]
        assert not (nodes / "store").exists()
        sent = live.fmray("submit", *asked)
        assert [one["probe"] for one in sent["warnings"]] == ["cpus"]
        until = time.monotonic() + 60
        while "room for 2 workers" not in live.fmray("logs", sent["submission_id"])["log"]:
            assert time.monotonic() < until
    finally:
        holder.kill()
        holder.communicate()
    assert live.fmray("submit", *asked, "--wait", code=None)["status"] == "finished"
