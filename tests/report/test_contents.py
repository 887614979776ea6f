import json
import shutil
from pathlib import Path

import pytest

from fmray import workflow
from fmray.cli import main
from fmray.errors import DataError
from fmray.events import Stage
from fmray.report.folder import read_run, remake_report
from fmray.report.listing import list_runs
from fmray.spec.load import job_from
from fmray.store import Store

JOB = {"name": "small", "data": {"path": "sample:iris", "target": "target"}, "model": "linear",
       "train": {"epochs": 2, "batch_rows": 64}, "evaluate": {"baselines": ["dummy"]},
       "run": {"workers": 0}}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    workflow.execute(job_from(JOB, folder), Store(str(folder / "store")))
    return folder


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made / "store", tmp_path / "store")
    return Store(str(tmp_path / "store"))


@pytest.fixture
def root(store):
    (run,) = Path(store.root, "runs", "small").iterdir()
    return run


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place if place >= 0 else len(data) // 2] ^= 1
    path.write_bytes(data)


FILES = (
    "scores.json", "gates.json", "card.json", "job.yaml", "report.html", "members.parquet", "history.parquet",
    "predictions/val.parquet", "sealed/test.parquet", "model/example.parquet", "events.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_a_file_of_a_finished_run_is_named(store, root, made, name):
    flip(root / name)
    with pytest.raises(DataError, match=rf"{name}.* is damaged"):
        workflow.execute(job_from(JOB, made), store)


def test_an_edited_score_is_not_shown(store, root):
    text = json.loads((root / "run.json").read_text())
    text["primary"]["value"] = 0.999
    (root / "run.json").write_text(json.dumps(text))
    with pytest.raises(DataError, match=r"run\.json is damaged or has been changed: its checksum does not match"):
        read_run(str(root), store)
    (line,) = list_runs(store)
    assert (line.status, line.value) == ("damaged", None)


def test_a_file_of_a_finished_run_that_is_gone_is_named(store, root):
    (root / "members.parquet").unlink()
    with pytest.raises(DataError, match=r"members\.parquet is missing"):
        read_run(str(root), store)


def test_a_finished_run_whose_run_json_is_gone_or_older_is_not_begun_again(store, root, made):
    finished = store.read_json(f"{root}/run.json")
    (root / "run.json").unlink()
    with pytest.raises(DataError, match="the run has finished, and this file is gone"):
        workflow.execute(job_from(JOB, made), store)
    assert [line.status for line in list_runs(store)] == ["damaged"]
    store.write_json(f"{root}/run.json", {**finished, "status": "running"})
    with pytest.raises(DataError, match="the run has finished"):
        workflow.execute(job_from(JOB, made), store)
    assert [line.status for line in list_runs(store)] == ["damaged"]


def test_a_report_that_is_made_again_belongs_to_its_run(store, root):
    (root / "report.html").write_text("<p>accuracy 1.0</p>")
    remake_report(str(root), store)
    assert read_run(str(root), store).status == "finished"


class Killed(Store):
    """End, as a killed process does, right before or after a report is put in place."""

    after = False

    def write_bytes(self, path, data):
        if self.after:
            super().write_bytes(path, data)
        raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
def test_a_report_whose_making_is_killed_is_no_damage(store, root, after):
    killed = Killed(store.root)
    killed.after = after
    (root / "report.html").write_text("of an earlier version")
    with pytest.raises(KeyboardInterrupt):
        remake_report(str(root), killed)
    assert read_run(str(root), store).status == "finished"
    remake_report(str(root), store)
    flip(root / "report.html")
    with pytest.raises(DataError, match=r"report\.html is damaged"):
        read_run(str(root), store)


def test_a_report_is_not_made_again_of_a_ledger_that_was_cut(store, root):
    for path in Path(store.root, "ledger").iterdir():
        if path.suffix in (".json", ".jsonl"):
            path.unlink()
    with pytest.raises(DataError, match="look 1 is gone"):
        remake_report(str(root), store)


def test_a_run_from_before_checksums_is_read(store, root):
    facts = store.read_json(f"{root}/run.json")
    store.write_json(f"{root}/run.json", {name: value for name, value in facts.items() if name != "files"})
    (root / "finished.json").unlink()
    assert read_run(str(root), store).status == "finished"


def test_a_damaged_run_ends_the_command_with_exit_code_5_and_no_traceback(store, root, capsys):
    flip(root / "card.json")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(root), "--json"])
    printed = capsys.readouterr()
    assert ended.value.code == 5
    assert "card.json is damaged" in json.loads(printed.out.splitlines()[-1])["error"]["message"]
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("kind", ["members/*/data-*/*/model.safetensors", "members/*/data-*/said-*.npy"])
def test_a_bit_flipped_between_training_and_evaluation_is_named(store, made, kind):
    """The record of the members is whole when it is read; then a bit flips before it is used."""

    def damage(event):
        if isinstance(event, Stage) and event.name == "combine":
            for path in Path(store.root).glob(kind):
                flip(path, place=path.stat().st_size - 3)

    asked = {**JOB, "train": {**JOB["train"], "seeds": 2}, "ensemble": "greedy"}
    with pytest.raises(DataError, match="is damaged"):
        workflow.execute(job_from(asked, made), store, report=damage)


def test_a_bit_flipped_in_the_lanes_between_preparation_and_training_is_named(store, made):
    def damage(event):
        if isinstance(event, Stage) and event.name == "train":
            for path in Path(store.root).glob("prepared/*/data-*/train-*.arrow"):
                flip(path)

    with pytest.raises(DataError, match=r"train-000000\.arrow is damaged"):
        workflow.execute(job_from(JOB, made), store, fresh=True, report=damage)
