"""A record depends on the code that made it, and on no other code."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from fmray.errors import SpecError
from fmray.spec.load import job_from
from fmray.store import sources
from fmray.store.sources import code_digest, source_digest
from fmray.tune.sweep import key_of

PREPARE = ("fmray.data.prepare", "fmray.data.tabular")
TRAIN = ("fmray.tune.sweep", "fmray.models.mlp", "fmray.train.schedule")


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Give a copy of fmray's sources that digests are made of."""
    copy = tmp_path / "house/fmray"
    shutil.copytree(sources.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "ROOT", copy)
    forget()
    yield copy
    forget()


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Give a folder of the user's own modules."""
    folder = tmp_path / "job"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    forget()
    yield folder
    forget()


def forget_digests():
    sources._digest.cache_clear()
    source_digest.cache_clear()


def forget():
    forget_digests()
    sources._read.cache_clear()


def digest_after(path, before, after, modules):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    forget()
    return code_digest(*modules)


@pytest.mark.slow
def test_a_new_file_leaves_every_digest(house):
    first = [code_digest(*PREPARE), code_digest(*TRAIN)]
    (house / "data/toy.py").write_text("class Toy: ...\n")
    forget()
    assert [code_digest(*PREPARE), code_digest(*TRAIN)] == first


@pytest.mark.slow
def test_docstrings_and_comments_everywhere_leave_every_digest(house):
    first = [code_digest(*PREPARE), code_digest(*TRAIN)]
    for path in house.rglob("*.py"):
        path.write_text(path.read_text().replace('"""', '"""Other words. ', 1) + "\n# the end\n")
    forget()
    assert [code_digest(*PREPARE), code_digest(*TRAIN)] == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("data/tabular.py", "prepare"),  # a step that is used
        ("data/canonical.py", "both"),  # what it and the order of rows import
        ("train/loop.py", "train"),
        ("models/mlp.py", "train"),
        ("models/layers.py", "train"),
        ("spec/ranges.py", "train"),
        ("data/clean.py", "neither"),
        ("models/resnet.py", "neither"),
        ("spec/sections.py", "neither"),
        ("store/lease.py", "neither"),
        ("report/card.py", "neither"),
        ("catalogue.py", "neither"),
    ],
)
def test_a_changed_constant_changes_the_digests_of_what_uses_it_alone(house, file, changed):
    first = {"prepare": code_digest(*PREPARE), "train": code_digest(*TRAIN, "fmray.tune.search")}
    path = house / file
    path.write_text(path.read_text() + "\nTOY = 1\n")
    forget()
    then = {"prepare": code_digest(*PREPARE), "train": code_digest(*TRAIN, "fmray.tune.search")}
    expected = {"both": {"prepare", "train"}, "neither": set()}.get(changed, {changed})
    assert {name for name in first if first[name] != then[name]} == expected


def test_the_users_modules_count_with_what_they_import_beside_the_job(beside):
    (beside / "own_nets.py").write_text("import json\nimport numpy\nfrom own_parts import SIZE\n")
    (beside / "own_parts.py").write_text("SIZE = 3\n")
    (beside / "own_other.py").write_text("SIZE = 3\n")
    first = code_digest("own_nets")
    assert digest_after(beside / "own_other.py", "3", "4", ["own_nets"]) == first
    assert digest_after(beside / "own_parts.py", "SIZE", "# how wide\nSIZE", ["own_nets"]) == first
    assert digest_after(beside / "own_parts.py", "3", "4", ["own_nets"]) != first


def test_relative_imports_and_the_package_around_a_module_count(beside):
    (beside / "own_pack/deep").mkdir(parents=True)
    (beside / "own_pack/__init__.py").write_text("A = 1\n")
    (beside / "own_pack/deep/__init__.py").write_text("")
    (beside / "own_pack/deep/nets.py").write_text("def net():\n    from . import parts\n    from ..words import W\n")
    (beside / "own_pack/deep/parts.py").write_text("B = 1\n")
    (beside / "own_pack/words.py").write_text("W = 1\n")
    modules, seen = ["own_pack.deep.nets"], [code_digest("own_pack.deep.nets")]
    for name in ("__init__.py", "deep/parts.py", "words.py"):
        seen.append(digest_after(beside / "own_pack" / name, "1", "2", modules))
    assert len(set(seen)) == 4


def test_code_is_read_once_as_python_does(beside):
    (beside / "own_once.py").write_text("A = 1\n")
    first = code_digest("own_once")
    (beside / "own_once.py").write_text("A = 2\n")
    assert code_digest("own_once") == first


