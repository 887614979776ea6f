"""Over Ray Tune, too, a member whose own code fails is left out, and the others are trained."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("failed_on_ray.py")
pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failed") / "data"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "result.json").read_text())


def test_a_module_that_exits_loses_its_members_and_no_worker(found):
    one = found["exit"]
    ends = {status for status, _, _ in one["ends"]}
    assert ends == {"failed", "finished"}
    for status, reason, has_score in one["ends"]:
        assert has_score == (status == "finished")
        assert status == "finished" or re.fullmatch(r"SystemExit: 3 \(bad_nets\.py:\d+ in forward\)", reason)
    assert one["told"][0].startswith("member ")
    assert "(model.train.bad_nets:Exits.width: 13): SystemExit: 3 (bad_nets.py:" in one["told"][0]
    assert "sys.exit(3)" in one["stacks"][0]


def test_a_member_of_a_population_that_cannot_be_built_is_left_out(found):
    statuses = [status for status, _, _ in found["pbt"]["ends"]]
    assert statuses == ["finished", "failed", "finished"]
    assert found["pbt"]["ends"][1][1].startswith("ValueError: this seed does not work (bad_nets.py:")


@pytest.mark.parametrize("search", ["nothing left", "nothing left of a population"])
def test_a_search_of_which_nothing_is_left_ends_with_the_reasons(found, search):
    text = found[search]["error"]
    assert text.startswith(
        "TrainError: train: all 2 members failed. The first: ValueError: not written yet (bad_nets.py:"
    )
