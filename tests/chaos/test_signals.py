import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("signals.py")


@pytest.mark.slow
def test_interrupted_commands_say_so_and_continue_to_the_same_result(tmp_path):
    stages = ("start", "prepare", "train", "evaluate", "predict")
    done = subprocess.run(
        # how long an answer takes is for the campaign on an idle machine to judge
        [sys.executable, str(SCRIPT), "--work", str(tmp_path / "work"), "--stages", *stages,
         "--files", "50", "--rows", "10000", "--spread-seconds", "0", "--within-seconds", "600"],
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["signals"], found["wrong"], found["changed_results"]) == (2 * len(stages), 0, 0)
    assert found["over"] < len(stages)  # the last ones may be over before the signal comes
