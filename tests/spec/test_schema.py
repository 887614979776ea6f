from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from fmray.spec.schema import job_schema

JOBS = sorted((Path(__file__).resolve().parents[2] / "jobs").glob("*.yaml"))


def errors(value):
    return list(jsonschema.Draft202012Validator(job_schema()).iter_errors(value))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_job_fits_the_schema(path):
    assert errors(YAML(typ="safe").load(path)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"trian": {}},
        {"model": "mpl"},
        {"train": {"epochs": "many"}},
        {"steps": [{"scael": {}}]},
        {"split": {"by": "x"}},
        {"train": {"seeds": {"int": [1, 5]}}},
        {"train": {"folds": 1}},
        {"train": {"folds": {"n": 3, "strikt": True}}},
        {"train": {"batch_rows": {"between": [1, 5]}}},
        {"ranges": {}},
    ],
)
def test_what_an_editor_should_underline_does_not_fit(change):
    assert errors({"data": {"path": "x", "target": "y"}, **change})


def test_ranges_and_both_spellings_of_folds_fit_where_values_would_stand():
    train = {"batch_rows": {"choice": [64, 128]}, "optimizer": {"adam": {"lr": {"log_uniform": [1e-4, 1e-1]}}}}
    model = {"mlp": {"width": {"int": [8, 64]}}}
    job = {"data": {"path": "x", "target": "y"}, "model": model, "train": train, "search": {"members": 8}}
    assert errors(job) == []
    assert errors({**job, "train": {**train, "folds": 5}}) == []
    assert errors({**job, "train": {**train, "folds": {"n": 5, "strict": True}}}) == []
    assert errors({**job, "model": {"choice": ["linear", {"mlp": {"width": 8}}]}}) == []
