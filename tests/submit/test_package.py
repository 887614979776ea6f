"""Collect what a job needs elsewhere, and nothing else."""

import sys

import pytest

from fmray.errors import SpecError
from fmray.preflight.probe import Scout
from fmray.spec.load import job_from, load_job
from fmray.store import source_digest
from fmray.submit import package
from fmray.submit.package import JOB_FILE, pack, pack_fmray, unpack

SAMPLE = {"path": "sample:iris", "target": "target"}


def write(folder, **files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def job_with(folder, model):
    return job_from({"data": SAMPLE, "model": model}, folder)


def test_a_job_read_there_asks_for_the_same_with_what_it_extends_and_overrides_in_it(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.yaml").write_text("data: {path: 'sample:iris', target: target}\ntrain: {epochs: 7}\n")
    text = "extends: ../base.yaml\nmodel: {mlp: {width: {choice: [4, 8]}}}\nsearch: {members: 2}\n"
    (tmp_path / "deep/mine.yaml").write_text(text)
    job = load_job(tmp_path / "deep/mine.yaml", ["train.batch_rows=16"])
    unpack(pack(job).files, tmp_path / "there")
    read = load_job(tmp_path / "there" / JOB_FILE)
    assert {**read.to_json(), "folder": ""} == {**job.to_json(), "folder": ""}
    assert (read.name, read.train.epochs, read.train.batch_rows) == ("mine", 7, 16)


def test_a_path_that_looks_like_a_variable_stays_as_it_is(tmp_path):
    job = job_from({"data": {"path": "/data/$${HOME}/$$x", "target": "y"}}, tmp_path)
    unpack(pack(job).files, tmp_path)
    assert load_job(tmp_path / JOB_FILE).data.path == job.data.path == "/data/${HOME}/$x"


def test_a_module_travels_with_what_it_imports_beside_the_job_and_nothing_else(tmp_path):
    write(
        tmp_path,
        **{
            "nets.py": "import os\nimport torch\nimport layers.dense\nfrom tricks import init\nclass Net: ...\n",
            "tricks.py": "import nets\n",
            "layers/__init__.py": "",
            "layers/dense.py": "from . import parts\n",
            "layers/parts.py": "",
            "layers/words.txt": "a b",
            "layers/.git/config": "",
            "layers/rows.parquet": "",
            "layers/__pycache__/dense.pyc": "",
            "unrelated.py": "",
            "data.parquet": "",
            ".env": "",
        },
    )
    packed = pack(job_with(tmp_path, "nets:Net"))
    assert set(packed.files) == {
        JOB_FILE, "nets.py", "tricks.py", "layers/__init__.py", "layers/dense.py", "layers/parts.py", "layers/words.txt",
    }  # fmt: skip
    assert packed.left_out == ("layers/rows.parquet",)
    assert packed.installed == ()


def test_a_module_that_is_installed_is_left_to_the_nodes(tmp_path):
    packed = pack(job_with(tmp_path, "sklearn.linear_model:Ridge"))
    assert set(packed.files) == {JOB_FILE}
    assert packed.installed == ("sklearn",)


def test_a_package_of_folders_is_found_by_its_first_name(tmp_path):
    write(tmp_path, **{"mine/__init__.py": "", "mine/deep/__init__.py": "", "mine/deep/nets.py": "class Net: ...\n"})
    packed = pack(job_with(tmp_path, "mine.deep.nets:Net"))
    assert set(packed.files) == {JOB_FILE, "mine/__init__.py", "mine/deep/__init__.py", "mine/deep/nets.py"}


def test_more_bytes_than_the_limit_are_refused_with_the_largest_file(tmp_path, monkeypatch):
    write(tmp_path, **{"nets.py": "class Net: ...\n", "big/__init__.py": ""})
    (tmp_path / "nets.py").write_text("import big\nclass Net: ...\n")
    (tmp_path / "big/words.txt").write_bytes(b"x" * package.MOST_BYTES)
    with pytest.raises(SpecError, match=r"the largest big/words.txt \(33,554,432 bytes\).*At most 33,554,432 are"):
        pack(job_with(tmp_path, "nets:Net"))


def test_what_a_module_imports_may_be_no_python_which_the_run_will_refuse(tmp_path):
    write(tmp_path, **{"nets.py": "import tricks\nclass Net: ...\n", "tricks.py": "def ("})
    assert pack(job_with(tmp_path, "nets:Net")).files["tricks.py"] == b"def ("


def test_fmray_as_it_is_sent_has_the_source_it_has_here(tmp_path, monkeypatch):
    files = pack_fmray()
    assert not any("__pycache__" in name for name in files)
    assert {"fmray/py.typed", "fmray/report/card.html"} <= set(files)
    here = source_digest("fmray")
    unpack(files, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fmray")
    assert Scout().versions([])["fmray"] == here
