"""From the command line to the loop it is a short way, which a reader can follow."""

import sys
from pathlib import Path

import pytest
from tune.kill import JOB, write_data

from fmray.cli.app import run_command
from fmray.train import loop

MOST_FRAMES = 8
SEARCHED = {"model": {"mlp": {"width": {"choice": [4, 8]}}}, "search": {"by": "random", "members": 4, "stop": "none"}}


@pytest.fixture
def frames(monkeypatch) -> list[str]:
    """Name the functions of fmray on the stack when the loop begins, outermost first."""
    found: list[str] = []
    package = Path(loop.__file__).parents[1]
    fit = loop.fit

    def noted(*given: object, **named: object) -> bool:
        if not found:
            frame = sys._getframe(1)
            while frame is not None:
                path = Path(frame.f_code.co_filename)
                if path.is_relative_to(package):
                    found.insert(0, f"{path.relative_to(package)}:{frame.f_code.co_name}")
                frame = frame.f_back
            found.append("train/loop.py:fit")
        return fit(*given, **named)

    monkeypatch.setattr("fmray.tune.train_trials.fit", noted)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, SEARCHED], ids=["plain", "search"])
def test_at_most_eight_functions_lie_between_the_command_and_the_loop(tmp_path, frames, changes):
    job = write_data(tmp_path).to_json() | changes
    command = ["run", str(written(tmp_path, job)), "--store", str(tmp_path / "store")]
    run_command([*command, "--set=train.epochs=1"], {})
    way = frames[frames.index("cli/runs.py:run") :]
    assert len(way) <= MOST_FRAMES, way


def written(folder: Path, job: dict) -> Path:
    import yaml

    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({name: job[name] for name in (*JOB, "data", "search") if name in job}))
    return path
