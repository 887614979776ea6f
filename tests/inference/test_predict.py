"""Check that every row of a data set is predicted exactly once, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inference.made import mean, rows, train, write_data

from fmray.cli import main
from fmray.data.hashing import row_hash
from fmray.data.lanes import Lanes
from fmray.errors import ClusterError, DataError
from fmray.events import to_json
from fmray.inference import predict as predicting
from fmray.inference.model import open_model
from fmray.inference.predict import MANIFEST, predict, spell_summary
from fmray.records import SPLITS
from fmray.store.lease import hold
from fmray.store.local import LocalFiles

ROOT = Path(__file__).resolve().parents[2]
TINY = 3000
"""Bytes of a work item that holds a row group or two."""


def read(out):
    return pa.concat_tables([pq.read_table(path) for path in sorted(Path(out).glob("*.parquet"))])


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data", rows(250, seed=5), rows(130, seed=6))


def go(model, data, out, **options):
    return predict(str(model), str(data), str(out), item_bytes=options.pop("item_bytes", TINY), **options)


def test_every_row_is_there_once_with_its_place_its_key_and_what_the_model_says(model, data, tmp_path):
    summary = go(model, data, tmp_path / "out")
    assert len(summary["parts"]) > 3
    found, given = read(tmp_path / "out"), pa.concat_tables([rows(250, seed=5), rows(130, seed=6)])
    assert summary["rows"] == len(found) == 380 == sum(part["rows"] for part in summary["parts"])
    assert found["file"].to_pylist() == ["0.parquet"] * 250 + ["1.parquet"] * 130
    assert found["row"].to_pylist() == [*range(250), *range(130)]
    assert found["id"].equals(given["id"])
    assert found["row_id"].to_pylist() == [value.tobytes() for value in row_hash(given, ["id"])]
    assert found["fault"].null_count == 380
    expected = open_model(model).predict(given)
    assert found["prediction"].to_pylist() == expected["prediction"].to_pylist()
    assert np.abs(found["p_yes"].to_numpy() - expected["p_yes"].to_numpy()).max() < 1e-6
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["rows"] == 380


def test_rows_that_share_a_key_are_counted_and_share_an_id(model, tmp_path):
    write_data(tmp_path / "data", rows(200), rows(100))
    summary = go(model, tmp_path / "data", tmp_path / "out")
    assert summary["repeats"] == 100
    assert "100 rows have the key of an earlier row" in spell_summary(summary)
    assert len(set(read(tmp_path / "out")["row_id"].to_pylist())) == 200


def test_without_a_key_ids_are_those_of_training_and_equal_rows_are_told_apart(numbers, tmp_path):
    model = numbers.write(mean(0.5, 0.5), tmp_path / "model")
    summary = go(model, numbers.folder / "data", tmp_path / "out")
    found = read(tmp_path / "out")
    ids = found["row_id"].to_pylist()
    trained = [v.tobytes() for split in SPLITS for v in Lanes(numbers.prepared, split).load(["row_id"])["row_id"]]
    assert len(set(ids)) == len(ids) == 310
    assert sorted(ids) == sorted(trained)
    assert summary["repeats"] == 50
    said = numbers.said(mean(0.5, 0.5), tmp_path)
    place = {value: row for row, value in enumerate(ids)}
    picked = [place[value.tobytes()] for value in said.row_id]
    mine = np.stack([found["y_z"].to_numpy(), found["y_w"].to_numpy()], 1)[picked]
    assert np.abs(mine - said.output).max() < 1e-6 * np.abs(said.output).max()


def test_targets_need_not_be_there(model, tmp_path):
    write_data(tmp_path / "data", rows(40).drop(["y", "z", "w"]))
    assert go(model, tmp_path / "data", tmp_path / "out")["rows"] == 40


def test_levels_that_no_training_row_has_are_counted_and_named(model, tmp_path):
    table = rows(30)
    city = ["Paris"] * 3 + table["city"].to_pylist()[3:20] + ["Kyiv"] + table["city"].to_pylist()[21:]
    write_data(tmp_path / "data", table.set_column(3, "city", pa.array(city)), rows(10))
    summary = go(model, tmp_path / "data", tmp_path / "out")
    assert summary["unseen"] == {"city": {"rows": 4, "levels": {"Paris": 3, "Kyiv": 1}}}
    assert "4 rows have a level of 'city' that no training row has: 'Paris' 3, 'Kyiv' 1" in spell_summary(summary)
    assert read(tmp_path / "out")["prediction"].null_count == 0


def test_nulls_where_no_training_row_has_one_are_counted_and_named_per_column(model, tmp_path):
    table = rows(30)
    values, city = table["f0"].to_pylist(), table["city"].to_pylist()
    values[4:9] = [None] * 5
    city[2] = None
    write_data(tmp_path / "data", table.set_column(0, "f0", pa.array(values)).set_column(3, "city", pa.array(city)))
    summary = go(model, tmp_path / "data", tmp_path / "out")
    assert (summary["nulls"], summary["unseen"], summary["unread"]) == ({"city": 1, "f0": 5}, {}, {})
    assert "5 rows have no value of 'f0', which every training row has" in spell_summary(summary)
    assert read(tmp_path / "out")["prediction"].null_count == 0


def test_a_row_that_cannot_be_an_input_keeps_its_place_and_says_why(model, tmp_path):
    table = rows(30)
    values = table["f0"].to_pylist()
    values[4], values[17] = float("inf"), float("-inf")
    write_data(tmp_path / "data", table.set_column(0, "f0", pa.array(values)))
    summary = go(model, tmp_path / "data", tmp_path / "out")
    found = read(tmp_path / "out")
    assert summary["faults"] == {"'f0' is infinite": 2}
    assert np.flatnonzero(found["fault"].is_valid().to_numpy()).tolist() == [4, 17]
    assert found["prediction"].is_null().equals(found["fault"].is_valid())
    assert len(found) == 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(["f1"]), "column 'f1' is missing from b.parquet, and the model reads it"),
        (lambda t: t.drop(["id"]), "column 'id' is missing from b.parquet, and it is data.key"),
        (lambda t: t.set_column(0, "f0", t["f0"].cast(pa.string())), "'f0' holds string in b.parquet, where training"),
        (lambda t: t.set_column(3, "city", t["n"]), "'city' holds int64 in b.parquet, where training rows held string"),
    ],
    ids=["missing", "no key", "text for a number", "number for text"],
)
def test_a_file_that_lacks_a_column_or_holds_another_kind_is_named(model, tmp_path, change, words):
    (tmp_path / "data").mkdir()
    pq.write_table(rows(10), tmp_path / "data/a.parquet")
    pq.write_table(change(rows(10)), tmp_path / "data/b.parquet")
    with pytest.raises(DataError, match=words) as caught:
        go(model, tmp_path / "data", tmp_path / "out")
    assert caught.value.where == "DATA"
    assert not (tmp_path / "out").exists()


def test_a_model_of_a_union_of_schemas_reads_a_column_that_some_files_lack_as_missing(tmp_path):
    write_data(tmp_path / "data", rows(200), rows(50, seed=2).drop(["f1"]))
    data = {"path": "data", "target": "y", "ignore": ["z", "w", "id"], "schema": "union"}
    trained = train(tmp_path, 1, data=data)
    trained.write(mean(1.0), tmp_path / "model")
    assert go(tmp_path / "model", tmp_path / "data", tmp_path / "out")["rows"] == 250
    found = read(tmp_path / "out")
    said = trained.said(mean(1.0), tmp_path)
    place = {value: row for row, value in enumerate(found["row_id"].to_pylist())}
    mine = found["p_yes"].to_numpy()[[place[value.tobytes()] for value in said.row_id]]
    assert np.abs(mine - said.output[:, 1]).max() < 1e-6
    write_data(tmp_path / "without", rows(5).drop(["f1"]))
    with pytest.raises(DataError, match=r"column 'f1' is missing from 0\.parquet"):
        go(tmp_path / "model", tmp_path / "without", tmp_path / "other")


def test_two_columns_of_one_name_are_refused(model, tmp_path):
    (tmp_path / "data").mkdir()
    table = rows(5)
    pq.write_table(pa.table([*table.columns, table["f0"]], [*table.column_names, "f0"]), tmp_path / "data/a.parquet")
    with pytest.raises(DataError, match="several columns are called 'f0'"):
        go(model, tmp_path / "data", tmp_path / "out")


def test_one_row_is_predicted_and_a_file_without_rows_is_fine(model, tmp_path):
    write_data(tmp_path / "data", rows(0), rows(1))
    assert go(model, tmp_path / "data", tmp_path / "out")["rows"] == 1
    assert read(tmp_path / "out")["file"].to_pylist() == ["1.parquet"]


def test_no_rows_at_all_leave_a_table_without_rows(model, tmp_path):
    write_data(tmp_path / "data", rows(0))
    assert go(model, tmp_path / "data", tmp_path / "out")["rows"] == 0
    assert {"file", "row", "row_id", "id", "prediction"} <= set(read(tmp_path / "out").column_names)


def test_a_file_that_is_no_parquet_is_named(model, tmp_path):
    write_data(tmp_path / "data", rows(3))
    (tmp_path / "data/9.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="9.parquet: the file is empty"):
        go(model, tmp_path / "data", tmp_path / "out")
    with pytest.raises(DataError, match="DATA: nothing lies at"):
        go(model, tmp_path / "nowhere", tmp_path / "out")


def test_a_finished_folder_is_left_as_it_is_and_other_data_or_models_are_refused(classes, model, data, tmp_path):
    first = go(model, data, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert go(model, data, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    other = classes.write(mean(0.75, 0.25), tmp_path / "other")
    with pytest.raises(DataError, match="holds predictions of another model"):
        go(other, data, tmp_path / "out")
    write_data(data, rows(251, seed=5))
    with pytest.raises(DataError, match="holds predictions of other data"):
        go(model, data, tmp_path / "out")


def test_a_folder_with_other_files_or_inside_the_data_is_refused(model, data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(DataError, match=r"holds notes.txt, and .*mine/_state/begun.json is missing"):
        go(model, data, tmp_path / "mine")
    with pytest.raises(DataError, match=r"notes\.txt is a file"):
        go(model, data, tmp_path / "mine/notes.txt")
    with pytest.raises(DataError, match=r"model\.json is missing"):
        go(model / "model.json", data, tmp_path / "out")
    with pytest.raises(DataError, match="lies inside"):
        go(model, data, data / "out")


def test_predictions_of_one_file_may_lie_beside_it(model, tmp_path):
    pq.write_table(rows(40, seed=5), tmp_path / "new.parquet")
    assert go(model, tmp_path / "new.parquet", tmp_path / "out")["rows"] == 40


def test_two_at_once_do_not_write_into_one_folder(model, data, tmp_path):
    with (
        hold(f"{tmp_path}/out/_state", wait_seconds=0),
        pytest.raises(ClusterError, match="is held by"),
    ):
        go(model, data, tmp_path / "out")


def test_what_was_done_is_not_done_again(model, data, tmp_path):
    out, disk, unplugged = tmp_path / "out", tmp_path / "disk", tmp_path / "unplugged"
    disk.mkdir()
    (data / "1.parquet").rename(disk / "1.parquet")
    (data / "1.parquet").symlink_to(disk / "1.parquet")

    def unplug_after_the_first_part(event):
        if disk.exists() and any(out.glob("part-*.parquet")):
            disk.rename(unplugged)

    with pytest.raises(DataError, match=r"1\.parquet"):
        go(model, data, out, report=unplug_after_the_first_part)
    done = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert done
    assert not (out / MANIFEST).exists()
    unplugged.rename(disk)
    assert go(model, data, out)["rows"] == 380 == len(read(out))
    assert {path: path.stat().st_mtime_ns for path in done} == done


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(b""), Path.unlink])
def test_finished_predictions_that_were_damaged_since_are_named_and_made_again(model, data, tmp_path, damage):
    out, told = tmp_path / "out", []
    go(model, data, out)
    whole = read(out)
    broken = sorted(out.glob("part-*.parquet"))[1]
    damage(broken)
    go(model, data, out, report=lambda event: told.append(to_json(event)))
    assert any(str(broken) in event.get("text", "") and "made anew" in event["text"] for event in told)
    assert read(out).equals(whole)
    go(model, data, out, report=lambda event: told.append(to_json(event)))
    assert told[-1]["text"] == f"{out} is complete"


@pytest.mark.parametrize(
    "name",
    [
        "part-000000.parquet",
        "_state/scratch/000000.ids.npy",
        "_state/scratch/000000.ids-begin.npy",
        "_state/scratch/000000.json",
    ],
)
def test_unfinished_predictions_that_were_damaged_are_made_again(model, data, tmp_path, name, monkeypatch):
    out = tmp_path / "out"
    go(model, data, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("fmray.inference.predict._repeats", raise_interrupt)
        go(model, data, out)
    flip(out / name)
    go(model, data, out)
    assert read(out).equals(read(tmp_path / "whole"))


def raise_interrupt(*given):
    raise KeyboardInterrupt


def test_a_changed_list_of_predictions_is_named(model, data, tmp_path):
    go(model, data, tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    path.write_text(path.read_text().replace('"rows": 380', '"rows": 381'))
    with pytest.raises(DataError, match=r"predictions\.json is damaged or has been changed"):
        go(model, data, tmp_path / "out")


def test_predictions_from_before_checksums_are_said_not_to_be_verified(model, data, tmp_path):
    told, out = [], tmp_path / "out"
    summary = go(model, data, out)
    summary |= {"format": 1, "parts": [{"file": part["file"], "rows": part["rows"]} for part in summary["parts"]]}
    (out / MANIFEST).write_text(json.dumps(summary, indent=1))
    go(model, data, out, report=lambda event: told.append(to_json(event)))
    assert "not verified" in told[-1]["text"]


def write_many(folder: Path) -> int:
    table = rows(4000, seed=1)
    write_data(folder, *[table] * 6)
    return 24_000


@pytest.mark.slow
def test_killed_at_any_instant_and_called_again_each_row_is_there_exactly_once(numbers, tmp_path):
    """Without a key, and with every row in six files: what finds equal rows must survive the kills too."""
    model, total = numbers.write(mean(0.5, 0.5), tmp_path / "model"), write_many(tmp_path / "data")
    script = "import sys; from fmray.inference.predict import predict; predict(*sys.argv[1:4], item_bytes=30000)"

    def start(out):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-c", script, str(model), str(tmp_path / "data"), str(out)], env=environment
        )

    whole = start(tmp_path / "whole")
    assert whole.wait(120) == 0
    expected = read(tmp_path / "whole")
    assert len(set(expected["row_id"].to_pylist())) == total == len(expected)
    num_parts = len(list((tmp_path / "whole").glob("*.parquet")))
    seen = []
    for share in (0.1, 0.5, 0.9, 1.0):
        process, until = start(tmp_path / "out"), time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if len(list((tmp_path / "out").glob("part-*.parquet"))) >= share * num_parts:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        seen.append(process.wait())
        assert not (tmp_path / "out" / MANIFEST).exists() or share == 1.0
    assert -signal.SIGKILL in seen
    last = start(tmp_path / "out")
    assert last.wait(120) == 0
    assert read(tmp_path / "out").equals(expected)
    assert not [path for path in (tmp_path / "out").rglob("*") if ".tmp-" in path.name or "scratch" in path.name]


@pytest.mark.cluster
def test_tasks_of_ray_write_the_same(model, data, tmp_path):
    go(model, data, tmp_path / "here", place="local")
    summary = go(model, data, tmp_path / "there", place="ray")
    assert "over Ray Data" in summary["place"]
    one, other = read(tmp_path / "here"), read(tmp_path / "there")
    assert one.drop(["p_no", "p_yes"]).equals(other.drop(["p_no", "p_yes"]))
    assert np.abs(one["p_no"].to_numpy() - other["p_no"].to_numpy()).max() < 1e-6


def test_the_command_answers_in_json_and_in_words(model, data, tmp_path, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as left:
            main(["predict", *map(str, arguments)])
        return left.value.code, capsys.readouterr().out

    code, said = call(model, data, "--out", tmp_path / "out", "--json")
    answer = json.loads(said.splitlines()[-1])
    assert (code, answer["status"], answer["rows"], answer["out"]) == (0, "finished", 380, str(tmp_path / "out"))
    code, said = call(model, data, "--out", tmp_path / "out")
    assert "is complete" in said
    assert "380 rows in 1 files, in this process: " in said
    code, said = call(tmp_path, data, "--out", tmp_path / "other", "--json")
    assert code == 5
    assert "Give the directory of a finished run" in json.loads(said.splitlines()[-1])["error"]["message"]


def test_predictions_that_continue_list_their_folder_once_not_for_every_file(model, data, tmp_path, monkeypatch):
    listed, sizes = [], LocalFiles.sizes

    def count(files, folder):
        listed.append(folder)
        return sizes(files, folder)

    monkeypatch.setattr(LocalFiles, "sizes", count)
    monkeypatch.setattr(predicting, "_repeats", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        go(model, data, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(LocalFiles, "sizes", count)
    listed.clear()
    assert len(go(model, data, tmp_path / "out")["parts"]) > 3
    assert listed == [str(tmp_path / "out")]
