"""Search 64 networks that read digits: hopeless ones stop early, the best train again with three seeds each."""

import fmray

job = fmray.job_from(
    {
        "name": "search",
        "data": {"path": "sample:digits", "target": "label"},
        "model": {"mlp": {"width": {"choice": [32, 64]}, "depth": 1, "dropout": {"uniform": [0, 0.5]}}},
        "train": {
            "epochs": 20,
            "batch_rows": 64,
            "optimizer": {"adamw": {"lr": {"log_uniform": [1e-4, 1e-1]}, "weight_decay": 0.01}},
            "early_stop": None,
            "seeds": 3,
        },
        "search": {"members": 64, "stop": "asha"},
        "ensemble": "greedy",
    }
)


def main() -> None:
    run = fmray.run(job, store="fmray-store")
    print("accuracy", run.scores.test["accuracy"])
    print(run.report)


if __name__ == "__main__":
    main()
