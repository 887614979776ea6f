"""Plant faults in a real cluster of two nodes, and expect each to be named.

The second node is unlike the first: another fmray lies on its path, and `dir://` means another folder to it, which is
what a local disk, or a mount that failed, looks like from inside.
"""

import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from live_ray import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

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
    (folder / "job.yaml").write_text("data: {path: 'sample:iris', target: target}\nrun: {workers: 2}\n")
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


def test_cores_taken_by_others_are_named_and_another_fmray_is_no_matter_once_it_is_sent_along(live, nodes):
    asked = ("--job", nodes / "job.yaml", "--store", nodes / "store", "--with-fmray")
    given = live.environment(RAY_ADDRESS=f"127.0.0.1:{live.port}")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], env=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:  # nothing else is wrong: the nodes meet, and the other fmray does not matter
        assert holder.stdout.readline() == b"held\n"
        found = failures(live, *asked, code=1)
        assert set(found) == {"cpus"}
        assert "3 of 3 CPUs are taken by other work" in found["cpus"]["found"]
        assert not (nodes / "store").exists()
    finally:
        holder.kill()
        holder.communicate()