def test_modules_of_one_name_beside_two_jobs_are_told_apart(tmp_path, monkeypatch):
    digests = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own_twin.py").write_text(f"A = {name!r}\n")
        with monkeypatch.context() as patched:
            patched.syspath_prepend(tmp_path / name)
            digests.append(code_digest("own_twin"))
    assert digests[0] != digests[1]


def test_a_module_that_is_not_there_or_is_not_python_is_named(beside):
    with pytest.raises(SpecError, match="no module 'own_nothing'"):
        code_digest("own_nothing")
    (beside / "own_broken.py").write_text("def:\n")
    with pytest.raises(SpecError, match=r"own_broken\.py is not Python"):
        code_digest("own_broken")


def test_installed_packages_of_others_do_not_count(beside):
    (beside / "own_alone.py").write_text("A = 1\n")
    assert set(sources._closure(["own_alone"])) == {"own_alone"}
    (beside / "own_alone.py").write_text("import numpy, os, torch\nfrom polars import DataFrame\nA = 1\n")
    forget()
    assert set(sources._closure(["own_alone"])) == {"own_alone"}


def test_of_an_installed_package_that_is_named_every_file_counts_and_none_that_it_imports(beside, monkeypatch):
    monkeypatch.setattr(sources, "_homes", lambda: frozenset({beside.resolve()}))
    (beside / "own_installed").mkdir()
    (beside / "own_installed/__init__.py").write_text("import own_else\n")
    (beside / "own_installed/nets.py").write_text("A = 1\n")
    (beside / "own_installed/parts.py").write_text("B = 1\n")
    (beside / "own_else.py").write_text("C = 1\n")
    first = code_digest("own_installed.nets")
    assert digest_after(beside / "own_else.py", "1", "2", ["own_installed.nets"]) == first
    assert digest_after(beside / "own_installed/parts.py", "1", "2", ["own_installed.nets"]) != first


def test_no_file_of_an_installed_package_is_read_for_names_of_the_catalogue(monkeypatch):
    read = []
    monkeypatch.setattr(sources, "_read", lambda file, name: read.append(name) or sources.Module(name, ()))
    job = job_from({"data": {"path": "sample:iris", "target": "target"}})
    forget_digests()
    key_of(
        job, "who", SimpleNamespace(fingerprint="x"), SimpleNamespace(name="accuracy"), "", "member", "fmray.tune.sweep"
    )
    assert read
    assert all(name.startswith("fmray.") for name in read)


def test_sources_of_packages_are_told_apart_to_the_byte():
    assert source_digest("fmray.data") != source_digest("fmray.train")
    with pytest.raises(SpecError, match="no module"):
        source_digest("fmray.nothing")


@pytest.mark.slow
def test_records_are_reused_unless_code_that_they_depend_on_has_changed(tmp_path):
    house = tmp_path / "house/fmray"
    shutil.copytree(sources.ROOT, house, ignore=shutil.ignore_patterns("__pycache__"))
    job = tmp_path / "job.yaml"
    job.write_text(
        "data: {path: 'sample:iris', target: target}\nsteps: [standardise]\nmodel: {mlp: {width: 4}}\n"
        "train: {epochs: 2}\nrun: {workers: 0, prepare: local}\nevaluate: {baselines: [dummy]}\n"
    )

    def made():
        """Run the job as if for the first time, and count the records in the store."""
        store = tmp_path / "store"
        shutil.rmtree(store / "runs", ignore_errors=True)
        command = [sys.executable, "-m", "fmray.cli", "run", str(job), "--store", str(store)]
        environment = {**os.environ, "PYTHONPATH": str(house.parent)}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode in (0, 2), done.stderr.decode()
        return len(list((store / "prepared").iterdir())), len(list((store / "members").iterdir()))

    assert made() == (1, 1)
    (house / "data/toy.py").write_text("class Toy: ...\n")
    add(house / "catalogue.py", '        "clip":', '        "toy": "fmray.data.toy:Toy",\n')
    for name in ("data/tabular.py", "models/mlp.py", "data/lanes.py", "train/loop.py"):
        add(house / name, '"""', '"""Other words. ')
    assert made() == (1, 1)
    add(house / "models/mlp.py", "class MLP", "TOY = 1\n\n\n")
    assert made() == (1, 2)
    add(house / "data/tabular.py", "class Standardise", "TOY = 1\n\n\n")
    assert made() == (2, 3)


def add(path, before, text):
    source = path.read_text()
    assert before in source
    addition = text if text.startswith(before) else text + before
    path.write_text(source.replace(before, addition, 1))
