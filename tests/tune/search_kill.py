"""Search, be killed at chosen instants, go on, and compare with the search nobody interrupted.

Run as `python search_kill.py FOLDER NUM_KILLS [deterministic|async]`; prints one JSON object. As in `kill.py`, a search is
a forked child that kills itself with SIGKILL at its n-th call of something durable, or is killed after some time.
"""

import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

from tune.kill import _count_durable, child, prepared_rows, warm_up, write_data

from fmray.metrics.find import find_metric
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.search import MemberTrainer

SEARCHED = {
    "model": {"mlp": {"width": {"choice": [4, 8]}, "depth": {"choice": [1, 2]}, "dropout": {"uniform": [0, 0.5]}}},
    "train": {
        "epochs": 6,
        "early_stop": None,
        "schedule": "constant",
        "optimizer": {"adamw": {"lr": {"log_uniform": [1e-4, 1e-1]}}},
        "seeds": 1,
    },
    "search": {"members": 22, "eta": 2, "first_rung": 1},
}


def searched(job: Job, exact: bool) -> Job:
    value = job.to_json()
    value["train"] = {**value["train"], **SEARCHED["train"]}
    value["search"], value["model"] = SEARCHED["search"], SEARCHED["model"]
    value["run"] = {**value["run"], "deterministic": exact, "workers": 0}
    return replace(Job.from_json(value), folder=job.folder)


def carry(job: Job, folder: Path, name: str, die_at: int | None) -> None:
    prepared = prepared_rows(job, folder)
    calls = _count_durable(die_at)
    metric, store = find_metric("roc_auc", prepared.target), Store(str(folder / f"store-{name}"))
    done = MemberTrainer(job, Ref("classification"), lambda job: prepared, metric, store).run_search()
    members = [{k: v for k, v in m.to_json().items() if k != "root"} for m in done.members]
    facts = {
        "members": members,
        "best": done.best(metric).tensor_hash,
        "rungs": {e: len(s) for e, s in done.rungs.items()},
    }
    (folder / f"{name}.json").write_text(json.dumps({**facts, "calls": calls[0]}))


def told(member: dict[str, object]) -> object:
    """Give what does not depend on the last bits: who it is."""
    return [member[name] for name in ("index", "params", "seed", "structure", "role")]


def main(folder: Path, num_kills: int, exact: bool) -> None:
    job = write_data(folder)
    warm_up()
    child(lambda: prepared_rows(job, folder) and None)
    job = searched(job, exact)
    started = time.perf_counter()
    if not child(lambda: carry(job, folder, "whole", None)):
        sys.exit("the uninterrupted search failed")
    seconds = time.perf_counter() - started
    expected = json.loads((folder / "whole.json").read_text())
    if not exact:
        expected["members"] = [told(member) for member in expected["members"]]
    chosen, results = random.Random(1), []
    for number in range(num_kills):
        name, kills = f"killed-{number}", []
        for again in range(2 if number % 4 == 3 else 1):  # twice in a row now and then
            after = chosen.uniform(0.1, 0.9) * seconds / (1 + again)
            at = max(1, int((number + 0.5) / num_kills * expected["calls"]) + chosen.randrange(-3, 4)) // (1 + again)
            if number % 3 == 2:
                ended = child(lambda n=name: carry(job, folder, n, None), kill_after=after)
            else:
                ended = child(lambda n=name, at=at: carry(job, folder, n, at))
            kills.append({"call": at, "after": after, "ended": ended})
        whole = child(lambda n=name: carry(job, folder, n, None))
        found = json.loads((folder / f"{name}.json").read_text()) if whole else {"members": None, "best": None}
        if not exact and found["members"]:  # without `deterministic`, times decide widths, and so the last bits
            found = {"members": [told(member) for member in found["members"]], "best": expected["best"]}
        results.append(
            {
                "kills": kills,
                "same members": found["members"] == expected["members"],
                "best": found["best"] == expected["best"],
            }
        )
    print(json.dumps({**expected, "seconds": seconds, "results": results}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] != ["async"])
