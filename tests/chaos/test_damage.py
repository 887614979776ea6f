import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("damage.py")


def campaign(folder, *options):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--work", str(folder), *options],
        capture_output=True, text=True, timeout=1800, cwd=SCRIPT.parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_no_damage_of_sixty_changes_a_result_silently_hangs_or_shows_a_traceback(tmp_path):
    found = campaign(tmp_path, "--seed", "7", "--count", "64")
    assert found["damages"] >= 60  # a file that is the same in every run has no older version
    assert [found[name] for name in ("silent", "traceback", "hang", "unnamed")] == [0, 0, 0, 0]


@pytest.mark.cluster
def test_damages_are_noticed_over_ray_as_well(tmp_path):
    kinds = "^(lanes|members tensors|pack said)$"
    found = campaign(tmp_path, "--where", "ray", "--seed", "7", "--count", "3", "--processes", "1", "--only", kinds)
    assert [found[name] for name in ("silent", "traceback", "hang", "unnamed")] == [0, 0, 0, 0]
