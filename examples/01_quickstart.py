"""Do what jobs/quickstart.yaml does, from Python: prepare, train five seeds, judge once, report."""

import fmray

job = fmray.job_from(
    {
        "name": "quickstart-from-python",
        "data": {"path": "sample:breast_cancer", "target": "target"},
        "model": {"mlp": {"width": 64, "depth": 2, "dropout": 0.1}},
        "train": {"epochs": 40, "batch_rows": 64, "seeds": 5},
    }
)


def main() -> None:
    run = fmray.run(job, store="fmray-store")
    print(run.scores.primary, run.scores.test[run.scores.primary])
    print(run.report)


if __name__ == "__main__":
    main()
