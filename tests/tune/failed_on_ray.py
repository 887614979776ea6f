"""Search with Ray Tune with members whose own code fails; run as `python failed_on_ray.py FOLDER`.

One Ray session; what became of every member, and what was told, is written to FOLDER/result.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

from kill import prepared_rows, write_data

from fmray.data.session import session
from fmray.errors import FmrayError
from fmray.events import Failure, Stacks
from fmray.metrics.find import find_metric
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.tune.search import MemberTrainer

WIDTHS = {"width": {"choice": [13, 14]}}
LR = {"adamw": {"lr": {"log_uniform": [1e-3, 1e-1]}}}
SEARCHES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "exit": ("Exits", WIDTHS, {"by": "grid"}),
    "pbt": ("FailsForSeeds", {}, {"by": "pbt", "members": 3}),
    "nothing left": ("Broken", WIDTHS, {"by": "grid"}),
    "nothing left of a population": ("Broken", {}, {"by": "pbt", "members": 2}),
}


def main(folder: Path) -> None:
    job = write_data(folder)
    prepared, found = prepared_rows(job, folder), {}
    metric = find_metric("roc_auc", prepared.target)
    with session():
        for name, (net, params, search) in SEARCHES.items():
            value = job.to_json()
            value["model"] = {f"train.bad_nets:{net}": params}
            value["search"] = {"stop": "none", "finalists": 1, **search}
            value["train"] |= {"epochs": 4, "seeds": 1, "schedule": "constant", "early_stop": None}
            if not params:
                value["train"]["optimizer"] = LR
            value["run"] |= {"workers": 2, "deterministic": False}
            store, events, error, members = Store(str(folder / name)), [], "", ()
            trainer = MemberTrainer(
                Job.from_json(value),
                Ref("classification"),
                lambda job: prepared,
                metric,
                store,
                report=events.append,
            )
            try:
                members = trainer.run_search().members
            except FmrayError as caught:
                error = f"{type(caught).__name__}: {caught}"
            told = [event.text for event in events if isinstance(event, Failure)]
            ends = [[member.status, member.reason, member.val_score is not None] for member in members]
            stacks = [event.text for event in events if isinstance(event, Stacks)]
            found[name] = {"ends": ends, "error": error, "told": told, "stacks": stacks}
    (folder / "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
