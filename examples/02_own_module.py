"""Train a module of one's own, three seeds packed: the job names it as `my_module:Net`, looked up beside the job."""

from pathlib import Path

import fmray

job = fmray.job_from(
    {
        "name": "own-module",
        "data": {"path": "sample:diabetes", "target": "target"},
        "model": {"my_module:Net": {"width": 16}},
        "train": {"epochs": 60, "batch_rows": 32, "optimizer": {"adamw": {"lr": 0.003}}, "seeds": 3},
    },
    folder=Path(__file__).parent,
)


def main() -> None:
    run = fmray.run(job, store="fmray-store")
    for name in ("r2", "rmse"):
        print(name, run.scores.test[name])
    print(run.report)


if __name__ == "__main__":
    main()
