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
    ],
)
def test_what_an_editor_should_underline_does_not_fit(change):
    assert errors({"data": {"path": "x", "target": "y"}, **change})
