import pytest

from fmray.report.folder import NOT_ASKED, open_run
from fmray.spec.job import Job
from fmray.spec.load import job_from
from fmray.store import Store

SMALL = {"data": {"path": "sample:iris", "target": "target"}}


def identity(tmp_path, fingerprint="rows", folder=".", **sections):
    return open_run(job_from({**SMALL, **sections}, folder), fingerprint, Store(str(tmp_path)), fresh=False).id


@pytest.mark.parametrize("sections", [{"track": {"tensorboard": True}}, {"run": {"threads": 2}}], ids=str)
def test_how_a_job_runs_and_who_hears_of_it_is_not_part_of_a_runs_id(tmp_path, sections):
    assert identity(tmp_path, **sections) == identity(tmp_path)


@pytest.mark.parametrize(
    "sections", [{"train": {"epochs": 3}}, {"model": "linear"}, {"evaluate": {"slices": ["a"]}}], ids=str
)
def test_what_is_asked_is_part_of_a_runs_id(tmp_path, sections):
    assert identity(tmp_path, **sections) != identity(tmp_path)


def test_the_rows_are_part_of_a_runs_id(tmp_path):
    assert identity(tmp_path, "other rows") != identity(tmp_path)


def test_what_is_left_out_of_a_runs_id_are_keys_of_a_job():
    assert set(NOT_ASKED) < set(Job.__dataclass_fields__)
