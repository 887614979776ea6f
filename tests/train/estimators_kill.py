"""Train estimators, be killed at chosen instants, go on, and compare with the training nobody interrupted.

Run as `python estimators_kill.py FOLDER NUM_KILLS [RANKS]`; prints one JSON object. As in `tune/kill.py`, a training is a forked
child that kills itself with SIGKILL at its n-th call of something durable. Nothing is trained in the parent: threads of
OpenMP that it had started would be missing in its children, which would wait for them for ever.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import lightgbm  # noqa: F401 - here, not in every child
import ray  # noqa: F401
import sklearn.metrics  # noqa: F401
from tune.kill import Ranks, child, train, warm_up, write_data

from fmray.spec.job import Job

PARAMS = {"rounds_per_epoch": 3, "num_leaves": 7, "learning_rate": 0.2}
TRAIN = {"epochs": 6, "early_stop": {"patience": 3}, "order": {"num_lanes": 5}}


def boosted(folder: Path) -> Job:
    """Write the rows of `tune/kill.py`, and give the job that boosts trees on them."""
    job = write_data(folder)
    changed = Job.from_json(job.to_json() | {"model": {"lightgbm": PARAMS}, "train": TRAIN})
    return replace(changed, folder=job.folder)


def main(folder: Path, num_kills: int, size: int) -> None:
    job, ranks = boosted(folder), Ranks(size)
    warm_up()
    for name, who in (("alone", Ranks()), ("whole", ranks)):
        if not child(lambda name=name, who=who: train(job, folder, name, None, who)):
            sys.exit(f"the uninterrupted training of '{name}' failed")
    alone, whole = (json.loads((folder / f"{name}.json").read_text()) for name in ("alone", "whole"))
    results = []
    for place in range(num_kills):
        name, at = f"killed-{place}", 1 + place * whole["calls"] // num_kills
        ended = child(lambda n=name, at=at: train(job, folder, n, at, ranks))
        resumed = child(lambda n=name: train(job, folder, n, None, ranks))
        same = resumed and json.loads((folder / f"{name}.json").read_text())["members"] == whole["members"]
        results.append({"call": at, "ended": ended, "same members": same})
    print(json.dumps({
        "scores": [member["val_score"] for member in whole["members"]],
        "alone": [member["val_score"] for member in alone["members"]],
        "hashes": [member["tensor_hash"] for member in whole["members"]],
        "hashes alone": [member["tensor_hash"] for member in alone["members"]],
        "results": results,
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
